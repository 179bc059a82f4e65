// SPDX-License-Identifier: Apache-2.0
#include "trainer/tensor_header.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <utility>

namespace trainer {

namespace {

using Json = nlohmann::ordered_json;

constexpr std::uint64_t kHeaderBytesMax = 100'000'000;  // As the public readers allow.

struct TypeOfFile {
  ElementType type;
  const char* name;
  std::uint64_t bytes;
};
constexpr TypeOfFile kTypes[] = {
    {ElementType::kF64, "F64", 8}, {ElementType::kI64, "I64", 8},   {ElementType::kF32, "F32", 4},
    {ElementType::kI32, "I32", 4}, {ElementType::kF16, "F16", 2},   {ElementType::kBF16, "BF16", 2},
    {ElementType::kU8, "U8", 1},   {ElementType::kBool, "BOOL", 1},
};

const TypeOfFile& row_of(ElementType type) {
  return *std::find_if(std::begin(kTypes), std::end(kTypes),
                       [type](const TypeOfFile& row) { return row.type == type; });
}

ElementType type_named(const std::string& name) {
  for (const TypeOfFile& row : kTypes) {
    if (name == row.name) return row.type;
  }
  throw std::runtime_error(fmt::format("its type {} is not known", name));
}

// JSON has only numbers; 2.5 or -1 must not become a side or an offset by conversion.
std::uint64_t count_of(const Json& value, const char* what) {
  if (!value.is_number_unsigned()) {
    throw std::runtime_error(fmt::format("its {} has {}, no count", what, value.dump()));
  }
  return value.get<std::uint64_t>();
}

TensorEntry parse_entry(const std::string& name, const Json& fields, std::uint64_t data_bytes) {
  TensorEntry entry;
  entry.name = name;
  entry.type = type_named(fields.at("dtype").get<std::string>());
  const Json& shape = fields.at("shape");
  if (!shape.is_array() || shape.size() > kTensorDimensionsMax) {
    throw std::runtime_error(
        fmt::format("its shape is no list of at most {} sides", kTensorDimensionsMax));
  }
  std::uint64_t wanted = element_bytes(entry.type);
  std::uint64_t strides = 1;  // The product of the sides, an empty one counted as 1.
  for (const Json& each : shape) {
    const std::uint64_t side = count_of(each, "shape");
    if (side > 0 && wanted > data_bytes / side) {
      throw std::runtime_error(fmt::format("its shape {} is larger than the {} bytes of data",
                                           shape.dump(), data_bytes));
    }
    // An empty tensor may have any other sides, but strides are numbers too.
    const std::uint64_t least = side > 0 ? side : 1;
    if (strides > static_cast<std::uint64_t>(INT64_MAX) / element_bytes(entry.type) / least) {
      throw std::runtime_error(fmt::format("its shape {} is too large", shape.dump()));
    }
    strides *= least;
    wanted *= side;
    entry.shape.push_back(static_cast<std::int64_t>(side));
  }
  const Json& offsets = fields.at("data_offsets");
  if (!offsets.is_array() || offsets.size() != 2) {
    throw std::runtime_error("its data_offsets are not two");
  }
  entry.begin = count_of(offsets[0], "data_offsets");
  entry.end = count_of(offsets[1], "data_offsets");
  if (entry.begin > entry.end || entry.end > data_bytes || entry.end - entry.begin != wanted) {
    throw std::runtime_error(
        fmt::format("it has the bytes {} to {} of {}, where its shape and type take {}",
                    entry.begin, entry.end, data_bytes, wanted));
  }
  return entry;
}

// Many names for the same bytes would make a small file fill the memory.
void refuse_shared_bytes(const std::vector<TensorEntry>& tensors) {
  std::vector<const TensorEntry*> filled;
  for (const TensorEntry& each : tensors) {
    if (each.end > each.begin) filled.push_back(&each);
  }
  std::sort(filled.begin(), filled.end(),
            [](const TensorEntry* a, const TensorEntry* b) { return a->begin < b->begin; });
  for (std::size_t i = 1; i < filled.size(); ++i) {
    if (filled[i]->begin < filled[i - 1]->end) {
      throw std::runtime_error(fmt::format("tensors {} and {} share bytes from {} on",
                                           filled[i - 1]->name, filled[i]->name, filled[i]->begin));
    }
  }
}

}  // namespace

const char* element_type_name(ElementType type) {
  return row_of(type).name;
}

std::uint64_t element_bytes(ElementType type) {
  return row_of(type).bytes;
}

TensorHeader parse_tensor_header(std::string_view bytes) {
  if (bytes.size() < kTensorHeaderLengthBytes) {
    throw std::runtime_error(fmt::format("{} bytes are shorter than the length of a header, {}",
                                         bytes.size(), kTensorHeaderLengthBytes));
  }
  std::uint64_t length = 0;  // Little endian.
  for (std::size_t i = 0; i < kTensorHeaderLengthBytes; ++i) {
    length |= static_cast<std::uint64_t>(static_cast<unsigned char>(bytes[i])) << (8 * i);
  }
  if (length > kHeaderBytesMax || length > bytes.size() - kTensorHeaderLengthBytes) {
    throw std::runtime_error(
        fmt::format("a header of {} bytes does not fit into {} bytes", length, bytes.size()));
  }
  TensorHeader header;
  header.data = bytes.substr(kTensorHeaderLengthBytes + length);
  try {
    const Json json = Json::parse(bytes.substr(kTensorHeaderLengthBytes, length));
    if (!json.is_object()) throw std::runtime_error("header: not a JSON object");
    for (const auto& [name, fields] : json.items()) {
      if (name == "__metadata__") {
        header.metadata = fields.get<std::map<std::string, std::string>>();
        continue;
      }
      try {
        header.tensors.push_back(parse_entry(name, fields, header.data.size()));
      } catch (const std::runtime_error& error) {
        throw std::runtime_error(fmt::format("tensor {}: {}", name, error.what()));
      }
    }
  } catch (const nlohmann::json::exception& error) {
    throw std::runtime_error(fmt::format("header: {}", error.what()));
  }
  refuse_shared_bytes(header.tensors);
  return header;
}

}  // namespace trainer
