// SPDX-License-Identifier: Apache-2.0
// trainer/loss.h
//
// The detection loss: class (binary cross-entropy), box (complete IoU) and distance distribution.
// It is divided by the sum of the wanted scores and multiplied by the batch. Over several ranks
// both are those of the global batch: then the sum of the ranks' gradients is exactly the gradient
// of one process that sees the whole batch.
#pragma once

#include <torch/types.h>

#include <functional>
#include <vector>

namespace trainer {

struct LossOptions {
  double box = 7.5, cls = 0.5, dfl = 1.5;  // Gains.
  torch::Tensor class_weights = {};        // float32 [nc] for the class loss; undefined: ones.
  // Of every cell, without asking which answer for an object: the same value to rounding, and the
  // host never waits for the device. GPUs always; a CPU saves its work.
  bool is_dense = false;
};

struct LossValue {
  torch::Tensor total;  // Scalar with gradient: this rank's part of the loss of the global batch.
  // [3], detached: box, cls, dfl after gains, of the global batch. Lies where the sum does.
  torch::Tensor items;
};

// Sums a float32 vector over all ranks; a single process returns it as it is. What comes back may
// lie on the CPU, and be float64.
using SumOverRanks = std::function<torch::Tensor(const torch::Tensor&)>;
[[nodiscard]] inline torch::Tensor of_this_rank_alone(const torch::Tensor& own) {
  return own;
}

// `features` as the model gives them; `targets` [N, 6] as in Batch, on the CPU.
// `global_batch`: images of all ranks. Calls `sum_over_ranks` exactly once, with kSummed numbers:
// the wanted scores and the three losses without their gains.
inline constexpr std::int64_t kSummed = 4;
[[nodiscard]] LossValue detection_loss(const std::vector<torch::Tensor>& features,
                                       const std::vector<int>& strides,
                                       const torch::Tensor& targets, const LossOptions& options,
                                       std::int64_t global_batch,
                                       const SumOverRanks& sum_over_ranks);

// Cross-entropy of the two bins next to each distance: logits [N, 4 * kRegMax], distances [N, 4] in
// bins, below kRegMax - 1. Mean over the sides, [N].
[[nodiscard]] torch::Tensor distribution_focal_loss(const torch::Tensor& logits,
                                                    const torch::Tensor& distances);

}  // namespace trainer
