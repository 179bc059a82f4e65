// SPDX-License-Identifier: Apache-2.0
#include "trainer/device.h"

#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/cuda.h>

namespace trainer {

torch::Device take_device(int local_rank) {
  if (!torch::cuda::is_available()) return torch::kCPU;
  const auto count = static_cast<int>(torch::cuda::device_count());
  const torch::Device device(torch::kCUDA, static_cast<c10::DeviceIndex>(local_rank % count));
  make_current(device);
  return device;
}

// Not by CUDA's own headers, which a libtorch without it has not.
void make_current(const torch::Device& device) {
  if (!device.is_cpu()) c10::impl::VirtualGuardImpl(device.type()).setDevice(device);
}

}  // namespace trainer
