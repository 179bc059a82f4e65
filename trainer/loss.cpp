// SPDX-License-Identifier: Apache-2.0
#include "trainer/loss.h"

#include <torch/utils.h>

#include <array>

#include "trainer/assigner.h"
#include "trainer/boxes.h"
#include "trainer/layout.h"
#include "trainer/model.h"

namespace trainer {

namespace {

// Objects of each image, padded to the same number.
struct PaddedObjects {
  torch::Tensor labels;     // int64 [B, M]
  torch::Tensor boxes;      // [B, M, 4], corners in pixels
  torch::Tensor is_object;  // bool [B, M]
};

// On the CPU, where the number of objects is known without a wait, and then moved to `device`.
PaddedObjects pad_objects(const torch::Tensor& targets, std::int64_t images,
                          const torch::Tensor& image_size, torch::Device device) {
  const torch::Tensor image = targets.select(1, 0).to(torch::kLong);
  const torch::Tensor counts = torch::bincount(image, {}, images);
  const std::int64_t most =
      targets.size(0) == 0 ? 0 : *counts.max().data_ptr<std::int64_t>();  // Of the CPU's memory.
  // The place of an object among those of its image: stable sort by image, less where it starts.
  const c10::optional<bool> is_stable = true;
  const torch::Tensor order = std::get<1>(image.sort(is_stable, /*dim=*/0, /*descending=*/false));
  const torch::Tensor sorted_image = image.index_select(0, order);
  const torch::Tensor start = counts.cumsum(0) - counts;
  const torch::Tensor place =
      torch::arange(targets.size(0), image.options()) - start.index_select(0, sorted_image);
  const torch::Tensor sorted = targets.index_select(0, order);

  PaddedObjects padded;
  padded.labels = torch::zeros({images, most}, image.options());
  padded.boxes = torch::zeros({images, most, 4}, targets.options());
  padded.labels.index_put_({sorted_image, place}, sorted.select(1, 1).to(torch::kLong));
  padded.boxes.index_put_({sorted_image, place}, xywh_to_xyxy(sorted.narrow(1, 2, 4) * image_size));
  padded.is_object = padded.boxes.sum(-1) > 0;
  return {to_device(padded.labels, device), to_device(padded.boxes, device),
          to_device(padded.is_object, device)};
}

struct BoxLosses {
  torch::Tensor box, dfl;  // Sums over the cells that answer for an object.
};

// `weight` [...], `predicted` and `wanted` [..., 4] in units of the stride, `points` [..., 2],
// `distributions` [..., 4 * kRegMax].
BoxLosses box_losses(const torch::Tensor& weight, const torch::Tensor& predicted,
                     const torch::Tensor& wanted, const torch::Tensor& points,
                     const torch::Tensor& distributions) {
  const torch::Tensor distances = distances_from_boxes(points, wanted, kRegMax - 1 - 0.01);
  const torch::Tensor dfl =
      distribution_focal_loss(distributions.reshape({-1, 4 * kRegMax}), distances.reshape({-1, 4}));
  return {((1 - complete_iou(predicted, wanted)) * weight).sum(),
          (dfl * weight.reshape({-1})).sum()};
}

// A cell that answers for nothing takes part with weight 0, and with one box twice, so that no
// infinity of its own comes in.
BoxLosses box_losses_of_all(const Assignment& wanted, const torch::Tensor& predicted,
                            const Anchors& anchors, const torch::Tensor& distributions) {
  const torch::Tensor is_foreground = wanted.foreground.unsqueeze(-1);
  const torch::Tensor own =
      torch::cat({anchors.points - 1, anchors.points + 1}, -1).unsqueeze(0).expand_as(predicted);
  return box_losses(wanted.scores.sum(-1) * wanted.foreground,
                    torch::where(is_foreground, predicted, own),
                    torch::where(is_foreground, wanted.boxes / anchors.strides, own),
                    anchors.points.unsqueeze(0), distributions);
}

BoxLosses box_losses_of_foreground(const Assignment& wanted, const torch::Tensor& predicted,
                                   const Anchors& anchors, const torch::Tensor& distributions) {
  const torch::Tensor& foreground = wanted.foreground;
  if (!foreground.any().item<bool>()) {
    const torch::Tensor none = torch::zeros({}, predicted.options().requires_grad(false));
    return {none, none};
  }
  const torch::Tensor points = anchors.points.unsqueeze(0).expand({predicted.size(0), -1, -1});
  return box_losses(wanted.scores.sum(-1).masked_select(foreground), predicted.index({foreground}),
                    (wanted.boxes / anchors.strides).index({foreground}),
                    points.index({foreground}), distributions.index({foreground}));
}

}  // namespace

torch::Tensor distribution_focal_loss(const torch::Tensor& logits, const torch::Tensor& distances) {
  const torch::Tensor lower = distances.floor();
  const torch::Tensor upper_weight = distances - lower;
  const torch::Tensor log_probabilities = logits.view({-1, 4, kRegMax}).log_softmax(-1);
  const torch::Tensor bin = lower.to(torch::kLong).unsqueeze(-1);
  const torch::Tensor at_lower = log_probabilities.gather(-1, bin).squeeze(-1);
  const torch::Tensor at_upper = log_probabilities.gather(-1, bin + 1).squeeze(-1);
  return -(at_lower * (1 - upper_weight) + at_upper * upper_weight).mean(-1);
}

LossValue detection_loss(const std::vector<torch::Tensor>& features,
                         const std::vector<int>& strides, const torch::Tensor& targets,
                         const LossOptions& options, std::int64_t global_batch,
                         const SumOverRanks& sum_over_ranks) {
  const std::int64_t images = features.front().size(0);
  std::vector<torch::Tensor> flat;
  for (const torch::Tensor& map : features) {
    flat.push_back(map.permute({0, 2, 3, 1}).flatten(1, 2));  // No copy where channels are last.
  }
  const torch::Tensor all = torch::cat(flat, 1);  // [B, A, 4 * kRegMax + nc]
  const torch::Tensor distributions = all.narrow(2, 0, 4 * kRegMax);
  const torch::Tensor logits = all.narrow(2, 4 * kRegMax, all.size(2) - 4 * kRegMax).contiguous();

  const Anchors anchors = make_anchors(features, strides);
  const auto height = static_cast<float>(features.front().size(2) * strides.front());
  const auto width = static_cast<float>(features.front().size(3) * strides.front());
  const torch::Tensor image_size = torch::tensor({width, height, width, height});
  const torch::Device device = features.front().device();
  const bool is_dense = options.is_dense || device.is_cuda();
  const PaddedObjects objects = pad_objects(targets, images, image_size, device);

  const torch::Tensor predicted =
      boxes_from_distances(anchors.points, expected_distances(distributions));
  const Assignment wanted = assign(logits.detach().sigmoid(), predicted.detach() * anchors.strides,
                                   anchors.points * anchors.strides, objects.labels, objects.boxes,
                                   objects.is_object, {.is_dense = is_dense});
  const torch::Tensor cls = torch::binary_cross_entropy_with_logits(
      logits, wanted.scores, /*weight=*/options.class_weights, /*pos_weight=*/{},
      at::Reduction::Sum);
  const BoxLosses boxes = is_dense
                              ? box_losses_of_all(wanted, predicted, anchors, distributions)
                              : box_losses_of_foreground(wanted, predicted, anchors, distributions);

  const std::array<torch::Tensor, 3> own = {boxes.box, cls, boxes.dfl};
  const torch::Tensor sums = sum_over_ranks(
      torch::stack({wanted.scores.sum(), own[0].detach(), own[1].detach(), own[2].detach()}));
  // Divided as doubles, which a GPU does for one number as fast.
  const torch::Tensor norm = sums[0].to(torch::kDouble).clamp_min(1);
  const std::array<double, 3> gains = {options.box, options.cls, options.dfl};
  std::vector<torch::Tensor> parts, items;
  for (std::size_t i = 0; i < own.size(); ++i) {
    const torch::Tensor factor = (gains[i] / norm).to(torch::kFloat);
    parts.push_back(own[i] * factor);
    items.push_back(sums[static_cast<std::int64_t>(i) + 1] * factor);
  }
  return {torch::stack(parts).sum() * global_batch, torch::stack(items)};
}

}  // namespace trainer
