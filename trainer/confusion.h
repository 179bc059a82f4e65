// SPDX-License-Identifier: Apache-2.0
// trainer/confusion.h
//
// Which classes a model takes for which, and for nothing: counts of detections above one confidence
// against true boxes, one box to one detection by falling IoU, whatever their classes. Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "trainer/detection.h"

namespace trainer {

class ConfusionMatrix {
 public:
  static constexpr double kConfidence = 0.25, kIou = 0.45;

  ConfusionMatrix() = default;
  explicit ConfusionMatrix(int classes, double confidence = kConfidence)
      : classes_(classes),
        confidence_(confidence),
        counts_(static_cast<std::size_t>((classes + 1) * (classes + 1)), 0) {}

  // One image. A pair needs an IoU above kIou; what is left over meets the background.
  void add(const std::vector<Detection>& detections, const std::vector<TrueBox>& truths);
  // The counts of another rank. Throws std::runtime_error where they are of another size.
  void merge(const std::vector<std::int64_t>& counts);

  [[nodiscard]] int classes() const { return classes_; }
  // Either may be classes(): the background. So at(c, background) counts false finds, and
  // at(background, c) boxes that were missed.
  [[nodiscard]] std::int64_t at(int predicted, int truth) const {
    return counts_[index(predicted, truth)];
  }
  // Of all boxes of the true class, or of all finds on the background; 0..1.
  [[nodiscard]] double share(int predicted, int truth) const;
  [[nodiscard]] const std::vector<std::int64_t>& counts() const { return counts_; }  // By rows.

 private:
  [[nodiscard]] std::size_t index(int predicted, int truth) const {
    return static_cast<std::size_t>(predicted * (classes_ + 1) + truth);
  }

  int classes_ = 0;
  double confidence_ = kConfidence;
  std::vector<std::int64_t> counts_;
};

}  // namespace trainer
