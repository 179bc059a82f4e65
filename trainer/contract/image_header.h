// SPDX-License-Identifier: Apache-2.0
// trainer/contract/image_header.h
//
// What the first bytes of an image file say about it, without decoding: enough to refuse a file
// that is no image, and one whose header claims more pixels than a node has memory. Pure and
// bounded; any bytes may be given.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace contract {

// Of "a.JPG" and the like: bmp, dng, jpg, jpeg, mpo, pfm, png, tif, tiff, webp.
[[nodiscard]] bool has_image_extension(std::string_view path);
// Of formats that other programs take for images and this one does not read ("a.gif").
[[nodiscard]] bool has_foreign_image_extension(std::string_view path);

// Of a JPEG's marker (the byte after ff): no length and no segment follow. ITU-T T.81, table B.1.
[[nodiscard]] bool is_bare_jpeg_marker(unsigned char marker);

struct ImageHeader {
  std::string_view format;             // "BMP", "JPEG", "PNG", "TIFF", "WebP"
  std::int64_t width = 0, height = 0;  // As stored; 0: not within the bytes given.
  bool is_turned = false;              // By EXIF: shown with width and height swapped.
};

// Nothing where the bytes begin like no known format.
[[nodiscard]] std::optional<ImageHeader> read_image_header(std::string_view bytes);

inline constexpr std::size_t kImageHeaderBytes = 4096;                  // Enough for most files.
inline constexpr std::int64_t kImageSideMin = 10;                       // As the reference.
inline constexpr std::int64_t kImagePixelsMax = std::int64_t{1} << 27;  // 384 MiB decoded.

// "is empty (0 bytes).", "is 60000 x 60000 pixels, more than the limit of 134217728.": what speaks
// against an image whose file begins with `bytes`. Nothing: it may be decoded.
[[nodiscard]] std::optional<std::string> image_header_fault(std::string_view bytes);

}  // namespace contract
