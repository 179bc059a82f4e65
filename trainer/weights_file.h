// SPDX-License-Identifier: Apache-2.0
// trainer/weights_file.h
//
// Weights that a user takes away or brings along: safetensors files under the public tensor names.
// Ours carry as metadata what is needed to build the model again; of others it is found from names
// and shapes (docs/formats/checkpoint.md).
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "trainer/model.h"

namespace trainer {

struct WeightsInfo {
  std::vector<std::string> class_names;
  int imgsz = 640;
  int epoch = 0;  // Counted from 1; 0: unknown.
  double fitness = 0;
};

// Durable; check_owner as of write_tensor_file (tensor_file.h).
void save_weights(const std::string& path, const DetectionModel& model, const WeightsInfo& info,
                  const std::function<void()>& check_owner = nullptr);

struct LoadedModel {
  std::shared_ptr<DetectionModel> model;
  WeightsInfo info;  // Classes without names are called class_0, class_1, ...
};
// Tensors may be float16 or float32, their names prefixed with another "model.". Throws
// std::runtime_error where the file cannot be read or its tensors make none of the known models,
// nor the one of its metadata.
[[nodiscard]] LoadedModel load_model(const std::string& path);

// What such a file says of itself, without its model. Throws as load_model.
[[nodiscard]] WeightsInfo read_weights_info(const std::string& path);

// load_model for a file that a user named: throws BadInput (train.h) where it is missing, damaged
// or none that is known. What the disk fails at stays a std::system_error.
[[nodiscard]] LoadedModel load_given_model(const std::string& path);

// Copies the tensors that fit; the others (a head for other classes) keep their values. Throws
// std::invalid_argument where none fits or the file cannot be read. Returns what was done: "kept
// 319 of 355 tensors; new: model.22.cv3.* (80 -> 3 classes)".
std::string load_pretrained(const std::string& path, DetectionModel& model);

}  // namespace trainer
