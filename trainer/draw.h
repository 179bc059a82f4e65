// SPDX-License-Identifier: Apache-2.0
// trainer/draw.h
//
// Boxes on pictures. Private, for it shows OpenCV's types.
#pragma once

#include <opencv2/core.hpp>
#include <string>
#include <vector>

#include "trainer/detection.h"

namespace trainer {

// The fonts at hand have ASCII only: a name with other letters becomes "class 7".
[[nodiscard]] std::vector<std::string> drawable_names(const std::vector<std::string>& names);

// Frames in the colour of the class with "name 0.87" on a label of the same colour; without the
// number where the score is 1 or more, as labels made by people have it. Lines and letters grow
// with the picture. Boxes in pixels; the least certain ones are drawn first.
void draw_boxes(cv::Mat& picture, const std::vector<Detection>& detections,
                const std::vector<std::string>& drawable_names);

// Pictures of one size as rows of a square, with white lines between them, at most `side_max`
// pixels a side. Precondition: there are some.
[[nodiscard]] cv::Mat tile(const std::vector<cv::Mat>& pictures, int side_max);

}  // namespace trainer
