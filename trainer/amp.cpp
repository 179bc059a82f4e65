// SPDX-License-Identifier: Apache-2.0
#include "trainer/amp.h"

#include <ATen/autocast_mode.h>
#include <torch/version.h>

namespace trainer {

namespace {

void switch_autocast(torch::Device device, bool is_on, torch::ScalarType type) {
#if TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 4)
  at::autocast::set_autocast_dtype(device.type(), type);
  at::autocast::set_autocast_enabled(device.type(), is_on);
#else
  if (device.is_cuda()) {
    at::autocast::set_autocast_gpu_dtype(type);
    at::autocast::set_enabled(is_on);
  } else {
    at::autocast::set_autocast_cpu_dtype(type);
    at::autocast::set_cpu_enabled(is_on);
  }
#endif
}

}  // namespace

std::optional<torch::ScalarType> amp_type(const std::string& amp, torch::Device device) {
  if (amp == "bf16" || (amp == "true" && device.is_cuda())) return torch::kBFloat16;
  if (amp == "fp16" && device.is_cuda()) return torch::kHalf;
  return std::nullopt;
}

bool has_loss_scale(const std::string& amp) {
  return amp == "fp16";
}

Autocast::Autocast(torch::Device device, std::optional<torch::ScalarType> type)
    : device_(device), is_on_(type.has_value()) {
  if (!is_on_) return;
  at::autocast::increment_nesting();
  switch_autocast(device_, true, *type);
}

Autocast::~Autocast() {
  if (!is_on_) return;
  switch_autocast(device_, false, torch::kBFloat16);
  // Weights in the lower precision are kept until the outermost scope ends: the next step's differ.
  if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
}

}  // namespace trainer
