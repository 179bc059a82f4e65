// SPDX-License-Identifier: Apache-2.0
#include "trainer/assigner.h"

#include <torch/utils.h>

#include <algorithm>

#include "trainer/boxes.h"

namespace trainer {

namespace {

constexpr double kEpsilon = 1e-9;

// bool [B, M, A]: the cell's centre lies inside the object.
torch::Tensor centres_inside(const torch::Tensor& points, const torch::Tensor& objects) {
  const torch::Tensor low = objects.narrow(-1, 0, 2).unsqueeze(2);  // [B, M, 1, 2]
  const torch::Tensor high = objects.narrow(-1, 2, 2).unsqueeze(2);
  const torch::Tensor margin = torch::minimum((points - low).amin(-1), (high - points).amin(-1));
  return margin > kEpsilon;
}

// bool of the shape of `metric` [B, M, A]: the k best cells of each object.
torch::Tensor best_cells(const torch::Tensor& metric, int top_k) {
  const std::int64_t k = std::min<std::int64_t>(top_k, metric.size(-1));
  const torch::Tensor indices = std::get<1>(metric.topk(k, -1));
  return torch::zeros_like(metric, torch::kBool).scatter_(-1, indices, true);
}

}  // namespace

Assignment assign(const torch::Tensor& scores, const torch::Tensor& boxes,
                  const torch::Tensor& points, const torch::Tensor& labels,
                  const torch::Tensor& objects, const torch::Tensor& is_object,
                  const AssignerOptions& options) {
  torch::NoGradGuard no_grad;
  const std::int64_t cells = scores.size(1);
  const std::int64_t object_count = objects.size(1);
  if (object_count == 0) {
    return {torch::zeros_like(boxes), torch::zeros_like(scores),
            torch::zeros({scores.size(0), cells}, scores.options().dtype(torch::kBool)),
            torch::zeros({scores.size(0), cells}, labels.options().dtype(torch::kLong))};
  }

  // How well each cell inside an object does for it now. [B, M, A] throughout.
  const torch::Tensor eligible = centres_inside(points, objects) & is_object.unsqueeze(-1);
  const torch::Tensor pairs = eligible.nonzero();  // Few of all: overlaps are computed for these.
  const torch::Tensor image = pairs.select(1, 0), row = pairs.select(1, 1),
                      cell = pairs.select(1, 2);
  torch::Tensor overlap = torch::zeros(eligible.sizes(), boxes.options());
  torch::Tensor score = torch::zeros(eligible.sizes(), scores.options());
  overlap.index_put_(
      {image, row, cell},
      complete_iou(objects.index({image, row}), boxes.index({image, cell})).clamp_min(0));
  score.index_put_({image, row, cell}, scores.index({image, cell, labels.index({image, row})}));
  torch::Tensor metric = score.pow(options.alpha) * overlap.pow(options.beta);

  // The best of them, and a cell for one object only.
  torch::Tensor taken = best_cells(metric, options.top_k) & eligible;
  const torch::Tensor contested = taken.sum(1, /*keepdim=*/true) > 1;
  const torch::Tensor strongest =
      torch::zeros_like(taken).scatter_(1, overlap.argmax(1, /*keepdim=*/true), true);
  taken = torch::where(contested, strongest, taken);

  Assignment result;
  result.foreground = taken.any(1);
  result.object = taken.to(torch::kLong).argmax(1);  // [B, A]
  result.boxes = objects.gather(1, result.object.unsqueeze(-1).expand({-1, -1, 4}));

  // The best cell of an object shall score its best overlap, the others in proportion.
  metric = metric * taken;
  const torch::Tensor metric_best = metric.amax(-1, /*keepdim=*/true);
  const torch::Tensor overlap_best = (overlap * taken).amax(-1, /*keepdim=*/true);
  const torch::Tensor wanted = (metric * overlap_best / (metric_best + kEpsilon)).amax(1);
  const torch::Tensor cell_labels = labels.gather(1, result.object).clamp_min(0);
  result.scores = torch::zeros_like(scores).scatter_(-1, cell_labels.unsqueeze(-1),
                                                     (wanted * result.foreground).unsqueeze(-1));
  return result;
}

}  // namespace trainer
