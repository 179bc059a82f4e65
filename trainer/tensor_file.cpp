// SPDX-License-Identifier: Apache-2.0
#include "trainer/tensor_file.h"

#include <fmt/format.h>
#include <torch/utils.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <span>
#include <stdexcept>

#include "trainer/contract/json_text.h"
#include "trainer/durable_file.h"
#include "trainer/tensor_header.h"

namespace trainer {

namespace {

struct TorchType {
  torch::ScalarType torch;
  ElementType file;
};
constexpr TorchType kTypes[] = {
    {torch::kFloat64, ElementType::kF64}, {torch::kInt64, ElementType::kI64},
    {torch::kFloat32, ElementType::kF32}, {torch::kInt32, ElementType::kI32},
    {torch::kFloat16, ElementType::kF16}, {torch::kBFloat16, ElementType::kBF16},
    {torch::kUInt8, ElementType::kU8},    {torch::kBool, ElementType::kBool}};

const char* name_of(torch::ScalarType type) {
  for (const TorchType& each : kTypes) {
    if (each.torch == type) return element_type_name(each.file);
  }
  throw std::logic_error("A tensor type that the file format does not know.");
}

torch::ScalarType type_of(ElementType type) {
  for (const TorchType& each : kTypes) {
    if (each.file == type) return each.torch;
  }
  throw std::logic_error("A type of the file that no tensor has.");
}

std::span<const std::byte> bytes_of(const torch::Tensor& tensor) {
  return {static_cast<const std::byte*>(tensor.data_ptr()), tensor.nbytes()};
}

torch::Tensor load(const TensorEntry& entry, std::string_view data) {
  torch::Tensor tensor = torch::empty(entry.shape, type_of(entry.type));
  if (entry.end > entry.begin) {
    std::memcpy(tensor.data_ptr(), data.data() + entry.begin, entry.end - entry.begin);
  }
  return tensor;
}

// A seal is the last tensor, a CRC-32 as text of all bytes before it. The metadata name it too: no
// one bit that is flipped makes a sealed file one that never was.
constexpr const char* kSeal = "crc32";

std::string crc_text(std::uint32_t crc) {
  return fmt::format("{:08x}", crc);
}

// Takes the seal off. Throws std::runtime_error where it is broken.
void check_seal(std::string_view bytes, TensorFile& file) {
  const auto is_seal = [](const auto& named) { return named.first == kSeal; };
  const auto tensor = std::find_if(file.tensors.begin(), file.tensors.end(), is_seal);
  const bool is_named = file.metadata.erase(kSeal) > 0;
  if (tensor == file.tensors.end() && !is_named) return;
  const std::size_t length = crc_text(0).size();
  const std::string_view recorded = bytes.substr(bytes.size() - std::min(bytes.size(), length));
  const std::string read = crc_text(crc32_of(bytes.substr(0, bytes.size() - recorded.size())));
  if (read != recorded) {
    throw std::runtime_error(
        fmt::format("checksum mismatch (recorded {}, read {})", recorded, read));
  }
  if (tensor != file.tensors.end()) file.tensors.erase(tensor);
}

}  // namespace

WrittenFile write_tensor_file(const std::string& path, const TensorFile& file, Seal seal,
                              const std::function<void()>& check_owner) {
  // Wide types first: then every tensor lies at a multiple of its element size.
  NamedTensors tensors = file.tensors;
  for (auto& [name, tensor] : tensors) tensor = tensor.detach().to(torch::kCPU).contiguous();
  const bool is_sealed = seal == Seal::kChecksum;
  std::stable_sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) {
    return a.second.element_size() > b.second.element_size();
  });

  nlohmann::ordered_json header;
  header["__metadata__"] = file.metadata;
  if (is_sealed) header["__metadata__"][kSeal] = "of all bytes before its own, the last";
  std::uint64_t offset = 0;
  for (const auto& [name, tensor] : tensors) {
    const std::uint64_t end = offset + tensor.nbytes();
    header[name] = {{"dtype", name_of(tensor.scalar_type())},
                    {"shape", tensor.sizes().vec()},
                    {"data_offsets", {offset, end}}};
    offset = end;
  }
  if (is_sealed) {
    const std::uint64_t length = crc_text(0).size();
    header[kSeal] = {{"dtype", element_type_name(ElementType::kU8)},
                     {"shape", nlohmann::ordered_json::array({length})},
                     {"data_offsets", {offset, offset + length}}};
  }
  std::string text = contract::json_text(header);
  text.resize((text.size() + kTensorHeaderLengthBytes - 1) / kTensorHeaderLengthBytes *
                  kTensorHeaderLengthBytes,
              ' ');

  std::byte length[kTensorHeaderLengthBytes];  // Little endian.
  for (std::size_t i = 0; i < kTensorHeaderLengthBytes; ++i) {
    length[i] = static_cast<std::byte>(static_cast<std::uint64_t>(text.size()) >> (8 * i) & 0xff);
  }
  DurableFile out(path);
  if (check_owner) check_owner();
  out.write(length);
  out.write(std::as_bytes(std::span(text)));
  for (const auto& [name, tensor] : tensors) out.write(bytes_of(tensor));
  const std::string checksum = is_sealed ? crc_text(out.crc32()) : std::string();
  out.write(std::as_bytes(std::span(checksum)));
  out.commit();
  return {out.crc32(), out.size()};
}

TensorFile parse_tensor_file(std::string_view bytes) {
  const TensorHeader header = parse_tensor_header(bytes);
  TensorFile file;
  file.metadata = header.metadata;
  for (const TensorEntry& entry : header.tensors) {
    file.tensors.emplace_back(entry.name, load(entry, header.data));
  }
  check_seal(bytes, file);
  return file;
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
