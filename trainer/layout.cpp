// SPDX-License-Identifier: Apache-2.0
#include "trainer/layout.h"

#include <torch/utils.h>

namespace trainer {

void put_channels_last(torch::nn::Module& module) {
  for (torch::Tensor& parameter : module.parameters()) {
    if (parameter.dim() == 4) {
      parameter.set_data(parameter.detach().contiguous(torch::MemoryFormat::ChannelsLast));
    }
  }
}

torch::Tensor to_device(const torch::Tensor& host, torch::Device device) {
  if (!device.is_cuda()) return host.to(device);
  return host.pin_memory().to(device, /*non_blocking=*/true);
}

torch::Tensor network_input(const torch::Tensor& images, torch::Device device) {
  constexpr double kWhite = 255;
  // Bytes are turned around, not floats.
  return to_device(images, device)
      .contiguous(torch::MemoryFormat::ChannelsLast)
      .to(torch::kFloat)
      .div_(kWhite);
}

}  // namespace trainer
