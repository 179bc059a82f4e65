// SPDX-License-Identifier: Apache-2.0
#include "trainer/validate.h"

#include <fmt/format.h>
#include <torch/utils.h>

#include <algorithm>
#include <span>

#include "trainer/layout.h"

namespace trainer {

std::optional<Validation> validate(DetectionModel& model, ValLoader& loader,
                                   const ValidationOptions& options, torch::Device device,
                                   Communicator& communicator) {
  torch::NoGradGuard no_grad;
  model.eval();
  Evaluator evaluator(options.class_names, options.confusion_confidence);
  std::array<double, 4> sums{};  // Losses, and the number of batches.
  Batch batch;
  loader.start();
  for (std::int64_t number = 0;; ++number) {
    const bool is_to_ask = options.is_given_up && number < options.batches_max &&
                           number % options.batches_to_ask == 0;
    if (is_to_ask && options.is_given_up()) return std::nullopt;
    if (!loader.next(batch)) {
      if (options.is_given_up && number + 1 < options.batches_max) continue;  // Others have more.
      break;
    }
    const torch::Tensor images = network_input(batch.images, device);
    const std::vector<torch::Tensor> features = model.forward(images);
    // Ranks have different numbers of batches: each loss is of this batch alone.
    const LossValue loss =
        detection_loss(features, model.strides(), batch.targets, options.loss,
                       images.size(0), of_this_rank_alone);
    const torch::Tensor items = loss.items.to(torch::kCPU, torch::kDouble);
    for (std::size_t i = 0; i < 3; ++i) sums[i] += items.data_ptr<double>()[i];
    sums[3] += 1;
    const std::vector<torch::Tensor> detections =
        non_max_suppression(model.decode(features).to(torch::kCPU), options.nms);
    if (options.is_single_class) {
      for (const torch::Tensor& rows : detections) rows.select(1, 5).zero_();
    }
    evaluator.add(batch, detections);
    if (options.on_batch) options.on_batch(batch, detections);
  }

  communicator.all_reduce_sum(std::span<double>(sums));
  Validation result;
  for (std::size_t i = 0; i < 3; ++i) result.losses[i] = sums[3] > 0 ? sums[i] / sums[3] : 0;
  Evaluator merged(options.class_names);
  for (const auto& part : communicator.all_gather(evaluator.serialize())) merged.merge(part);
  result.metrics = merged.compute();
  result.curves = merged.curves();
  result.confusion = merged.confusion();
  return result;
}

std::string to_table(const EvalMetrics& metrics, std::size_t classes_max) {
  constexpr int kNameWidth = 22;
  std::string table = fmt::format("{:>{}} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}\n", "Class",
                                  kNameWidth, "Images", "Instances", "P", "R", "mAP50", "mAP50-95");
  const auto add = [&](const std::string& name, const auto& row, double ap50, double ap50_95) {
    table += fmt::format("{:>{}} {:>10} {:>10} {:>10.3g} {:>10.3g} {:>10.3g} {:>10.3g}\n",
                         name.substr(0, kNameWidth), kNameWidth, row.images, row.instances,
                         row.precision, row.recall, ap50, ap50_95);
  };
  add("all", metrics, metrics.map50, metrics.map50_95);
  const std::size_t shown = std::min(classes_max, metrics.classes.size());
  for (std::size_t i = 0; i < shown; ++i) {
    const ClassMetrics& row = metrics.classes[i];
    add(row.name, row, row.ap50, row.ap50_95);
  }
  return table;
}

}  // namespace trainer
