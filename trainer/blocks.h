// SPDX-License-Identifier: Apache-2.0
// trainer/blocks.h
//
// The layers of a network as torch modules. Tensors carry the names of the public weight files
// ("cv1.conv.weight" below a layer).
#pragma once

#include <torch/nn/module.h>
#include <torch/types.h>

#include <memory>
#include <vector>

#include "trainer/contract/architecture.h"

namespace trainer {

inline constexpr int kRegMax = 16;  // Bins of the distance distribution of a side.

// A layer at work: takes the maps that its row names, gives one.
class Block : public torch::nn::Module {
 public:
  virtual torch::Tensor forward(const std::vector<torch::Tensor>& inputs) = 0;
};

// Any layer but Detect. Random weights from torch's generator.
[[nodiscard]] std::shared_ptr<Block> make_block(const contract::Layer& layer);

// Detect: of every map distances (4 * kRegMax logits) and classes.
class Head : public torch::nn::Module {
 public:
  virtual std::vector<torch::Tensor> forward(const std::vector<torch::Tensor>& inputs) = 0;
};
[[nodiscard]] std::shared_ptr<Head> make_head(const contract::Architecture& architecture,
                                              int class_count);

}  // namespace trainer
