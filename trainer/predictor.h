// SPDX-License-Identifier: Apache-2.0
// trainer/predictor.h
//
// Boxes in pictures of any size. Private, for it shows OpenCV's types.
#pragma once

#include <memory>
#include <opencv2/core.hpp>
#include <vector>

#include "trainer/evaluate.h"
#include "trainer/loader.h"
#include "trainer/model.h"

namespace trainer {

class Predictor {
 public:
  struct Options {
    int imgsz = 640;  // A multiple of 32.
    // kRect: each picture gets the smallest frame of whole strides. What a picture gives does not
    // depend on the others of its batch.
    ValFrame frame = ValFrame::kRect;
    NmsOptions nms{.confidence = 0.25, .multi_label = false};
  };
  // Puts the model into evaluation mode, on `device`.
  Predictor(std::shared_ptr<DetectionModel> model, Options options, torch::Device device);

  // BGR pictures; those of one frame run through the network together. In pixels of each picture,
  // cut to it, by falling score.
  [[nodiscard]] std::vector<std::vector<Detection>> detect(const std::vector<cv::Mat>& pictures);

 private:
  void detect_alike(const std::vector<cv::Mat>& pictures, const std::vector<std::size_t>& which,
                    std::vector<std::vector<Detection>>& result);

  std::shared_ptr<DetectionModel> model_;
  Options options_;
  torch::Device device_;
};

}  // namespace trainer
