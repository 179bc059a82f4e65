// SPDX-License-Identifier: Apache-2.0
// trainer/tensor_file.h
//
// Named tensors with text metadata in the safetensors layout: eight bytes of header length, a JSON
// header, the data (docs/formats/checkpoint.md). Weights for users and checkpoints share it.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace trainer {

using NamedTensors = std::vector<std::pair<std::string, torch::Tensor>>;

struct TensorFile {
  std::map<std::string, std::string> metadata;
  NamedTensors tensors;  // On the CPU.
};

struct WrittenFile {
  std::uint32_t crc32 = 0;
  std::uint64_t size = 0;
};

// kChecksum: the file ends with one of all its other bytes, which reading compares.
enum class Seal { kNone, kChecksum };

// Durable (durable_file.h). Throws std::system_error; what was at `path` before then stays. check_owner
// is asked when the part is open, so that a new owner of the folder either removes it (run_owner.h) or is
// seen: it throws where the folder is another's by now. Null: never asked.
WrittenFile write_tensor_file(const std::string& path, const TensorFile& file,
                              Seal seal = Seal::kNone,
                              const std::function<void()>& check_owner = nullptr);

// Throws std::runtime_error where `bytes` is not such a file, or not as it was sealed; every offset
// is checked. The seal is no part of what is returned.
[[nodiscard]] TensorFile parse_tensor_file(std::string_view bytes);
[[nodiscard]] TensorFile read_tensor_file(const std::string& path);

}  // namespace trainer
