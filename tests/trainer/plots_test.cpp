// SPDX-License-Identifier: GPL-3.0-or-later
#include "trainer/plots.h"

#include <gtest/gtest.h>
#include <torch/types.h>

#include <cmath>
#include <filesystem>
#include <opencv2/imgcodecs.hpp>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include "temp_folder.h"
#include "trainer/chart.h"
#include "trainer/draw.h"
#include "trainer/loader.h"

namespace {

using trainer::Color;
using trainer::Line;

bool is_color(const cv::Mat& page, int x, int y, const Color& color) {
  const auto pixel = page.at<cv::Vec3b>(y, x);
  return std::abs(pixel[0] - color[0]) + std::abs(pixel[1] - color[1]) +
             std::abs(pixel[2] - color[2]) <
         12;
}

int count_of(const cv::Mat& page, const Color& color) {
  int count = 0;
  for (int y = 0; y < page.rows; ++y) {
    for (int x = 0; x < page.cols; ++x) count += is_color(page, x, y, color) ? 1 : 0;
  }
  return count;
}

// Not white, not grey: something was drawn.
int colored(const cv::Mat& page) {
  int count = 0;
  for (int y = 0; y < page.rows; ++y) {
    for (int x = 0; x < page.cols; ++x) {
      const auto p = page.at<cv::Vec3b>(y, x);
      count += std::max({p[0], p[1], p[2]}) - std::min({p[0], p[1], p[2]}) > 30 ? 1 : 0;
    }
  }
  return count;
}

TEST(Chart, TicksAreRoundNumbersWithinTheRange) {
  EXPECT_EQ(trainer::round_ticks({0, 10}, 5), (std::vector<double>{0, 2, 4, 6, 8, 10}));
  EXPECT_EQ(trainer::round_ticks({1, 0}, 2), (std::vector<double>{0, .5, 1}));
  EXPECT_EQ(trainer::round_ticks({-3, 120}, 3), (std::vector<double>{0, 50, 100}));
  EXPECT_EQ(trainer::round_ticks({7, 7}, 5), (std::vector<double>{7}));
  EXPECT_EQ(trainer::round_ticks({0, NAN}, 5).size(), 1U);
}

TEST(Chart, DrawsALineWhereItsNumbersAre) {
  const cv::Mat page = trainer::blank_page();
  Line line{.name = "", .points = {{0, 0}, {1, 0}}, .color = {0, 0, 255}};
  const cv::Mat high = page.clone(), low = page.clone();

  trainer::draw_lines(low, {"t", "x", "y", {0, 1}, {-1, 3}}, {line});
  line.points = {{0, 2}, {1, 2}};
  trainer::draw_lines(high, {"t", "x", "y", {0, 1}, {-1, 3}}, {line});

  const auto row_of = [](const cv::Mat& drawn) {
    for (int y = 0; y < drawn.rows; ++y) {
      if (is_color(drawn, 600, y, {0, 0, 255})) return y;
    }
    return -1;
  };
  // Frame of 900 - 66 - 66 rows for four units.
  EXPECT_NEAR(row_of(low) - row_of(high), 2 * (900 - 132) / 4.0, 2);
}

TEST(Chart, ALineIsBrokenAtANumberThatIsNone) {
  const cv::Mat page = trainer::blank_page();

  trainer::draw_lines(page, {"t", "x", "y", {0, 4}, {0, 1}},
                      {{.name = "",
                        .points = {{0, .5}, {1, .5}, {2, NAN}, {3, .5}, {4, .5}},
                        .color = {0, 0, 255}}});

  const int y = 66 + (900 - 132) / 2;
  const auto is_red_at = [&](double x) {
    const int column = static_cast<int>(84 + x / 4 * (1200 - 84 - 24));
    return is_color(page, column, y, {0, 0, 255}) || is_color(page, column, y - 1, {0, 0, 255});
  };
  EXPECT_TRUE(is_red_at(.5));
  EXPECT_FALSE(is_red_at(2));
  EXPECT_TRUE(is_red_at(3.5));
}

TEST(Chart, RefusesANameOfNoFormatAndNamesWhatCannotBeWritten) {
  const TempFolder folder;
  EXPECT_THROW(trainer::write_picture(folder.at("a.xyz"), trainer::blank_page()),
               std::invalid_argument);
  EXPECT_THROW(trainer::write_picture(folder.at("no/a.png"), trainer::blank_page()),
               std::system_error);
}

TEST(Draw, FramesABoxInTheColourOfItsClass) {
  cv::Mat picture(240, 320, CV_8UC3, cv::Scalar::all(30));

  trainer::draw_boxes(picture, {{{40, 100, 140, 200}, .9F, 1}, {{-50, -9, 9e9F, NAN}, .3F, 0}},
                      {"a", "b"});

  EXPECT_TRUE(is_color(picture, 40, 150, trainer::class_color(1)));
  EXPECT_TRUE(is_color(picture, 140, 150, trainer::class_color(1)));
  EXPECT_FALSE(is_color(picture, 90, 150, trainer::class_color(1)));
}

TEST(Draw, NamesThatTheFontLacksBecomeNumbers) {
  EXPECT_EQ(trainer::drawable_names({"cat", "K\xc3\xa4tzchen", ""}),
            (std::vector<std::string>{"cat", "class 1", ""}));
}

const std::string kHeader =
    "epoch,time,train/box_loss,train/cls_loss,train/dfl_loss,metrics/precision(B),"
    "metrics/recall(B),metrics/mAP50(B),metrics/mAP50-95(B),val/box_loss,val/cls_loss,"
    "val/dfl_loss,lr/pg0,lr/pg1,lr/pg2\n";

TEST(Plots, ResultsAreDrawnFromTheFileOfTheRun) {
  const TempFolder folder;
  std::string text = kHeader;
  for (int epoch = 1; epoch <= 30; ++epoch) {
    const double loss = 1 + 3 / std::sqrt(epoch), map = 1 - 1 / std::sqrt(epoch + .5);
    text += std::to_string(epoch) + ",9";
    for (const double value : {loss, loss / 2, loss / 3, map, map / 2, map / 3, map / 4, loss,
                               loss / 2, loss / 3, .01, .01, .01}) {
      text += "," + std::to_string(value);
    }
    text += "\n";
  }
  folder.write("results.csv", text + "31,9,2.0");  // A crash tore the last line.

  trainer::plot_results(folder.at(""));

  const cv::Mat page = cv::imread(folder.at("results.png"));
  ASSERT_EQ(page.size(), cv::Size(1200, 900));
  for (int i = 0; i < 4; ++i) {
    SCOPED_TRACE(i);
    EXPECT_GT(colored(page(cv::Rect(i % 2 * 600, i / 2 * 450, 600, 450))), 1000);
  }
}

TEST(Plots, EpochsThatWereNotValidatedAreLeftOutAlsoInOlderFiles) {
  const auto drawn = [](const std::string& unmeasured) {
    const TempFolder folder;
    std::string text = kHeader;
    for (int epoch = 1; epoch <= 4; ++epoch) {
      text += std::to_string(epoch) + ",9,3,2,1";
      for (int i = 0; i < 7; ++i) text += "," + (epoch % 2 == 1 ? unmeasured : std::string("0.5"));
      text += ",.01,.01,.01\n";
    }
    folder.write("results.csv", text);
    trainer::plot_results(folder.at(""));
    return cv::imread(folder.at("results.png"));
  };

  const cv::Mat now = drawn(""), before = drawn("0.00000");

  ASSERT_EQ(now.size(), before.size());
  EXPECT_EQ(cv::norm(now, before), 0);
  EXPECT_GT(colored(now(cv::Rect(600, 0, 600, 450))), 100);
}

TEST(Plots, ResultsWithoutARowOrAColumnAreNoPicture) {
  const TempFolder folder;
  folder.write("results.csv", kHeader);
  trainer::plot_results(folder.at(""));
  EXPECT_FALSE(std::filesystem::exists(folder.at("results.png")));

  folder.write("results.csv", "epoch,time\n1,2\n");
  try {
    trainer::plot_results(folder.at(""));
    FAIL();
  } catch (const std::runtime_error& error) {
    EXPECT_NE(std::string(error.what()).find("results.csv: the column"), std::string::npos);
  }
}

TEST(Plots, CurvesAndMatricesOfFewAndManyClasses) {
  for (const int classes : {2, 80}) {
    SCOPED_TRACE(classes);
    const TempFolder folder;
    std::vector<trainer::ClassCurves> curves;
    std::vector<std::string> names;
    trainer::ConfusionMatrix matrix(classes);
    for (int cls = 0; cls < classes; ++cls) {
      names.push_back("class number " + std::to_string(cls));
      curves.push_back(trainer::class_curves({{.9F, 1023}, {.5F, 0}, {.4F, 1}}, 3));
      curves.back().cls = cls;
      matrix.add({{{0, 0, 9, 9}, .9F, cls}}, {{{0, 0, 9, 9}, cls}});
    }

    trainer::plot_curves(curves, names, folder.at(""));
    trainer::plot_confusion(matrix, names, folder.at(""));

    for (const std::string name : {"PR_curve.png", "F1_curve.png", "P_curve.png", "R_curve.png",
                                   "confusion_matrix.png", "confusion_matrix_normalized.png"}) {
      SCOPED_TRACE(name);
      const cv::Mat page = cv::imread(folder.at(name));
      ASSERT_EQ(page.size(), cv::Size(1200, 900));
      EXPECT_GT(colored(page), 2000);
    }
  }
}

TEST(Plots, NoMatrixIsDrawnOfMoreClassesThanAPageShows) {
  const TempFolder folder;

  trainer::plot_confusion(trainer::ConfusionMatrix(65'536), std::vector<std::string>(65'536, "a"),
                          folder.at(""));

  EXPECT_TRUE(std::filesystem::is_empty(folder.at("")));
}

TEST(Plots, LabelsShowEveryClass) {
  const TempFolder folder;
  std::vector<contract::ImageEntry> images(3);
  for (int i = 0; i < 30; ++i) {
    images[static_cast<std::size_t>(i % 3)].labels.push_back(
        {i % 2, .02F * static_cast<float>(i), .5F, .2F, .1F});
  }

  trainer::plot_labels(images, {"a", "b"}, folder.at(""));

  const cv::Mat page = cv::imread(folder.at("labels.png"));
  ASSERT_EQ(page.size(), cv::Size(1200, 900));
  const cv::Mat bars = page(cv::Rect(0, 0, 600, 450));
  const int a = count_of(bars, trainer::class_color(0)),
            b = count_of(bars, trainer::class_color(1));
  EXPECT_GT(a, 10'000);
  EXPECT_NEAR(a, b, 0.02 * a) << "15 boxes each";
}

TEST(Plots, ABatchIsAMosaicOfItsImagesWithTheirBoxes) {
  const TempFolder folder;
  trainer::Batch batch;
  batch.images = torch::full({20, 3, 64, 96}, 40, torch::kUInt8);
  batch.targets = torch::tensor({{0.F, 1.F, .5F, .5F, .5F, .5F}});
  batch.sources.resize(20);

  trainer::plot_batch(batch, {"a", "b"}, folder.at("labels.png"));
  std::vector<std::vector<trainer::Detection>> found(20);
  found[1] = {{{24, 16, 72, 48}, .9F, 0}, {{0, 0, 9, 9}, .2F, 1}};
  trainer::plot_batch(batch, found, {"a", "b"}, folder.at("pred.png"));

  const cv::Mat labels = cv::imread(folder.at("labels.png"));
  ASSERT_EQ(labels.size(), cv::Size(4 * 96, 4 * 64)) << "16 of them";
  EXPECT_TRUE(is_color(labels, 24, 40, trainer::class_color(1)));
  const cv::Mat pred = cv::imread(folder.at("pred.png"));
  EXPECT_TRUE(is_color(pred, 96 + 24, 40, trainer::class_color(0)));
  EXPECT_EQ(count_of(pred, trainer::class_color(1)), 0) << "below the confidence";
}

}  // namespace
