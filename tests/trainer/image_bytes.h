// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

// The beginning of a PNG that claims a size: enough for what looks at headers only.
inline std::string png_header(std::uint32_t width, std::uint32_t height) {
  std::string bytes("\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR", 16);
  for (const std::uint32_t side : {width, height}) {
    for (int shift = 24; shift >= 0; shift -= 8) bytes += static_cast<char>(side >> shift & 0xff);
  }
  return bytes + std::string("\x08\x02\0\0\0", 5);
}

// The JPEG with an EXIF block of one entry, the orientation, and `filler` bytes behind it.
inline std::string with_exif(const std::string& jpeg, char orientation, std::size_t filler) {
  using namespace std::string_literals;
  std::string block = "Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0"s;
  block += orientation;
  block += "\0\0\0\0\0\0"s + std::string(filler, '\0');
  const std::size_t size = block.size() + 2;
  return jpeg.substr(0, 2) + "\xff\xe1"s + static_cast<char>(size >> 8) +
         static_cast<char>(size & 0xff) + block + jpeg.substr(2);
}
