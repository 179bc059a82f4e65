// SPDX-License-Identifier: Apache-2.0
// trainer/average_precision.h
//
// Average precision of one class as COCO counts it (101 points, IoU .50:.05:.95), and the curves of
// precision and recall over the confidence. Pure.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace trainer {

inline constexpr int kIouThresholds = 10;          // .50, .55, ... .95
inline constexpr std::size_t kCurvePoints = 1000;  // Confidence 0..1.
using Curve = std::array<double, kCurvePoints>;

struct Prediction {
  float score = 0;
  std::uint16_t matches = 0;  // Bit i: a true positive at IoU .50 + .05 i.
};

struct ClassCurves {
  int cls = 0;
  std::int64_t instances = 0;
  std::array<double, kIouThresholds> ap{};
  // At IoU .50: over the confidence, and the best precision at this recall or a higher one.
  Curve precision{}, recall{}, precision_at_recall{};
  [[nodiscard]] double f1(std::size_t point) const;
};

// In any order. Precondition: instances > 0.
[[nodiscard]] ClassCurves class_curves(std::vector<Prediction> predictions, std::int64_t instances);

// Mean of the F1 of the classes at each confidence.
[[nodiscard]] Curve mean_f1(const std::vector<ClassCurves>& classes);

// The point of the curves at which the mean F1 over the classes, smoothed by a box of a fifth of
// the curve, is largest.
[[nodiscard]] std::size_t best_f1_point(const std::vector<ClassCurves>& classes);

}  // namespace trainer
