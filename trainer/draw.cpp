// SPDX-License-Identifier: Apache-2.0
#include "trainer/draw.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <opencv2/imgproc.hpp>

#include "trainer/chart.h"

namespace trainer {
namespace {

// What fits a picture of this size.
struct Pen {
  int line = 1;
  double letters = 0.4;
  int letter_line = 1;
};

Pen pen_for(cv::Size size) {
  const double side = (size.width + size.height) / 2.0;
  constexpr double kLineShare = 0.003, kLetterShare = 0.0009, kBoldFrom = 0.9;
  Pen pen;
  pen.line = std::max(1, static_cast<int>(std::lround(kLineShare * side)));
  pen.letters = std::max(0.35, kLetterShare * side);
  pen.letter_line = pen.letters > kBoldFrom ? 2 : 1;
  return pen;
}

Color readable_on(const Color& color) {
  constexpr double kBright = 140;
  const double luminance = 0.114 * color[0] + 0.587 * color[1] + 0.299 * color[2];
  return luminance > kBright ? Color(0, 0, 0) : Color(255, 255, 255);
}

// A label stands on the box, or inside where there is no room above, and within the picture.
void draw_label(cv::Mat& picture, const std::string& text, cv::Rect box, const Color& color,
                const Pen& pen) {
  int below = 0;
  const cv::Size letters =
      cv::getTextSize(text, cv::FONT_HERSHEY_SIMPLEX, pen.letters, pen.letter_line, &below);
  const int margin = std::max(2, letters.height / 3);
  const cv::Size size(letters.width + 2 * margin, letters.height + below + margin);
  const int y = box.y - size.height >= 0 ? box.y - size.height : box.y;
  const int x = std::clamp(box.x - pen.line / 2, 0, std::max(0, picture.cols - size.width));
  cv::rectangle(picture, cv::Rect({x, y}, size), color, cv::FILLED);
  cv::putText(picture, text, {x + margin, y + margin / 2 + letters.height},
              cv::FONT_HERSHEY_SIMPLEX, pen.letters, readable_on(color), pen.letter_line,
              cv::LINE_AA);
}

// A box that is not finite or far outside is cut to the picture's surroundings: a number that fits
// an int.
int pixel(float value, int side) {
  if (!std::isfinite(value)) return value > 0 ? side : 0;
  return static_cast<int>(std::lround(std::clamp(value, -1.0F, static_cast<float>(side))));
}

}  // namespace

std::vector<std::string> drawable_names(const std::vector<std::string>& names) {
  std::vector<std::string> result;
  for (std::size_t i = 0; i < names.size(); ++i) {
    const bool is_ascii =
        std::all_of(names[i].begin(), names[i].end(), [](char c) { return c >= ' ' && c <= '~'; });
    result.push_back(is_ascii ? names[i] : fmt::format("class {}", i));
  }
  return result;
}

void draw_boxes(cv::Mat& picture, const std::vector<Detection>& detections,
                const std::vector<std::string>& drawable_names) {
  std::vector<Detection> ordered = detections;
  std::stable_sort(ordered.begin(), ordered.end(),
                   [](const Detection& a, const Detection& b) { return a.score < b.score; });
  const Pen pen = pen_for(picture.size());
  const auto corners = [&](const Box& box) {
    return cv::Rect(cv::Point(pixel(box.x1, picture.cols), pixel(box.y1, picture.rows)),
                    cv::Point(pixel(box.x2, picture.cols), pixel(box.y2, picture.rows)));
  };
  for (const Detection& detection : ordered) {
    // Corners, for a cv::Rect would leave out its last row and column.
    const cv::Rect box = corners(detection.box);
    cv::rectangle(picture, box.tl(), box.br(), class_color(detection.cls), pen.line);
  }
  for (const Detection& detection : ordered) {
    const std::string& name = drawable_names.at(static_cast<std::size_t>(detection.cls));
    const std::string text =
        detection.score < 1 ? fmt::format("{} {:.2f}", name, detection.score) : name;
    draw_label(picture, text, corners(detection.box), class_color(detection.cls), pen);
  }
}

cv::Mat tile(const std::vector<cv::Mat>& pictures, int side_max) {
  const auto columns = static_cast<int>(std::ceil(std::sqrt(static_cast<double>(pictures.size()))));
  const int rows = (static_cast<int>(pictures.size()) + columns - 1) / columns;
  const cv::Size size = pictures.front().size();
  const double scale = std::min(
      1.0, static_cast<double>(side_max) / std::max(columns * size.width, rows * size.height));
  const cv::Size cell(std::max(1, static_cast<int>(size.width * scale)),
                      std::max(1, static_cast<int>(size.height * scale)));
  cv::Mat page = blank_page(columns * cell.width, rows * cell.height);
  for (std::size_t i = 0; i < pictures.size(); ++i) {
    const int row = static_cast<int>(i) / columns, column = static_cast<int>(i) % columns;
    const cv::Rect place({column * cell.width, row * cell.height}, cell);
    cv::resize(pictures[i], page(place), cell, 0, 0, cv::INTER_AREA);
    cv::rectangle(page, place, cv::Scalar::all(255), 2);
  }
  return page;
}

}  // namespace trainer
