// SPDX-License-Identifier: Apache-2.0
#include "trainer/evaluate.h"

#include <fmt/format.h>
#include <torch/types.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "trainer/average_precision.h"
#include "trainer/detection.h"

namespace trainer {
namespace {

// As float32: .55 is 0.550000011920929.
float iou_threshold(int i) {
  return static_cast<float>(0.5 + 0.05 * i);
}

// A detection goes to the target of its class that it covers best; of several that chose the same,
// the first (the most certain one) keeps it.
std::vector<std::uint16_t> match(const std::vector<Detection>& detections,
                                 const std::vector<TrueBox>& targets) {
  std::vector<std::uint16_t> matches(detections.size(), 0);
  std::vector<std::uint16_t> taken(targets.size(), 0);
  for (std::size_t d = 0; d < detections.size(); ++d) {
    float best_iou = 0;
    std::size_t best = targets.size();
    for (std::size_t t = 0; t < targets.size(); ++t) {
      if (targets[t].cls != detections[d].cls) continue;
      const float iou = intersection_over_union(targets[t].box, detections[d].box);
      if (iou > best_iou) best_iou = iou, best = t;
    }
    if (best == targets.size()) continue;
    for (int i = 0; i < kIouThresholds; ++i) {
      const auto bit = static_cast<std::uint16_t>(1U << i);
      if (best_iou < iou_threshold(i) || (taken[best] & bit) != 0) continue;
      taken[best] = static_cast<std::uint16_t>(taken[best] | bit);
      matches[d] = static_cast<std::uint16_t>(matches[d] | bit);
    }
  }
  return matches;
}

// From the letterboxed frame to pixels of the original, within it.
Box to_original(const Box& box, const Batch::Source& source) {
  const auto x = [&](float value) {
    return std::clamp((value - source.pad_x) / source.gain_x, 0.0F,
                      static_cast<float>(source.width));
  };
  const auto y = [&](float value) {
    return std::clamp((value - source.pad_y) / source.gain_y, 0.0F,
                      static_cast<float>(source.height));
  };
  return {x(box.x1), y(box.y1), x(box.x2), y(box.y2)};
}

std::vector<std::vector<TrueBox>> targets_by_image(const Batch& batch) {
  std::vector<std::vector<TrueBox>> result(batch.sources.size());
  const auto width = static_cast<float>(batch.images.size(3));
  const auto height = static_cast<float>(batch.images.size(2));
  const torch::Tensor rows = batch.targets.to(torch::kCPU, torch::kFloat32).contiguous();
  const float* row = rows.data_ptr<float>();
  for (std::int64_t i = 0; i < rows.size(0); ++i, row += 6) {
    const auto image = static_cast<std::size_t>(row[0]);
    const float x = row[2] * width, y = row[3] * height;
    const float half_w = row[4] * width / 2, half_h = row[5] * height / 2;
    result.at(image).push_back(
        {to_original({x - half_w, y - half_h, x + half_w, y + half_h}, batch.sources[image]),
         static_cast<int>(row[1])});
  }
  return result;
}

constexpr std::uint64_t kPartMagic =
    0x3330'4c41'5645'5954;  // "TYEVAL03"; ranks share one machine type.

template <typename T>
void put(std::vector<std::byte>& bytes, const std::vector<T>& values) {
  const std::uint64_t count = values.size();
  const auto append = [&](const void* data, std::size_t size) {
    const auto* from = static_cast<const std::byte*>(data);
    bytes.insert(bytes.end(), from, from + size);
  };
  append(&count, sizeof count);
  append(values.data(), values.size() * sizeof(T));
}

template <typename T>
std::vector<T> take(std::span<const std::byte>& bytes) {
  std::uint64_t count = 0;
  if (bytes.size() < sizeof count) throw std::runtime_error("metrics of a rank are cut short");
  std::memcpy(&count, bytes.data(), sizeof count);
  bytes = bytes.subspan(sizeof count);
  if (count > bytes.size() / sizeof(T)) throw std::runtime_error("metrics of a rank are cut short");
  std::vector<T> values(count);
  if (count > 0) std::memcpy(values.data(), bytes.data(), count * sizeof(T));
  bytes = bytes.subspan(count * sizeof(T));
  return values;
}

}  // namespace

std::vector<Detection> to_detections(const torch::Tensor& tensor) {
  const torch::Tensor rows = tensor.to(torch::kCPU, torch::kFloat32).contiguous();
  const float* row = rows.data_ptr<float>();
  std::vector<Detection> result;
  for (std::int64_t i = 0; i < rows.size(0); ++i, row += 6) {
    result.push_back({{row[0], row[1], row[2], row[3]}, row[4], static_cast<int>(row[5])});
  }
  return result;
}

std::vector<Detection> to_original(const torch::Tensor& rows, const Batch::Source& source) {
  std::vector<Detection> result = to_detections(rows);
  for (Detection& detection : result) detection.box = to_original(detection.box, source);
  return result;
}

Evaluator::Evaluator(std::vector<std::string> names, double confusion_confidence)
    : names_(std::move(names)),
      images_per_class_(names_.size(), 0),
      confusion_(static_cast<int>(names_.size()), confusion_confidence) {}

void Evaluator::add(const Batch& batch, const std::vector<torch::Tensor>& detections) {
  if (detections.size() != batch.sources.size()) {
    throw std::invalid_argument(fmt::format("detections of {} images for a batch of {}",
                                            detections.size(), batch.sources.size()));
  }
  const std::vector<std::vector<TrueBox>> targets = targets_by_image(batch);
  for (std::size_t i = 0; i < detections.size(); ++i) {
    if (batch.sources[i].index < 0) continue;
    ++images_;
    const std::vector<Detection> found = to_original(detections[i], batch.sources[i]);
    const std::vector<std::uint16_t> matches = match(found, targets[i]);
    confusion_.add(found, targets[i]);
    for (std::size_t d = 0; d < found.size(); ++d) {
      scores_.push_back(found[d].score);
      predicted_classes_.push_back(found[d].cls);
      matches_.push_back(matches[d]);
    }
    std::vector<bool> is_present(names_.size());
    for (const TrueBox& target : targets[i]) {
      target_classes_.push_back(target.cls);
      is_present.at(static_cast<std::size_t>(target.cls)) = true;
    }
    for (std::size_t cls = 0; cls < names_.size(); ++cls) {
      images_per_class_[cls] += is_present[cls] ? 1 : 0;
    }
  }
}

std::vector<std::byte> Evaluator::serialize() const {
  std::vector<std::byte> bytes;
  put(bytes, std::vector<std::uint64_t>{kPartMagic, static_cast<std::uint64_t>(images_)});
  put(bytes, images_per_class_);
  put(bytes, target_classes_);
  put(bytes, scores_);
  put(bytes, predicted_classes_);
  put(bytes, matches_);
  put(bytes, confusion_.cells());
  return bytes;
}

void Evaluator::merge(std::span<const std::byte> bytes) {
  const auto head = take<std::uint64_t>(bytes);
  if (head.size() != 2 || head[0] != kPartMagic) {
    throw std::runtime_error("metrics of a rank are of another version");
  }
  const auto images_per_class = take<std::int64_t>(bytes);
  const auto target_classes = take<int>(bytes);
  const auto scores = take<float>(bytes);
  const auto predicted_classes = take<int>(bytes);
  const auto matches = take<std::uint16_t>(bytes);
  const auto confusion = take<ConfusionMatrix::Cell>(bytes);
  const auto is_class = [&](int cls) { return cls >= 0 && cls < static_cast<int>(names_.size()); };
  if (!bytes.empty() || images_per_class.size() != names_.size() ||
      scores.size() != matches.size() || scores.size() != predicted_classes.size() ||
      !std::all_of(target_classes.begin(), target_classes.end(), is_class) ||
      !std::all_of(predicted_classes.begin(), predicted_classes.end(), is_class)) {
    throw std::runtime_error("metrics of a rank do not fit together");
  }
  confusion_.merge(confusion);
  images_ += static_cast<std::int64_t>(head[1]);
  for (std::size_t i = 0; i < names_.size(); ++i) images_per_class_[i] += images_per_class[i];
  target_classes_.insert(target_classes_.end(), target_classes.begin(), target_classes.end());
  scores_.insert(scores_.end(), scores.begin(), scores.end());
  predicted_classes_.insert(predicted_classes_.end(), predicted_classes.begin(),
                            predicted_classes.end());
  matches_.insert(matches_.end(), matches.begin(), matches.end());
}

std::vector<ClassCurves> Evaluator::curves() const {
  std::vector<std::vector<Prediction>> predictions(names_.size());
  for (std::size_t i = 0; i < scores_.size(); ++i) {
    predictions.at(static_cast<std::size_t>(predicted_classes_[i]))
        .push_back({scores_[i], matches_[i]});
  }
  std::vector<std::int64_t> instances(names_.size(), 0);
  for (const int cls : target_classes_) ++instances.at(static_cast<std::size_t>(cls));

  std::vector<ClassCurves> classes;
  for (std::size_t cls = 0; cls < names_.size(); ++cls) {
    if (instances[cls] == 0) continue;
    classes.push_back(class_curves(std::move(predictions[cls]), instances[cls]));
    classes.back().cls = static_cast<int>(cls);
  }
  return classes;
}

EvalMetrics Evaluator::compute() const {
  const std::vector<ClassCurves> classes = curves();
  EvalMetrics metrics;
  metrics.images = images_;
  metrics.instances = std::ssize(target_classes_);
  if (classes.empty()) return metrics;
  const std::size_t point = best_f1_point(classes);
  const auto share = 1 / static_cast<double>(classes.size());
  for (const ClassCurves& curves : classes) {
    const auto cls = static_cast<std::size_t>(curves.cls);
    const double mean_ap =
        std::accumulate(curves.ap.begin(), curves.ap.end(), 0.0) / kIouThresholds;
    metrics.classes.push_back({.name = names_[cls],
                               .images = images_per_class_[cls],
                               .instances = curves.instances,
                               .precision = curves.precision[point],
                               .recall = curves.recall[point],
                               .ap50 = curves.ap[0],
                               .ap50_95 = mean_ap});
    metrics.precision += share * curves.precision[point];
    metrics.recall += share * curves.recall[point];
    metrics.map50 += share * curves.ap[0];
    metrics.map50_95 += share * mean_ap;
  }
  return metrics;
}

}  // namespace trainer
