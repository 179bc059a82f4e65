// SPDX-License-Identifier: Apache-2.0
#include "trainer/model.h"

#include <fmt/format.h>
#include <torch/nn/modules/container/modulelist.h>
#include <torch/utils.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <stdexcept>

#include "trainer/boxes.h"
#include "trainer/sync_norm.h"

namespace trainer {

namespace nn = torch::nn;

DetectionModel::DetectionModel(contract::Architecture architecture, int class_count)
    : architecture_(std::move(architecture)), class_count_(class_count) {
  nn::ModuleList layers;
  for (const contract::Layer& layer : architecture_.layers) {
    if (layer.module == contract::LayerKind::kDetect) {
      head_ = make_head(architecture_, class_count);
      layers->push_back(head_);
    } else {
      blocks_.push_back(make_block(layer));
      layers->push_back(blocks_.back());
    }
  }
  register_module("model", layers);
}

DetectionModel::DetectionModel(const std::string& model, int class_count)
    : DetectionModel(contract::load_architecture(model), class_count) {}

std::vector<torch::Tensor> DetectionModel::forward(const torch::Tensor& images) {
  return head_->forward(inputs_of(architecture_.layers.back(), images, layer_outputs(images)));
}

std::vector<torch::Tensor> DetectionModel::layer_outputs(const torch::Tensor& images) {
  std::vector<torch::Tensor> outputs;
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    outputs.push_back(blocks_[i]->forward(inputs_of(architecture_.layers[i], images, outputs)));
  }
  return outputs;
}

std::vector<torch::Tensor> DetectionModel::inputs_of(
    const contract::Layer& layer, const torch::Tensor& images,
    const std::vector<torch::Tensor>& outputs) const {
  std::vector<torch::Tensor> inputs;
  for (const int from : layer.from) {
    inputs.push_back(from == contract::Layer::kImage ? images
                                                     : outputs[static_cast<std::size_t>(from)]);
  }
  return inputs;
}

void DetectionModel::train(bool on) {
  Module::train(on);
  const auto layers = children().front()->children();
  for (const int layer : frozen_) {
    for (const auto& module : layers[static_cast<std::size_t>(layer)]->modules()) {
      if (module->as<SyncNorm>() != nullptr) module->eval();
    }
  }
}

bool DetectionModel::is_frozen(const std::string& tensor_name) const {
  constexpr std::string_view kPrefix = "model.";
  if (!tensor_name.starts_with(kPrefix)) return false;
  int layer = -1;
  std::from_chars(tensor_name.data() + kPrefix.size(), tensor_name.data() + tensor_name.size(),
                  layer);
  return frozen_.contains(layer);
}

void freeze_layers(DetectionModel& model, const std::vector<int>& layers) {
  const auto count = static_cast<int>(model.architecture_.layers.size());
  std::set<int> frozen = model.frozen_;
  for (const int layer : layers) {
    if (layer < 0 || layer >= count) {
      throw std::invalid_argument(fmt::format(
          "freeze: there is no layer {} in {}, which has 0..{}.", layer, model.name(), count - 1));
    }
    frozen.insert(layer);
  }
  if (static_cast<int>(frozen.size()) == count) {
    throw std::invalid_argument(
        fmt::format("freeze: all {} layers of {}: nothing is left to train.", count, model.name()));
  }
  model.frozen_ = std::move(frozen);
  for (auto& item : model.named_parameters()) {
    if (model.is_frozen(item.key())) item.value().set_requires_grad(false);
  }
  model.train(model.is_training());
}

torch::Tensor DetectionModel::decode(const std::vector<torch::Tensor>& features) const {
  const Anchors anchors = make_anchors(features, strides());
  std::vector<torch::Tensor> flat;
  for (const torch::Tensor& map : features) flat.push_back(map.flatten(2));
  const torch::Tensor all = torch::cat(flat, 2).transpose(1, 2);  // [B, A, 4 * kRegMax + nc]

  const torch::Tensor distances = expected_distances(all.narrow(2, 0, 4 * kRegMax));
  const torch::Tensor boxes = boxes_from_distances(anchors.points, distances) * anchors.strides;
  const torch::Tensor scores = all.narrow(2, 4 * kRegMax, class_count_).sigmoid();
  return torch::cat({xyxy_to_xywh(boxes), scores}, 2).transpose(1, 2).contiguous();
}

std::vector<std::pair<std::string, torch::Tensor>> state_tensors(const torch::nn::Module& module) {
  std::vector<std::pair<std::string, torch::Tensor>> tensors;
  for (const auto& item : module.named_parameters()) tensors.emplace_back(item.key(), item.value());
  for (const auto& item : module.named_buffers()) tensors.emplace_back(item.key(), item.value());
  return tensors;
}

std::size_t copy_matching(const std::vector<std::pair<std::string, torch::Tensor>>& source,
                          torch::nn::Module& module) {
  torch::NoGradGuard no_grad;
  std::map<std::string, torch::Tensor> target;
  for (const auto& [name, tensor] : state_tensors(module)) target.emplace(name, tensor);
  std::size_t copied = 0;
  for (const auto& [name, tensor] : source) {
    const auto found = target.find(name);
    if (found == target.end() || found->second.sizes() != tensor.sizes()) continue;
    found->second.copy_(tensor);
    ++copied;
  }
  return copied;
}

}  // namespace trainer
