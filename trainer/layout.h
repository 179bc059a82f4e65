// SPDX-License-Identifier: Apache-2.0
// trainer/layout.h
//
// Convolutions run on tensors with the channels last: nothing has to be reordered between them,
// which saves about a fifth of a step on CPUs and more on GPUs (docs/performance.md). The layout
// spreads from the weights and the images to everything between; shapes stay [B, C, H, W].
#pragma once

#include <torch/nn/module.h>
#include <torch/types.h>

namespace trainer {

// Of all weights with four dimensions. Values, names and shapes stay.
void put_channels_last(torch::nn::Module& module);

// A tensor of the host's memory on `device`. For a GPU it is copied to pinned memory first, which
// torch keeps until it has been read: from any other memory the host waits until the GPU has done
// all that it was told before.
[[nodiscard]] torch::Tensor to_device(const torch::Tensor& host, torch::Device device);

// uint8 [B, 3, H, W] as the loader gives it to float32 in 0..1 on `device`, channels last.
[[nodiscard]] torch::Tensor network_input(const torch::Tensor& images, torch::Device device);

}  // namespace trainer
