// SPDX-License-Identifier: Apache-2.0
#include "trainer/tensor_file.h"

#include <fmt/format.h>
#include <torch/utils.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <span>
#include <stdexcept>

#include "trainer/durable_file.h"

namespace trainer {

namespace {

constexpr std::size_t kLengthBytes = 8;
constexpr std::uint64_t kHeaderBytesMax = 100'000'000;  // As the public readers allow.

struct TypeName {
  torch::ScalarType type;
  const char* name;
};
constexpr TypeName kTypes[] = {{torch::kFloat64, "F64"}, {torch::kInt64, "I64"},
                               {torch::kFloat32, "F32"}, {torch::kInt32, "I32"},
                               {torch::kFloat16, "F16"}, {torch::kBFloat16, "BF16"},
                               {torch::kUInt8, "U8"},    {torch::kBool, "BOOL"}};

const char* name_of(torch::ScalarType type) {
  for (const TypeName& each : kTypes) {
    if (each.type == type) return each.name;
  }
  throw std::logic_error("A tensor type that the file format does not know.");
}

torch::ScalarType type_of(const std::string& name) {
  for (const TypeName& each : kTypes) {
    if (name == each.name) return each.type;
  }
  throw std::runtime_error(fmt::format("tensor type {} is not known", name));
}

std::span<const std::byte> bytes_of(const torch::Tensor& tensor) {
  return {static_cast<const std::byte*>(tensor.data_ptr()), tensor.nbytes()};
}

torch::Tensor parse_tensor(const nlohmann::ordered_json& entry, std::string_view data) {
  const auto shape = entry.at("shape").get<std::vector<std::int64_t>>();
  const auto begin = entry.at("data_offsets").at(0).get<std::uint64_t>();
  const auto end = entry.at("data_offsets").at(1).get<std::uint64_t>();
  const torch::ScalarType type = type_of(entry.at("dtype").get<std::string>());
  std::uint64_t wanted = torch::elementSize(type);
  for (const std::int64_t side : shape) {
    if (side < 0 || (side > 0 && wanted > data.size() / static_cast<std::uint64_t>(side))) {
      throw std::runtime_error("a shape does not fit the data");
    }
    wanted *= static_cast<std::uint64_t>(side);
  }
  if (begin > end || end > data.size() || end - begin != wanted) {
    throw std::runtime_error("data offsets do not fit");
  }
  torch::Tensor tensor = torch::empty(shape, type);
  if (wanted > 0) std::memcpy(tensor.data_ptr(), data.data() + begin, wanted);
  return tensor;
}

}  // namespace

WrittenFile write_tensor_file(const std::string& path, const TensorFile& file) {
  // Wide types first: then every tensor lies at a multiple of its element size.
  NamedTensors tensors = file.tensors;
  for (auto& [name, tensor] : tensors) tensor = tensor.detach().to(torch::kCPU).contiguous();
  std::stable_sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) {
    return a.second.element_size() > b.second.element_size();
  });

  nlohmann::ordered_json header;
  header["__metadata__"] = file.metadata;
  std::uint64_t offset = 0;
  for (const auto& [name, tensor] : tensors) {
    const std::uint64_t end = offset + tensor.nbytes();
    header[name] = {{"dtype", name_of(tensor.scalar_type())},
                    {"shape", tensor.sizes().vec()},
                    {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump();
  text.resize((text.size() + kLengthBytes - 1) / kLengthBytes * kLengthBytes, ' ');

  std::byte length[kLengthBytes];  // Little endian.
  for (std::size_t i = 0; i < kLengthBytes; ++i) {
    length[i] = static_cast<std::byte>(static_cast<std::uint64_t>(text.size()) >> (8 * i) & 0xff);
  }
  DurableFile out(path);
  out.write(length);
  out.write(std::as_bytes(std::span(text)));
  for (const auto& [name, tensor] : tensors) out.write(bytes_of(tensor));
  out.commit();
  return {out.crc32(), out.size()};
}

TensorFile parse_tensor_file(std::string_view bytes) {
  if (bytes.size() < kLengthBytes) throw std::runtime_error("shorter than its header length");
  std::uint64_t length = 0;
  for (std::size_t i = 0; i < kLengthBytes; ++i) {
    length |= static_cast<std::uint64_t>(static_cast<unsigned char>(bytes[i])) << (8 * i);
  }
  if (length > kHeaderBytesMax || length > bytes.size() - kLengthBytes) {
    throw std::runtime_error(
        fmt::format("a header of {} bytes does not fit into {} bytes", length, bytes.size()));
  }
  const std::string_view data = bytes.substr(kLengthBytes + length);
  try {
    const auto header = nlohmann::ordered_json::parse(bytes.substr(kLengthBytes, length));
    TensorFile file;
    for (const auto& [name, entry] : header.items()) {
      if (name == "__metadata__") {
        file.metadata = entry.get<std::map<std::string, std::string>>();
      } else {
        file.tensors.emplace_back(name, parse_tensor(entry, data));
      }
    }
    return file;
  } catch (const nlohmann::json::exception& error) {
    throw std::runtime_error(fmt::format("header: {}", error.what()));
  }
}

TensorFile read_tensor_file(const std::string& path) {
  try {
    return parse_tensor_file(read_file(path));
  } catch (const std::system_error&) {
    throw;  // Names the path already.
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(fmt::format("{}: {}", path, error.what()));
  }
}

}  // namespace trainer
