// SPDX-License-Identifier: Apache-2.0
#include "trainer/loss.h"

#include <torch/utils.h>

#include <algorithm>

#include "trainer/assigner.h"
#include "trainer/boxes.h"
#include "trainer/model.h"

namespace trainer {

namespace {

// Objects of each image, padded to the same number.
struct PaddedObjects {
  torch::Tensor labels;     // int64 [B, M]
  torch::Tensor boxes;      // [B, M, 4], corners in pixels
  torch::Tensor is_object;  // bool [B, M]
};

PaddedObjects pad_objects(const torch::Tensor& targets, std::int64_t images,
                          const torch::Tensor& image_size) {
  const torch::Tensor image = targets.select(1, 0).to(torch::kLong);
  const torch::Tensor counts = torch::bincount(image, {}, images);
  const std::int64_t most = targets.size(0) == 0 ? 0 : counts.max().item<std::int64_t>();
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
  return padded;
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
  const torch::Tensor image_size =
      torch::tensor({width, height, width, height}).to(features.front().device());
  const PaddedObjects objects = pad_objects(targets, images, image_size);

  const torch::Tensor predicted =
      boxes_from_distances(anchors.points, expected_distances(distributions));
  const Assignment wanted =
      assign(logits.detach().sigmoid(), predicted.detach() * anchors.strides,
             anchors.points * anchors.strides, objects.labels, objects.boxes, objects.is_object);
  const double norm = std::max(1.0, sum_over_ranks(wanted.scores.sum().item<double>()));

  const torch::Tensor cls = torch::binary_cross_entropy_with_logits(
      logits, wanted.scores, /*weight=*/options.class_weights, /*pos_weight=*/{}, at::Reduction::Sum);
  torch::Tensor box = torch::zeros({}, logits.options().requires_grad(false)), dfl = box;
  if (wanted.foreground.any().item<bool>()) {
    const torch::Tensor weight = wanted.scores.sum(-1).masked_select(wanted.foreground);
    const torch::Tensor wanted_boxes = (wanted.boxes / anchors.strides).index({wanted.foreground});
    const torch::Tensor points =
        anchors.points.unsqueeze(0).expand({images, -1, -1}).index({wanted.foreground});
    box = ((1 - complete_iou(predicted.index({wanted.foreground}), wanted_boxes)) * weight).sum();
    const torch::Tensor distances = distances_from_boxes(points, wanted_boxes, kRegMax - 1 - 0.01);
    dfl = (distribution_focal_loss(distributions.index({wanted.foreground}), distances) * weight)
              .sum();
  }
  const torch::Tensor items = torch::stack(
      {box * (options.box / norm), cls * (options.cls / norm), dfl * (options.dfl / norm)});
  return {items.sum() * global_batch, items.detach()};
}

}  // namespace trainer
