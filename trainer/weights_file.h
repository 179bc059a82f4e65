// SPDX-License-Identifier: Apache-2.0
// trainer/weights_file.h
//
// Weights that a user takes away: the averaged model as a safetensors file under the public tensor
// names, with what is needed to build the model again as metadata.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "trainer/model.h"

namespace trainer {

struct WeightsInfo {
  std::vector<std::string> class_names;
  int imgsz = 640;
  int epoch = 0;  // Counted from 1.
  double fitness = 0;
};

void save_weights(const std::string& path, const DetectionModel& model, const WeightsInfo& info);

struct LoadedModel {
  std::shared_ptr<DetectionModel> model;
  WeightsInfo info;
};
// Throws std::runtime_error where the file was not made by save_weights.
[[nodiscard]] LoadedModel load_model(const std::string& path);

// Copies the tensors that fit; the others (a head for other classes) keep their values. Throws
// std::invalid_argument where none fits or the file cannot be read. Returns "319 of 355 tensors".
std::string load_pretrained(const std::string& path, DetectionModel& model);

}  // namespace trainer
