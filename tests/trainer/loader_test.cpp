// SPDX-License-Identifier: GPL-3.0-or-later
#include "trainer/loader.h"

#include <gtest/gtest.h>
#include <torch/types.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <opencv2/imgcodecs.hpp>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "image_bytes.h"
#include "temp_folder.h"
#include "trainer/durable_file.h"
#include "trainer/image_cache.h"
#include "trainer/scenes.h"

namespace {

using trainer::Batch;
using trainer::Shard;
using trainer::TrainLoader;
using trainer::ValLoader;

constexpr int kImages = 21;

class Loader : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = std::make_unique<TempFolder>();
    trainer::make_scenes(
        {.out = folder_->at("yard"), .seed = 1, .train = kImages, .val = 7, .size = 96});
    dataset_ = contract::load_dataset(folder_->at("yard/data.yaml")).dataset;
  }
  static void TearDownTestSuite() { folder_.reset(); }

  static std::unique_ptr<TrainLoader> loader(TrainLoader::Options options, Shard shard = {}) {
    contract::TrainArgs args;
    args.degrees = 5;
    options.imgsz = 64;
    return std::make_unique<TrainLoader>(dataset_.train, args, options, shard);
  }

  static std::vector<Batch> take(TrainLoader& loader, std::int64_t batches) {
    std::vector<Batch> result;
    for (std::int64_t i = 0; i < batches; ++i) result.push_back(loader.next());
    return result;
  }

  static std::vector<Batch> epoch(TrainLoader& loader, std::int64_t number) {
    loader.start_epoch(number, 0, true);
    return take(loader, loader.batches_per_epoch());
  }

  static void expect_equal(const std::vector<Batch>& a, const std::vector<Batch>& b) {
    ASSERT_EQ(a.size(), b.size());
    for (std::size_t i = 0; i < a.size(); ++i) {
      SCOPED_TRACE(i);
      EXPECT_TRUE(torch::equal(a[i].images, b[i].images));
      EXPECT_TRUE(torch::equal(a[i].targets, b[i].targets));
    }
  }

  static std::unique_ptr<TempFolder> folder_;
  static contract::Dataset dataset_;
};

std::unique_ptr<TempFolder> Loader::folder_;
contract::Dataset Loader::dataset_;

TEST_F(Loader, GivesTheSameBatchesWithAnyNumberOfThreads) {
  const auto expected = epoch(*loader({.batch_per_rank = 4, .threads = 1, .seed = 9}), 2);
  ASSERT_EQ(expected.size(), 6U);
  EXPECT_EQ(expected[0].images.sizes(), (std::vector<std::int64_t>{4, 3, 64, 64}));
  EXPECT_GT(expected[0].targets.size(0), 0);

  for (const int threads : {2, 5}) {
    SCOPED_TRACE(threads);
    expect_equal(epoch(*loader({.batch_per_rank = 4, .threads = threads, .seed = 9}), 2), expected);
  }
}

TEST_F(Loader, GivesTheSameBatchesFromACacheHoweverLittleItHolds) {
  const auto expected = epoch(*loader({.batch_per_rank = 4, .threads = 1, .seed = 9}), 2);
  for (const std::size_t images_kept : {0, 3, kImages}) {
    SCOPED_TRACE(images_kept);
    const auto cache = std::make_shared<trainer::ImageCache>(kImages, images_kept * 3 * 64 * 64,
                                                             trainer::ImageCache::Medium::kMemory);
    for (int pass = 0; pass < 2; ++pass) {
      expect_equal(
          epoch(*loader({.batch_per_rank = 4, .threads = 3, .seed = 9, .cache = cache}), 2),
          expected);
    }
    EXPECT_EQ(cache->images_kept(), static_cast<std::int64_t>(images_kept));
    EXPECT_EQ(cache->is_full(), images_kept < kImages);
  }
}

TEST_F(Loader, ChangesWithSeedAndEpoch) {
  const auto train = loader({.batch_per_rank = 4, .seed = 9});
  const auto first = epoch(*train, 0);

  EXPECT_FALSE(torch::equal(epoch(*train, 1)[0].images, first[0].images));
  EXPECT_FALSE(torch::equal(epoch(*loader({.batch_per_rank = 4, .seed = 10}), 0)[0].images,
                            first[0].images));
  expect_equal(epoch(*train, 0), first);
}

TEST_F(Loader, StartsInTheMiddleOfAnEpochAsIfItHadRunFromTheBeginning) {
  const auto whole = epoch(*loader({.batch_per_rank = 4}), 3);
  const auto train = loader({.batch_per_rank = 4});

  train->start_epoch(3, 4, true);

  expect_equal(take(*train, 2), {whole[4], whole[5]});
  EXPECT_THROW((void)train->next(), std::logic_error);
}

TEST_F(Loader, DropsWhatWasBegunWhenAnEpochIsStarted) {
  const auto expected = epoch(*loader({.batch_per_rank = 4}), 1);
  const auto train = loader({.batch_per_rank = 4, .threads = 3});
  for (int i = 0; i < 10; ++i) {
    train->start_epoch(0, i % 3, true);
    if (i % 2 == 0) (void)train->next();
  }

  expect_equal(epoch(*train, 1), expected);
}

TEST_F(Loader, ShowsRanksTogetherWhatOneRankSees) {
  const auto whole = epoch(*loader({.batch_per_rank = 6}), 5);
  std::vector<std::vector<Batch>> parts;
  for (int rank = 0; rank < 3; ++rank) {
    parts.push_back(epoch(*loader({.batch_per_rank = 2}, {.rank = rank, .world = 3}), 5));
  }

  for (std::size_t i = 0; i < whole.size(); ++i) {
    SCOPED_TRACE(i);
    std::vector<torch::Tensor> images, targets;
    for (std::size_t rank = 0; rank < 3; ++rank) {
      ASSERT_EQ(parts[rank].size(), whole.size());
      images.push_back(parts[rank][i].images);
      torch::Tensor rows = parts[rank][i].targets.clone();
      rows.select(1, 0) += 2 * static_cast<double>(rank);
      targets.push_back(rows);
    }
    EXPECT_TRUE(torch::equal(torch::cat(images), whole[i].images));
    EXPECT_TRUE(torch::equal(torch::cat(targets), whole[i].targets));
  }
}

TEST_F(Loader, ShowsEveryImageInAnEpochAndFillsTheLastBatch) {
  const auto batches = epoch(*loader({.batch_per_rank = 8}), 0);
  ASSERT_EQ(batches.size(), 3U);
  std::multiset<std::int64_t> seen;
  for (const Batch& batch : batches) {
    ASSERT_EQ(batch.sources.size(), 8U);
    for (const Batch::Source& source : batch.sources) seen.insert(source.index);
  }
  for (int i = 0; i < kImages; ++i) EXPECT_GE(seen.count(i), 1U) << i;
}

TEST_F(Loader, FillsABatchThatIsLargerThanTheDataSet) {
  const auto batches = epoch(*loader({.batch_per_rank = 50}), 0);

  ASSERT_EQ(batches.size(), 1U);
  EXPECT_EQ(batches[0].images.size(0), 50);
  EXPECT_FALSE(torch::equal(batches[0].images[0], batches[0].images[kImages]))
      << "the same image at another position is augmented otherwise";
}

TEST_F(Loader, WithoutAugmentationShowsTheImages) {
  contract::TrainArgs args;
  args.hsv_h = args.hsv_s = args.hsv_v = args.translate = args.scale = args.fliplr = 0;
  args.single_cls = true;
  TrainLoader train(dataset_.train, args, {.batch_per_rank = 1, .imgsz = 96}, {});
  train.start_epoch(0, 0, false);

  const Batch batch = train.next();

  const contract::ImageEntry& entry =
      dataset_.train[static_cast<std::size_t>(batch.sources[0].index)];
  const cv::Mat pixels = cv::imread(entry.path);
  EXPECT_EQ(batch.images[0][0][10][20].item<int>(), pixels.at<cv::Vec3b>(10, 20)[2]) << "RGB";
  ASSERT_EQ(batch.targets.size(0), std::ssize(entry.labels));
  EXPECT_NEAR(batch.targets[0][2].item<float>(), entry.labels[0].xc, 1e-5);
  EXPECT_NEAR(batch.targets[0][5].item<float>(), entry.labels[0].h, 1e-5);
  EXPECT_EQ(batch.targets.select(1, 1).abs().sum().item<float>(), 0) << "one class";
}

TEST_F(Loader, ReplacesAnUnreadableImageAndNamesIt) {
  const TempFolder folder;
  std::vector<contract::ImageEntry> images(dataset_.train.begin(), dataset_.train.begin() + 4);
  images[1].path = folder.write("cut.jpg", "\xff\xd8\xff\xe0");
  images[2].path = folder.write("bomb.png", png_header(60000, 60000));
  images[3].path = folder.at("gone.png");
  TrainLoader train(images, {}, {.batch_per_rank = 4, .imgsz = 64, .threads = 3}, {});
  train.start_epoch(0, 0, true);

  const Batch batch = train.next();

  for (const Batch::Source& source : batch.sources) EXPECT_EQ(source.index, 0);
  std::vector<std::string> named = train.take_unreadable();
  std::sort(named.begin(), named.end());
  ASSERT_EQ(named.size(), 3U);
  EXPECT_EQ(named[0],
            folder.at("bomb.png") + ": is 60000 x 60000 pixels, more than the limit of 134217728.");
  EXPECT_TRUE(train.take_unreadable().empty()) << "each is named once";
}

TEST_F(Loader, ThrowsInNextWhereNoImageCanBeRead) {
  const std::vector<contract::ImageEntry> images(3, {"/nowhere/a.png", {}});
  TrainLoader train(images, {}, {.batch_per_rank = 2, .imgsz = 64}, {});
  train.start_epoch(0, 0, true);

  EXPECT_THROW((void)train.next(), std::runtime_error);
  EXPECT_THROW((void)train.next(), std::runtime_error);
}

TEST_F(Loader, SaysWhyNoImageCanBeUsed) {
  const std::vector<contract::ImageEntry> images(5, {"/nowhere/a.png", {}});
  TrainLoader train(images, {}, {.batch_per_rank = 2, .imgsz = 64}, {});
  const std::string line = "/nowhere/a.png: No such file or directory.";

  EXPECT_EQ(train.why_unusable(),
            "none of 5 images can be read:\n" + line + "\n" + line + "\n" + line);
  EXPECT_EQ(loader({.batch_per_rank = 2})->why_unusable(), "");
}

TEST_F(Loader, NamesAJpegThatIsCutShortOnceAndUsesIt) {
  const TempFolder folder;
  std::string bytes = trainer::read_file(dataset_.train[0].path);
  ASSERT_EQ(bytes.substr(0, 2), "\xff\xd8");
  bytes.resize(bytes.size() - 30);
  const std::vector<contract::ImageEntry> images(
      1, {folder.write("cut.jpg", bytes), dataset_.train[0].labels});
  TrainLoader train(images, {}, {.batch_per_rank = 4, .imgsz = 64}, {});
  ValLoader val(images, 64, 2, 1, false, {});
  const auto named = [&](auto& loader) {
    const std::vector<std::string> odd = loader.take_odd();
    ASSERT_EQ(odd.size(), 1U);
    EXPECT_TRUE(odd[0].starts_with(folder.at("cut.jpg") + ": is cut short: the end marker"))
        << odd[0];
    EXPECT_TRUE(loader.take_unreadable().empty());
  };

  for (int pass = 0; pass < 2; ++pass) {
    train.start_epoch(pass, 0, true);
    EXPECT_EQ(train.next().sources[0].index, 0);
    val.start();
    Batch batch;
    ASSERT_TRUE(val.next(batch));
    EXPECT_EQ(batch.sources[0].index, 0);
    if (pass > 0) continue;
    named(train);
    named(val);
  }
  EXPECT_TRUE(train.take_odd().empty()) << "each is named once";
  EXPECT_TRUE(val.take_odd().empty()) << "each is named once";
}

TEST_F(Loader, EndsAtOnceWhateverIsUnderWay) {
  for (int i = 0; i < 20; ++i) {
    const auto train = loader({.batch_per_rank = 4, .threads = 1 + i % 4});
    if (i % 3 > 0) train->start_epoch(0, 0, true);
    if (i % 3 > 1) (void)train->next();
  }
  ValLoader never_started(dataset_.val, 64, 2, 2, false, {});
  SUCCEED();
}

TEST_F(Loader, ValidationSharesTheImagesOverTheRanks) {
  std::set<std::int64_t> seen;
  for (int rank = 0; rank < 2; ++rank) {
    ValLoader val(dataset_.val, 64, 3, 2, false, {.rank = rank, .world = 2});
    for (int pass = 0; pass < 2; ++pass) {
      val.start();
      std::int64_t images = 0;
      Batch batch;
      while (val.next(batch)) {
        images += batch.images.size(0);
        for (const Batch::Source& source : batch.sources) seen.insert(source.index);
      }
      EXPECT_EQ(images, rank == 0 ? 4 : 3);
    }
  }
  EXPECT_EQ(seen.size(), 7U);
}

TEST_F(Loader, ValidationBoxesMapBackToTheOriginal) {
  const TempFolder folder;
  cv::Mat picture(100, 301, CV_8UC3, cv::Scalar::all(50));
  picture(cv::Rect(30, 20, 150, 60)).setTo(cv::Scalar(0, 0, 255));
  cv::imwrite(folder.at("a.png"), picture);
  const contract::Label label{2, 105 / 301.0F, .5F, 150 / 301.0F, .6F};
  const std::vector<contract::ImageEntry> images = {{folder.at("a.png"), {label}}};
  ValLoader val(images, 160, 4, 1, false, {});
  val.start();

  Batch batch;
  ASSERT_TRUE(val.next(batch));

  const Batch::Source& source = batch.sources[0];
  EXPECT_EQ(source.width, 301);
  const auto original = [&](std::int64_t column, float gain, float pad) {
    return (batch.targets[0][column].item<float>() * 160 - pad) / gain;
  };
  EXPECT_NEAR(original(2, source.gain_x, source.pad_x), 105, 1e-3);
  EXPECT_NEAR(original(3, source.gain_y, source.pad_y), 50, 1e-3);
  EXPECT_NEAR(original(4, source.gain_x, 0), 150, 1e-3);
  const int x = static_cast<int>(105 * source.gain_x + source.pad_x);
  const int y = static_cast<int>(50 * source.gain_y + source.pad_y);
  EXPECT_EQ(batch.images[0][0][y][x].item<int>(), 255) << "red is the first plane";
  EXPECT_EQ(batch.images[0][2][0][0].item<int>(), 114);
  EXPECT_FALSE(val.next(batch));
}

TEST_F(Loader, ValidationMarksAndNamesAnUnreadableImage) {
  std::vector<contract::ImageEntry> images = {dataset_.val[0],
                                              {"/nowhere/b.png", {{0, .5F, .5F, .1F, .1F}}}};
  ValLoader val(images, 64, 2, 1, false, {});
  val.start();

  Batch batch;
  ASSERT_TRUE(val.next(batch));

  EXPECT_EQ(batch.sources[1].index, -1);
  EXPECT_EQ((batch.targets.select(1, 0) == 1).sum().item<int>(), 0);
  EXPECT_EQ(val.take_unreadable(),
            std::vector<std::string>{"/nowhere/b.png: No such file or directory."});
}

TEST_F(Loader, MixesOnlyWhileMosaicsAreMade) {
  contract::TrainArgs plain, mixing;
  mixing.mixup = 1;
  const auto first = [](const contract::TrainArgs& args, bool with_mosaic) {
    TrainLoader loader(dataset_.train, args, {.batch_per_rank = 4, .imgsz = 64, .seed = 3}, {});
    loader.start_epoch(0, 0, with_mosaic);
    return loader.next();
  };

  const Batch mixed = first(mixing, true);

  EXPECT_GT(mixed.targets.size(0), first(plain, true).targets.size(0));
  expect_equal({first(mixing, true)}, {mixed});
  expect_equal({first(mixing, false)}, {first(plain, false)});
}

}  // namespace
