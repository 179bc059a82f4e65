// SPDX-License-Identifier: Apache-2.0
#include "trainer/plots.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <functional>
#include <map>
#include <opencv2/imgproc.hpp>
#include <sstream>
#include <stdexcept>
#include <utility>

#include "trainer/chart.h"
#include "trainer/draw.h"
#include "trainer/durable_file.h"

namespace trainer {
namespace {

// Columns by name; a cell that is no number is none.
using Table = std::map<std::string, std::vector<double>>;

std::vector<std::string> cells_of(const std::string& line) {
  std::vector<std::string> cells;
  std::istringstream text(line);
  for (std::string cell; std::getline(text, cell, ',');) {
    const std::size_t first = cell.find_first_not_of(" \r");
    const std::size_t last = cell.find_last_not_of(" \r");
    cells.push_back(first == std::string::npos ? "" : cell.substr(first, last - first + 1));
  }
  return cells;
}

Table read_table(const std::string& path) {
  std::istringstream text(read_file(path));
  std::string line;
  std::getline(text, line);
  const std::vector<std::string> names = cells_of(line);
  Table table;
  for (const std::string& name : names) table[name];
  while (std::getline(text, line)) {
    const std::vector<std::string> cells = cells_of(line);
    if (cells.size() != names.size()) continue;  // Torn by a crash.
    for (std::size_t i = 0; i < names.size(); ++i) {
      double value = NAN;
      std::from_chars(cells[i].data(), cells[i].data() + cells[i].size(), value);
      table[names[i]].push_back(value);
    }
  }
  return table;
}

struct Column {
  std::string name, shown;
};

// Columns of validation are empty (in files of older programs 0) in an epoch that was not
// validated: such points are left out.
std::vector<Line> lines_over_epochs(const Table& table, const std::vector<Column>& columns,
                                    const std::string& path) {
  const auto column = [&](const std::string& name) -> const std::vector<double>& {
    const auto found = table.find(name);
    if (found == table.end()) {
      throw std::runtime_error(fmt::format("{}: the column {} is missing.", path, name));
    }
    return found->second;
  };
  const std::vector<double>& epochs = column("epoch");
  const std::vector<double>& measured = column("val/box_loss");
  constexpr std::size_t kDotsMax = 40;
  std::vector<Line> lines;
  for (std::size_t i = 0; i < columns.size(); ++i) {
    Line line{.name = columns[i].shown, .points = {}, .color = class_color(static_cast<int>(i))};
    line.marks = epochs.size() <= kDotsMax ? Line::Marks::kDots : Line::Marks::kNone;
    const std::vector<double>& values = column(columns[i].name);
    for (std::size_t row = 0; row < epochs.size(); ++row) {
      const bool is_training = columns[i].name.starts_with("train/");
      const bool is_measured = measured[row] != 0 && !std::isnan(measured[row]);
      if (is_training || is_measured) line.points.emplace_back(epochs[row], values[row]);
    }
    lines.push_back(std::move(line));
  }
  return lines;
}

double at_point(std::size_t i) {
  return static_cast<double>(i) / (kCurvePoints - 1);
}

Line curve_line(std::string name, const Curve& curve, const Color& color, int width_px) {
  Line line{.name = std::move(name), .points = {}, .color = color, .width_px = width_px};
  for (std::size_t i = 0; i < kCurvePoints; ++i) line.points.emplace_back(at_point(i), curve[i]);
  return line;
}

struct CurvePicture {
  std::string file, title, x_label, y_label;
  std::function<Curve(const ClassCurves&)> curve;
  std::function<std::string(const ClassCurves&)> note;  // Behind the name of the class.
  std::function<std::string(const Curve& mean)> mean_note;
};

void plot_curve(const CurvePicture& picture, const std::vector<ClassCurves>& curves,
                const std::vector<std::string>& names, const std::string& folder) {
  constexpr std::size_t kNamedMax = 20;
  const Color kMany(190, 190, 190), kMean(150, 50, 10);
  std::vector<Line> lines;
  Curve mean{};
  for (const ClassCurves& own : curves) {
    const Curve curve = picture.curve(own);
    for (std::size_t i = 0; i < kCurvePoints; ++i) {
      mean[i] += curve[i] / static_cast<double>(curves.size());
    }
    const bool is_named = curves.size() <= kNamedMax;
    const std::string& name = names.at(static_cast<std::size_t>(own.cls));
    lines.push_back(curve_line(is_named ? name + picture.note(own) : "", curve,
                               is_named ? class_color(own.cls) : kMany, 1));
  }
  constexpr int kMeanWidth = 3;
  lines.push_back(
      curve_line(fmt::format("all {} classes{}", curves.size(), picture.mean_note(mean)), mean,
                 kMean, kMeanWidth));
  const cv::Mat page = blank_page();
  draw_lines(page, {picture.title, picture.x_label, picture.y_label, {0, 1}, {0, 1.02}}, lines);
  write_picture(folder + "/" + picture.file, page);
}

std::string highest(const Curve& mean) {
  const auto best = std::max_element(mean.begin(), mean.end());
  return fmt::format(" {:.2f} at {:.3f}", *best,
                     at_point(static_cast<std::size_t>(best - mean.begin())));
}

cv::Rect quarter(const cv::Mat& page, int i) {
  const int width = page.cols / 2, height = page.rows / 2;
  return {i % 2 * width, i / 2 * height, width, height};
}

// Outlines of boxes around a common middle, so that their shapes can be compared.
void draw_shapes(cv::Mat area, const std::vector<contract::Label>& labels) {
  constexpr std::size_t kShapesMax = 500;
  constexpr int kTop = 44, kMargin = 24;
  draw_title(area, "shapes of boxes");
  const int side = std::min(area.cols, area.rows - kTop) - 2 * kMargin;
  const cv::Rect frame((area.cols - side) / 2, kTop, side, side);
  const std::size_t step = labels.size() / kShapesMax + 1;
  for (std::size_t i = 0; i < labels.size(); i += step) {
    const int w = cvRound(labels[i].w * static_cast<float>(side));
    const int h = cvRound(labels[i].h * static_cast<float>(side));
    const cv::Point middle = (frame.tl() + frame.br()) / 2;
    cv::rectangle(area, cv::Rect(middle.x - w / 2, middle.y - h / 2, w, h),
                  class_color(labels[i].cls), 1);
  }
  cv::rectangle(area, frame, Color(120, 120, 120), 1);
}

}  // namespace

void plot_results(const std::string& folder) {
  const std::string path = folder + "/results.csv";
  const Table table = read_table(path);
  struct Panel {
    std::string title;
    std::vector<Column> columns;
  };
  const std::array<Panel, 4> panels = {{
      {"training losses",
       {{"train/box_loss", "box"}, {"train/cls_loss", "cls"}, {"train/dfl_loss", "dfl"}}},
      {"validation losses",
       {{"val/box_loss", "box"}, {"val/cls_loss", "cls"}, {"val/dfl_loss", "dfl"}}},
      {"precision and recall",
       {{"metrics/precision(B)", "precision"}, {"metrics/recall(B)", "recall"}}},
      {"mean average precision",
       {{"metrics/mAP50(B)", "mAP50"}, {"metrics/mAP50-95(B)", "mAP50-95"}}},
  }};
  const cv::Mat page = blank_page();
  for (std::size_t i = 0; i < panels.size(); ++i) {
    const std::vector<Line> lines = lines_over_epochs(table, panels[i].columns, path);
    if (table.at("epoch").empty()) return;
    draw_lines(page(quarter(page, static_cast<int>(i))),
               {panels[i].title, "epoch", "", range_of_x(lines), range_of_y(lines)}, lines);
  }
  write_picture(folder + "/results.png", page);
}

void plot_curves(const std::vector<ClassCurves>& curves, const std::vector<std::string>& names,
                 const std::string& folder) {
  if (curves.empty()) return;
  const std::vector<std::string> shown = drawable_names(names);
  double map50 = 0;
  for (const ClassCurves& own : curves) map50 += own.ap[0] / static_cast<double>(curves.size());
  const auto no_note = [](const ClassCurves&) { return std::string(); };
  const std::array<CurvePicture, 4> pictures = {{
      {"PR_curve.png", "Precision over recall, IoU .50", "recall", "precision",
       [](const ClassCurves& own) { return own.precision_at_recall; },
       [](const ClassCurves& own) { return fmt::format(" {:.3f}", own.ap[0]); },
       [map50](const Curve&) { return fmt::format(" {:.3f} mAP50", map50); }},
      {"F1_curve.png", "F1 over confidence", "confidence", "F1",
       [](const ClassCurves& own) {
         Curve f1{};
         for (std::size_t i = 0; i < kCurvePoints; ++i) f1[i] = own.f1(i);
         return f1;
       },
       no_note, highest},
      {"P_curve.png", "Precision over confidence", "confidence", "precision",
       [](const ClassCurves& own) { return own.precision; }, no_note, highest},
      {"R_curve.png", "Recall over confidence", "confidence", "recall",
       [](const ClassCurves& own) { return own.recall; }, no_note, highest},
  }};
  for (const CurvePicture& picture : pictures) plot_curve(picture, curves, shown, folder);
}

void plot_confusion(const ConfusionMatrix& matrix, const std::vector<std::string>& names,
                    const std::string& folder) {
  if (matrix.classes() > kConfusionClassesMax) return;
  constexpr double kShownMin = 0.005;  // A share below it stays blank.
  Matrix shares{.title = "Confusion matrix, shares of the true class",
                .row_label = "predicted",
                .column_label = "true",
                .names = drawable_names(names),
                .shades = {},
                .texts = {}};
  shares.names.emplace_back("background");
  Matrix counts = shares;
  counts.title = "Confusion matrix";
  std::int64_t most = 1;
  for (const ConfusionMatrix::Cell& cell : matrix.cells()) most = std::max(most, cell.count);
  for (int row = 0; row <= matrix.classes(); ++row) {
    for (Matrix* target : {&shares, &counts}) {
      target->shades.emplace_back();
      target->texts.emplace_back();
    }
    for (int column = 0; column <= matrix.classes(); ++column) {
      const double share = matrix.share(row, column);
      shares.shades.back().push_back(share);
      shares.texts.back().push_back(share < kShownMin ? "" : fmt::format("{:.2f}", share));
      const std::int64_t count = matrix.at(row, column);
      counts.shades.back().push_back(static_cast<double>(count) / static_cast<double>(most));
      counts.texts.back().push_back(count == 0 ? "" : fmt::format("{}", count));
    }
  }
  for (const auto& [file, content] : {std::pair("confusion_matrix.png", &counts),
                                      std::pair("confusion_matrix_normalized.png", &shares)}) {
    const cv::Mat page = blank_page();
    draw_matrix(page, *content);
    write_picture(fmt::format("{}/{}", folder, file), page);
  }
}

void plot_labels(const std::vector<contract::ImageEntry>& images,
                 const std::vector<std::string>& names, const std::string& folder) {
  std::vector<Bar> bars;
  for (const std::string& name : drawable_names(names)) {
    bars.push_back({name, 0, class_color(static_cast<int>(bars.size()))});
  }
  std::vector<contract::Label> labels;
  std::vector<cv::Point2d> centres, sizes;
  for (const contract::ImageEntry& image : images) {
    for (const contract::Label& label : image.labels) {
      labels.push_back(label);
      centres.emplace_back(label.xc, label.yc);
      sizes.emplace_back(label.w, label.h);
      bars.at(static_cast<std::size_t>(label.cls)).value += 1;
    }
  }
  const cv::Mat page = blank_page();
  draw_bars(page(quarter(page, 0)), {.title = "boxes of each class", .x_label = {}, .y_label = {}},
            bars);
  draw_shapes(page(quarter(page, 1)), labels);
  draw_density(page(quarter(page, 2)),
               {"centres of boxes", "x / width", "y / height", {0, 1}, {1, 0}}, centres);
  draw_density(page(quarter(page, 3)),
               {"sizes of boxes", "width / image", "height / image", {0, 1}, {0, 1}}, sizes);
  write_picture(folder + "/labels.png", page);
}

}  // namespace trainer
