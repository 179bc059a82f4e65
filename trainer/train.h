// SPDX-License-Identifier: Apache-2.0
// trainer/train.h
//
// One attempt of a run, from the spec to finished, stopped or out of time. Whatever the run folder
// holds is continued; the same call starts and resumes. All ranks call it with the same spec.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>

#include "trainer/communicator.h"
#include "trainer/contract/exit_code.h"
#include "trainer/contract/preflight.h"
#include "trainer/contract/train_spec.h"
#include "trainer/run_owner.h"
#include "trainer/watchdog.h"

namespace at {
class Tensor;
}

namespace trainer {

// Of this rank; read by any thread. `epoch` is -1 until the checkpoint has been read.
struct Position {
  std::atomic<int> epoch = -1;  // Finished epochs.
  std::atomic<std::int64_t> step = 0;
};

// What the program finds around itself. Times are UTC seconds.
struct Surroundings {
  Communicator& communicator;
  std::function<double()> now;
  const std::atomic<bool>& stop_requested;  // Set by a signal.
  double allocation_start = 0;              // Of this attempt: start-up counts.
  double deadline = 0;                      // Save and leave by then; 0: none.
  // Says the deadline, and whether it is the last, from when it is there (run_folder.h): the limit
  // of a job may be raised or cut while it runs. Read again and again; empty: none.
  std::string deadline_file = {};
  // Of a timed run: does it end at this deadline, or go on after it? None: what is left of its hours
  // then tells.
  std::optional<bool> is_last = std::nullopt;
  double seconds_used_before = 0;           // By earlier attempts, as the scheduler knows it.
  int threads = 1;                          // CPUs of this rank.
  int segment = 0, attempt = 0;
  // Where the training is, for who has to say how it ended: written after each batch.
  Position* position = nullptr;
  // Of the run's folder (run_owner.h), of this process. Null: the training makes its own.
  RunOwner* owner = nullptr;
  std::int64_t stop_at_step = 0;  // As if asked to stop once so many batches are done; 0: never.
  bool is_traced = false;         // RUN/trace.jsonl (step_trace.h). Rank 0's word counts.
  // A look at the nodes before the training (preflight.h); none: not wanted.
  std::optional<contract::PreflightLimits> preflight = std::nullopt;
  double preflight_s = 120;  // It takes so long at most; then the ranks end (watchdog.h).
  std::function<void(const LastWords&)> last_words = nullptr;  // Of that end.
  std::string version = {};        // Of the program, for the preflight.
  std::string launch_report = {};  // Which communicator, for the log. Empty: nothing to say.
  std::string cpu_report = {};     // Of this rank: "2 threads (...) on CPUs 0-1". Empty likewise.
  enum class Output { kTerminal, kLog, kNone } output = Output::kLog;
  // For tests of what happens without memory: see the images of each forward pass of the training
  // (BatchStep::Options) and of the validation, and that a step of the optimiser follows.
  std::function<void(at::Tensor&)> before_forward = nullptr, before_validation = nullptr;
  std::function<void()> before_step = nullptr;
};

// How far a run has come.
struct Reached {
  int epoch = 0;  // Finished epochs.
  std::int64_t step = 0;
};
// As the newest checkpoint of the run's folder says; zeros where there is none that can be read.
[[nodiscard]] Reached saved_position(const std::string& run_dir);

struct TrainOutcome {
  contract::ExitCode code = contract::ExitCode::kFinished;
  std::string message;
  int epoch = 0;  // Finished epochs.
  std::int64_t step = 0;
  std::vector<std::string> bad_nodes = {};  // Found by the preflight.
};

// The spec or the data set is wrong. Raised on all ranks alike.
class BadInput : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// An allocator gave up where nothing can be done in smaller parts: what for, and what would help.
class OutOfMemory : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Writes RUN/exit.json for every outcome that it returns, but where another process has taken the
// run over: the outcome is kEnvironment then, and nothing is written any more. Throws BadInput
// before any training; OutOfMemory and other exceptions may leave other ranks waiting: the caller
// aborts them.
[[nodiscard]] TrainOutcome train(const contract::TrainSpec& spec, const Surroundings& around);

}  // namespace trainer
