// SPDX-License-Identifier: Apache-2.0
#include "trainer/weights_file.h"

#include <fmt/format.h>
#include <torch/utils.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <system_error>

#include "trainer/contract/json_text.h"
#include "trainer/durable_file.h"
#include "trainer/tensor_file.h"
#include "trainer/train.h"

namespace trainer {

namespace {

constexpr std::string_view kPrefix = "model.";
// The last convolution of the first class tower has an output a class.
constexpr std::string_view kClassBias = ".cv3.0.2.bias";

// "model.model.0.conv.weight" and "0.conv.weight" are model.0.conv.weight.
std::string public_name(std::string_view name) {
  while (name.starts_with("model.model.")) name.remove_prefix(kPrefix.size());
  const bool is_bare = !name.empty() && name.front() >= '0' && name.front() <= '9';
  return is_bare ? std::string(kPrefix) + std::string(name) : std::string(name);
}

// Throws std::runtime_error; where the file cannot be read, std::system_error.
TensorFile read_weights(const std::string& path) {
  const std::string bytes = read_file(path);
  TensorFile file;
  try {
    // .npz and .pt files are ZIP archives, whose mark makes a large number as a header's length.
    if (bytes.starts_with("PK\x03\x04")) throw std::runtime_error("this is a ZIP archive");
    file = parse_tensor_file(bytes);
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(fmt::format(
        "{}: {}. Weights are safetensors files; scripts/convert_weights.py makes them of .pt and "
        ".npz files.",
        path, error.what()));
  }
  for (auto& [name, tensor] : file.tensors) name = public_name(name);
  return file;
}

// How many classes the tensors tell apart; 0 where they have no class tower.
int count_classes(const NamedTensors& tensors) {
  for (const auto& [name, tensor] : tensors) {
    if (name.starts_with(kPrefix) && name.ends_with(kClassBias) && tensor.dim() == 1) {
      return static_cast<int>(tensor.size(0));
    }
  }
  return 0;
}

// The tensors of `module` that `source` has nothing for. The counters of batches mean nothing to a
// trained network, and not every file has them.
std::vector<std::string> missing_of(const NamedTensors& source, const torch::nn::Module& module) {
  std::map<std::string, torch::Tensor> found(source.begin(), source.end());
  std::vector<std::string> missing;
  for (const auto& [name, tensor] : state_tensors(module)) {
    if (name.ends_with(".num_batches_tracked")) continue;
    const auto same = found.find(name);
    if (same == found.end() || same->second.sizes() != tensor.sizes()) missing.push_back(name);
  }
  return missing;
}

bool begins_like(const contract::Architecture& architecture, const NamedTensors& tensors) {
  const std::string head =
      fmt::format("model.{}{}", architecture.layers.size() - 1, std::string(kClassBias));
  bool has_stem = false, has_head = false;
  for (const auto& [name, tensor] : tensors) {
    if (name == "model.0.conv.weight") {
      has_stem = tensor.dim() == 4 && tensor.size(0) == architecture.layers.front().channels;
    }
    if (name == head) has_head = true;
  }
  return has_stem && has_head;
}

// The known model whose every name and shape is there.
std::shared_ptr<DetectionModel> recognise(const NamedTensors& tensors, int class_count) {
  std::string nearest = "none of the known models begins and ends like it";
  for (const std::string& name : contract::known_models()) {
    contract::Architecture architecture = contract::load_architecture(name);
    if (!begins_like(architecture, tensors)) continue;
    auto model = std::make_shared<DetectionModel>(std::move(architecture), class_count);
    const std::vector<std::string> missing = missing_of(tensors, *model);
    if (missing.empty()) return model;
    nearest = fmt::format("the nearest known model is {}, but {} does not fit ({} in all)", name,
                          missing.front(), missing.size());
  }
  throw std::runtime_error(
      fmt::format("{} tensors without a word of the model that they belong to: {}. "
                  "scripts/convert_weights.py writes the description along.",
                  tensors.size(), nearest));
}

std::shared_ptr<DetectionModel> make_model(const TensorFile& file, int class_count) {
  const auto name = file.metadata.find("model");
  const auto yaml = file.metadata.find("model_yaml");
  if (name == file.metadata.end()) return recognise(file.tensors, class_count);
  auto model = std::make_shared<DetectionModel>(
      yaml == file.metadata.end()
          ? contract::load_architecture(name->second)
          : contract::parse_architecture(yaml->second, name->second, "model_yaml"),
      class_count);
  const std::vector<std::string> missing = missing_of(file.tensors, *model);
  if (!missing.empty()) {
    throw std::runtime_error(
        fmt::format("{} of {} tensors of {} are missing or of another shape, "
                    "the first is {}",
                    missing.size(), state_tensors(*model).size(), model->name(), missing.front()));
  }
  return model;
}

WeightsInfo read_info(const std::map<std::string, std::string>& metadata, int class_count) {
  WeightsInfo info;
  const auto text = [&](const char* key) -> const std::string* {
    const auto found = metadata.find(key);
    return found == metadata.end() ? nullptr : &found->second;
  };
  if (const std::string* names = text("class_names")) {
    nlohmann::json::parse(*names).get_to(info.class_names);
  }
  if (const std::string* imgsz = text("imgsz")) info.imgsz = std::stoi(*imgsz);
  if (const std::string* epoch = text("epoch")) info.epoch = std::stoi(*epoch);
  if (const std::string* fitness = text("fitness")) info.fitness = std::stod(*fitness);
  if (info.class_names.empty()) {
    for (int i = 0; i < class_count; ++i) info.class_names.push_back(fmt::format("class_{}", i));
  }
  if (static_cast<int>(info.class_names.size()) != class_count) {
    throw std::runtime_error(fmt::format("{} class names, but tensors for {} classes",
                                         info.class_names.size(), class_count));
  }
  return info;
}

std::string head_prefix(const DetectionModel& model) {
  return fmt::format("model.{}.", model.architecture().layers.size() - 1);
}

// "model.22.cv3.* (80 -> 3 classes), model.4.*": which parts of the network the names belong to.
std::string parts_of(const std::vector<std::string>& names, const DetectionModel& model,
                     int class_count) {
  constexpr std::size_t kPartsShown = 6;
  const std::string head = head_prefix(model);
  std::vector<std::string> parts;
  for (const std::string& name : names) {
    const std::size_t layer_end = name.find('.', kPrefix.size());
    const std::size_t end = name.starts_with(head) ? name.find('.', layer_end + 1) : layer_end;
    std::string part = name.substr(0, end) + ".*";
    if (part == head + "cv3.*" && class_count > 0 && class_count != model.class_count()) {
      part += fmt::format(" ({} -> {} classes)", class_count, model.class_count());
    }
    if (std::find(parts.begin(), parts.end(), part) == parts.end()) parts.push_back(part);
  }
  const std::size_t hidden = parts.size() > kPartsShown ? parts.size() - kPartsShown : 0;
  parts.resize(parts.size() - hidden);
  return fmt::format("{}{}", fmt::join(parts, ", "),
                     hidden > 0 ? fmt::format(" and {} more", hidden) : "");
}

}  // namespace

void save_weights(const std::string& path, const DetectionModel& model, const WeightsInfo& info,
                  const std::function<void()>& check_owner) {
  TensorFile file;
  file.metadata = {{"format", "pt"},  // What public readers look for: the layout is that of torch.
                   {"model", model.name()},
                   {"class_names", contract::json_text(nlohmann::json(info.class_names))},
                   {"imgsz", std::to_string(info.imgsz)},
                   {"epoch", std::to_string(info.epoch)},
                   {"fitness", fmt::format("{}", info.fitness)}};
  if (!model.architecture().is_known) file.metadata["model_yaml"] = model.architecture().yaml;
  file.tensors = state_tensors(model);
  write_tensor_file(path, file, Seal::kNone, check_owner);
}

LoadedModel load_model(const std::string& path) {
  const TensorFile file = read_weights(path);
  try {
    const int class_count = count_classes(file.tensors);
    if (class_count < 1) {
      throw std::runtime_error(
          fmt::format("no tensor model.N{}: no detection network of the "
                      "known kind",
                      std::string(kClassBias)));
    }
    LoadedModel loaded;
    loaded.info = read_info(file.metadata, class_count);
    loaded.model = make_model(file, class_count);
    copy_matching(file.tensors, *loaded.model);
    return loaded;
  } catch (const std::exception& error) {
    throw std::runtime_error(fmt::format("{}: {}.", path, error.what()));
  }
}

WeightsInfo read_weights_info(const std::string& path) {
  const TensorFile file = read_weights(path);
  try {
    return read_info(file.metadata, count_classes(file.tensors));
  } catch (const std::exception& error) {
    throw std::runtime_error(fmt::format("{}: {}.", path, error.what()));
  }
}

LoadedModel load_given_model(const std::string& path) {
  try {
    return load_model(path);
  } catch (const std::system_error& error) {
    if (error.code() == std::errc::no_such_file_or_directory ||
        error.code() == std::errc::not_a_directory || error.code() == std::errc::is_a_directory) {
      throw BadInput(error.what());
    }
    throw;
  } catch (const std::runtime_error& error) {
    throw BadInput(error.what());
  }
}

std::string load_pretrained(const std::string& path, DetectionModel& model) {
  TensorFile file;
  try {
    file = read_weights(path);
  } catch (const std::runtime_error& error) {
    throw std::invalid_argument(fmt::format("pretrained: {}", error.what()));
  }
  const std::vector<std::string> missing = missing_of(file.tensors, model);
  // Parts of the head fit by chance (biases of a class each): alone they say nothing.
  const std::string head = head_prefix(model);
  const auto below_head = [&](const std::vector<std::string>& names) {
    return std::count_if(names.begin(), names.end(),
                         [&](const std::string& name) { return !name.starts_with(head); });
  };
  if (below_head(missing) == below_head(missing_of({}, model))) {
    throw std::invalid_argument(
        fmt::format("pretrained = {}: none of {} tensors fits {} below its head.", path,
                    file.tensors.size(), model.name()));
  }
  const std::size_t copied = copy_matching(file.tensors, model);
  std::string text = fmt::format("kept {} of {} tensors", copied, state_tensors(model).size());
  if (!missing.empty()) {
    text += "; new: " + parts_of(missing, model, count_classes(file.tensors));
  }
  return text;
}

}  // namespace trainer
