// SPDX-License-Identifier: Apache-2.0
// trainer/run_folder.h
//
// What the trainer writes beside the weights: exit.json, metrics.jsonl, results.csv, args.yaml
// (docs/formats/run_folder.md). Used by rank 0 alone, except stop_file_exists.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "trainer/contract/exit_code.h"
#include "trainer/contract/metrics.h"
#include "trainer/contract/train_args.h"

namespace trainer {

struct ExitRecord {
  contract::ExitCode code = contract::ExitCode::kFinished;
  std::string message;
  int epoch = 0;  // Finished epochs.
  std::int64_t step = 0;
  int attempt = 0;
  std::vector<std::string> bad_nodes = {};  // To be left out when the run is placed again.
  bool is_by_stop_file = false;  // Of kStopped: a person's file asked, a signal or not.
};
// "finished", "stopped", "deadline", "bad_input", "not_a_number", "out_of_memory", "environment",
// "stalled", "bad_node", "internal".
[[nodiscard]] std::string_view reason_of(contract::ExitCode code);

// A row of results.csv.
struct ResultsRow {
  int epoch = 0;  // Counted from 1.
  double time_s = 0;
  std::array<double, 3> train_losses{};
  // NaN: not measured, an empty cell.
  double precision = 0, recall = 0, map50 = 0, map50_95 = 0;
  std::array<double, 3> val_losses{};
  std::array<double, 3> lr{};
};

// When an attempt is to have saved and left, as a batch script wrote it: "SECONDS" or
// "SECONDS IS_LAST", UTC seconds and 0 or 1 (docs/formats/train_spec.md).
struct Deadline {
  double time = 0;
  std::optional<bool> is_last = std::nullopt;
};
// Nothing where there is no such file, or none that says it.
[[nodiscard]] std::optional<Deadline> read_deadline(const std::string& path);

class RunFolder {
 public:
  // Makes the folder and weights/ where they are missing. Throws std::filesystem::filesystem_error.
  explicit RunFolder(std::string path);

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::string weights() const;  // The folder of weights.
  [[nodiscard]] bool stop_file_exists() const;
  // The batch script's own, of a signal that it got; any other is a person's.
  [[nodiscard]] bool is_stop_file_of_a_signal() const;
  void remove_exit_record();
  void remove_stop_file();
  void write_exit_record(const ExitRecord& record);
  void write_args(const contract::TrainArgs& args);

  // One line, flushed. Of what a crash tore, readers skip the last line.
  void append_metrics(const contract::MetricsRecord& record);
  // The run's seconds when the last line of metrics.jsonl was written; 0: none says it.
  [[nodiscard]] double seconds_recorded() const;

  // Appends `row` and drops rows of its epoch or later ones, which a resumed run made before.
  void add_results(const ResultsRow& row);
  // The file as it was after `epochs` epochs.
  void trim_results(int epochs);

 private:
  std::string path_;
};

}  // namespace trainer
