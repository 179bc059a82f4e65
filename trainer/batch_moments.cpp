// SPDX-License-Identifier: Apache-2.0
#include "trainer/batch_moments.h"

#include <algorithm>

namespace trainer {

BatchMoments combined(BatchMoments own, Communicator* ranks) {
  if (ranks == nullptr) return own;
  // Sums about zero: doubles have the digits for what cancels when the variance is taken of floats.
  const std::size_t channels = own.mean.size();
  std::vector<double> sums(1 + 2 * channels);
  sums[0] = own.count;
  for (std::size_t c = 0; c < channels; ++c) {
    sums[1 + c] = own.count * own.mean[c];
    sums[1 + channels + c] = own.count * (own.variance[c] + own.mean[c] * own.mean[c]);
  }
  ranks->all_reduce_sum(std::span<double>(sums));
  BatchMoments all{sums[0], std::vector<double>(channels), std::vector<double>(channels)};
  for (std::size_t c = 0; c < channels; ++c) {
    all.mean[c] = sums[1 + c] / all.count;
    all.variance[c] = std::max(0.0, sums[1 + channels + c] / all.count - all.mean[c] * all.mean[c]);
  }
  return all;
}

void add_over_ranks(std::span<double> sums, Communicator* ranks) {
  if (ranks != nullptr) ranks->all_reduce_sum(sums);
}

}  // namespace trainer
