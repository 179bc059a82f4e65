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

  // How well each cell inside an object does for it now. Few of all pairs are: only for these is
  // anything computed.
  const torch::Tensor eligible = centres_inside(points, objects) & is_object.unsqueeze(-1);
  const Pairs inside = pairs_where(eligible);
  torch::Tensor overlap = torch::zeros(eligible.sizes(), boxes.options());  // [B, M, A]
  torch::Tensor metric = torch::zeros(eligible.sizes(), scores.options());
  const torch::Tensor own_overlap = complete_iou(objects.index({inside.image, inside.object}),
                                                 boxes.index({inside.image, inside.cell}))
                                        .clamp_min(0);
  const torch::Tensor own_score = scores.index(
      {inside.image, inside.cell, labels.index({inside.image, inside.object})});
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
  const torch::Tensor row = taken.image * object_count + taken.object;
  const auto best_of_object = [&](const torch::Tensor& values) {
    return torch::zeros({scores.size(0) * object_count}, values.options())
        .scatter_reduce_(0, row, values, "amax")
        .index({row});
  };
  const torch::Tensor wanted = taken_metric * best_of_object(taken_overlap) /
                               (best_of_object(taken_metric) + kEpsilon);
  const torch::Tensor label = labels.index({taken.image, taken.object}).clamp_min(0);
  result.scores =
      torch::zeros_like(scores).index_put_({taken.image, taken.cell, label}, wanted);
  return result;
}

}  // namespace trainer
