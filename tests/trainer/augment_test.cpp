// SPDX-License-Identifier: GPL-3.0-or-later
#include "trainer/augment.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <opencv2/core.hpp>

namespace {

using contract::TrainArgs;
using trainer::PixelBox;
using trainer::Random;
using trainer::Sample;

const std::array<cv::Vec3b, 4> kColors = {{{255, 0, 0}, {0, 255, 0}, {0, 0, 255}, {0, 255, 255}}};

// A filled rectangle of a class's colour on black.
Sample rectangle(int cls, cv::Size size, cv::Rect place) {
  Sample sample{cv::Mat(size, CV_8UC3, cv::Scalar::all(0)), {}};
  sample.pixels(place).setTo(cv::Scalar(kColors[static_cast<std::size_t>(cls)]));
  const auto edge = [](int value) { return static_cast<float>(value); };
  sample.boxes.push_back(
      {cls, edge(place.x), edge(place.y), edge(place.br().x), edge(place.br().y)});
  return sample;
}

// Where more than half of a class's colour is.
PixelBox colored_extent(const cv::Mat& pixels, int cls) {
  const cv::Vec3b wanted = kColors[static_cast<std::size_t>(cls)];
  PixelBox extent{cls, 1e9F, 1e9F, -1, -1};
  for (int y = 0; y < pixels.rows; ++y) {
    for (int x = 0; x < pixels.cols; ++x) {
      const cv::Vec3b pixel = pixels.at<cv::Vec3b>(y, x);
      const bool is_inside = std::equal(pixel.val, pixel.val + 3, wanted.val,
                                        [](int a, int b) { return std::abs(a - b) < 100; });
      if (!is_inside) continue;
      extent.x1 = std::min(extent.x1, static_cast<float>(x));
      extent.x2 = std::max(extent.x2, static_cast<float>(x + 1));
      extent.y1 = std::min(extent.y1, static_cast<float>(y));
      extent.y2 = std::max(extent.y2, static_cast<float>(y + 1));
    }
  }
  return extent;
}

void expect_boxes_on_colors(const Sample& sample, float tolerance) {
  for (const PixelBox& box : sample.boxes) {
    SCOPED_TRACE(box.cls);
    const PixelBox extent = colored_extent(sample.pixels, box.cls);
    EXPECT_NEAR(box.x1, extent.x1, tolerance);
    EXPECT_NEAR(box.y1, extent.y1, tolerance);
    EXPECT_NEAR(box.x2, extent.x2, tolerance);
    EXPECT_NEAR(box.y2, extent.y2, tolerance);
  }
}

std::array<Sample, 4> four_parts() {
  return {rectangle(0, {160, 120}, {20, 20, 100, 70}), rectangle(1, {120, 160}, {10, 40, 80, 90}),
          rectangle(2, {160, 160}, {60, 50, 70, 80}), rectangle(3, {160, 90}, {30, 10, 90, 60})};
}

TEST(Mosaic, BoxesFollowThePixels) {
  int boxes = 0;
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    const Sample sample = trainer::mosaic(four_parts(), 160, random);

    ASSERT_EQ(sample.pixels.size(), cv::Size(320, 320));
    expect_boxes_on_colors(sample, 0.01F);
    boxes += static_cast<int>(sample.boxes.size());
  }
  EXPECT_GT(boxes, 150);
}

TEST(RandomPerspective, BoxesFollowThePixels) {
  struct Case {
    const char* name;
    std::function<void(TrainArgs&)> set;
    float tolerance;
  };
  const Case cases[] = {
      {"defaults", [](TrainArgs&) {}, 1.6F},
      {"turned", [](TrainArgs& args) { args.degrees = 30; }, 4.0F},
      {"sheared", [](TrainArgs& args) { args.shear = 8; }, 4.0F},
      {"perspective", [](TrainArgs& args) { args.perspective = 0.0008; }, 4.0F},
  };
  for (const auto& [name, set, tolerance] : cases) {
    TrainArgs args;
    set(args);
    int boxes = 0;
    for (std::uint64_t seed = 0; seed < 30; ++seed) {
      SCOPED_TRACE(testing::Message() << name << ", seed " << seed);
      Random random(seed);
      const Sample canvas = trainer::mosaic(four_parts(), 160, random);

      Sample sample = trainer::random_perspective(canvas, 160, args, random);
      trainer::flip_randomly(sample, args, random);

      ASSERT_EQ(sample.pixels.size(), cv::Size(160, 160));
      boxes += static_cast<int>(sample.boxes.size());
      // A corner of a turned box that is cut off shortens what is seen, not the box's hull.
      std::erase_if(sample.boxes, [&](const PixelBox& box) {
        return (args.degrees > 0 || args.shear > 0 || args.perspective > 0) &&
               (box.x1 < 1 || box.y1 < 1 || box.x2 > 159 || box.y2 > 159);
      });
      expect_boxes_on_colors(sample, tolerance);
    }
    EXPECT_GT(boxes, 30) << name;
  }
}

TEST(RandomPerspective, DropsBoxesThatAreMostlyOutsideThinOrSmall) {
  TrainArgs args;
  args.translate = 0, args.scale = 0;
  Sample sample{cv::Mat(200, 200, CV_8UC3, cv::Scalar::all(0)), {}};
  sample.boxes = {{0, 60, 60, 100, 100},  // Inside.
                  {1, 0, 0, 50, 50},      // Wholly outside of the middle 100.
                  {2, 0, 60, 53, 100},    // 3 of 53 columns are left.
                  {3, 0, 60, 60, 100},    // 10 of 60.
                  {4, 60, 60, 62, 100},   // 2 pixels wide.
                  {5, 60, 60, 60.5F, 140}};
  Random random(1);

  const Sample result = trainer::random_perspective(sample, 100, args, random);

  ASSERT_EQ(result.boxes.size(), 2U);
  EXPECT_EQ(result.boxes[0].cls, 0);
  EXPECT_FLOAT_EQ(result.boxes[0].x1, 10);
  EXPECT_EQ(result.boxes[1].cls, 3);
  EXPECT_FLOAT_EQ(result.boxes[1].x1, 0);
}

TEST(OnSquare, CentresTheImageOnGrey) {
  const Sample sample = trainer::on_square(rectangle(2, {160, 90}, {30, 10, 90, 60}), 160);

  EXPECT_EQ(sample.pixels.size(), cv::Size(160, 160));
  EXPECT_EQ(sample.pixels.at<cv::Vec3b>(34, 0), cv::Vec3b(114, 114, 114));
  EXPECT_EQ(sample.pixels.at<cv::Vec3b>(35, 0), cv::Vec3b(0, 0, 0));
  expect_boxes_on_colors(sample, 0.01F);
}

TEST(JitterColors, StaysWithinTheGainsAndDoesNothingAtZero) {
  TrainArgs args;
  const cv::Mat grey(4, 4, CV_8UC3, cv::Scalar::all(100));
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    Random random(seed);
    cv::Mat pixels = grey.clone();
    trainer::jitter_colors(pixels, args, random);
    EXPECT_NEAR(pixels.at<cv::Vec3b>(0, 0)[0], 100, 41) << "grey stays grey, within hsv_v = 0.4";
  }
  args.hsv_h = args.hsv_s = args.hsv_v = 0;
  Random random(1);
  cv::Mat pixels(4, 4, CV_8UC3, cv::Scalar(1, 2, 3));
  trainer::jitter_colors(pixels, args, random);
  EXPECT_EQ(pixels.at<cv::Vec3b>(3, 3), cv::Vec3b(1, 2, 3));
}

TEST(FlipRandomly, MirrorsPixelsAndBoxesAlike) {
  TrainArgs args;
  for (const auto& [upside_down, mirrored] : {std::pair(1.0, 0.0), {0.0, 1.0}, {1.0, 1.0}}) {
    args.flipud = upside_down, args.fliplr = mirrored;
    Random random(1);
    Sample sample = rectangle(1, {160, 90}, {30, 10, 50, 20});

    trainer::flip_randomly(sample, args, random);

    expect_boxes_on_colors(sample, 0.01F);
    EXPECT_FLOAT_EQ(sample.boxes[0].x1, mirrored > 0 ? 80 : 30);
    EXPECT_FLOAT_EQ(sample.boxes[0].y1, upside_down > 0 ? 60 : 10);
  }
}

TEST(MixUp, BlendsAboutHalfOfEachAndKeepsTheBoxesOfBoth) {
  const Sample one = rectangle(0, {40, 40}, {0, 0, 40, 40});
  const Sample other = rectangle(1, {40, 40}, {10, 10, 20, 20});
  double sum = 0, squares = 0;
  constexpr int kDraws = 4000;
  for (int seed = 0; seed < kDraws; ++seed) {
    Random random(static_cast<std::uint64_t>(seed));
    const Sample mixed = trainer::mix_up(one, other, random);
    ASSERT_EQ(mixed.boxes.size(), 2U);
    const double share = mixed.pixels.at<cv::Vec3b>(0, 0)[0] / 255.0;
    // The other's colour has what is left.
    ASSERT_NEAR(mixed.pixels.at<cv::Vec3b>(20, 20)[1] / 255.0, 1 - share, 0.006);
    sum += share, squares += share * share;
  }
  const double mean = sum / kDraws;
  EXPECT_NEAR(mean, 0.5, 0.005);
  // Of Beta(32, 32): 1 / (4 * 65).
  EXPECT_NEAR(std::sqrt(squares / kDraws - mean * mean), std::sqrt(1.0 / 260), 0.003);
}

TEST(SwapChannels, HappensWithItsProbability) {
  TrainArgs args;
  args.bgr = 0.25;
  int swapped = 0;
  constexpr int kDraws = 2000;
  for (int seed = 0; seed < kDraws; ++seed) {
    Random random(static_cast<std::uint64_t>(seed));
    Sample sample = rectangle(0, {8, 8}, {0, 0, 8, 8});
    trainer::swap_channels_randomly(sample, args, random);
    const cv::Vec3b pixel = sample.pixels.at<cv::Vec3b>(4, 4);
    if (pixel == cv::Vec3b(0, 0, 255)) {
      ++swapped;
    } else {
      ASSERT_EQ(pixel, cv::Vec3b(255, 0, 0));
    }
  }
  EXPECT_NEAR(swapped / static_cast<double>(kDraws), 0.25, 0.03);
}

}  // namespace
