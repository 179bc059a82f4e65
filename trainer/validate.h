// SPDX-License-Identifier: Apache-2.0
// trainer/validate.h
//
// Losses and average precision of a model on a split; every rank takes its share of the images and
// every rank learns the result.
#pragma once

#include <array>
#include <functional>
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
  // Sees each batch of this rank with what NMS left of its detections, in the letterboxed frame.
  std::function<void(const Batch&, const std::vector<torch::Tensor>&)> on_batch;
};

// A collective; no other collective happens inside until all images are done. The model is put
// into evaluation mode and left there.
[[nodiscard]] Validation validate(DetectionModel& model, ValLoader& loader,
                                  const ValidationOptions& options, torch::Device device,
                                  Communicator& communicator);

// The table of the reference: Class, Images, Instances, P, R, mAP50, mAP50-95.
[[nodiscard]] std::string to_table(const EvalMetrics& metrics, std::size_t classes_max);

}  // namespace trainer
