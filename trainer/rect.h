// SPDX-License-Identifier: Apache-2.0
// trainer/rect.h
//
// Batches of images of like shape, so that little of a batch is padding: images sorted by height /
// width, each group of them letterboxed to one shape that suits its extremes. Pure.
#pragma once

#include <cstdint>
#include <opencv2/core.hpp>
#include <vector>

namespace trainer {

inline constexpr int kStride = 32;  // Of the coarsest feature map: sides are multiples of it.

struct RectPlan {
  std::vector<std::int64_t> order;  // Indices of `sizes`, wide images first; ties by index.
  std::vector<cv::Size> shapes;     // Of each group of the order.
};

// Sides are padded by half a stride on top of rounding up, as the reference does for validation: an
// image whose long side is `imgsz` always has a margin. Precondition: sides positive, group >= 1.
[[nodiscard]] RectPlan plan_rect(const std::vector<cv::Size>& sizes, int imgsz, std::int64_t group);

}  // namespace trainer
