// SPDX-License-Identifier: Apache-2.0
// trainer/contract/train_spec.h
//
// What the scheduler hands to the trainer: RUN/train_spec.json (docs/formats/train_spec.md). Written
// once when the run is made; a later segment of the run uses the same file.
#pragma once

#include <string>
#include <string_view>

#include "trainer/contract/train_args.h"

namespace contract {

struct TrainSpec {
  int version = 1;
  std::string run_id;
  std::string run_dir;   // Absolute. All that the trainer writes lies below it.
  TrainArgs args;        // args.data is absolute.
};

[[nodiscard]] std::string to_json_text(const TrainSpec& spec);
// Throws std::invalid_argument with the key or the byte position.
[[nodiscard]] TrainSpec parse_train_spec(std::string_view json_text);

// Names inside the run folder (docs/formats/run_folder.md).
inline constexpr std::string_view kSpecFile = "train_spec.json";
inline constexpr std::string_view kExitFile = "exit.json";          // {"code","reason","message","epoch","step","attempt"}
inline constexpr std::string_view kMetricsFile = "metrics.jsonl";
inline constexpr std::string_view kResultsFile = "results.csv";
inline constexpr std::string_view kArgsFile = "args.yaml";
inline constexpr std::string_view kStopFile = "stop";               // Its presence asks the trainer to stop.
inline constexpr std::string_view kWeightsFolder = "weights";       // last.*, best.*

}  // namespace contract
