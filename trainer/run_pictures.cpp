// SPDX-License-Identifier: Apache-2.0
#include "trainer/run_pictures.h"

#include <fmt/format.h>
#include <torch/utils.h>

#include <algorithm>
#include <stdexcept>

#include "trainer/evaluate.h"
#include "trainer/plots.h"

namespace trainer {

namespace {

constexpr std::int64_t kBatchesDrawn = 3;
constexpr std::int64_t kImagesKept = 16;  // As many as plot_batch draws.

}  // namespace

RunPictures::RunPictures(std::string folder, std::vector<std::string> names, bool is_on,
                         std::function<void(const std::string&)> warn)
    : folder_(std::move(folder)),
      names_(std::move(names)),
      is_on_(is_on),
      warn_(std::move(warn)) {}

void RunPictures::attempt(const std::function<void()>& draw) {
  if (!is_on_) return;
  try {
    draw();
  } catch (const std::runtime_error& error) {  // Also of a full disk.
    warn_(fmt::format("a picture is missing: {}", error.what()));
  }
}

void RunPictures::draw_labels(const std::vector<contract::ImageEntry>& images) {
  attempt([&] { plot_labels(images, names_, folder_); });
}

void RunPictures::draw_training(const Batch& batch, std::int64_t step) {
  if (step >= kBatchesDrawn) return;
  attempt([&] { plot_batch(batch, names_, fmt::format("{}/train_batch{}.png", folder_, step)); });
}

void RunPictures::add(const Batch& batch, const std::vector<torch::Tensor>& detections) {
  if (!is_on_ || std::ssize(latest_) >= kBatchesDrawn) return;
  Seen seen;
  const std::int64_t count = std::min(kImagesKept, batch.images.size(0));
  seen.batch.images = batch.images.narrow(0, 0, count).to(torch::kCPU).clone();
  const torch::Tensor targets = batch.targets.to(torch::kCPU);
  seen.batch.targets = targets.index({targets.select(1, 0) < static_cast<double>(count)});
  for (std::int64_t i = 0; i < count; ++i) {
    seen.detections.push_back(to_detections(detections.at(static_cast<std::size_t>(i))));
  }
  latest_.push_back(std::move(seen));
}

void RunPictures::finish(const Validation& best) {
  for (std::size_t i = 0; i < best_.size(); ++i) {
    const std::string start = fmt::format("{}/val_batch{}", folder_, i);
    attempt([&] { plot_batch(best_[i].batch, names_, start + "_labels.png"); });
    attempt([&] {
      plot_batch(best_[i].batch, best_[i].detections, names_, start + "_pred.png");
    });
  }
  attempt([&] { plot_curves(best.curves, names_, folder_); });
  attempt([&] { plot_confusion(best.confusion, names_, folder_); });
}

void RunPictures::draw_results() {
  attempt([&] { plot_results(folder_); });
}

}  // namespace trainer
