// SPDX-License-Identifier: Apache-2.0
// trainer/evaluate.h
//
// Non-maximum suppression and COCO-style average precision, as the reference computes them
// (101-point interpolation, IoU thresholds .50:.05:.95, greedy matching by IoU).
#pragma once

#include <torch/types.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "trainer/average_precision.h"
#include "trainer/confusion.h"
#include "trainer/detection.h"
#include "trainer/loader.h"

namespace trainer {

struct NmsOptions {
  double confidence = 0.001;
  double iou = 0.7;
  int max_det = 300;
  bool multi_label = true;     // A box may carry several classes (validation).
  bool class_agnostic = false;
  std::vector<int> classes{};  // Only these; none named: all.
  int max_nms = 30'000;
};

// `predictions`: float32 [B, 4 + nc, A], xc yc w h in pixels and class scores. Returns B tensors
// [n, 6]: x1 y1 x2 y2 score class, by falling score.
[[nodiscard]] std::vector<torch::Tensor> non_max_suppression(const torch::Tensor& predictions,
                                                             const NmsOptions& options);

// The rows of one image as NMS gave them: in the letterboxed frame, or in pixels of the original,
// cut to it.
[[nodiscard]] std::vector<Detection> to_detections(const torch::Tensor& rows);
[[nodiscard]] std::vector<Detection> to_original(const torch::Tensor& rows,
                                                 const Batch::Source& source);

struct ClassMetrics {
  std::string name;
  std::int64_t images = 0, instances = 0;
  double precision = 0, recall = 0, ap50 = 0, ap50_95 = 0;
};

struct EvalMetrics {
  double precision = 0, recall = 0;  // At the confidence of the best mean F1.
  double map50 = 0, map50_95 = 0;
  std::int64_t images = 0, instances = 0;
  std::vector<ClassMetrics> classes; // Classes with instances only.
  [[nodiscard]] double fitness() const { return 0.1 * map50 + 0.9 * map50_95; }
};

// Collects the matches of a rank's images; the parts of several ranks are merged by their bytes.
class Evaluator {
 public:
  explicit Evaluator(std::vector<std::string> names,
                     double confusion_confidence = ConfusionMatrix::kConfidence);
  // `detections` of the letterboxed batch as NMS gave them; `batch` with targets and sources.
  void add(const Batch& batch, const std::vector<torch::Tensor>& detections);
  [[nodiscard]] std::vector<std::byte> serialize() const;
  void merge(std::span<const std::byte> bytes);   // Throws std::runtime_error where malformed.
  [[nodiscard]] EvalMetrics compute() const;
  // Of each class that has instances.
  [[nodiscard]] std::vector<ClassCurves> curves() const;
  [[nodiscard]] const ConfusionMatrix& confusion() const { return confusion_; }

 private:
  std::vector<std::string> names_;
  std::vector<float> scores_;
  std::vector<int> predicted_classes_;
  std::vector<std::uint16_t> matches_;            // Bit i: true positive at IoU .50 + .05 i.
  std::vector<int> target_classes_;
  std::vector<std::int64_t> images_per_class_;
  std::int64_t images_ = 0;
  ConfusionMatrix confusion_;
};

}  // namespace trainer
