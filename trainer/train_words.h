// SPDX-License-Identifier: Apache-2.0
// trainer/train_words.h
//
// A run without a scheduler, from the key=value words of a command line.
#pragma once

#include <string>
#include <vector>

#include "trainer/contract/train_spec.h"
#include "trainer/launch.h"

namespace trainer {

// Of the words beside the train arguments, for --help.
extern const char* const kRunWordsHelp;

// Train arguments and run words (contract/run_words.h). The folder is `run_dir`, where a run is
// begun or gone on with, or the one that the words name: there a run is gone on with by resume
// alone. `device` sets CUDA_VISIBLE_DEVICES: before anything asks CUDA for a device. Throws
// std::invalid_argument with all faults, a line each; the folders are looked at by the first rank
// alone.
[[nodiscard]] contract::TrainSpec spec_from_words(const std::vector<std::string>& words,
                                                  const std::string& run_dir, const Launch& launch);

}  // namespace trainer
