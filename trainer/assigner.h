// SPDX-License-Identifier: Apache-2.0
// trainer/assigner.h
//
// Which cell answers for which object: task-aligned assignment (Feng et al. 2021). An object takes
// the ten cells inside it whose score^0.5 * overlap^6 is best; a cell that several objects want
// goes to the one it overlaps most.
#pragma once

#include <torch/types.h>

namespace trainer {

struct AssignerOptions {
  int top_k = 10;
  double alpha = 0.5;  // Exponent of the class score.
  double beta = 6.0;   // Exponent of the overlap.
  // Computes all pairs of objects and cells instead of asking which lie inside each other: more
  // work, but the host never waits for the device.
  bool is_dense = false;
};

struct Assignment {
  torch::Tensor boxes;       // [B, A, 4]: of the object that a cell answers for; any where none.
  torch::Tensor scores;      // [B, A, nc]: wanted class scores; zero where none.
  torch::Tensor foreground;  // bool [B, A]
  torch::Tensor object;      // int64 [B, A]: index into the image's objects; 0 where none.
};

// All in pixels: `scores` [B, A, nc] in 0..1, `boxes` [B, A, 4], `points` [A, 2]; objects padded to
// the same number an image: `labels` int64 [B, M], `objects` [B, M, 4], `is_object` bool [B, M].
// No gradients.
[[nodiscard]] Assignment assign(const torch::Tensor& scores, const torch::Tensor& boxes,
                                const torch::Tensor& points, const torch::Tensor& labels,
                                const torch::Tensor& objects, const torch::Tensor& is_object,
                                const AssignerOptions& options = {});

}  // namespace trainer
