// SPDX-License-Identifier: Apache-2.0
#include "trainer/predictor.h"

#include <torch/utils.h>

#include <map>
#include <utility>

#include "trainer/image.h"

namespace trainer {
namespace {

Letterbox plan(cv::Size picture, const Predictor::Options& options) {
  return plan_letterbox(picture, {options.imgsz, options.imgsz},
                        {.pad_to_stride_only = options.frame == ValFrame::kRect});
}

Batch::Source source_of(cv::Size picture, const Letterbox& letterbox) {
  const auto gain = static_cast<float>(letterbox.gain);
  return {.index = 0,
          .width = picture.width,
          .height = picture.height,
          .gain_x = gain,
          .gain_y = gain,
          .pad_x = static_cast<float>(letterbox.left),
          .pad_y = static_cast<float>(letterbox.top)};
}

}  // namespace

Predictor::Predictor(std::shared_ptr<DetectionModel> model, Options options, torch::Device device)
    : model_(std::move(model)), options_(std::move(options)), device_(device) {
  model_->to(device_);
  model_->eval();
}

std::vector<std::vector<Detection>> Predictor::detect(const std::vector<cv::Mat>& pictures) {
  std::map<std::pair<int, int>, std::vector<std::size_t>> by_frame;
  for (std::size_t i = 0; i < pictures.size(); ++i) {
    const cv::Size frame = plan(pictures[i].size(), options_).padded;
    by_frame[{frame.width, frame.height}].push_back(i);
  }
  std::vector<std::vector<Detection>> result(pictures.size());
  for (const auto& [frame, which] : by_frame) detect_alike(pictures, which, result);
  return result;
}

void Predictor::detect_alike(const std::vector<cv::Mat>& pictures,
                             const std::vector<std::size_t>& which,
                             std::vector<std::vector<Detection>>& result) {
  torch::NoGradGuard no_grad;
  const cv::Size frame = plan(pictures[which.front()].size(), options_).padded;
  torch::Tensor images = torch::empty(
      {static_cast<std::int64_t>(which.size()), 3, frame.height, frame.width}, torch::kUInt8);
  std::vector<Batch::Source> sources;
  for (std::size_t i = 0; i < which.size(); ++i) {
    const cv::Mat& picture = pictures[which[i]];
    const Letterbox letterbox = plan(picture.size(), options_);
    write_rgb_planes(apply_letterbox(picture, letterbox),
                     images[static_cast<std::int64_t>(i)].data_ptr<unsigned char>());
    sources.push_back(source_of(picture.size(), letterbox));
  }
  const torch::Tensor scaled = images.to(device_).to(torch::kFloat).div_(255);
  const std::vector<torch::Tensor> rows =
      non_max_suppression(model_->decode(model_->forward(scaled)).to(torch::kCPU), options_.nms);
  for (std::size_t i = 0; i < which.size(); ++i) {
    result[which[i]] = to_original(rows[i], sources[i]);
  }
}

}  // namespace trainer
