// SPDX-License-Identifier: Apache-2.0
#include <torch/types.h>

#include <algorithm>
#include <opencv2/core.hpp>

#include "trainer/chart.h"
#include "trainer/draw.h"
#include "trainer/loader.h"
#include "trainer/plots.h"

namespace trainer {
namespace {

constexpr std::int64_t kImagesMax = 16;
constexpr int kSideMax = 1920;

cv::Mat picture_of(const torch::Tensor& image) {
  const torch::Tensor pixels = image.to(torch::kCPU).permute({1, 2, 0}).contiguous();
  const cv::Mat rgb(static_cast<int>(pixels.size(0)), static_cast<int>(pixels.size(1)), CV_8UC3,
                    pixels.data_ptr<unsigned char>());
  std::vector<cv::Mat> channels;
  cv::split(rgb, channels);
  std::swap(channels[0], channels[2]);
  cv::Mat bgr;
  cv::merge(channels, bgr);
  return bgr;
}

std::vector<std::vector<Detection>> labels_of(const Batch& batch) {
  std::vector<std::vector<Detection>> labels(static_cast<std::size_t>(batch.images.size(0)));
  const auto width = static_cast<float>(batch.images.size(3));
  const auto height = static_cast<float>(batch.images.size(2));
  const torch::Tensor rows = batch.targets.to(torch::kCPU, torch::kFloat32).contiguous();
  const float* row = rows.data_ptr<float>();
  for (std::int64_t i = 0; i < rows.size(0); ++i, row += 6) {
    const Box box{(row[2] - row[4] / 2) * width, (row[3] - row[5] / 2) * height,
                  (row[2] + row[4] / 2) * width, (row[3] + row[5] / 2) * height};
    labels.at(static_cast<std::size_t>(row[0])).push_back({box, 1, static_cast<int>(row[1])});
  }
  return labels;
}

}  // namespace

void plot_batch(const Batch& batch, const std::vector<std::vector<Detection>>& detections,
                const std::vector<std::string>& names, const std::string& path) {
  const std::vector<std::string> shown = drawable_names(names);
  std::vector<cv::Mat> pictures;
  for (std::int64_t i = 0; i < std::min(kImagesMax, batch.images.size(0)); ++i) {
    std::vector<Detection> certain = detections.at(static_cast<std::size_t>(i));
    std::erase_if(certain, [](const Detection& found) { return found.score < kPlotConfidence; });
    pictures.push_back(picture_of(batch.images[i]));
    draw_boxes(pictures.back(), certain, shown);
  }
  if (!pictures.empty()) write_picture(path, tile(pictures, kSideMax));
}

void plot_batch(const Batch& batch, const std::vector<std::string>& names,
                const std::string& path) {
  plot_batch(batch, labels_of(batch), names, path);
}

}  // namespace trainer
