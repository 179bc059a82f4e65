// SPDX-License-Identifier: Apache-2.0
#include "trainer/validate.h"

#include <fmt/format.h>
#include <torch/utils.h>

#include <algorithm>
#include <limits>
#include <span>
#include <utility>

#include "trainer/batch_step.h"
#include "trainer/device.h"
#include "trainer/layout.h"

namespace trainer {

namespace {

// Losses and detections of batch after batch of a rank.
class Measurement {
 public:
  Measurement(DetectionModel& model, const ValidationOptions& options, torch::Device device)
      : model_(model), options_(options), device_(device) {}

  // The detections of each image. In parts where there is no memory for all images at once, which
  // then goes for the next batches too.
  std::vector<torch::Tensor> add(const Batch& batch) {
    std::vector<torch::Tensor> detections;
    const std::int64_t count = batch.images.size(0);
    for (std::int64_t first = 0; first < count;) {
      const std::int64_t end = std::min(count, first + images_max_);
      try {
        const double share = static_cast<double>(end - first) / static_cast<double>(count);
        for (torch::Tensor& rows :
             measure(slice_of(batch.images, batch.targets, first, end), share)) {
          detections.push_back(std::move(rows));
        }
        first = end;
      } catch (const std::exception& error) {
        if (end - first == 1 || !is_out_of_memory(error)) throw;
        images_max_ = (end - first) / 2;
      }
    }
    sums_[3] += 1;
    return detections;
  }
  // Of the losses, and the number of batches.
  [[nodiscard]] std::array<double, 4>& sums() { return sums_; }

 private:
  // `share`: of the batch.
  std::vector<torch::Tensor> measure(const Slice& part, double share) {
    torch::Tensor images = network_input(part.images, device_);
    if (options_.before_forward) options_.before_forward(images);
    const std::vector<torch::Tensor> features = model_.forward(images);
    // Ranks have different numbers of batches: each loss is of this batch alone.
    const LossValue loss = detection_loss(features, model_.strides(), part.targets, options_.loss,
                                          images.size(0), of_this_rank_alone);
    std::vector<torch::Tensor> detections =
        non_max_suppression(model_.decode(features).to(torch::kCPU), options_.nms);
    const torch::Tensor items = loss.items.to(torch::kCPU, torch::kDouble);
    for (std::size_t i = 0; i < 3; ++i) sums_[i] += share * items.data_ptr<double>()[i];
    return detections;
  }

  DetectionModel& model_;
  const ValidationOptions& options_;
  torch::Device device_;
  std::int64_t images_max_ = std::numeric_limits<std::int64_t>::max() / 2;  // At a time.
  std::array<double, 4> sums_{};
};

}  // namespace

std::optional<Validation> validate(DetectionModel& model, ValLoader& loader,
                                   const ValidationOptions& options, torch::Device device,
                                   Communicator& communicator) {
  torch::NoGradGuard no_grad;
  model.eval();
  Evaluator evaluator(options.class_names, options.confusion_confidence);
  Measurement measurement(model, options, device);
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
    const std::vector<torch::Tensor> detections = measurement.add(batch);
    if (options.is_single_class) {
      for (const torch::Tensor& rows : detections) rows.select(1, 5).zero_();
    }
    evaluator.add(batch, detections);
    if (options.on_batch) options.on_batch(batch, detections);
  }

  std::array<double, 4>& sums = measurement.sums();
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
