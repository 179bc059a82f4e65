// SPDX-License-Identifier: Apache-2.0
#include "trainer/confusion.h"

#include <algorithm>
#include <stdexcept>

namespace trainer {
namespace {

constexpr int kNone = -1;

struct Pair {
  std::size_t truth = 0, detection = 0;
  float iou = 0;
};

// Each detection's best box of those above the threshold; then, of the detections that want the
// same box, the best one. Gives the detection of each box, or kNone.
std::vector<int> pair_up(const std::vector<Detection>& detections,
                         const std::vector<TrueBox>& truths) {
  std::vector<int> detection_of(truths.size(), kNone);
  std::vector<float> best_iou(truths.size(), 0);
  for (std::size_t d = 0; d < detections.size(); ++d) {
    Pair best{.iou = static_cast<float>(ConfusionMatrix::kIou)};
    bool is_found = false;
    for (std::size_t t = 0; t < truths.size(); ++t) {
      const float iou = intersection_over_union(truths[t].box, detections[d].box);
      if (iou > best.iou) best = {t, d, iou}, is_found = true;
    }
    if (is_found && best.iou > best_iou[best.truth]) {
      best_iou[best.truth] = best.iou;
      detection_of[best.truth] = static_cast<int>(d);
    }
  }
  return detection_of;
}

}  // namespace

void ConfusionMatrix::add(const std::vector<Detection>& detections,
                          const std::vector<TrueBox>& truths) {
  std::vector<Detection> certain;
  for (const Detection& detection : detections) {
    if (detection.score > confidence_) certain.push_back(detection);
  }
  const std::vector<int> detection_of = pair_up(certain, truths);
  std::vector<bool> is_used(certain.size(), false);
  for (std::size_t t = 0; t < truths.size(); ++t) {
    int predicted = classes_;
    if (detection_of[t] != kNone) {
      const auto d = static_cast<std::size_t>(detection_of[t]);
      is_used[d] = true;
      predicted = certain[d].cls;
    }
    count(predicted, truths[t].cls, 1);
  }
  for (std::size_t d = 0; d < certain.size(); ++d) {
    if (!is_used[d]) count(certain[d].cls, classes_, 1);
  }
}

void ConfusionMatrix::merge(const std::vector<Cell>& cells) {
  const auto fits = [&](const Cell& cell) {
    return cell.predicted >= 0 && cell.predicted <= classes_ && cell.truth >= 0 &&
           cell.truth <= classes_ && cell.count > 0;
  };
  if (!std::all_of(cells.begin(), cells.end(), fits)) {
    throw std::runtime_error("confusion matrices of different classes");
  }
  for (const Cell& cell : cells) count(cell.predicted, cell.truth, cell.count);
}

std::int64_t ConfusionMatrix::at(int predicted, int truth) const {
  const auto found = counts_.find({predicted, truth});
  return found == counts_.end() ? 0 : found->second;
}

double ConfusionMatrix::share(int predicted, int truth) const {
  const auto all = counts_of_truth_.find(truth);
  if (all == counts_of_truth_.end()) return 0;
  return static_cast<double>(at(predicted, truth)) / static_cast<double>(all->second);
}

std::vector<ConfusionMatrix::Cell> ConfusionMatrix::cells() const {
  std::vector<Cell> cells;
  for (const auto& [place, count] : counts_) cells.push_back({place.first, place.second, count});
  return cells;
}

void ConfusionMatrix::count(int predicted, int truth, std::int64_t times) {
  counts_[{predicted, truth}] += times;
  counts_of_truth_[truth] += times;
}

}  // namespace trainer
