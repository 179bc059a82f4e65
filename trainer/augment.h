// SPDX-License-Identifier: Apache-2.0
// trainer/augment.h
//
// The augmentation of training images: mosaic of four, random perspective, mixup, colour jitter,
// flips, swapped channels.
// Every number is drawn from the Random given, in a fixed order, so a sample is a function of its
// position. Used by many threads at a time: there is no state.
#pragma once

#include <array>
#include <opencv2/core.hpp>
#include <vector>

#include "trainer/contract/train_args.h"
#include "trainer/random.h"

namespace trainer {

struct PixelBox {
  int cls = 0;
  float x1 = 0, y1 = 0, x2 = 0, y2 = 0;
};

struct Sample {
  cv::Mat pixels;  // BGR, 8 bit.
  std::vector<PixelBox> boxes;
};

// Four images around a random centre on a canvas of twice `imgsz`; what hangs over is cut off.
// Each image is at most imgsz x imgsz.
[[nodiscard]] Sample mosaic(const std::array<Sample, 4>& parts, int imgsz, Random& random);

// One image centred on a grey square.
[[nodiscard]] Sample on_square(const Sample& sample, int imgsz);

// degrees, translate, scale, shear, perspective of `args`, from the sample's middle to a square of
// `imgsz`. Boxes become the upright hulls of their corners, cut to the square; those too small, too
// thin or mostly outside are dropped.
[[nodiscard]] Sample random_perspective(const Sample& sample, int imgsz,
                                        const contract::TrainArgs& args, Random& random);

// `sample` blended with another of the same size, the share drawn from Beta(32, 32): about half of
// each. The boxes of both.
[[nodiscard]] Sample mix_up(const Sample& sample, const Sample& other, Random& random);

void jitter_colors(cv::Mat& pixels, const contract::TrainArgs& args, Random& random);
void flip_randomly(Sample& sample, const contract::TrainArgs& args, Random& random);
// Red and blue changed places, with the probability `bgr`.
void swap_channels_randomly(Sample& sample, const contract::TrainArgs& args, Random& random);

}  // namespace trainer
