// SPDX-License-Identifier: Apache-2.0
#include <torch/types.h>

#include <algorithm>
#include <stdexcept>

#include "trainer/detection.h"
#include "trainer/evaluate.h"

namespace trainer {
namespace {

// One image: rows xc, yc, w, h, then a row of scores for each class; a column an anchor.
std::vector<Detection> candidates_of(const float* rows, std::int64_t classes, std::int64_t anchors,
                                     const NmsOptions& options) {
  const auto threshold = static_cast<float>(options.confidence);
  const auto at = [&](std::int64_t row, std::int64_t anchor) {
    return rows[row * anchors + anchor];
  };
  const auto is_wanted = [&](std::int64_t cls) {
    return options.classes.empty() || std::find(options.classes.begin(), options.classes.end(),
                                                static_cast<int>(cls)) != options.classes.end();
  };
  std::vector<float> best(rows + 4 * anchors, rows + 5 * anchors);
  for (std::int64_t cls = 1; cls < classes; ++cls) {
    const float* scores = rows + (4 + cls) * anchors;
    for (std::int64_t a = 0; a < anchors; ++a) {
      best[static_cast<std::size_t>(a)] = std::max(best[static_cast<std::size_t>(a)], scores[a]);
    }
  }
  std::vector<Detection> candidates;
  for (std::int64_t a = 0; a < anchors; ++a) {
    if (!(best[static_cast<std::size_t>(a)] > threshold)) continue;
    const float half_w = at(2, a) / 2, half_h = at(3, a) / 2;
    const Box box{at(0, a) - half_w, at(1, a) - half_h, at(0, a) + half_w, at(1, a) + half_h};
    for (std::int64_t cls = 0; cls < classes; ++cls) {
      const float score = at(4 + cls, a);
      const bool is_taken =
          options.multi_label ? score > threshold : score == best[static_cast<std::size_t>(a)];
      if (!is_taken) continue;
      if (is_wanted(cls)) candidates.push_back({box, score, static_cast<int>(cls)});
      if (!options.multi_label) break;  // The first of equal classes.
    }
  }
  std::stable_sort(candidates.begin(), candidates.end(),
                   [](const Detection& a, const Detection& b) { return a.score > b.score; });
  if (candidates.size() > static_cast<std::size_t>(options.max_nms)) {
    candidates.resize(static_cast<std::size_t>(options.max_nms));
  }
  return candidates;
}

// Moves each class to a place of its own, so that boxes of different classes never meet. The
// reference does the same; rounding included, a result hangs on it.
Box apart_by_class(const Detection& candidate, const NmsOptions& options) {
  constexpr float kApart = 7680;
  const float offset = options.class_agnostic ? 0 : static_cast<float>(candidate.cls) * kApart;
  const Box& box = candidate.box;
  return {box.x1 + offset, box.y1 + offset, box.x2 + offset, box.y2 + offset};
}

torch::Tensor suppress(const std::vector<Detection>& candidates, const NmsOptions& options) {
  std::vector<Box> kept;
  std::vector<float> rows;
  for (const Detection& candidate : candidates) {
    if (kept.size() >= static_cast<std::size_t>(options.max_det)) break;
    const Box box = apart_by_class(candidate, options);
    const bool is_hidden = std::any_of(kept.begin(), kept.end(), [&](const Box& better) {
      const float shared = intersection(better, box);
      return shared / (better.area() + box.area() - shared) > options.iou;
    });
    if (is_hidden) continue;
    kept.push_back(box);
    rows.insert(rows.end(), {candidate.box.x1, candidate.box.y1, candidate.box.x2, candidate.box.y2,
                             candidate.score, static_cast<float>(candidate.cls)});
  }
  constexpr std::int64_t kColumns = 6;
  return torch::from_blob(rows.data(), {static_cast<std::int64_t>(kept.size()), kColumns},
                          torch::kFloat32)
      .clone();
}

}  // namespace

std::vector<torch::Tensor> non_max_suppression(const torch::Tensor& predictions,
                                               const NmsOptions& options) {
  if (predictions.dim() != 3 || predictions.size(1) < 5) {
    throw std::invalid_argument("predictions are not of shape [B, 4 + nc, A]");
  }
  const torch::Tensor all = predictions.detach().to(torch::kCPU, torch::kFloat32).contiguous();
  const std::int64_t classes = all.size(1) - 4, anchors = all.size(2);
  NmsOptions chosen = options;
  chosen.multi_label = options.multi_label && classes > 1;
  std::vector<torch::Tensor> result;
  for (std::int64_t i = 0; i < all.size(0); ++i) {
    const float* rows = all.data_ptr<float>() + i * all.size(1) * anchors;
    result.push_back(suppress(candidates_of(rows, classes, anchors, chosen), chosen));
  }
  return result;
}

}  // namespace trainer
