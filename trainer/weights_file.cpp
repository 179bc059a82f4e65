// SPDX-License-Identifier: Apache-2.0
#include "trainer/weights_file.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <stdexcept>

#include "trainer/tensor_file.h"

namespace trainer {

void save_weights(const std::string& path, const DetectionModel& model, const WeightsInfo& info) {
  TensorFile file;
  file.metadata = {{"format", "pt"},  // What public readers look for: the layout is that of torch.
                   {"model", model.name()},
                   {"class_names", nlohmann::json(info.class_names).dump()},
                   {"imgsz", std::to_string(info.imgsz)},
                   {"epoch", std::to_string(info.epoch)},
                   {"fitness", fmt::format("{}", info.fitness)}};
  file.tensors = state_tensors(model);
  write_tensor_file(path, file);
}

LoadedModel load_model(const std::string& path) {
  const TensorFile file = read_tensor_file(path);
  LoadedModel loaded;
  try {
    loaded.info.class_names =
        nlohmann::json::parse(file.metadata.at("class_names")).get<std::vector<std::string>>();
    loaded.info.imgsz = std::stoi(file.metadata.at("imgsz"));
    loaded.info.epoch = std::stoi(file.metadata.at("epoch"));
    loaded.info.fitness = std::stod(file.metadata.at("fitness"));
    loaded.model = std::make_shared<DetectionModel>(
        file.metadata.at("model"), static_cast<int>(loaded.info.class_names.size()));
  } catch (const std::exception& error) {
    throw std::runtime_error(
        fmt::format("{}: this is no weights file of this trainer: {}", path, error.what()));
  }
  const std::size_t wanted = state_tensors(*loaded.model).size();
  const std::size_t copied = copy_matching(file.tensors, *loaded.model);
  if (copied != wanted) {
    throw std::runtime_error(
        fmt::format("{}: {} of {} tensors fit {}.", path, copied, wanted, loaded.model->name()));
  }
  return loaded;
}

std::string load_pretrained(const std::string& path, DetectionModel& model) {
  TensorFile file;
  try {
    file = read_tensor_file(path);
  } catch (const std::runtime_error& error) {
    throw std::invalid_argument(fmt::format("pretrained: {}", error.what()));
  }
  const std::size_t copied = copy_matching(file.tensors, model);
  const std::size_t wanted = state_tensors(model).size();
  if (copied == 0) {
    throw std::invalid_argument(fmt::format("pretrained = {}: none of {} tensors fits {}.", path,
                                            file.tensors.size(), model.name()));
  }
  return fmt::format("{} of {} tensors", copied, wanted);
}

}  // namespace trainer
