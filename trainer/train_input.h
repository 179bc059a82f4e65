// SPDX-License-Identifier: Apache-2.0
// trainer/train_input.h
//
// What a run is made of, before any tensor: checked arguments and the data set. A fault that one
// rank sees becomes BadInput on all.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "trainer/communicator.h"
#include "trainer/contract/dataset.h"
#include "trainer/contract/train_args.h"

namespace trainer {

struct TrainInput {
  contract::TrainArgs args;
  contract::Dataset dataset;  // fraction and classes are taken; labels of single_cls are 0.
  std::vector<std::string> class_names;  // "item" for single_cls.
  std::vector<std::string> warnings;     // Faults that only skip images.
  int batch_per_rank = 0;
};

// A collective. Throws BadInput.
[[nodiscard]] TrainInput prepare_input(const contract::TrainArgs& args, Communicator& communicator);

// Adds a warning where a batch cannot be of different images.
void warn_of_large_batch(TrainInput& input);

// Runs `work` on every rank; if it throws std::invalid_argument or BadInput anywhere, every rank
// throws BadInput with the text of the first rank that failed. A collective.
void agree_on_input(Communicator& communicator, const std::function<void()>& work);

}  // namespace trainer
