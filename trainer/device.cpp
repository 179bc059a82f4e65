// SPDX-License-Identifier: Apache-2.0
#include "trainer/device.h"

#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/cuda.h>

#include <algorithm>
#include <iterator>
#include <new>
#include <string_view>

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

bool is_out_of_memory(const std::exception& error) {
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr) return true;
  const auto* torch_error = dynamic_cast<const c10::Error*>(&error);
  if (torch_error == nullptr) return false;
  if (dynamic_cast<const c10::OutOfMemoryError*>(torch_error) != nullptr) return true;
  constexpr std::string_view kWords[] = {"out of memory", "can't allocate memory",
                                         "not enough memory", "_STATUS_ALLOC_FAILED"};
  const std::string_view text = torch_error->what_without_backtrace();
  return std::any_of(std::begin(kWords), std::end(kWords), [text](std::string_view words) {
    return text.find(words) != std::string_view::npos;
  });
}

}  // namespace trainer
