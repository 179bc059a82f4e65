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
  const torch::Tensor x = points.select(-1, 0), y = points.select(-1, 1);  // [A]
  const auto side = [&objects](std::int64_t i) { return objects.select(-1, i).unsqueeze(-1); };
  torch::Tensor margin = torch::minimum(x - side(0), y - side(1));
  margin = torch::minimum(margin, side(2) - x);
  return torch::minimum(margin, side(3) - y) > kEpsilon;
}

// Objects and the cells that work for them: entry i says that cell[i] is object[i]'s in image[i].
struct Pairs {
  torch::Tensor image, object, cell;  // int64 [P]
};

Pairs pairs_where(const torch::Tensor& mask) {
  const torch::Tensor all = mask.nonzero();
  return {all.select(1, 0), all.select(1, 1), all.select(1, 2)};
}

// The k best cells of each object, of those that are eligible.
Pairs best_cells(const torch::Tensor& metric, const torch::Tensor& eligible, int top_k) {
  const std::int64_t k = std::min<std::int64_t>(top_k, metric.size(-1));
  const torch::Tensor cells = std::get<1>(metric.topk(k, -1));  // [B, M, k]
  Pairs best = pairs_where(eligible.gather(-1, cells));
  best.cell = cells.index({best.image, best.object, best.cell});
  return best;
}

// Each cell for one object only: a contested one goes to whichever object it overlaps most, also
// where it is not among that object's best.
Pairs settle_contests(const Pairs& pairs, const torch::Tensor& overlap) {
  const std::int64_t cells = overlap.size(2);
  const torch::Tensor flat = pairs.image * cells + pairs.cell;
  const torch::Tensor claims = torch::bincount(flat, {}, overlap.size(0) * cells);
  const torch::Tensor contested = (claims > 1).nonzero().squeeze(1);
  const torch::Tensor sole = (claims.index({flat}) == 1).nonzero().squeeze(1);
  const torch::Tensor image = contested.div(cells, "floor"), cell = contested - image * cells;
  const torch::Tensor strongest = overlap.permute({0, 2, 1}).index({image, cell}).argmax(1);
  return {torch::cat({pairs.image.index({sole}), image}),
          torch::cat({pairs.object.index({sole}), strongest}),
          torch::cat({pairs.cell.index({sole}), cell})};
}

// Few of all pairs of objects and cells lie inside each other: only for these is anything computed.
Assignment assign_inside(const torch::Tensor& scores, const torch::Tensor& boxes,
                         const torch::Tensor& labels, const torch::Tensor& objects,
                         const torch::Tensor& eligible, const AssignerOptions& options) {
  const std::int64_t cells = scores.size(1);
  const Pairs inside = pairs_where(eligible);
  torch::Tensor overlap = torch::zeros(eligible.sizes(), boxes.options());  // [B, M, A]
  torch::Tensor metric = torch::zeros(eligible.sizes(), scores.options());
  const torch::Tensor own_overlap = complete_iou(objects.index({inside.image, inside.object}),
                                                 boxes.index({inside.image, inside.cell}))
                                        .clamp_min(0);
  const torch::Tensor own_score =
      scores.index({inside.image, inside.cell, labels.index({inside.image, inside.object})});
  overlap.index_put_({inside.image, inside.object, inside.cell}, own_overlap);
  metric.index_put_({inside.image, inside.object, inside.cell},
                    own_score.pow(options.alpha) * own_overlap.pow(options.beta));

  const Pairs taken = settle_contests(best_cells(metric, eligible, options.top_k), overlap);
  Assignment result;
  result.foreground =
      torch::zeros({scores.size(0), cells}, scores.options().dtype(torch::kBool))
          .index_put_({taken.image, taken.cell}, torch::ones({}, torch::kBool).to(scores.device()));
  result.object = torch::zeros({scores.size(0), cells}, labels.options().dtype(torch::kLong))
                      .index_put_({taken.image, taken.cell}, taken.object);  // [B, A]
  result.boxes = objects.gather(1, result.object.unsqueeze(-1).expand({-1, -1, 4}));

  // The best cell of an object shall score its best overlap, the others in proportion.
  const torch::Tensor taken_metric = metric.index({taken.image, taken.object, taken.cell});
  const torch::Tensor taken_overlap = overlap.index({taken.image, taken.object, taken.cell});
  const auto best_of_object = [&](const torch::Tensor& values) {
    return torch::zeros(metric.sizes(), values.options())
        .index_put_({taken.image, taken.object, taken.cell}, values)
        .amax(-1)
        .index({taken.image, taken.object});
  };
  const torch::Tensor wanted =
      taken_metric * best_of_object(taken_overlap) / (best_of_object(taken_metric) + kEpsilon);
  const torch::Tensor label = labels.index({taken.image, taken.object}).clamp_min(0);
  result.scores = torch::zeros_like(scores).index_put_({taken.image, taken.cell, label}, wanted);
  return result;
}

// [B, M, A] values of the pairs that hold, 0 elsewhere.
torch::Tensor where_true(const torch::Tensor& mask, const torch::Tensor& values) {
  return torch::where(mask, values, torch::zeros({}, values.options()));
}

// The same of all pairs, in operators whose shapes do not depend on the values.
Assignment assign_all(const torch::Tensor& scores, const torch::Tensor& boxes,
                      const torch::Tensor& labels, const torch::Tensor& objects,
                      const torch::Tensor& eligible, const AssignerOptions& options) {
  const std::int64_t cells = scores.size(1), object_count = objects.size(1);
  const torch::Tensor label = labels.clamp_min(0);
  const torch::Tensor overlap = where_true(
      eligible, complete_iou(objects.unsqueeze(2), boxes.unsqueeze(1)).clamp_min(0));  // [B, M, A]
  const torch::Tensor own_score =
      scores.transpose(1, 2).gather(1, label.unsqueeze(-1).expand({-1, -1, cells}));
  const torch::Tensor metric =
      where_true(eligible, own_score.pow(options.alpha) * overlap.pow(options.beta));

  // The k best cells of each object; a contested cell to whichever object it overlaps most.
  const std::int64_t k = std::min<std::int64_t>(options.top_k, cells);
  torch::Tensor taken = torch::zeros(eligible.sizes(), eligible.options())
                            .scatter_(2, std::get<1>(metric.topk(k, -1)), true)
                            .logical_and_(eligible);
  const torch::Tensor index =
      torch::arange(object_count, labels.options()).view({1, object_count, 1});
  const torch::Tensor is_strongest = overlap.argmax(1).unsqueeze(1) == index;
  const torch::Tensor is_contested = taken.sum(1, /*keepdim=*/true) > 1;  // [B, 1, A]
  taken = torch::where(is_contested, is_strongest, taken);

  Assignment result;
  result.foreground = taken.any(1);
  result.object = (taken * index).sum(1);  // 0 where none.
  result.boxes = objects.gather(1, result.object.unsqueeze(-1).expand({-1, -1, 4}));

  const torch::Tensor taken_metric = where_true(taken, metric);
  const torch::Tensor best_overlap = where_true(taken, overlap).amax(-1, /*keepdim=*/true);
  const torch::Tensor wanted =
      (taken_metric * best_overlap / (taken_metric.amax(-1, /*keepdim=*/true) + kEpsilon))
          .sum(1);  // [B, A]: at most one object each.
  const torch::Tensor cell_label = label.gather(1, result.object).unsqueeze(-1);
  result.scores = torch::zeros_like(scores).scatter_(2, cell_label, wanted.unsqueeze(-1));
  return result;
}

}  // namespace

Assignment assign(const torch::Tensor& scores, const torch::Tensor& boxes,
                  const torch::Tensor& points, const torch::Tensor& labels,
                  const torch::Tensor& objects, const torch::Tensor& is_object,
                  const AssignerOptions& options) {
  torch::NoGradGuard no_grad;
  const std::int64_t cells = scores.size(1);
  if (objects.size(1) == 0) {
    return {torch::zeros_like(boxes), torch::zeros_like(scores),
            torch::zeros({scores.size(0), cells}, scores.options().dtype(torch::kBool)),
            torch::zeros({scores.size(0), cells}, labels.options().dtype(torch::kLong))};
  }
  const torch::Tensor eligible = centres_inside(points, objects) & is_object.unsqueeze(-1);
  return options.is_dense ? assign_all(scores, boxes, labels, objects, eligible, options)
                          : assign_inside(scores, boxes, labels, objects, eligible, options);
}

}  // namespace trainer
