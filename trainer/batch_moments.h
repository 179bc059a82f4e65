// SPDX-License-Identifier: Apache-2.0
// trainer/batch_moments.h
//
// What batch norm has to know of a batch, and how the batches of all ranks become one. No torch
// here: the fused and the plain path (norm_act.h) share it.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "trainer/communicator.h"

namespace trainer {

// Of each channel: mean and biased variance of `count` values.
struct BatchMoments {
  double count = 0;
  std::vector<double> mean, variance;
};

// The moments of the values of all ranks together, the same on each; `own` where `ranks` is null. A
// collective.
[[nodiscard]] BatchMoments combined(BatchMoments own, Communicator* ranks);

// The sums over all ranks; as they are where `ranks` is null. A collective.
void add_over_ranks(std::span<double> sums, Communicator* ranks);

}  // namespace trainer
