// SPDX-License-Identifier: GPL-3.0-or-later
#include "trainer/dataset_check.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>

#include "image_bytes.h"
#include "temp_folder.h"

namespace {

using trainer::DatasetCheck;
using trainer::SplitFacts;

// A picture of blocks, different for each seed.
cv::Mat blocks(int seed, cv::Size size = {200, 100}) {
  cv::Mat cells(8, 9, CV_8UC3), picture;
  cv::RNG random(static_cast<std::uint64_t>(seed) + 1);
  random.fill(cells, cv::RNG::UNIFORM, 0, 256);
  cv::resize(cells, picture, size, 0, 0, cv::INTER_NEAREST);
  return picture;
}

class Check : public testing::Test {
 protected:
  void SetUp() override {
    folder_.write("data.yaml", "train: images/train\nval: images/val\nnames: [cat, dog]\n");
    add("train/a", blocks(1), "0 .5 .5 .1 .2\n1 .5 .5 .9 .9\n0 .2 .2 .3 .6\n");
    add("train/b", blocks(2), "");
    add("val/c", blocks(3), "1 .5 .5 .5 .5\n");
  }

  void add(const std::string& name, const cv::Mat& picture, const std::string& labels,
           const std::string& extension = ".png") {
    std::filesystem::create_directories(
        std::filesystem::path(folder_.at("images/" + name)).parent_path());
    cv::imwrite(folder_.at("images/" + name + extension), picture);
    folder_.write("labels/" + name + ".txt", labels);
  }

  [[nodiscard]] DatasetCheck check(bool decode_images) const {
    return trainer::check_dataset(contract::load_dataset(folder_.at("data.yaml")),
                                  {.decode_images = decode_images, .threads = 2});
  }

  TempFolder folder_;
};

TEST_F(Check, CountsWhatEachSplitHolds) {
  for (const bool decode_images : {false, true}) {
    SCOPED_TRACE(decode_images);
    const DatasetCheck result = check(decode_images);

    const SplitFacts& train = result.splits[0];
    EXPECT_EQ(train.images, 2);
    EXPECT_EQ(train.background, 1);
    EXPECT_EQ(train.boxes_per_class, (std::vector<std::int64_t>{2, 1}));
    EXPECT_EQ(train.images_per_class, (std::vector<std::int64_t>{1, 1}));
    // 20 x 20, 60 x 60 and 180 x 90 pixels.
    EXPECT_EQ(train.small, 1);
    EXPECT_EQ(train.medium, 1);
    EXPECT_EQ(train.large, 1);
    EXPECT_NEAR(train.aspect.min, 1, 1e-6);
    EXPECT_NEAR(train.aspect.max, 2, 1e-6);
    EXPECT_EQ(train.boxes_per_image.mean, 1.5);
    EXPECT_EQ(train.width.median, 200);
    EXPECT_EQ(train.height.max, 100);
    EXPECT_EQ(result.splits[1].boxes, 1);
    EXPECT_EQ(result.splits[2].images, 0);
    EXPECT_TRUE(result.is_ready());
    EXPECT_TRUE(result.twins.empty());
    EXPECT_EQ(result.decoded, decode_images ? 3 : 0);
  }
}

TEST_F(Check, MeasuresATurnedPhotographAsItIsSeen) {
  std::vector<unsigned char> jpeg;
  cv::imencode(".jpg", blocks(4), jpeg);  // 200 x 100 as stored.
  constexpr char kQuarterTurn = 6;
  folder_.write("images/val/c.jpg",
                with_exif(std::string(jpeg.begin(), jpeg.end()), kQuarterTurn, 0));
  std::filesystem::remove(folder_.at("images/val/c.png"));

  for (const bool decode_images : {false, true}) {
    SCOPED_TRACE(decode_images);
    const DatasetCheck result = check(decode_images);

    const SplitFacts& val = result.splits[1];
    EXPECT_EQ(val.width.median, 100);
    EXPECT_EQ(val.height.median, 200);
    EXPECT_NEAR(val.aspect.median, 0.5, 1e-6);  // Of a box of half of both.
  }
}

TEST_F(Check, FindsTheSameFileInTwoSplits) {
  std::filesystem::copy_file(folder_.at("images/train/a.png"), folder_.at("images/val/copy.png"));
  std::filesystem::copy_file(folder_.at("images/train/a.png"), folder_.at("images/train/twin.png"));

  const DatasetCheck result = check(false);

  EXPECT_EQ(result.leaks_exact, 1);
  EXPECT_EQ(result.doubles_exact, 1);
  ASSERT_EQ(result.twins.size(), 2U);
  EXPECT_EQ(result.twins[0].first, folder_.at("images/train/a.png"));
  EXPECT_EQ(result.twins[0].second, folder_.at("images/val/copy.png"));
  EXPECT_TRUE(result.twins[0].is_leak());
  EXPECT_FALSE(result.twins[1].is_leak());
}

TEST_F(Check, FindsWhatLooksAlikeWhenImagesAreDecoded) {
  cv::Mat smaller, brighter;
  cv::resize(blocks(1), smaller, {120, 60}, 0, 0, cv::INTER_AREA);
  blocks(2).convertTo(brighter, -1, 0.9, 20);
  add("val/small", smaller, "", ".jpg");
  add("val/bright", brighter, "");
  for (int seed = 100; seed < 140; ++seed) add("train/x" + std::to_string(seed), blocks(seed), "");

  const DatasetCheck result = check(true);

  EXPECT_EQ(result.leaks_exact, 0);
  EXPECT_EQ(result.leaks_alike, 2);
  EXPECT_EQ(result.doubles_alike, 0);
  for (const trainer::Twins& twins : result.twins) EXPECT_LE(twins.bits, trainer::kAlikeBitsMax);
  EXPECT_EQ(check(false).leaks_alike, 0);
}

TEST_F(Check, FlatImagesLookLikeNothing) {
  for (const char* name : {"train/white", "train/grey", "val/black"}) {
    add(name, cv::Mat(50, 50, CV_8UC3, cv::Scalar::all(name[6] * 2)), "");
  }

  EXPECT_TRUE(check(true).twins.empty());
}

TEST_F(Check, NamesImagesThatCannotBeDecodedAndOddOnes) {
  std::vector<unsigned char> png, jpeg;
  cv::imencode(".png", blocks(7), png);
  cv::imencode(".jpg", blocks(8), jpeg);
  folder_.write("images/train/torn.png",
                std::string(png.begin(), png.begin() + std::ssize(png) / 2));
  folder_.write("images/val/cut.jpg", std::string(jpeg.begin(), jpeg.end() - 30));

  const DatasetCheck result = check(true);

  ASSERT_EQ(result.findings.size(), 2U);
  EXPECT_EQ(result.findings[0].path, folder_.at("images/train/torn.png"));
  EXPECT_FALSE(result.findings[0].is_usable);
  EXPECT_TRUE(result.findings[1].is_usable);
  EXPECT_TRUE(result.findings[1].message.starts_with("is cut short"));
}

TEST_F(Check, SaysWhichConditionOfARunIsMissing) {
  std::filesystem::remove_all(folder_.at("images/val"));
  std::filesystem::create_directory(folder_.at("images/val"));
  folder_.write("labels/train/a.txt", "");

  const DatasetCheck result = check(false);

  EXPECT_FALSE(result.is_ready());
  EXPECT_EQ(result.missing, (std::vector<std::string>{"no image of val or test can be used",
                                                      "no image has a label"}));
}

TEST_F(Check, ImagesThatCannotBeDecodedMakeNoDataSetReady) {
  for (const char* name : {"train/a", "train/b", "val/c"}) {
    folder_.write(std::string("images/") + name + ".png", png_header(200, 100));
  }
  EXPECT_TRUE(check(false).is_ready()) << "by their headers they are images";

  const DatasetCheck result = check(true);

  EXPECT_EQ(result.missing, (std::vector<std::string>{"no training image can be used",
                                                      "no image of val or test can be used",
                                                      "no image has a label"}));
  EXPECT_EQ(result.splits[0].images, 0);

  add("train/b", blocks(2), "");
  add("val/c", blocks(3), "1 .5 .5 .5 .5\n");
  EXPECT_EQ(check(true).missing,
            std::vector<std::string>{"no training image that can be used has a label"});
}

TEST_F(Check, AFaultThatStopsARunIsAConditionToo) {
  folder_.write("labels/train/a.txt", "");  // val has a label, train has none.

  const DatasetCheck result = check(false);

  ASSERT_EQ(result.missing.size(), 1U);
  EXPECT_NE(result.missing[0].find("data.yaml:1: train: no label for any of 2 images"),
            std::string::npos);
}

}  // namespace
