// SPDX-License-Identifier: Apache-2.0
// trainer/chart.h
//
// Charts as pictures: lines, bars, densities and matrices, each drawn into an area of a page (a
// part of the matrix, for example page(rect)). Made for pages of 1200 x 900 pixels and areas of at
// least 300 x 300. Private, for it shows OpenCV's types.
#pragma once

#include <opencv2/core.hpp>
#include <string>
#include <vector>

namespace trainer {

using Color = cv::Scalar;  // Blue, green, red; 0..255.

[[nodiscard]] cv::Mat blank_page(int width = 1200, int height = 900);
// Of the i-th class or line, the same wherever it is drawn; strong enough for white paper.
[[nodiscard]] Color class_color(int i);
// The format follows the name (.png, .jpg). There whole or not at all; throws std::system_error
// naming the path, or std::invalid_argument for a name that is of no format.
void write_picture(const std::string& path, const cv::Mat& picture);
// That of `path` where pictures can be written in its format, else ".jpg" (of .mpo, .dng).
[[nodiscard]] std::string writable_extension(const std::string& path);

struct Range {
  double low = 0, high = 1;
};
struct Line {
  std::string name;                 // In the legend; empty: not there.
  std::vector<cv::Point2d> points;  // One that is not finite breaks the line.
  Color color;
  int width_px = 2;
  enum class Marks { kNone, kDots } marks = Marks::kNone;
};
// Of all finite x or y of the lines, with a margin; {0, 1} where there are none.
[[nodiscard]] Range range_of_x(const std::vector<Line>& lines);
[[nodiscard]] Range range_of_y(const std::vector<Line>& lines);

struct Axes {
  std::string title, x_label, y_label;
  Range x{}, y{};  // Of a density, y may run downwards: {1, 0}.
};

// The legend stands beside the plot, or above it where few names fit there; never on the lines.
void draw_lines(cv::Mat area, const Axes& axes, const std::vector<Line>& lines);

void draw_title(cv::Mat area, const std::string& title);

struct Bar {
  std::string name;
  double value = 0;
  Color color;
};
// Values stand on the bars, names below, slanted away where they are many. Ranges of `axes` follow
// from the bars.
void draw_bars(cv::Mat area, const Axes& axes, const std::vector<Bar>& bars);

// How many of the points lie where, darker for more, over axes.x and axes.y.
void draw_density(cv::Mat area, const Axes& axes, const std::vector<cv::Point2d>& points);

struct Matrix {
  std::string title, row_label, column_label;
  std::vector<std::string> names;               // Of rows and columns alike.
  std::vector<std::vector<double>> shades;      // [row][column], 0 white to 1 dark.
  std::vector<std::vector<std::string>> texts;  // In the cells, where they fit.
};
void draw_matrix(cv::Mat area, const Matrix& matrix);

// Round numbers between low and high, rising, `count` or fewer of them: steps of 1, 2 or 5 times a
// power of 10.
[[nodiscard]] std::vector<double> round_ticks(const Range& range, int count);

}  // namespace trainer
