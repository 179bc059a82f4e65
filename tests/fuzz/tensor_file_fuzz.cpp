// SPDX-License-Identifier: GPL-3.0-or-later
#include <cstdint>
#include <stdexcept>

#include "trainer/tensor_file.h"

// NOLINTNEXTLINE(readability-identifier-naming)
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  try {
    const trainer::TensorFile file = trainer::parse_tensor_file(bytes);
    // Reads every byte that the file claims to have.
    for (const auto& [name, tensor] : file.tensors) static_cast<void>(tensor.clone());
  } catch (const std::runtime_error&) {
    // The refusal that the header promises. Anything else is a finding.
  }
  return 0;
}
