// SPDX-License-Identifier: GPL-3.0-or-later
//
// Runs under mpirun with 1 and 2 ranks: the ranks of a host share one cache.
#include "trainer/image_cache.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <thread>
#include <vector>

#include "tests/trainer/temp_folder.h"

namespace {

using trainer::HostCache;
using trainer::ImageCache;

trainer::Communicator* world = nullptr;

cv::Mat picture(int shade, cv::Size size = {20, 10}) {
  return cv::Mat(size, CV_8UC3, cv::Scalar(shade, shade + 1, shade + 2));
}

void expect_picture(const ImageCache& cache, std::int64_t index, int shade) {
  const ImageCache::Image image = cache.find(index);
  ASSERT_EQ(image.pixels.size(), cv::Size(20, 10));
  EXPECT_EQ(image.original, cv::Size(200, 100));
  EXPECT_EQ(cv::norm(image.pixels, picture(shade), cv::NORM_INF), 0);
}

TEST(HostCache, WhatOneRankStoresAllRanksOfTheHostSee) {
  for (const auto medium : {ImageCache::Medium::kMemory, ImageCache::Medium::kDisk}) {
    const HostCache host = trainer::make_host_cache(*world, 10, 600, medium);
    ASSERT_TRUE(host.cache) << host.note;
    EXPECT_EQ(host.note, "");

    host.cache->put(world->rank(), picture(100 + world->rank()), {200, 100});
    world->barrier();

    for (int rank = 0; rank < world->size(); ++rank) expect_picture(*host.cache, rank, 100 + rank);
    EXPECT_EQ(host.cache->images_kept(), world->size());
    world->barrier();
  }
}

TEST(HostCache, TheSameImageIsStoredOnceHoweverManyTry) {
  const HostCache host = trainer::make_host_cache(*world, 4, 600, ImageCache::Medium::kMemory);
  ASSERT_TRUE(host.cache);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int index = 0; index < 4; ++index) host.cache->put(index, picture(index), {200, 100});
    });
  }
  for (std::thread& thread : threads) thread.join();
  world->barrier();

  EXPECT_EQ(host.cache->images_kept(), 4);
  EXPECT_EQ(host.cache->bytes_kept(), 4U * 640);
  EXPECT_FALSE(host.cache->is_full());
  for (int index = 0; index < 4; ++index) expect_picture(*host.cache, index, index);
  world->barrier();
}

TEST(ImageCache, KeepsNothingBeyondItsBytes) {
  ImageCache cache(10, 1300, ImageCache::Medium::kMemory);

  for (int index = 0; index < 10; ++index) cache.put(index, picture(index), {200, 100});

  EXPECT_EQ(cache.images_kept(), 2);
  EXPECT_TRUE(cache.is_full());
  expect_picture(cache, 1, 1);
  EXPECT_TRUE(cache.find(2).pixels.empty());
  EXPECT_TRUE(cache.find(-1).pixels.empty());
  EXPECT_TRUE(cache.find(10).pixels.empty());
}

TEST(ImageCache, TakesPartsOfLargerImages) {
  ImageCache cache(1, 600, ImageCache::Medium::kMemory);
  cv::Mat large(40, 40, CV_8UC3, cv::Scalar::all(9));
  picture(7).copyTo(large(cv::Rect(5, 5, 20, 10)));

  cache.put(0, large(cv::Rect(5, 5, 20, 10)), {200, 100});

  expect_picture(cache, 0, 7);
}

TEST(ImageCache, OnDiskLeavesNoFileBehind) {
  const TempFolder folder;
  ::setenv("TMPDIR", folder.at("").c_str(), 1);
  const ImageCache cache(4, 4000, ImageCache::Medium::kDisk);
  const bool is_empty = std::filesystem::is_empty(folder.at(""));
  ::unsetenv("TMPDIR");

  EXPECT_TRUE(is_empty);
}

TEST(ImageCache, AForeignHandleIsAnError) {
  const ImageCache cache(1, 100, ImageCache::Medium::kMemory);
  const std::string handle = cache.handle();

  EXPECT_NO_THROW(ImageCache{handle});
  EXPECT_THROW(ImageCache("/proc/0/fd/0 1"), std::system_error);
  EXPECT_THROW(ImageCache(handle.substr(0, handle.find(' ') + 1) + "1"), std::system_error);
  EXPECT_THROW(ImageCache(handle.substr(0, handle.find(' '))), std::system_error);
}

TEST(ImageCache, HalfOfWhatIsFreeIsAllowed) {
  const std::size_t bytes = trainer::cache_bytes_allowed(ImageCache::Medium::kMemory);

  EXPECT_GT(bytes, 0U);
  EXPECT_LT(bytes, std::size_t{1} << 50);
}

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  const char* expected = std::getenv("TRAINYARD_EXPECT_RANKS");
  const auto communicator = trainer::make_mpi_communicator(&argc, &argv);
  if (expected == nullptr || communicator->size() != std::atoi(expected)) {
    fmt::print(stderr, "{} ranks, but TRAINYARD_EXPECT_RANKS = {}: run it with mpirun -n\n",
               communicator->size(), expected == nullptr ? "(not set)" : expected);
    return 1;
  }
  world = communicator.get();
  return RUN_ALL_TESTS();
}
