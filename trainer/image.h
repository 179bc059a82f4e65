// SPDX-License-Identifier: Apache-2.0
// trainer/image.h
//
// Reading image files and fitting them into the square that the network sees. Pure but for the
// read.
#pragma once

#include <opencv2/core.hpp>
#include <string>

namespace trainer {

struct ReadImage {
  cv::Mat pixels;       // BGR, 8 bit; empty where the image cannot be used.
  std::string problem;  // Then: why ("is no PNG that can be decoded.").
  std::string note;     // Of a usable image: what is odd about it ("is cut short: ...").
};

// Orientation by EXIF applied, grey widened to colour, alpha dropped. Never throws for what is on
// disk, and never decodes more than contract::kImagePixelsMax pixels.
[[nodiscard]] ReadImage read_image(const std::string& path);

// The same of a file's bytes.
[[nodiscard]] ReadImage decode_image(std::string bytes);

// What read_image would give, from the header alone; 0 x 0 where that says nothing.
[[nodiscard]] cv::Size read_image_size(const std::string& path);

struct LetterboxOptions {
  bool scale_up = true;
  bool center = true;
  bool pad_to_stride_only = false;  // The smallest padding to a multiple of `stride`.
  int stride = 32;
};

// letterboxed = original * gain + (left, top).
struct Letterbox {
  cv::Size resized, padded;
  int left = 0, top = 0;
  double gain = 1;
};

inline constexpr int kPaddingGray = 114;

[[nodiscard]] Letterbox plan_letterbox(cv::Size original, cv::Size target,
                                       const LetterboxOptions& options = {});
// How validation fits an image into `target`: its long side is brought to `imgsz` (the short side
// rounded up), and what then is larger than the target is shrunk, never enlarged.
[[nodiscard]] Letterbox plan_validation_letterbox(cv::Size original, int imgsz, cv::Size target);
// `image` is of the original size, or already of the resized one.
[[nodiscard]] cv::Mat apply_letterbox(const cv::Mat& image, const Letterbox& letterbox);

// BGR pixels to RGB planes at `planes`, which has room for 3 x rows x cols bytes.
void write_rgb_planes(const cv::Mat& image, unsigned char* planes);

}  // namespace trainer
