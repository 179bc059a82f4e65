// SPDX-License-Identifier: Apache-2.0
// trainer/amp.h
//
// Mixed precision: convolutions and matrix products in 16 bits, weights, batch statistics and loss
// in float32. bfloat16 has the range of float32, so that gradients need no scaling; those of
// float16 do (loss_scale.h).
#pragma once

#include <torch/types.h>

#include <optional>
#include <string>

namespace trainer {

// What the forward pass computes in; nothing: float32. `amp` is the train argument: "true" means
// bfloat16 on a GPU and float32 on a CPU, as the reference leaves CPUs alone; "fp16" means float16
// on a GPU and float32 on a CPU; "bf16" means it everywhere.
[[nodiscard]] std::optional<torch::ScalarType> amp_type(const std::string& amp,
                                                        torch::Device device);

// Whether the loss is scaled: the same on all devices.
[[nodiscard]] bool has_loss_scale(const std::string& amp);

// While it lives, this thread's operators on `device` pick their type by torch's autocast rules.
class Autocast {
 public:
  Autocast(torch::Device device, std::optional<torch::ScalarType> type);
  ~Autocast();
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

 private:
  torch::Device device_;
  bool is_on_;
};

}  // namespace trainer
