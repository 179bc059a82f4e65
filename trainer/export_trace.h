// SPDX-License-Identifier: Apache-2.0
// trainer/export_trace.h
//
// The model as a TorchScript module, by running it once and recording what it does. Private: shows
// torch's JIT.
#pragma once

#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/ir.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "trainer/model.h"

namespace trainer {

struct TracedModel {
  // Weights under the model's own names; anchors and other constants as buffers constant_N, so that
  // they move to a device with the weights. Has no method yet.
  torch::jit::Module module;
  // Inputs: the module, images. Values carry their shapes.
  std::shared_ptr<torch::jit::Graph> graph;
};

// `model` is in evaluation mode and needs no gradients.
[[nodiscard]] TracedModel trace_model(DetectionModel& model, int batch, int height, int width);

// Makes the graph the module's forward, for any number of images. The graph is not to be used
// afterwards.
void define_forward(TracedModel& traced);

// Shape of a tensor as it was when traced.
[[nodiscard]] std::vector<std::int64_t> shape_of(const torch::jit::Value* value);

}  // namespace trainer
