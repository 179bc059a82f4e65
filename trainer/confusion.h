// SPDX-License-Identifier: Apache-2.0
// trainer/confusion.h
//
// Which classes a model takes for which, and for nothing: counts of detections above one confidence
// against true boxes, one box to one detection by falling IoU, whatever their classes. Pure.
//
// Only cells that count something are kept: at most one for each certain detection and each box,
// where a table of 65,536 classes would have four billion.
#pragma once

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "trainer/detection.h"

namespace trainer {

class ConfusionMatrix {
 public:
  static constexpr double kConfidence = 0.25, kIou = 0.45;

  struct Cell {
    int predicted = 0, truth = 0;
    std::int64_t count = 0;
    friend bool operator==(const Cell&, const Cell&) = default;
  };

  ConfusionMatrix() = default;
  explicit ConfusionMatrix(int classes, double confidence = kConfidence)
      : classes_(classes), confidence_(confidence) {}

  // One image. A pair needs an IoU above kIou; what is left over meets the background.
  void add(const std::vector<Detection>& detections, const std::vector<TrueBox>& truths);
  // The cells of another rank. Throws std::runtime_error where one is of no class, and then adds
  // none.
  void merge(const std::vector<Cell>& cells);

  [[nodiscard]] int classes() const { return classes_; }
  // Either may be classes(): the background. So at(c, background) counts false finds, and
  // at(background, c) boxes that were missed.
  [[nodiscard]] std::int64_t at(int predicted, int truth) const;
  // Of all boxes of the true class, or of all finds on the background; 0..1.
  [[nodiscard]] double share(int predicted, int truth) const;
  [[nodiscard]] std::vector<Cell> cells() const;  // Those above 0, by rows.

 private:
  void count(int predicted, int truth, std::int64_t times);

  int classes_ = 0;
  double confidence_ = kConfidence;
  std::map<std::pair<int, int>, std::int64_t> counts_;  // By predicted and true class.
  std::map<int, std::int64_t> counts_of_truth_;         // Sums of the columns.
};

}  // namespace trainer
