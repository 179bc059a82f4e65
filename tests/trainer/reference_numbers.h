// SPDX-License-Identifier: GPL-3.0-or-later
//
// The reference's arrays as tensors, and the tensors that it makes by a formula.
#pragma once

#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "tests/trainer/reference.h"

namespace reference {

inline nlohmann::json json(const std::string& name) {
  return read_json(vectors(name));
}

inline torch::Tensor to_tensor(const Array& array) {
  const auto type = array.type == "<f4"   ? torch::kFloat32
                    : array.type == "<f8" ? torch::kFloat64
                    : array.type == "<f2" ? torch::kFloat16
                    : array.type == "|u1" ? torch::kUInt8
                    : array.type == "<i8" ? torch::kInt64
                                          : torch::kBool;
  torch::Tensor tensor = torch::empty(array.shape, type);
  if (tensor.nbytes() != array.bytes.size()) throw std::runtime_error(array.type);
  std::memcpy(tensor.data_ptr(), array.bytes.data(), tensor.nbytes());
  return tensor;
}

inline std::map<std::string, torch::Tensor> npz(const std::string& name) {
  std::map<std::string, torch::Tensor> tensors;
  for (const auto& [key, array] : read_npz(vectors(name))) tensors[key] = to_tensor(array);
  return tensors;
}

// The formula of the reference's README: element i of the tensor called `name`, in [0, 1).
inline torch::Tensor uniform(std::string_view name, const std::vector<std::int64_t>& shape) {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  torch::Tensor tensor = torch::empty(shape, torch::kFloat64);
  auto* values = tensor.data_ptr<double>();
  for (std::int64_t i = 0; i < tensor.numel(); ++i) {
    std::uint64_t z = hash + static_cast<std::uint64_t>(i + 1) * 0x9E3779B97F4A7C15;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    z ^= z >> 31;
    values[i] = static_cast<double>(z >> 40) * 0x1p-24;
  }
  return tensor;
}

// The value that the README gives to a tensor of the state dict.
inline torch::Tensor filled(const std::string& name, const torch::Tensor& like) {
  if (name.ends_with("num_batches_tracked")) return torch::zeros_like(like);
  if (name.find(".dfl.") != std::string::npos) return like.clone();
  const torch::Tensor u = uniform(name, like.sizes().vec());
  const bool is_box = name.find(".cv2.") != std::string::npos;
  torch::Tensor value;
  if (name.ends_with("running_mean")) {
    value = (2 * u - 1) * 0.2;
  } else if (name.ends_with("running_var") || name.ends_with(".bn.weight")) {
    value = 0.75 + 0.5 * u;
  } else if (name.ends_with(".bn.bias")) {
    value = (2 * u - 1) * 0.3;
  } else if (name.ends_with(".bias")) {
    value = is_box ? 1 + (2 * u - 1) * 0.5 : -5 + (2 * u - 1);
  } else {
    const double fan_in = static_cast<double>(like.size(1) * like.size(2) * like.size(3));
    const bool is_last = name.ends_with(".2.weight") && name.find(".conv.") == std::string::npos;
    const double gain = !is_last ? 1.5 : is_box ? 0.5 : 0.15;
    value = (2 * u - 1) * gain * std::sqrt(3 / fan_in);
  }
  return value.to(like.scalar_type());
}

// The largest difference as a part of the largest value.
inline double difference(const torch::Tensor& a, const torch::Tensor& b) {
  if (a.sizes() != b.sizes()) return 1e30;
  const torch::Tensor wide = a.to(torch::kDouble), other = b.to(torch::kDouble);
  const double largest = std::max(1e-12, other.abs().max().item<double>());
  return (wide - other).abs().max().item<double>() / largest;
}

}  // namespace reference
