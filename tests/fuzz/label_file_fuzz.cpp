// SPDX-License-Identifier: GPL-3.0-or-later
#include <cstdint>
#include <cstdlib>

#include "trainer/contract/label_file.h"

// NOLINTNEXTLINE(readability-identifier-naming)
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  constexpr int kClasses = 3;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const contract::LabelFile file = contract::parse_label_file(text, kClasses);
  for (const contract::Label& label : file.labels) {
    const bool is_sound = label.cls >= 0 && label.cls < kClasses && label.xc >= 0 &&
                          label.xc <= 1 && label.yc >= 0 && label.yc <= 1 && label.w > 0 &&
                          label.w <= 1 && label.h > 0 && label.h <= 1;
    if (!is_sound) std::abort();
  }
  return 0;
}
