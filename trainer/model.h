// SPDX-License-Identifier: Apache-2.0
// trainer/model.h
//
// The detection network. Its layers come from a table of a few rows a family (model.cpp); a size is
// three numbers: depth, width and a bound of channels. Tensors carry the names of the public weight
// files ("model.0.conv.weight"), so that those load without a map.
#pragma once

#include <torch/nn/module.h>
#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace trainer {

inline constexpr int kRegMax = 16;  // Bins of the distance distribution of a side.

class Block;

class DetectionModel : public torch::nn::Module {
 public:
  // Random weights from torch's generator. Throws std::invalid_argument where `name` is unknown.
  DetectionModel(const std::string& name, int class_count);

  // Feature maps of the strides 8, 16, 32: [B, 4 * kRegMax + nc, H / s, W / s], logits. `images`:
  // float32 [B, 3, H, W] in 0..1, sides multiples of 32.
  [[nodiscard]] std::vector<torch::Tensor> forward(const torch::Tensor& images);

  // Feature maps to predictions: [B, 4 + nc, A], xc yc w h in pixels and class scores in 0..1.
  [[nodiscard]] torch::Tensor decode(const std::vector<torch::Tensor>& features) const;

  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] int class_count() const { return class_count_; }
  [[nodiscard]] const std::vector<int>& strides() const { return strides_; }

 private:
  std::string name_;
  int class_count_;
  std::vector<int> strides_;
  std::vector<std::shared_ptr<Block>> blocks_;
  std::vector<std::vector<int>> inputs_;  // Of each block: indices of earlier ones, -1: the last.
};

// Parameters and buffers under their names, parameters first.
[[nodiscard]] std::vector<std::pair<std::string, torch::Tensor>> state_tensors(
    const torch::nn::Module& module);

// Copies what has the same name and shape into `module`; returns how many tensors that were.
std::size_t copy_matching(const std::vector<std::pair<std::string, torch::Tensor>>& source,
                          torch::nn::Module& module);

}  // namespace trainer
