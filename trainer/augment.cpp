// SPDX-License-Identifier: Apache-2.0
#include "trainer/augment.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <opencv2/imgproc.hpp>
#include <tuple>
#include <utility>

#include "trainer/image.h"

namespace trainer {
namespace {

constexpr float kBoxSideMin = 2;  // Pixels, after the transform.
constexpr float kBoxAspectMax = 100;
constexpr float kBoxAreaKeptMin = 0.1F;  // Of the box's own area.

PixelBox clipped(const PixelBox& box, int width, int height) {
  const auto w = static_cast<float>(width), h = static_cast<float>(height);
  return {box.cls, std::clamp(box.x1, 0.0F, w), std::clamp(box.y1, 0.0F, h),
          std::clamp(box.x2, 0.0F, w), std::clamp(box.y2, 0.0F, h)};
}

float area(const PixelBox& box) {
  return (box.x2 - box.x1) * (box.y2 - box.y1);
}

cv::Point2d mapped(const cv::Matx33d& matrix, double x, double y) {
  const cv::Vec3d point = matrix * cv::Vec3d(x, y, 1);
  return {point[0] / point[2], point[1] / point[2]};
}

PixelBox upright_hull(const PixelBox& box, const cv::Matx33d& matrix) {
  double x1 = HUGE_VAL, y1 = HUGE_VAL, x2 = -HUGE_VAL, y2 = -HUGE_VAL;
  for (const float x : {box.x1, box.x2}) {
    for (const float y : {box.y1, box.y2}) {
      const cv::Point2d point = mapped(matrix, x, y);
      x1 = std::min(x1, point.x), x2 = std::max(x2, point.x);
      y1 = std::min(y1, point.y), y2 = std::max(y2, point.y);
    }
  }
  return {box.cls, static_cast<float>(x1), static_cast<float>(y1), static_cast<float>(x2),
          static_cast<float>(y2)};
}

bool is_worth_keeping(const PixelBox& box, float area_before) {
  constexpr float kTiny = 1e-16F;
  const float w = box.x2 - box.x1, h = box.y2 - box.y1;
  return w > kBoxSideMin && h > kBoxSideMin && w * h > kBoxAreaKeptMin * area_before &&
         std::max(w / (h + kTiny), h / (w + kTiny)) < kBoxAspectMax;
}

struct RandomTransform {
  cv::Matx33d matrix;
  double scale = 1;
};

// To the origin, perspective, rotation and scale, shear, to a place near the middle of the target.
RandomTransform draw_transform(cv::Size source, int imgsz, const contract::TrainArgs& args,
                               Random& random) {
  const auto around_zero = [&](double range) { return random.uniform(-range, range); };
  const auto tangent = [](double degrees) { return std::tan(degrees * std::numbers::pi / 180); };
  const cv::Matx33d to_origin(1, 0, -source.width / 2.0, 0, 1, -source.height / 2.0, 0, 0, 1);

  const double perspective_x = around_zero(args.perspective);
  const double perspective_y = around_zero(args.perspective);
  const cv::Matx33d perspective(1, 0, 0, 0, 1, 0, perspective_x, perspective_y, 1);

  const double angle = around_zero(args.degrees) * std::numbers::pi / 180;
  const double scale = random.uniform(1 - args.scale, 1 + args.scale);
  const double c = scale * std::cos(angle), s = scale * std::sin(angle);
  const cv::Matx33d rotation(c, s, 0, -s, c, 0, 0, 0, 1);

  const double shear_x = tangent(around_zero(args.shear));
  const double shear_y = tangent(around_zero(args.shear));
  const cv::Matx33d shear(1, shear_x, 0, shear_y, 1, 0, 0, 0, 1);

  const double x = (0.5 + around_zero(args.translate)) * imgsz;
  const double y = (0.5 + around_zero(args.translate)) * imgsz;
  const cv::Matx33d to_target(1, 0, x, 0, 1, y, 0, 0, 1);
  return {to_target * shear * rotation * perspective * to_origin, scale};
}

}  // namespace

Sample mosaic(const std::array<Sample, 4>& parts, int imgsz, Random& random) {
  const int side = 2 * imgsz;
  Sample result{cv::Mat(side, side, CV_8UC3, cv::Scalar::all(kPaddingGray)), {}};
  const int x = static_cast<int>(random.uniform(0.5 * imgsz, 1.5 * imgsz));
  const int y = static_cast<int>(random.uniform(0.5 * imgsz, 1.5 * imgsz));
  for (std::size_t i = 0; i < parts.size(); ++i) {
    // Left or right of the centre, above or below it; each touches the centre with a corner.
    const cv::Mat& pixels = parts[i].pixels;
    const int left = i % 2 == 0 ? x - pixels.cols : x;
    const int top = i < 2 ? y - pixels.rows : y;
    const cv::Rect place(left, top, pixels.cols, pixels.rows);
    const cv::Rect seen = place & cv::Rect(0, 0, side, side);
    pixels(seen - cv::Point(left, top)).copyTo(result.pixels(seen));

    const auto dx = static_cast<float>(left), dy = static_cast<float>(top);
    for (const PixelBox& box : parts[i].boxes) {
      const PixelBox moved =
          clipped({box.cls, box.x1 + dx, box.y1 + dy, box.x2 + dx, box.y2 + dy}, side, side);
      if (area(moved) > 0) result.boxes.push_back(moved);
    }
  }
  return result;
}

Sample on_square(const Sample& sample, int imgsz) {
  const Letterbox plan = plan_letterbox(sample.pixels.size(), {imgsz, imgsz});
  Sample result{apply_letterbox(sample.pixels, plan), sample.boxes};
  const auto gain = static_cast<float>(plan.gain);
  const auto left = static_cast<float>(plan.left), top = static_cast<float>(plan.top);
  for (PixelBox& box : result.boxes) {
    box.x1 = box.x1 * gain + left, box.x2 = box.x2 * gain + left;
    box.y1 = box.y1 * gain + top, box.y2 = box.y2 * gain + top;
  }
  return result;
}

Sample random_perspective(const Sample& sample, int imgsz, const contract::TrainArgs& args,
                          Random& random) {
  const auto [matrix, scale] = draw_transform(sample.pixels.size(), imgsz, args, random);
  Sample result;
  if (args.perspective != 0) {
    cv::warpPerspective(sample.pixels, result.pixels, matrix, {imgsz, imgsz}, cv::INTER_LINEAR,
                        cv::BORDER_CONSTANT, cv::Scalar::all(kPaddingGray));
  } else {
    cv::warpAffine(sample.pixels, result.pixels, matrix.get_minor<2, 3>(0, 0), {imgsz, imgsz},
                   cv::INTER_LINEAR, cv::BORDER_CONSTANT, cv::Scalar::all(kPaddingGray));
  }
  const auto area_gain = static_cast<float>(scale * scale);
  for (const PixelBox& box : sample.boxes) {
    const PixelBox moved = clipped(upright_hull(box, matrix), imgsz, imgsz);
    if (is_worth_keeping(moved, area(box) * area_gain)) result.boxes.push_back(moved);
  }
  return result;
}

Sample mix_up(const Sample& sample, const Sample& other, Random& random) {
  // The middle one of 2n-1 uniform numbers is distributed as Beta(n, n).
  constexpr std::size_t kBeta = 32;
  std::array<double, 2 * kBeta - 1> draws{};
  for (double& draw : draws) draw = random.uniform();
  std::nth_element(draws.begin(), draws.begin() + kBeta - 1, draws.end());
  const double share = draws[kBeta - 1];

  Sample result;
  cv::addWeighted(sample.pixels, share, other.pixels, 1 - share, 0, result.pixels);
  result.boxes = sample.boxes;
  result.boxes.insert(result.boxes.end(), other.boxes.begin(), other.boxes.end());
  return result;
}

void jitter_colors(cv::Mat& pixels, const contract::TrainArgs& args, Random& random) {
  const double hue = random.uniform(1 - args.hsv_h, 1 + args.hsv_h);
  const double saturation = random.uniform(1 - args.hsv_s, 1 + args.hsv_s);
  const double value = random.uniform(1 - args.hsv_v, 1 + args.hsv_v);
  if (args.hsv_h == 0 && args.hsv_s == 0 && args.hsv_v == 0) return;

  constexpr int kHues = 180;  // OpenCV's half degrees.
  cv::Mat table(1, 256, CV_8UC3);
  for (int i = 0; i < 256; ++i) {
    const auto scaled = [i](double gain) { return std::clamp(i * gain, 0.0, 255.0); };
    table.at<cv::Vec3b>(0, i) = {static_cast<unsigned char>(std::fmod(i * hue, kHues)),
                                 static_cast<unsigned char>(scaled(saturation)),
                                 static_cast<unsigned char>(scaled(value))};
  }
  cv::Mat hsv;
  cv::cvtColor(pixels, hsv, cv::COLOR_BGR2HSV);
  cv::LUT(hsv, table, hsv);
  cv::cvtColor(hsv, pixels, cv::COLOR_HSV2BGR);
}

void flip_randomly(Sample& sample, const contract::TrainArgs& args, Random& random) {
  const bool is_upside_down = random.chance(args.flipud);
  const bool is_mirrored = random.chance(args.fliplr);
  if (!is_upside_down && !is_mirrored) return;
  constexpr int kAroundX = 0, kAroundY = 1, kAroundBoth = -1;
  cv::flip(sample.pixels, sample.pixels,
           is_upside_down && is_mirrored ? kAroundBoth
           : is_mirrored                 ? kAroundY
                                         : kAroundX);
  const auto w = static_cast<float>(sample.pixels.cols), h = static_cast<float>(sample.pixels.rows);
  for (PixelBox& box : sample.boxes) {
    if (is_mirrored) std::tie(box.x1, box.x2) = std::pair(w - box.x2, w - box.x1);
    if (is_upside_down) std::tie(box.y1, box.y2) = std::pair(h - box.y2, h - box.y1);
  }
}

void swap_channels_randomly(Sample& sample, const contract::TrainArgs& args, Random& random) {
  if (args.bgr > 0 && random.chance(args.bgr)) {
    cv::cvtColor(sample.pixels, sample.pixels, cv::COLOR_BGR2RGB);
  }
}

}  // namespace trainer
