// SPDX-License-Identifier: Apache-2.0
// trainer/validate.h
//
// Losses and average precision of a model on a split; every rank takes its share of the images and
// every rank learns the result.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "trainer/communicator.h"
#include "trainer/evaluate.h"
#include "trainer/loss.h"
#include "trainer/model.h"

namespace trainer {

struct Validation {
  EvalMetrics metrics;
  std::vector<ClassCurves> curves;  // Of each class with instances.
  ConfusionMatrix confusion;
  std::array<double, 3> losses{};  // box, cls, dfl: mean over the batches of all ranks.
};

struct ValidationOptions {
  NmsOptions nms;
  LossOptions loss;
  std::vector<std::string> class_names;
  bool is_single_class = false;  // Whatever the model says, it is class 0.
  double confusion_confidence = ConfusionMatrix::kConfidence;
  // For tests: given the images of each forward pass, as BatchStep::Options::before_forward.
  std::function<void(torch::Tensor&)> before_forward;
  // Sees each batch of this rank with what NMS left of its detections, in the letterboxed frame.
  std::function<void(const Batch&, const std::vector<torch::Tensor>&)> on_batch;
  // Asked by all ranks before each `batches_to_ask` batches, the same number of times on each;
  // gives all of them the same answer. Without it no collective happens until all images are done.
  std::function<bool()> is_given_up;
  std::int64_t batches_to_ask = 1;
  std::int64_t batches_max = 0;  // Of the rank that has most; with `is_given_up`.
};

// A collective. The model is put into evaluation mode and left there. Where a rank has no memory for
// so many images, it takes half as many at a time from there on; with one image what the allocator
// throws rises. Nothing: it was given up.
[[nodiscard]] std::optional<Validation> validate(DetectionModel& model, ValLoader& loader,
                                                 const ValidationOptions& options,
                                                 torch::Device device, Communicator& communicator);

// The table of the reference: Class, Images, Instances, P, R, mAP50, mAP50-95.
[[nodiscard]] std::string to_table(const EvalMetrics& metrics, std::size_t classes_max);

}  // namespace trainer
