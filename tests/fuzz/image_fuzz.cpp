// SPDX-License-Identifier: GPL-3.0-or-later
#include <cstdint>
#include <cstdlib>
#include <string>

#include "trainer/contract/image_header.h"
#include "trainer/image.h"

// NOLINTNEXTLINE(readability-identifier-naming)
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  // The decoders are others' code and slow on large images: those are left to their own fuzzers.
  constexpr std::int64_t kSideMax = 2000;
  const auto header = contract::read_image_header(bytes);
  if (header && (header->width > kSideMax || header->height > kSideMax)) return 0;
  const trainer::ReadImage image = trainer::decode_image(bytes);
  if (image.pixels.empty() == image.problem.empty()) std::abort();
  // A decoder that saw another size than the check of pixels did would take memory unasked.
  if (static_cast<std::int64_t>(image.pixels.total()) >
      (header ? header->width * header->height : 0)) {
    std::abort();
  }
  if (!image.pixels.empty() && (image.pixels.type() != CV_8UC3 || image.pixels.cols < 10)) {
    std::abort();
  }
  return 0;
}
