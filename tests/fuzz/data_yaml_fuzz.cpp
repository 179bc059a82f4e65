// SPDX-License-Identifier: GPL-3.0-or-later
#include <cstdint>
#include <cstdlib>

#include "trainer/contract/data_yaml.h"

// NOLINTNEXTLINE(readability-identifier-naming)
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const contract::DataYaml yaml = contract::parse_data_yaml(text);
  // A run starts from what has no fault: it must hold what a run needs.
  if (yaml.faults.empty() && (yaml.train.empty() || yaml.val.empty() || yaml.names.empty())) {
    std::abort();
  }
  for (const contract::LineFault& fault : yaml.faults) {
    if (fault.message.empty() || fault.line < 0) std::abort();
  }
  return 0;
}
