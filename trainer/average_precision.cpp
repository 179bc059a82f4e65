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

// Precision over recall, never falling towards lower recall.
struct Envelope {
  std::vector<double> recall{0.0}, precision{1.0};

  Envelope(const std::vector<double>& recalls, const std::vector<double>& precisions) {
    recall.insert(recall.end(), recalls.begin(), recalls.end());
    precision.insert(precision.end(), precisions.begin(), precisions.end());
    recall.push_back(1.0);
    precision.push_back(0.0);
    for (std::size_t i = precision.size() - 1; i > 0; --i) {
      precision[i - 1] = std::max(precision[i - 1], precision[i]);
    }
  }
  [[nodiscard]] double at(double x) const {
    return interpolate(x, recall, precision, precision.front());
  }
};

double area_under(const Envelope& envelope) {
  constexpr int kSteps = 100;
  double area = 0, before = envelope.at(0);
  for (int i = 1; i <= kSteps; ++i) {
    const double here = envelope.at(static_cast<double>(i) / kSteps);
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
    curves.ap[static_cast<std::size_t>(i)] = area_under(Envelope(recall, precision));
  }
  const Envelope envelope(recall, precision);
  for (std::size_t i = 0; i < kCurvePoints; ++i) {
    const double confidence = static_cast<double>(i) / (kCurvePoints - 1);
    curves.recall[i] = interpolate(-confidence, scores_negated, recall, 0);
    curves.precision[i] = interpolate(-confidence, scores_negated, precision, 1);
    curves.precision_at_recall[i] = envelope.at(confidence);  // As a recall, this time.
  }
  return curves;
}

double ClassCurves::f1(std::size_t point) const {
  constexpr double kTiny = 1e-16;
  const double p = precision[point], r = recall[point];
  return 2 * p * r / (p + r + kTiny);
}

Curve mean_f1(const std::vector<ClassCurves>& classes) {
  Curve mean{};
  for (std::size_t i = 0; i < kCurvePoints; ++i) {
    for (const ClassCurves& curves : classes) {
      mean[i] += curves.f1(i) / static_cast<double>(classes.size());
    }
  }
  return mean;
}

std::size_t best_f1_point(const std::vector<ClassCurves>& classes) {
  constexpr std::int64_t kHalfWidth = kCurvePoints / 20;  // Of the box of 101 points.
  const Curve mean = mean_f1(classes);
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
