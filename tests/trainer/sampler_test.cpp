// SPDX-License-Identifier: GPL-3.0-or-later
#include "trainer/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <vector>

#include "trainer/random.h"

namespace {

using trainer::BatchLayout;
using trainer::EpochOrder;
using trainer::Random;

std::vector<std::int64_t> order_of(std::int64_t images, std::uint64_t seed, std::int64_t epoch) {
  const EpochOrder order(images, seed, epoch);
  std::vector<std::int64_t> result;
  for (std::int64_t i = 0; i < images; ++i) result.push_back(order.image_at(i));
  return result;
}

TEST(EpochOrder, IsAPermutationThatChangesWithSeedAndEpoch) {
  std::vector<std::int64_t> sorted = order_of(1000, 7, 3);
  std::sort(sorted.begin(), sorted.end());
  for (std::int64_t i = 0; i < 1000; ++i) ASSERT_EQ(sorted[static_cast<std::size_t>(i)], i);

  EXPECT_EQ(order_of(1000, 7, 3), order_of(1000, 7, 3));
  EXPECT_NE(order_of(1000, 7, 3), order_of(1000, 7, 4));
  EXPECT_NE(order_of(1000, 7, 3), order_of(1000, 8, 3));
}

TEST(EpochOrder, StartsAgainAfterTheLastImageAndBeforeTheFirst) {
  const EpochOrder order(5, 1, 0);

  EXPECT_EQ(order.image_at(5), order.image_at(0));
  EXPECT_EQ(order.image_at(13), order.image_at(3));
  EXPECT_EQ(order.image_before(2, 4), order.image_at(3));
}

TEST(BatchLayout, CoversEveryPositionOnceOverAllRanks) {
  for (const int world : {1, 2, 3, 8}) {
    for (const std::int64_t images : {1, 7, 24, 100}) {
      SCOPED_TRACE(testing::Message() << world << " ranks, " << images << " images");
      std::set<std::int64_t> positions;
      std::int64_t count = 0;
      for (int rank = 0; rank < world; ++rank) {
        const BatchLayout layout{.batch_per_rank = 4, .rank = rank, .world = world};
        for (std::int64_t batch = 0; batch < layout.batches_per_epoch(images); ++batch) {
          for (int i = 0; i < 4; ++i, ++count) positions.insert(layout.position(batch, i));
        }
      }
      const BatchLayout whole{.batch_per_rank = 4 * world};
      EXPECT_EQ(std::ssize(positions), count);
      EXPECT_EQ(*positions.rbegin(), count - 1);
      EXPECT_EQ(count, whole.batches_per_epoch(images) * 4 * world);
      EXPECT_GE(count, images);
    }
  }
}

// Fixed for ever: a run that is resumed with a newer program must see the same images.
TEST(Random, GivesTheSameNumbersForEver) {
  Random random(1, 2, 3);

  EXPECT_EQ(random.bits(), 17039169366333149314U);
  EXPECT_EQ(random.bits(), 3982146918808625072U);
  EXPECT_EQ(order_of(8, 42, 1), (std::vector<std::int64_t>{2, 6, 7, 4, 3, 1, 5, 0}));
}

TEST(Random, IsSpreadEvenly) {
  Random random(5);
  double sum = 0, squares = 0;
  constexpr int kDraws = 100'000;
  for (int i = 0; i < kDraws; ++i) {
    const double value = random.uniform();
    ASSERT_TRUE(value >= 0 && value < 1);
    sum += value;
    squares += value * value;
  }
  EXPECT_NEAR(sum / kDraws, 0.5, 0.005);
  EXPECT_NEAR(squares / kDraws, 1.0 / 3, 0.005);
}

TEST(BatchSize, LiesWithinItsRangeAndReachesBothEnds) {
  std::set<int> sizes;
  for (std::int64_t batch = 0; batch < 2000; ++batch) {
    sizes.insert(trainer::batch_size_pixels(3, 1, batch, 640, 0.5));
  }
  for (const int side : sizes) EXPECT_EQ(side % 32, 0);
  EXPECT_EQ(*sizes.begin(), 320);
  EXPECT_EQ(*sizes.rbegin(), 960);
  EXPECT_EQ(sizes.size(), 21U);
}

TEST(BatchSize, FollowsFromSeedEpochAndBatchAlone) {
  const auto sizes = [](std::uint64_t seed, std::int64_t epoch) {
    std::vector<int> all;
    for (std::int64_t batch = 0; batch < 50; ++batch) {
      all.push_back(trainer::batch_size_pixels(seed, epoch, batch, 320, 0.9));
    }
    return all;
  };
  EXPECT_EQ(sizes(1, 2), sizes(1, 2));
  EXPECT_NE(sizes(1, 2), sizes(1, 3));
  EXPECT_NE(sizes(1, 2), sizes(2, 2));
  EXPECT_EQ(trainer::batch_size_pixels(1, 2, 3, 96, 0), 96);
  for (const int side : sizes(1, 2)) EXPECT_GE(side, 32);
}

}  // namespace
