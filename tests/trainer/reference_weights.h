// SPDX-License-Identifier: GPL-3.0-or-later
//
// The reference's state dicts as weights files of ours.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/trainer/reference_numbers.h"
#include "trainer/tensor_file.h"

namespace reference {

inline std::string weights(const std::string& name) {
  return (folder() / "weights" / (name + "_statedict_fp16.npz")).string();
}

inline void convert_weights(const std::string& name, const std::string& model,
                            const std::vector<std::string>& class_names, int imgsz,
                            const std::string& path) {
  trainer::TensorFile file;
  file.metadata = {{"model", model},
                   {"class_names", nlohmann::json(class_names).dump()},
                   {"imgsz", std::to_string(imgsz)},
                   {"epoch", "1"},
                   {"fitness", "0"}};
  for (const auto& [key, array] : read_npz(weights(name))) {
    torch::Tensor tensor;
    if (array.type == "<f2") {
      tensor = torch::empty(array.shape, torch::kHalf);
      std::memcpy(tensor.data_ptr(), array.bytes.data(), tensor.nbytes());
      tensor = tensor.to(torch::kFloat32);
    } else {
      tensor = to_tensor(array);
    }
    file.tensors.emplace_back(key, tensor);
  }
  trainer::write_tensor_file(path, file);
}

}  // namespace reference
