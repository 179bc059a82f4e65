// SPDX-License-Identifier: Apache-2.0
// trainer/contract/run_words.h
//
// The arguments of Ultralytics' `train` that say where a run lies and what computes it: project,
// name, save_dir, exist_ok, resume, device. They are no part of the training: `trainyard` makes
// them the plan's, `trainyard-trainer` those of the process.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "trainer/contract/train_args.h"

namespace contract {

struct RunWords {
  std::string project, name, save_dir;  // Empty: not given. Paths as they were written.
  bool exist_ok = false;
  bool resume = false;
  std::string resume_from;  // The run's folder, or a file of its weights folder; empty: not given.
  enum class Device { kAny, kCpu, kGpus };
  Device device = Device::kAny;
  std::vector<int> gpus;  // Of kGpus: their numbers; -1: any one.

  // The folder that the words name: that of resume_from, else save_dir, else project/name, with
  // "runs/detect" for the project and "train" for the name where one of them is given; else empty.
  [[nodiscard]] std::string folder() const;
};

[[nodiscard]] bool is_run_word(std::string_view key);

// Sets one of them from text: "0,1", "[0, 1]", "-1", "cpu", "auto" for the device, a flag or a path
// for `resume`. A fault leaves `words` unchanged. `key` is a run word.
[[nodiscard]] std::optional<ArgFault> set_run_word(RunWords& words, std::string_view key,
                                                   std::string_view text);

}  // namespace contract
