// SPDX-License-Identifier: Apache-2.0
#include "trainer/image.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <new>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>
#include <optional>
#include <string_view>
#include <utility>

#include "trainer/contract/disk.h"
#include "trainer/contract/image_header.h"

namespace trainer {
namespace {

constexpr std::size_t kImageFileBytesMax = std::size_t{1} << 30;

// Decoders turn what is missing at the end of a JPEG into grey without a word. From the first scan
// on a byte ff is followed by 00 or a marker, so an end marker there is the real one; those before
// it belong to thumbnails.
bool is_cut_short(std::string_view jpeg) {
  const auto byte = [&](std::size_t at) { return static_cast<unsigned char>(jpeg[at]); };
  std::size_t at = 2;
  while (at + 4 <= jpeg.size()) {
    if (byte(at) != 0xff) {  // Stray: the decoder looks for the next one.
      ++at;
      continue;
    }
    if (byte(at + 1) == 0xda) return jpeg.find("\xff\xd9", at) == std::string_view::npos;
    if (contract::is_bare_jpeg_marker(byte(at + 1))) {
      at += 2;
      continue;
    }
    const bool is_fill = byte(at + 1) == 0xff;
    at += is_fill ? 1 : 2 + std::max<std::size_t>(2, byte(at + 2) * 256U + byte(at + 3));
  }
  return true;
}

// OpenCV knows a DICOM file by a mark in its middle, whatever it begins like, and the library that
// reads those ends the process over a bad one. Found by tests/fuzz.
bool looks_like_dicom(std::string_view bytes) {
  constexpr std::size_t kMarkAt = 128;
  constexpr std::string_view kMark = "DICM";
  return bytes.size() >= kMarkAt + kMark.size() && bytes.substr(kMarkAt).starts_with(kMark);
}

int round_half_even(double value) {
  return static_cast<int>(std::nearbyint(value));
}

// Of a whole file: "PF", width, height and scale, one blank, and the floats.
std::size_t pfm_bytes(const contract::ImageHeader& header, std::string_view bytes) {
  constexpr std::string_view kBlanks = " \t\r\n";
  std::size_t at = 2;
  for (int word = 0; word < 3 && at < bytes.size(); ++word) {
    at = std::min(bytes.find_first_not_of(kBlanks, at), bytes.size());
    at = std::min(bytes.find_first_of(kBlanks, at), bytes.size());
  }
  const std::size_t channels = bytes[1] == 'F' ? 3 : 1;
  return at + 1 + static_cast<std::size_t>(header.width * header.height) * channels * sizeof(float);
}

}  // namespace

ReadImage read_image(const std::string& path) {
  contract::FileBytes file = contract::read_whole_file(path, kImageFileBytesMax);
  if (file.problem) return {{}, *file.problem + ".", {}};
  return decode_image(std::move(file.bytes));
}

ReadImage decode_image(std::string bytes) {
  if (const auto fault = contract::image_header_fault(bytes)) return {{}, *fault, {}};
  if (looks_like_dicom(bytes)) {
    return {{}, "has the mark of a DICOM file at byte 128. Convert it to JPEG or PNG.", {}};
  }
  const auto header = contract::read_image_header(bytes);
  if (header->width == 0 || header->height == 0) {
    // A decoder might find one all the same, and take the memory of any size.
    return {{}, fmt::format("is a {} without a size in its header.", header->format), {}};
  }
  // The decoder takes what the memory held for what is missing.
  if (header->format == "PFM" && bytes.size() < pfm_bytes(*header, bytes)) {
    return {{}, "is a PFM that is cut short.", {}};
  }
  std::string note;
  if (header && header->format == "JPEG" && is_cut_short(bytes)) {
    // Used, as by the reference. With an end the decoder makes grey of what is missing; without
    // one it would leave what the memory held.
    bytes += "\xff\xd9";
    note =
        "is cut short: the end marker of the JPEG is missing, and so may be a part of the image.";
  }
  try {
    // A view: OpenCV takes the bytes as a matrix and does not write to them.
    const cv::Mat view(1, static_cast<int>(bytes.size()), CV_8UC1, bytes.data());
    cv::Mat pixels = cv::imdecode(view, cv::IMREAD_COLOR);
    if (pixels.empty()) {
      return {{},
              fmt::format("is no {} that can be decoded.{}", header->format,
                          note.empty() ? "" : " It " + note),
              {}};
    }
    // What a PFM of one channel is decoded to, whatever was asked for.
    if (pixels.channels() == 1) cv::cvtColor(pixels, pixels, cv::COLOR_GRAY2BGR);
    if (std::min(pixels.cols, pixels.rows) < contract::kImageSideMin) {
      return {{},
              fmt::format("is {} x {} pixels, below the smallest side of {}.", pixels.cols,
                          pixels.rows, contract::kImageSideMin),
              {}};
    }
    return {pixels, {}, note};
  } catch (const cv::Exception& exception) {
    return {{}, fmt::format("cannot be decoded: {}.", exception.err), {}};
  } catch (const std::bad_alloc&) {
    return {{}, "needs more memory to decode than there is.", {}};
  }
}

cv::Size read_image_size(const std::string& path) {
  // A photograph's thumbnails and colour profile may stand before its size.
  for (const std::size_t bytes :
       {contract::kImageHeaderBytes, std::size_t{1} << 18, std::size_t{1} << 24}) {
    const contract::FileBytes start = contract::read_file_start(path, bytes);
    const auto header = contract::read_image_header(start.bytes);
    if (!header) break;
    constexpr std::int64_t kSideMax = 1 << 24;
    if (header->width > 0 && header->height > 0) {
      const auto width = static_cast<int>(std::min(header->width, kSideMax));
      const auto height = static_cast<int>(std::min(header->height, kSideMax));
      return header->is_turned ? cv::Size(height, width) : cv::Size(width, height);
    }
    if (start.bytes.size() < bytes) break;  // That was all of it.
  }
  return {};
}

Letterbox plan_letterbox(cv::Size original, cv::Size target, const LetterboxOptions& options) {
  Letterbox plan;
  plan.gain = std::min(static_cast<double>(target.width) / original.width,
                       static_cast<double>(target.height) / original.height);
  if (!options.scale_up) plan.gain = std::min(plan.gain, 1.0);
  plan.resized = {std::max(1, round_half_even(original.width * plan.gain)),
                  std::max(1, round_half_even(original.height * plan.gain))};

  double spare_x = target.width - plan.resized.width;
  double spare_y = target.height - plan.resized.height;
  if (options.pad_to_stride_only) {
    spare_x = std::fmod(spare_x, options.stride);
    spare_y = std::fmod(spare_y, options.stride);
  }
  if (options.center) {
    // An odd pixel goes to the right and to the bottom.
    plan.left = round_half_even(spare_x / 2 - 0.1);
    plan.top = round_half_even(spare_y / 2 - 0.1);
  }
  plan.padded = {plan.resized.width + static_cast<int>(spare_x),
                 plan.resized.height + static_cast<int>(spare_y)};
  return plan;
}

Letterbox plan_validation_letterbox(cv::Size original, int imgsz, cv::Size target) {
  const double gain = static_cast<double>(imgsz) / std::max(original.width, original.height);
  const auto scaled = [&](int side) {
    return std::min(imgsz, static_cast<int>(std::ceil(side * gain)));
  };
  const cv::Size loaded =
      gain == 1 ? original : cv::Size(scaled(original.width), scaled(original.height));
  return plan_letterbox(loaded, target, {.scale_up = false});
}

cv::Mat apply_letterbox(const cv::Mat& image, const Letterbox& letterbox) {
  cv::Mat resized = image;
  if (image.size() != letterbox.resized) {
    cv::resize(image, resized, letterbox.resized, 0, 0, cv::INTER_LINEAR);
  }
  const auto& [size, padded, left, top, gain] = letterbox;
  cv::Mat result;
  cv::copyMakeBorder(resized, result, top, padded.height - size.height - top, left,
                     padded.width - size.width - left, cv::BORDER_CONSTANT,
                     cv::Scalar::all(kPaddingGray));
  return result;
}

void write_rgb_planes(const cv::Mat& image, unsigned char* planes) {
  const auto plane = static_cast<std::size_t>(image.rows) * static_cast<std::size_t>(image.cols);
  std::array<cv::Mat, 3> channels;
  for (std::size_t i = 0; i < 3; ++i) {
    channels[i] = cv::Mat(image.rows, image.cols, CV_8UC1, planes + (2 - i) * plane);
  }
  cv::split(image, channels.data());
}

}  // namespace trainer
