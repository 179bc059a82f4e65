// SPDX-License-Identifier: Apache-2.0
#include "trainer/contract/image_header.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <span>
#include <sstream>
#include <string>

namespace contract {
namespace {

enum class Endian { kLittle, kBig };

// Reads past the end give 0, so that callers need no bounds of their own.
std::uint32_t number_at(std::string_view bytes, std::size_t at, std::size_t size, Endian endian) {
  if (size > bytes.size() || at > bytes.size() - size) return 0;
  std::uint32_t value = 0;
  for (std::size_t i = 0; i < size; ++i) {
    const std::size_t from = endian == Endian::kBig ? at + i : at + size - 1 - i;
    value = value << 8 | static_cast<unsigned char>(bytes[from]);
  }
  return value;
}

bool has_at(std::string_view bytes, std::size_t at, std::string_view text) {
  return bytes.size() >= at && bytes.substr(at).starts_with(text);
}

// Of the EXIF in an APP1 segment (its bytes after the length): whether the picture is to be shown
// after a quarter turn. Orientations 5 to 8 are those.
bool is_quarter_turn(std::string_view segment) {
  using namespace std::string_view_literals;
  constexpr std::uint32_t kOrientationTag = 0x112, kFirstTurned = 5, kLastTurned = 8;
  if (!has_at(segment, 0, "Exif\0\0"sv)) return false;
  const std::string_view tiff = segment.substr(6);
  const Endian endian = has_at(tiff, 0, "MM"sv) ? Endian::kBig : Endian::kLittle;
  const std::size_t folder = number_at(tiff, 4, 4, endian);
  const std::size_t count = number_at(tiff, folder, 2, endian);
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t entry = folder + 2 + 12 * i;
    if (entry + 12 > tiff.size()) break;
    if (number_at(tiff, entry, 2, endian) != kOrientationTag) continue;
    const std::uint32_t orientation = number_at(tiff, entry + 8, 2, endian);
    return orientation >= kFirstTurned && orientation <= kLastTurned;
  }
  return false;
}

ImageHeader jpeg_header(std::string_view bytes) {
  ImageHeader header{.format = "JPEG"};
  std::size_t at = 2;
  while (at + 9 <= bytes.size()) {
    if (static_cast<unsigned char>(bytes[at]) != 0xff) {  // Stray: decoders look for the next one.
      ++at;
      continue;
    }
    const auto marker = static_cast<unsigned char>(bytes[at + 1]);
    const bool is_frame =
        marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc;
    if (is_frame) {
      header.height = number_at(bytes, at + 5, 2, Endian::kBig);
      header.width = number_at(bytes, at + 7, 2, Endian::kBig);
      return header;
    }
    if (marker == 0xff) {  // Fill byte.
      ++at;
      continue;
    }
    if (is_bare_jpeg_marker(marker)) {
      at += 2;
      continue;
    }
    if (marker == 0xda || marker == 0xd9) break;  // Pixels begin, or the file ends: no frame seen.
    const std::size_t size = std::max<std::size_t>(2, number_at(bytes, at + 2, 2, Endian::kBig));
    constexpr unsigned char kApp1 = 0xe1;
    if (marker == kApp1 && is_quarter_turn(bytes.substr(at + 4, size - 2))) header.is_turned = true;
    at += 2 + size;
  }
  return header;
}

// Without a size where that stands twice, or is not one number of 16 or 32 bits: a decoder may take
// another.
ImageHeader tiff_header(std::string_view bytes, Endian endian) {
  constexpr std::uint32_t kWidthTag = 256, kHeightTag = 257, kShort = 3, kLong = 4;
  const ImageHeader without_size{.format = "TIFF"};
  ImageHeader header = without_size;
  const std::size_t folder = number_at(bytes, 4, 4, endian);
  const std::size_t count = number_at(bytes, folder, 2, endian);
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t entry = folder + 2 + 12 * i;
    if (entry + 12 > bytes.size()) break;
    const std::uint32_t tag = number_at(bytes, entry, 2, endian);
    if (tag != kWidthTag && tag != kHeightTag) continue;
    const std::uint32_t type = number_at(bytes, entry + 2, 2, endian);
    std::int64_t& side = tag == kWidthTag ? header.width : header.height;
    const bool is_number =
        (type == kShort || type == kLong) && number_at(bytes, entry + 4, 4, endian) == 1;
    if (!is_number || side != 0) return without_size;
    side = number_at(bytes, entry + 8, type == kShort ? 2 : 4, endian);
  }
  return header;
}

ImageHeader webp_header(std::string_view bytes) {
  ImageHeader header{.format = "WebP"};
  if (has_at(bytes, 12, "VP8X")) {
    header.width = 1 + number_at(bytes, 24, 3, Endian::kLittle);
    header.height = 1 + number_at(bytes, 27, 3, Endian::kLittle);
  } else if (has_at(bytes, 12, "VP8L")) {
    const std::uint32_t bits = number_at(bytes, 21, 4, Endian::kLittle);
    header.width = 1 + (bits & 0x3fff);
    header.height = 1 + (bits >> 14 & 0x3fff);
  } else if (has_at(bytes, 12, "VP8 ")) {
    header.width = number_at(bytes, 26, 2, Endian::kLittle) & 0x3fff;
    header.height = number_at(bytes, 28, 2, Endian::kLittle) & 0x3fff;
  }
  return header;
}

ImageHeader bmp_header(std::string_view bytes) {
  ImageHeader header{.format = "BMP"};
  header.width = number_at(bytes, 18, 4, Endian::kLittle);
  const std::int64_t height = static_cast<std::int32_t>(number_at(bytes, 22, 4, Endian::kLittle));
  header.height = height < 0 ? -height : height;  // Negative: the rows run downwards.
  return header;
}

// "PF\n640 480\n-1.0\n" and the floats, of three channels, or "Pf" of one.
ImageHeader pfm_header(std::string_view bytes) {
  constexpr std::size_t kHeaderBytesMax = 64;
  ImageHeader header{.format = "PFM"};
  std::istringstream text{std::string(bytes.substr(2, kHeaderBytesMax))};
  std::int64_t width = 0, height = 0;
  // A number that goes on beyond what is looked at is another one to a decoder.
  const bool is_whole = text >> width >> height && std::isspace(text.peek()) != 0;
  if (is_whole && width > 0 && height > 0) {
    header.width = width;
    header.height = height;
  }
  return header;
}

bool has_extension_of(std::string_view path, std::span<const std::string_view> extensions) {
  const std::size_t dot = path.rfind('.');
  if (dot == std::string_view::npos) return false;
  std::string extension(path.substr(dot + 1));
  for (char& c : extension) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return std::find(extensions.begin(), extensions.end(), extension) != extensions.end();
}

}  // namespace

bool is_bare_jpeg_marker(unsigned char marker) {
  constexpr unsigned char kTemporary = 0x01, kFirstRestart = 0xd0, kStart = 0xd8;
  return marker == kTemporary || (marker >= kFirstRestart && marker <= kStart);
}

bool has_image_extension(std::string_view path) {
  constexpr std::array<std::string_view, 10> kExtensions = {"bmp", "dng", "jpg", "jpeg", "mpo",
                                                            "pfm", "png", "tif", "tiff", "webp"};
  return has_extension_of(path, kExtensions);
}

bool has_foreign_image_extension(std::string_view path) {
  constexpr std::array<std::string_view, 9> kExtensions = {
      "avif", "gif", "heic", "heif", "jfif", "jp2", "pgm", "ppm", "tga"};
  return has_extension_of(path, kExtensions);
}

std::optional<ImageHeader> read_image_header(std::string_view bytes) {
  using namespace std::string_view_literals;
  if (has_at(bytes, 0, "\xff\xd8\xff"sv)) return jpeg_header(bytes);
  if (has_at(bytes, 0, "\x89PNG\r\n\x1a\n"sv)) {
    return ImageHeader{.format = "PNG",
                       .width = number_at(bytes, 16, 4, Endian::kBig),
                       .height = number_at(bytes, 20, 4, Endian::kBig)};
  }
  if (has_at(bytes, 0, "II*\0"sv)) return tiff_header(bytes, Endian::kLittle);
  if (has_at(bytes, 0, "MM\0*"sv)) return tiff_header(bytes, Endian::kBig);
  if (has_at(bytes, 0, "RIFF"sv) && has_at(bytes, 8, "WEBP"sv)) return webp_header(bytes);
  if (has_at(bytes, 0, "BM"sv)) return bmp_header(bytes);
  if (has_at(bytes, 0, "PF\n"sv) || has_at(bytes, 0, "Pf\n"sv)) return pfm_header(bytes);
  return std::nullopt;
}

std::optional<std::string> image_header_fault(std::string_view bytes) {
  if (bytes.empty()) return "is empty (0 bytes).";
  const std::optional<ImageHeader> header = read_image_header(bytes);
  if (!header) {
    std::string first;
    for (const char c : bytes.substr(0, 4)) {
      first += fmt::format("{}{:02x}", first.empty() ? "" : " ", static_cast<unsigned char>(c));
    }
    return fmt::format("is no image: it begins with the bytes {}.", first);
  }
  const auto [format, width, height, is_turned] = *header;
  if (width == 0 || height == 0) return std::nullopt;  // Not known before decoding.
  if (width < kImageSideMin || height < kImageSideMin) {
    return fmt::format("is {} x {} pixels, below the smallest side of {}.", width, height,
                       kImageSideMin);
  }
  if (width > kImagePixelsMax / height) {
    return fmt::format("is {} x {} pixels, more than the limit of {}.", width, height,
                       kImagePixelsMax);
  }
  return std::nullopt;
}

}  // namespace contract
