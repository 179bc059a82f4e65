// SPDX-License-Identifier: Apache-2.0
// trainer/model.h
//
// The detection network, made from a description (contract/architecture.h). Tensors carry the names
// of the public weight files ("model.0.conv.weight"), so that those load without a map.
#pragma once

#include <torch/nn/module.h>
#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "trainer/blocks.h"
#include "trainer/contract/architecture.h"

namespace trainer {

class DetectionModel : public torch::nn::Module {
 public:
  // Random weights from torch's generator.
  DetectionModel(contract::Architecture architecture, int class_count);
  // Of a known name or a description's file. Throws std::invalid_argument (load_architecture).
  DetectionModel(const std::string& model, int class_count);

  // Feature maps of strides(): [B, 4 * kRegMax + nc, H / s, W / s], logits. `images`:
  // float32 [B, 3, H, W] in 0..1, sides multiples of 32.
  [[nodiscard]] std::vector<torch::Tensor> forward(const torch::Tensor& images);

  // What every layer before the last gives for `images`.
  [[nodiscard]] std::vector<torch::Tensor> layer_outputs(const torch::Tensor& images);

  // Feature maps to predictions: [B, 4 + nc, A], xc yc w h in pixels and class scores in 0..1.
  [[nodiscard]] torch::Tensor decode(const std::vector<torch::Tensor>& features) const;

  // Frozen layers stay as they are: no gradients, and train() leaves their batch norm on its stored
  // statistics.
  void train(bool on = true) override;
  [[nodiscard]] bool is_frozen(const std::string& tensor_name) const;

  [[nodiscard]] const std::string& name() const { return architecture_.name; }
  [[nodiscard]] const contract::Architecture& architecture() const { return architecture_; }
  [[nodiscard]] int class_count() const { return class_count_; }
  [[nodiscard]] const std::vector<int>& strides() const { return architecture_.strides; }

 private:
  friend void freeze_layers(DetectionModel& model, const std::vector<int>& layers);

  [[nodiscard]] std::vector<torch::Tensor> inputs_of(
      const contract::Layer& layer, const torch::Tensor& images,
      const std::vector<torch::Tensor>& outputs) const;

  contract::Architecture architecture_;
  int class_count_;
  std::vector<std::shared_ptr<Block>> blocks_;
  std::shared_ptr<Head> head_;
  std::set<int> frozen_;  // Indices of layers.
};

// Freezes `layers`, counted from 0 as in "model.0.conv.weight", beside those frozen before. An
// optimiser made afterwards leaves them alone. Throws std::invalid_argument where there is no such
// layer, or where nothing is left to train.
void freeze_layers(DetectionModel& model, const std::vector<int>& layers);

// Parameters and buffers under their names, parameters first.
[[nodiscard]] std::vector<std::pair<std::string, torch::Tensor>> state_tensors(
    const torch::nn::Module& module);

// Copies what has the same name and shape into `module`; returns how many tensors that were.
std::size_t copy_matching(const std::vector<std::pair<std::string, torch::Tensor>>& source,
                          torch::nn::Module& module);

}  // namespace trainer
