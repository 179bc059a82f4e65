// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/run_folder.h
//
// A run's folder as the client sees it (docs/formats/run_folder.md): written before anything is
// submitted, read for progress. Evidence for people; money never depends on it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "scheduler/error.h"
#include "scheduler/job_script.h"
#include "scheduler/pace.h"
#include "scheduler/request.h"
#include "trainer/contract/metrics.h"

namespace scheduler {

// "~/x" -> the home of this user; a relative path against the working folder.
[[nodiscard]] std::string expand_path(const std::string& path);

// Makes the folder and writes the spec, the request and the batch script of the segment. An Error
// names the file; the folder of a new run is removed again.
[[nodiscard]] Expected<void> write_run_folder(const std::string& run_dir, const SegmentName& name,
                                              const TrainingRequest& request,
                                              const std::string& script);
// Removes the folder of a run that never was, if it holds only what write_run_folder wrote.
void remove_run_folder(const std::string& run_dir);

// The last `count` lines of a file; empty where it cannot be read.
[[nodiscard]] std::vector<std::string> last_lines(const std::string& path, int count);

struct RunProgress {
  std::optional<contract::MetricsRecord> last_epoch, last_step;
  int epochs_done = 0;
  std::optional<Pace> pace;
};
[[nodiscard]] RunProgress read_progress(const std::string& run_dir);

// How an attempt ended, in the words of its batch script (attempts.jsonl). The user's own evidence: for
// people alone.
struct AttemptEnd {
  int segment = 0, attempt = 0, code = 0;
  std::string bad_nodes;  // "n1,n3"; empty: none was found.
};
[[nodiscard]] std::vector<AttemptEnd> read_attempt_ends(const std::string& run_dir);

// The file below `run_dir` that has what the ranks of this attempt reported of their nodes; empty where
// it left none (trainers of before kept the newest alone).
[[nodiscard]] std::string preflight_report(const std::string& run_dir, const AttemptEnd& end);

// What the trainer said when it left (exit.json); empty where it did not.
[[nodiscard]] std::string exit_message(const std::string& run_dir);

// The newest log of a job's attempts: RUN/slurm-JOB.out.
[[nodiscard]] std::string log_path(const std::string& run_dir, std::int64_t job);

// Follows a file that grows: each call returns what was added since the last, whole lines only.
class LineFollower {
 public:
  explicit LineFollower(std::string path) : path_(std::move(path)) {}
  [[nodiscard]] std::vector<std::string> take();

 private:
  std::string path_, rest_;
  std::int64_t offset_ = 0;
};

}  // namespace scheduler
