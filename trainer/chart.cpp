// SPDX-License-Identifier: Apache-2.0
#include "trainer/chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <numeric>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>
#include <stdexcept>
#include <string_view>

#include "trainer/durable_file.h"

namespace trainer {
namespace {

constexpr int kFont = cv::FONT_HERSHEY_SIMPLEX;
constexpr double kTickSize = 0.45, kLabelSize = 0.52, kTitleSize = 0.66;
const Color kInk(40, 40, 40), kGrid(228, 228, 228), kAxis(120, 120, 120);
constexpr int kGap = 12;  // Between a plot and what is written around it.

cv::Size size_of(const std::string& text, double size) {
  return cv::getTextSize(text, kFont, size, 1, nullptr);
}

// `at`: the middle of the left, or of the whole, or of the right edge of the text.
enum class Align { kLeft, kCenter, kRight };
void write(cv::Mat area, const std::string& text, cv::Point at, double size,
           Align align = Align::kLeft, const Color& color = kInk) {
  const cv::Size extent = size_of(text, size);
  const int shift = align == Align::kLeft    ? 0
                    : align == Align::kRight ? extent.width
                                             : extent.width / 2;
  cv::putText(area, text, {at.x - shift, at.y + extent.height / 2}, kFont, size, color, 1,
              cv::LINE_AA);
}

// Reads from the bottom up; `at` is its middle.
void write_upwards(cv::Mat area, const std::string& text, cv::Point at, double size,
                   Align align = Align::kCenter) {
  if (text.empty()) return;
  const cv::Size extent = size_of(text, size) + cv::Size(4, 10);
  cv::Mat flat(extent, CV_8UC3, cv::Scalar::all(255)), turned;
  write(flat, text, {2, extent.height / 2}, size);
  cv::rotate(flat, turned, cv::ROTATE_90_COUNTERCLOCKWISE);
  const int shift = align == Align::kRight ? 0 : turned.rows / 2;
  const cv::Rect whole({0, 0}, area.size());
  const cv::Rect place(cv::Point(at.x - turned.cols / 2, at.y - shift), turned.size());
  const cv::Rect seen = place & whole;
  if (!seen.empty()) turned(seen - place.tl()).copyTo(area(seen));
}

std::string shortened(std::string text, int width, double size) {
  if (size_of(text, size).width <= width) return text;
  while (text.size() > 1 && size_of(text + "..", size).width > width) text.pop_back();
  return text + "..";
}

std::string tick_text(double value, double step) {
  const int digits = std::clamp(static_cast<int>(std::ceil(-std::log10(step) - 1e-9)), 0, 6);
  if (std::abs(value) >= 1e6) return fmt::format("{:.3g}", value);
  const std::string text = fmt::format("{:.{}f}", value, digits);
  return text == fmt::format("{:.{}f}", -0.0, digits) ? text.substr(1) : text;
}

// The rectangle of a plot and how numbers lie in it.
struct Plot {
  cv::Mat area;
  cv::Rect frame;
  Range x, y;

  [[nodiscard]] cv::Point2d at(double px, double py) const {
    return {frame.x + (px - x.low) / (x.high - x.low) * frame.width,
            frame.y + frame.height - (py - y.low) / (y.high - y.low) * frame.height};
  }
};

constexpr int kFineBits = 4;  // Of a pixel, for antialiased ends.
cv::Point fine(cv::Point2d point) {
  return {cvRound(point.x * (1 << kFineBits)), cvRound(point.y * (1 << kFineBits))};
}

void draw_ticks(const Plot& plot, bool with_x) {
  constexpr int kPixelsPerTick = 70;
  const cv::Rect& frame = plot.frame;
  if (with_x) {
    const auto ticks = round_ticks(plot.x, std::clamp(frame.width / kPixelsPerTick, 2, 11));
    for (const double tick : ticks) {
      const int x = cvRound(plot.at(tick, plot.y.low).x);
      cv::line(plot.area, {x, frame.y}, {x, frame.br().y}, kGrid, 1);
      const double step = ticks.size() > 1 ? ticks[1] - ticks[0] : 1;
      write(plot.area, tick_text(tick, step), {x, frame.br().y + kGap + 2}, kTickSize,
            Align::kCenter);
    }
  }
  const auto ticks = round_ticks(plot.y, std::clamp(frame.height / (kPixelsPerTick / 2), 2, 11));
  for (const double tick : ticks) {
    const int y = cvRound(plot.at(plot.x.low, tick).y);
    cv::line(plot.area, {frame.x, y}, {frame.br().x, y}, kGrid, 1);
    const double step = ticks.size() > 1 ? ticks[1] - ticks[0] : 1;
    write(plot.area, tick_text(tick, step), {frame.x - kGap / 2, y}, kTickSize, Align::kRight);
  }
}

void draw_frame(const Plot& plot, const Axes& axes) {
  const cv::Rect& frame = plot.frame;
  cv::rectangle(plot.area, frame.tl(), frame.br(), kAxis, 1);
  const int middle = frame.x + frame.width / 2;
  write(plot.area, axes.title, {middle, 22}, kTitleSize, Align::kCenter);
  write(plot.area, axes.x_label, {middle, plot.area.rows - 16}, kLabelSize, Align::kCenter);
  write_upwards(plot.area, axes.y_label, {16, frame.y + frame.height / 2}, kLabelSize);
}

constexpr int kSample = 26;  // The bit of line before a name.

// In a row above the plot where all names fit there, else in a column to the right of it.
struct Legend {
  std::vector<const Line*> lines;
  bool is_row = false;
  int width = 0;  // Of the column.
};

Legend plan_legend(const std::vector<Line>& lines, int row_width) {
  constexpr int kColumnMax = 330;
  Legend legend;
  int all = 0;
  for (const Line& line : lines) {
    if (line.name.empty()) continue;
    legend.lines.push_back(&line);
    const int width = kSample + size_of(line.name, kTickSize).width + 2 * kGap;
    all += width;
    legend.width = std::min(kColumnMax, std::max(legend.width, width));
  }
  legend.is_row = all <= row_width && legend.lines.size() <= 4;
  return legend;
}

void draw_legend(cv::Mat area, const Legend& legend, const cv::Rect& frame) {
  constexpr int kRowHeight = 21, kRowY = 46;
  cv::Point at = legend.is_row ? cv::Point(frame.x, kRowY)
                               : cv::Point(frame.br().x + kGap, frame.y + kRowHeight / 2);
  for (const Line* line : legend.lines) {
    if (at.y > area.rows - kRowHeight) break;
    cv::line(area, at, {at.x + kSample - 6, at.y}, line->color, std::max(2, line->width_px),
             cv::LINE_AA);
    const std::string name = legend.is_row
                                 ? line->name
                                 : shortened(line->name, legend.width - kSample - kGap, kTickSize);
    write(area, name, {at.x + kSample, at.y}, kTickSize);
    if (legend.is_row)
      at.x += kSample + size_of(name, kTickSize).width + 2 * kGap;
    else
      at.y += kRowHeight;
  }
}

void draw_line(const Plot& plot, const Line& line) {
  std::vector<cv::Point> run;
  const auto close = [&] {
    if (run.size() > 1) {
      cv::polylines(plot.area, run, false, line.color, line.width_px, cv::LINE_AA, kFineBits);
    }
    run.clear();
  };
  for (const cv::Point2d& point : line.points) {
    if (!std::isfinite(point.x) || !std::isfinite(point.y)) {
      close();
      continue;
    }
    run.push_back(fine(plot.at(point.x, std::clamp(point.y, plot.y.low, plot.y.high))));
    if (line.marks == Line::Marks::kDots) {
      cv::circle(plot.area, run.back(), (line.width_px + 1) << kFineBits, line.color, cv::FILLED,
                 cv::LINE_AA, kFineBits);
    }
  }
  close();
}

Range with_margin(double low, double high) {
  if (!(low <= high)) return {};
  const double margin = high > low ? 0.05 * (high - low) : std::max(0.5, 0.05 * std::abs(high));
  return {low - margin, high + margin};
}

template <typename Take>
Range range_of(const std::vector<Line>& lines, const Take& take) {
  double low = INFINITY, high = -INFINITY;
  for (const Line& line : lines) {
    for (const cv::Point2d& point : line.points) {
      const double value = take(point);
      if (std::isfinite(value)) low = std::min(low, value), high = std::max(high, value);
    }
  }
  return with_margin(low, high);
}

int widest(const std::vector<std::string>& names, int most) {
  int width = 0;
  for (const std::string& name : names) width = std::max(width, size_of(name, kTickSize).width);
  return std::min(width, most);
}

// White over light blue to dark blue.
Color shade(double share) {
  const double s = std::clamp(share, 0.0, 1.0);
  const Color white(255, 255, 255), middle(214, 174, 107), dark(107, 48, 8);
  return s < 0.5 ? white + (middle - white) * (2 * s) : middle + (dark - middle) * (2 * s - 1);
}

}  // namespace

cv::Mat blank_page(int width, int height) {
  return {height, width, CV_8UC3, cv::Scalar::all(255)};
}

Color class_color(int i) {
  // Chosen by eye to stay apart from their neighbours on white and on photographs.
  constexpr std::array<std::array<int, 3>, 20> kColors = {{
      {31, 119, 220}, {230, 85, 13}, {44, 150, 44},  {214, 39, 120}, {120, 80, 200},
      {0, 150, 160},  {190, 20, 30}, {140, 110, 20}, {90, 90, 220},  {230, 120, 180},
      {20, 110, 80},  {255, 150, 0}, {110, 60, 30},  {60, 170, 220}, {160, 40, 160},
      {100, 140, 0},  {220, 60, 60}, {40, 60, 140},  {200, 160, 30}, {80, 80, 80},
  }};
  const auto& [red, green, blue] = kColors[static_cast<std::size_t>(i) % kColors.size()];
  return {static_cast<double>(blue), static_cast<double>(green), static_cast<double>(red)};
}

void write_picture(const std::string& path, const cv::Mat& picture) {
  std::vector<unsigned char> bytes;
  const std::string extension = std::filesystem::path(path).extension().string();
  try {
    constexpr int kJpegQuality = 92;
    if (!cv::imencode(extension, picture, bytes, {cv::IMWRITE_JPEG_QUALITY, kJpegQuality})) {
      throw std::invalid_argument(path + ": a picture cannot be written in this format.");
    }
  } catch (const cv::Exception& error) {
    throw std::invalid_argument(
        fmt::format("{}: a picture cannot be written in this format: {}", path, error.err));
  }
  write_durably(path, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

std::string writable_extension(const std::string& path) {
  return cv::haveImageWriter(path) ? std::filesystem::path(path).extension().string() : ".jpg";
}

std::vector<double> round_ticks(const Range& axis, int count) {
  const Range range{std::min(axis.low, axis.high), std::max(axis.low, axis.high)};
  const double raw = (range.high - range.low) / std::max(1, count);
  if (!(raw > 0) || !std::isfinite(raw)) return {range.low};
  const double power = std::pow(10, std::floor(std::log10(raw)));
  double step = 10 * power;
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= raw * (1 - 1e-9)) {
      step = factor * power;
      break;
    }
  }
  std::vector<double> ticks;
  const double first = std::ceil(range.low / step - 1e-9);
  for (double i = first; i * step <= range.high + 1e-9 * step; ++i) ticks.push_back(i * step);
  return ticks;
}

Range range_of_x(const std::vector<Line>& lines) {
  return range_of(lines, [](const cv::Point2d& point) { return point.x; });
}

Range range_of_y(const std::vector<Line>& lines) {
  return range_of(lines, [](const cv::Point2d& point) { return point.y; });
}

void draw_title(cv::Mat area, const std::string& title) {
  write(area, title, {area.cols / 2, 22}, kTitleSize, Align::kCenter);
}

void draw_lines(cv::Mat area, const Axes& axes, const std::vector<Line>& lines) {
  constexpr int kLeft = 84, kTop = 66, kBottom = 66, kRight = 24;
  const Legend legend = plan_legend(lines, area.cols - kLeft - kRight);
  const int right = legend.is_row ? kRight : legend.width + kGap;
  const Plot plot{
      area, {kLeft, kTop, area.cols - kLeft - right, area.rows - kTop - kBottom}, axes.x, axes.y};
  draw_ticks(plot, true);
  draw_frame(plot, axes);
  for (const Line& line : lines) draw_line(plot, line);
  draw_legend(area, legend, plot.frame);
}

void draw_bars(cv::Mat area, const Axes& axes, const std::vector<Bar>& bars) {
  constexpr int kLeft = 84, kTop = 44, kRight = 24, kNameMax = 150;
  if (bars.empty()) return;
  std::vector<std::string> names;
  double most = 0;
  for (const Bar& bar : bars) {
    names.push_back(bar.name);
    most = std::max(most, bar.value);
  }
  const int width = area.cols - kLeft - kRight;
  const double pitch = static_cast<double>(width) / static_cast<double>(bars.size());
  const int name_width = widest(names, kNameMax);
  const bool are_flat = name_width + kGap < pitch;
  const int bottom = 44 + (are_flat ? 2 * kGap : name_width + kGap);
  const Plot plot{area,
                  {kLeft, kTop, width, area.rows - kTop - bottom},
                  {0, static_cast<double>(bars.size())},
                  {0, most > 0 ? 1.1 * most : 1}};
  draw_ticks(plot, false);
  // A name needs a line's height of room: of very many only every n-th is written.
  constexpr double kLineHeight = 15;
  const auto every = static_cast<std::size_t>(are_flat ? 1 : std::ceil(kLineHeight / pitch));
  for (std::size_t i = 0; i < bars.size(); ++i) {
    const auto left = static_cast<double>(i);
    const cv::Point2d low = plot.at(left + 0.12, 0), high = plot.at(left + 0.88, bars[i].value);
    cv::rectangle(area, cv::Rect(cv::Point(low), cv::Point(high)), bars[i].color, cv::FILLED);
    const int middle = cvRound(plot.at(left + 0.5, 0).x);
    const std::string value = fmt::format("{:g}", bars[i].value);
    if (size_of(value, kTickSize).width < pitch) {
      write(area, value, {middle, cvRound(high.y) - kGap}, kTickSize, Align::kCenter);
    }
    if (i % every != 0) continue;
    const std::string name = shortened(bars[i].name, kNameMax, kTickSize);
    if (are_flat) {
      write(area, name, {middle, plot.frame.br().y + kGap + 2}, kTickSize, Align::kCenter);
    } else {
      write_upwards(area, name, {middle, plot.frame.br().y + 4}, kTickSize, Align::kRight);
    }
  }
  draw_frame(plot, axes);
}

void draw_density(cv::Mat area, const Axes& axes, const std::vector<cv::Point2d>& points) {
  constexpr int kLeft = 84, kTop = 44, kRight = 24, kBottom = 66, kCells = 50;
  const Plot plot{
      area, {kLeft, kTop, area.cols - kLeft - kRight, area.rows - kTop - kBottom}, axes.x, axes.y};
  std::vector<int> counts(kCells * kCells, 0);
  const auto cell = [](double value, const Range& range) {
    return std::clamp(static_cast<int>((value - range.low) / (range.high - range.low) * kCells), 0,
                      kCells - 1);
  };
  for (const cv::Point2d& point : points) {
    if (!std::isfinite(point.x) || !std::isfinite(point.y)) continue;
    ++counts[static_cast<std::size_t>(cell(point.y, axes.y) * kCells + cell(point.x, axes.x))];
  }
  const double most = std::max(1, *std::max_element(counts.begin(), counts.end()));
  for (int row = 0; row < kCells; ++row) {
    for (int column = 0; column < kCells; ++column) {
      const int count = counts[static_cast<std::size_t>(row * kCells + column)];
      if (count == 0) continue;
      const auto edge = [](int i, const Range& range) {
        return range.low + (range.high - range.low) * i / kCells;
      };
      const cv::Rect place(cv::Point(plot.at(edge(column, axes.x), edge(row, axes.y))),
                           cv::Point(plot.at(edge(column + 1, axes.x), edge(row + 1, axes.y))));
      // The root lets single boxes be seen beside crowds.
      cv::rectangle(area, place, shade(0.12 + 0.88 * std::sqrt(count / most)), cv::FILLED);
    }
  }
  draw_ticks(plot, true);
  draw_frame(plot, axes);
}

void draw_matrix(cv::Mat area, const Matrix& matrix) {
  constexpr int kTop = 44, kRight = 90, kNameMax = 150;
  const auto count = static_cast<int>(matrix.names.size());
  if (count == 0) return;
  const int names = widest(matrix.names, kNameMax);
  const int left = 40 + names + kGap;
  // Names below stand flat where a cell is as wide as they are; that gives the matrix more room.
  const int flat_side = std::min(area.cols - left - kRight, area.rows - kTop - 80) / count;
  const bool are_flat = names + kGap < flat_side;
  const int below = are_flat ? 80 : 44 + names + kGap;
  const cv::Rect room(left, kTop, area.cols - left - kRight, area.rows - kTop - below);
  const int side = std::max(1, std::min(room.width, room.height) / count);
  const cv::Rect frame(room.x + (room.width - side * count) / 2, room.y, side * count,
                       side * count);
  constexpr int kLineHeight = 15;
  const int every = (kLineHeight + side - 1) / side;
  for (int row = 0; row < count; ++row) {
    const auto r = static_cast<std::size_t>(row);
    for (int column = 0; column < count; ++column) {
      const auto c = static_cast<std::size_t>(column);
      const cv::Rect cell(frame.x + column * side, frame.y + row * side, side, side);
      const double value = matrix.shades[r][c];
      cv::rectangle(area, cell, shade(value), cv::FILLED);
      const std::string& text = matrix.texts[r][c];
      if (size_of(text, kTickSize).width + 4 < side) {
        write(area, text, (cell.tl() + cell.br()) / 2, kTickSize, Align::kCenter,
              value > 0.45 ? cv::Scalar::all(255) : kInk);
      }
    }
    if (row % every != 0) continue;
    const int middle = row * side + side / 2;
    const std::string name = shortened(matrix.names[r], kNameMax, kTickSize);
    write(area, name, {frame.x - kGap / 2, frame.y + middle}, kTickSize, Align::kRight);
    if (are_flat) {
      write(area, name, {frame.x + middle, frame.br().y + kGap + 2}, kTickSize, Align::kCenter);
    } else {
      write_upwards(area, name, {frame.x + middle, frame.br().y + 4}, kTickSize, Align::kRight);
    }
  }
  const Plot plot{area, frame, {}, {}};
  draw_frame(plot, {.title = matrix.title, .x_label = matrix.column_label, .y_label = {}});
  const int row_label_x = frame.x - names - kGap - 18;
  write_upwards(area, matrix.row_label, {row_label_x, frame.y + frame.height / 2}, kLabelSize);

  const cv::Rect scale(frame.br().x + 2 * kGap, frame.y, 18, frame.height);
  for (int y = 0; y < scale.height; ++y) {
    cv::line(area, {scale.x, scale.y + y}, {scale.br().x, scale.y + y},
             shade(1 - static_cast<double>(y) / scale.height), 1);
  }
  cv::rectangle(area, scale.tl(), scale.br(), kAxis, 1);
}

}  // namespace trainer
