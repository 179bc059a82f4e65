// SPDX-License-Identifier: Apache-2.0
#include "trainer/average_precision.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace trainer {
namespace {

// The straight line between the points (xs ascending); beyond them `left` and the last value. Of
// several points with the same x the last counts.
double interpolate(double x, const std::vector<double>& xs, const std::vector<double>& ys,
                   double left) {
  const auto after = std::upper_bound(xs.begin(), xs.end(), x);
  if (after == xs.begin()) return left;
  if (after == xs.end()) return ys.back();
  const auto i = static_cast<std::size_t>(after - xs.begin());
  const double slope = (ys[i] - ys[i - 1]) / (xs[i] - xs[i - 1]);
  return slope * (x - xs[i - 1]) + ys[i - 1];
}

double average_precision(const std::vector<double>& recall, const std::vector<double>& precision) {
  std::vector<double> xs{0.0}, ys{1.0};
  xs.insert(xs.end(), recall.begin(), recall.end());
  ys.insert(ys.end(), precision.begin(), precision.end());
  xs.push_back(1.0);
  ys.push_back(0.0);
  for (std::size_t i = ys.size() - 1; i > 0; --i) ys[i - 1] = std::max(ys[i - 1], ys[i]);

  constexpr int kSteps = 100;
  double area = 0, before = interpolate(0, xs, ys, ys.front());
  for (int i = 1; i <= kSteps; ++i) {
    const double here = interpolate(static_cast<double>(i) / kSteps, xs, ys, ys.front());
    area += (before + here) / 2 / kSteps;
    before = here;
  }
  return area;
}

}  // namespace

ClassCurves class_curves(std::vector<Prediction> predictions, std::int64_t instances) {
  constexpr double kTiny = 1e-16;
  ClassCurves curves{.instances = instances};
  if (predictions.empty()) return curves;
  // Of equal scores the false one first: the result is the same in whatever order ranks were
  // merged, and a network that says the same of everything gains nothing.
  std::sort(predictions.begin(), predictions.end(), [](const Prediction& a, const Prediction& b) {
    return std::pair(-a.score, a.matches) < std::pair(-b.score, b.matches);
  });
  std::vector<double> scores_negated, recall(predictions.size()), precision(predictions.size());
  for (const Prediction& prediction : predictions) {
    scores_negated.push_back(-static_cast<double>(prediction.score));
  }
  for (int i = kIouThresholds - 1; i >= 0; --i) {  // The curves are those of the first threshold.
    std::int64_t found = 0;
    for (std::size_t n = 0; n < predictions.size(); ++n) {
      found += predictions[n].matches >> i & 1;
      recall[n] = static_cast<double>(found) / (static_cast<double>(instances) + kTiny);
      precision[n] = static_cast<double>(found) / static_cast<double>(n + 1);
    }
    curves.ap[static_cast<std::size_t>(i)] = average_precision(recall, precision);
  }
  for (std::size_t i = 0; i < kCurvePoints; ++i) {
    const double confidence = static_cast<double>(i) / (kCurvePoints - 1);
    curves.recall[i] = interpolate(-confidence, scores_negated, recall, 0);
    curves.precision[i] = interpolate(-confidence, scores_negated, precision, 1);
  }
  return curves;
}

std::size_t best_f1_point(const std::vector<ClassCurves>& classes) {
  constexpr double kTiny = 1e-16;
  constexpr std::int64_t kHalfWidth = kCurvePoints / 20;  // Of the box of 101 points.
  std::vector<double> mean(kCurvePoints, 0.0);
  for (std::size_t i = 0; i < kCurvePoints; ++i) {
    for (const ClassCurves& curves : classes) {
      const double p = curves.precision[i], r = curves.recall[i];
      mean[i] += 2 * p * r / (p + r + kTiny) / static_cast<double>(classes.size());
    }
  }
  std::size_t best = 0;
  double best_value = -1;
  for (std::int64_t i = 0; i < std::ssize(mean); ++i) {
    double sum = 0;
    for (std::int64_t k = i - kHalfWidth; k <= i + kHalfWidth; ++k) {
      sum += mean[static_cast<std::size_t>(std::clamp<std::int64_t>(k, 0, std::ssize(mean) - 1))];
    }
    if (sum > best_value) best_value = sum, best = static_cast<std::size_t>(i);
  }
  return best;
}

}  // namespace trainer
