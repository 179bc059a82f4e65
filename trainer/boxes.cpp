// SPDX-License-Identifier: Apache-2.0
#include "trainer/boxes.h"

#include <torch/utils.h>

#include <cmath>

#include "trainer/model.h"

namespace trainer {

Anchors make_anchors(const std::vector<torch::Tensor>& features, const std::vector<int>& strides) {
  std::vector<torch::Tensor> points, cell_strides;
  for (std::size_t i = 0; i < features.size(); ++i) {
    const torch::TensorOptions options = features[i].options().requires_grad(false);
    const std::int64_t rows = features[i].size(2), columns = features[i].size(3);
    const torch::Tensor x = torch::arange(columns, options) + 0.5;
    const torch::Tensor y = torch::arange(rows, options) + 0.5;
    // Not repeat_interleave: it reads its own count back from the device.
    const torch::Tensor row = y.unsqueeze(1).expand({rows, columns}).reshape({-1});
    points.push_back(torch::stack({x.repeat({rows}), row}, 1));
    cell_strides.push_back(torch::full({rows * columns, 1}, strides[i], options));
  }
  return {torch::cat(points), torch::cat(cell_strides)};
}

torch::Tensor expected_distances(const torch::Tensor& logits) {
  std::vector<std::int64_t> shape = logits.sizes().vec();
  shape.back() = 4;
  shape.push_back(kRegMax);
  const torch::Tensor bins = torch::arange(kRegMax, logits.options().requires_grad(false));
  return logits.reshape(shape).softmax(-1).matmul(bins);
}

torch::Tensor boxes_from_distances(const torch::Tensor& points, const torch::Tensor& distances) {
  return torch::cat({points - distances.narrow(-1, 0, 2), points + distances.narrow(-1, 2, 2)}, -1);
}

torch::Tensor distances_from_boxes(const torch::Tensor& points, const torch::Tensor& boxes,
                                   double distance_max) {
  return torch::cat({points - boxes.narrow(-1, 0, 2), boxes.narrow(-1, 2, 2) - points}, -1)
      .clamp(0, distance_max);
}

torch::Tensor xywh_to_xyxy(const torch::Tensor& boxes) {
  const torch::Tensor centre = boxes.narrow(-1, 0, 2), half = boxes.narrow(-1, 2, 2) / 2;
  return torch::cat({centre - half, centre + half}, -1);
}

torch::Tensor xyxy_to_xywh(const torch::Tensor& boxes) {
  const torch::Tensor low = boxes.narrow(-1, 0, 2), high = boxes.narrow(-1, 2, 2);
  return torch::cat({(low + high) / 2, high - low}, -1);
}

torch::Tensor complete_iou(const torch::Tensor& a, const torch::Tensor& b) {
  constexpr double kEpsilon = 1e-7;
  const torch::Tensor a_low = a.narrow(-1, 0, 2), a_high = a.narrow(-1, 2, 2);
  const torch::Tensor b_low = b.narrow(-1, 0, 2), b_high = b.narrow(-1, 2, 2);
  const torch::Tensor a_size = a_high - a_low, b_size = b_high - b_low;
  const torch::Tensor a_width = a_size.select(-1, 0), a_height = a_size.select(-1, 1) + kEpsilon;
  const torch::Tensor b_width = b_size.select(-1, 0), b_height = b_size.select(-1, 1) + kEpsilon;

  const torch::Tensor common =
      (torch::minimum(a_high, b_high) - torch::maximum(a_low, b_low)).clamp_min(0);
  const torch::Tensor intersection = common.select(-1, 0) * common.select(-1, 1);
  const torch::Tensor joined = a_width * a_height + b_width * b_height - intersection + kEpsilon;
  const torch::Tensor iou = intersection / joined;

  const torch::Tensor hull = torch::maximum(a_high, b_high) - torch::minimum(a_low, b_low);
  const torch::Tensor diagonal = hull.square().sum(-1) + kEpsilon;
  const torch::Tensor offset = (b_low + b_high - a_low - a_high).square().sum(-1) / 4;
  const torch::Tensor aspect =
      4 / (M_PI * M_PI) * ((b_width / b_height).atan() - (a_width / a_height).atan()).square();
  torch::Tensor weight;
  {
    torch::NoGradGuard no_grad;  // The weight of the aspect term is a constant of the loss.
    weight = aspect / (aspect - iou + (1 + kEpsilon));
  }
  return iou - (offset / diagonal + aspect * weight);
}

}  // namespace trainer
