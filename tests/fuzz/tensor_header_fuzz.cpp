// SPDX-License-Identifier: GPL-3.0-or-later
#include <cstdint>
#include <cstdlib>
#include <stdexcept>

#include "trainer/tensor_header.h"

// What the header's reader promises to who copies the data by it.
// NOLINTNEXTLINE(readability-identifier-naming)
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  try {
    const trainer::TensorHeader header = trainer::parse_tensor_header(bytes);
    std::uint64_t sum = 0;
    for (const trainer::TensorEntry& entry : header.tensors) {
      std::uint64_t wanted = trainer::element_bytes(entry.type);
      for (const std::int64_t side : entry.shape) {
        if (side < 0) std::abort();
        wanted *= static_cast<std::uint64_t>(side);
      }
      if (entry.end > header.data.size() || entry.end - entry.begin != wanted) std::abort();
      sum += wanted;
    }
    if (sum > header.data.size()) std::abort();  // Two share a byte.
  } catch (const std::runtime_error&) {
    // The refusal that the header promises. Anything else is a finding.
  }
  return 0;
}
