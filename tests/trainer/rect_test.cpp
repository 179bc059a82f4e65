// SPDX-License-Identifier: GPL-3.0-or-later
#include "trainer/rect.h"

#include <gtest/gtest.h>
#include <torch/types.h>

#include <algorithm>
#include <map>
#include <opencv2/imgcodecs.hpp>
#include <string>
#include <utility>
#include <vector>

#include "image_bytes.h"
#include "temp_folder.h"
#include "trainer/image.h"
#include "trainer/loader.h"

namespace {

using trainer::Batch;
using trainer::plan_rect;
using trainer::RectPlan;
using trainer::ValFrame;
using trainer::ValLoader;

TEST(Rect, SortsByShapeAndFitsEachGroup) {
  // Heights over widths: 1.5, .75, 1, .5, .75.
  const std::vector<cv::Size> sizes = {{400, 600}, {640, 480}, {50, 50}, {800, 400}, {320, 240}};

  const RectPlan plan = plan_rect(sizes, 320, 2);

  EXPECT_EQ(plan.order, (std::vector<std::int64_t>{3, 1, 4, 2, 0}));
  // ceil(share x 320 / 32 + .5) x 32 of the tallest of wide images; a square of a mixed group; of
  // tall ones the widest.
  ASSERT_EQ(plan.shapes.size(), 3U);
  EXPECT_EQ(plan.shapes[0], cv::Size(352, 256));
  EXPECT_EQ(plan.shapes[1], cv::Size(352, 352));
  EXPECT_EQ(plan.shapes[2], cv::Size(256, 352));
}

TEST(Rect, OfNoImagesIsEmpty) {
  EXPECT_TRUE(plan_rect({}, 320, 4).shapes.empty());
}

TEST(ImageSize, IsWhatReadingGives) {
  const TempFolder folder;
  cv::imwrite(folder.at("a.png"), cv::Mat(20, 31, CV_8UC3, cv::Scalar::all(9)));
  cv::imwrite(folder.at("a.jpg"), cv::Mat(40, 31, CV_8UC3, cv::Scalar::all(9)));

  EXPECT_EQ(trainer::read_image_size(folder.at("a.png")), cv::Size(31, 20));
  EXPECT_EQ(trainer::read_image_size(folder.at("a.jpg")), cv::Size(31, 40));
  EXPECT_EQ(trainer::read_image_size(folder.write("no.jpg", "text")), cv::Size());
  EXPECT_EQ(trainer::read_image_size(folder.at("gone.jpg")), cv::Size());
}

TEST(ImageSize, OfATurnedPhotographIsThatOfThePicture) {
  const TempFolder folder;
  std::vector<unsigned char> bytes;
  cv::imencode(".jpg", cv::Mat(40, 31, CV_8UC3, cv::Scalar::all(9)), bytes);
  const std::string jpeg(bytes.begin(), bytes.end());
  for (const auto& [orientation, size] :
       {std::pair('\1', cv::Size(31, 40)), std::pair('\3', cv::Size(31, 40)),
        std::pair('\6', cv::Size(40, 31)), std::pair('\10', cv::Size(40, 31))}) {
    SCOPED_TRACE(static_cast<int>(orientation));
    // A thumbnail of 20 KB stands before the size.
    const std::string path = folder.write("a.jpg", with_exif(jpeg, orientation, 20'000));

    EXPECT_EQ(trainer::read_image_size(path), size);
    EXPECT_EQ(trainer::read_image(path).pixels.size(), size) << "what OpenCV makes of it";
  }
}

class RectLoader : public testing::Test {
 protected:
  void SetUp() override {
    for (int i = 0; i < 11; ++i) {
      cv::Mat picture(40 + 17 * (i * 5 % 7), 60 + 13 * (i * 3 % 8), CV_8UC3);
      cv::randu(picture, 0, 255);
      const std::string path = folder_.at("i" + std::to_string(i) + ".png");
      cv::imwrite(path, picture);
      images_.push_back({path, {{0, .5F, .25F, .5F, .125F}}});
    }
  }

  // Each image's letterboxed pixels and label, by its index.
  using Seen = std::map<std::int64_t, std::pair<torch::Tensor, torch::Tensor>>;
  void collect(int batch, trainer::Shard shard, Seen& seen) {
    ValLoader loader(images_, 96, batch, 2, false, shard, ValFrame::kRect);
    loader.start();
    for (Batch part; loader.next(part);) {
      for (std::int64_t i = 0; i < part.images.size(0); ++i) {
        const std::int64_t index = part.sources[static_cast<std::size_t>(i)].index;
        EXPECT_FALSE(seen.contains(index)) << "each image once";
        seen[index] = {part.images[i].clone(), part.targets[i].slice(0, 1).clone()};
      }
    }
  }

  TempFolder folder_;
  std::vector<contract::ImageEntry> images_;
};

TEST_F(RectLoader, ShowsSeveralRanksWhatOneProcessSees) {
  Seen alone, shared;
  collect(6, {}, alone);
  for (int rank = 0; rank < 3; ++rank) collect(2, {.rank = rank, .world = 3}, shared);

  ASSERT_EQ(alone.size(), images_.size());
  ASSERT_EQ(shared.size(), images_.size());
  for (const auto& [index, seen] : alone) {
    SCOPED_TRACE(index);
    EXPECT_TRUE(torch::equal(seen.first, shared[index].first));
    EXPECT_TRUE(torch::equal(seen.second, shared[index].second));
  }
}

TEST_F(RectLoader, PadsWholeStridesAndKeepsBoxesOnTheirPixels) {
  ValLoader loader(images_, 96, 4, 1, false, {}, ValFrame::kRect);
  loader.start();
  std::int64_t pixels = 0;
  for (Batch batch; loader.next(batch);) {
    const std::int64_t height = batch.images.size(2), width = batch.images.size(3);
    EXPECT_EQ(height % 32, 0);
    EXPECT_EQ(width % 32, 0);
    pixels += batch.images.size(0) * height * width;
    for (std::size_t i = 0; i < batch.sources.size(); ++i) {
      const Batch::Source& source = batch.sources[i];
      const torch::Tensor target = batch.targets[static_cast<std::int64_t>(i)];
      const auto at = [&](std::int64_t column, std::int64_t side, float gain, float pad) {
        return (target[column].item<float>() * static_cast<float>(side) - pad) / gain;
      };
      const auto w = static_cast<float>(source.width), h = static_cast<float>(source.height);
      EXPECT_NEAR(at(2, width, source.gain_x, source.pad_x), .5F * w, 1e-3);
      EXPECT_NEAR(at(3, height, source.gain_y, source.pad_y), .25F * h, 1e-3);
      EXPECT_NEAR(at(4, width, source.gain_x, 0), .5F * w, 1e-3);
      EXPECT_NEAR(at(5, height, source.gain_y, 0), .125F * h, 1e-3);
      EXPECT_FLOAT_EQ(std::max(source.gain_x * w, source.gain_y * h), 96) << "the long side";
    }
  }
  EXPECT_LT(pixels, 11 * 128 * 128) << "less than squares of the same margin";
}

TEST_F(RectLoader, GivesAnUnreadableImageAPlace) {
  images_[4].path = folder_.write("cut.jpg", "\xff\xd8\xff\xe0");
  ValLoader loader(images_, 96, 4, 1, false, {}, ValFrame::kRect);
  loader.start();
  int unreadable = 0, images = 0;
  for (Batch batch; loader.next(batch);) {
    for (const Batch::Source& source : batch.sources) unreadable += source.index < 0 ? 1 : 0;
    images += static_cast<int>(batch.sources.size());
  }

  EXPECT_EQ(images, 11);
  EXPECT_EQ(unreadable, 1);
  EXPECT_EQ(loader.take_unreadable().size(), 1U);
}

}  // namespace
