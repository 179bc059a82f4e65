// SPDX-License-Identifier: Apache-2.0
// trainer/boxes.h
//
// Geometry of boxes as tensors whose last dimension is a box: corners (x1 y1 x2 y2) unless a name
// says otherwise. All functions are differentiable and pure.
#pragma once

#include <torch/types.h>

#include <vector>

namespace trainer {

// The centres of all cells of all feature maps, largest map first.
struct Anchors {
  torch::Tensor points;   // [A, 2], x y in units of the cell's own stride.
  torch::Tensor strides;  // [A, 1], pixels.
};
[[nodiscard]] Anchors make_anchors(const std::vector<torch::Tensor>& features,
                                   const std::vector<int>& strides);

// Logits over the bins, [..., 4 * kRegMax], to distances left, top, right, bottom, [..., 4].
[[nodiscard]] torch::Tensor expected_distances(const torch::Tensor& logits);

[[nodiscard]] torch::Tensor boxes_from_distances(const torch::Tensor& points,
                                                 const torch::Tensor& distances);
// Clamped to 0..distance_max.
[[nodiscard]] torch::Tensor distances_from_boxes(const torch::Tensor& points,
                                                 const torch::Tensor& boxes, double distance_max);

[[nodiscard]] torch::Tensor xywh_to_xyxy(const torch::Tensor& boxes);
[[nodiscard]] torch::Tensor xyxy_to_xywh(const torch::Tensor& boxes);

// Complete IoU (Zheng et al. 2020): overlap, less the distance of the centres, less the difference
// of the aspect ratios. Broadcasts; the box dimension is dropped.
[[nodiscard]] torch::Tensor complete_iou(const torch::Tensor& a, const torch::Tensor& b);

}  // namespace trainer
