// SPDX-License-Identifier: Apache-2.0
#include "trainer/rect.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace trainer {
namespace {

double aspect(cv::Size size) {
  return static_cast<double>(size.height) / size.width;
}

// `share`: of imgsz.
int padded_side(double share, int imgsz) {
  constexpr double kPadding = 0.5;  // In strides.
  return static_cast<int>(std::ceil(share * imgsz / kStride + kPadding)) * kStride;
}

cv::Size shape_of(double flattest, double tallest, int imgsz) {
  const double height = tallest < 1 ? tallest : 1;
  const double width = flattest > 1 ? 1 / flattest : 1;
  return {padded_side(width, imgsz), padded_side(height, imgsz)};
}

}  // namespace

RectPlan plan_rect(const std::vector<cv::Size>& sizes, int imgsz, std::int64_t group) {
  RectPlan plan;
  plan.order.resize(sizes.size());
  std::iota(plan.order.begin(), plan.order.end(), 0);
  const auto aspect_at = [&](std::int64_t position) {
    return aspect(sizes[static_cast<std::size_t>(plan.order[static_cast<std::size_t>(position)])]);
  };
  std::stable_sort(plan.order.begin(), plan.order.end(), [&](std::int64_t a, std::int64_t b) {
    return aspect(sizes[static_cast<std::size_t>(a)]) < aspect(sizes[static_cast<std::size_t>(b)]);
  });
  const auto count = static_cast<std::int64_t>(sizes.size());
  for (std::int64_t first = 0; first < count; first += group) {
    const std::int64_t last = std::min(first + group, count) - 1;
    plan.shapes.push_back(shape_of(aspect_at(first), aspect_at(last), imgsz));
  }
  return plan;
}

}  // namespace trainer
