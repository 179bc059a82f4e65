// SPDX-License-Identifier: Apache-2.0
// trainer/tensor_header.h
//
// The header of a tensor file (tensor_file.h), read without libtorch: so that a hostile file meets
// all its checks before anything is allocated, and a fuzzer can reach them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace trainer {

inline constexpr std::size_t kTensorHeaderLengthBytes = 8;

enum class ElementType : std::uint8_t { kF64, kI64, kF32, kI32, kF16, kBF16, kU8, kBool };

// "F64", "I64", ...: the format's own names.
[[nodiscard]] const char* element_type_name(ElementType type);
[[nodiscard]] std::uint64_t element_bytes(ElementType type);

struct TensorEntry {
  std::string name;
  ElementType type = ElementType::kF32;
  std::vector<std::int64_t> shape;  // At most kTensorDimensionsMax sides, none negative.
  std::uint64_t begin = 0;          // Bytes from the start of the data; end - begin is the shape's.
  std::uint64_t end = 0;
};
inline constexpr std::size_t kTensorDimensionsMax = 8;

struct TensorHeader {
  std::map<std::string, std::string> metadata;
  std::vector<TensorEntry> tensors;  // In the order of the file. No two share a byte.
  std::string_view data;             // Points into the bytes that were parsed.
};

// `bytes` is a whole file. Throws std::runtime_error that says what is wrong and of which tensor;
// a header that is returned has only entries that lie inside `data`.
[[nodiscard]] TensorHeader parse_tensor_header(std::string_view bytes);

}  // namespace trainer
