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
  // Of every cell, without asking which answer for an object: the same value to rounding, and no
  // wait of the host for the device but one, for the norm. GPUs always; a CPU saves its work.
  bool is_dense = false;
};

struct LossValue {
  torch::Tensor total;  // Scalar with gradient: this rank's part of the loss of the global batch.
  torch::Tensor items;  // [3], detached: box, cls, dfl after gains; also this rank's part.
};

// Sums a number over all ranks; a single process returns it as it is.
using SumOverRanks = std::function<double(double)>;

// `features` as the model gives them; `targets` [N, 6] as in Batch, on the CPU.
// `global_batch`: images of all ranks. Calls `sum_over_ranks` exactly once.
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
