// SPDX-License-Identifier: GPL-3.0-or-later
//
// How fast the data half is: images a second of the train loader, a mosaic, and suppression.
//   loader_bench [--benchmark_filter=...]            drawn scenes of 640 px
//   TRAINYARD_BENCH_DATA=data.yaml loader_bench      a data set of yours
#include <benchmark/benchmark.h>
#include <torch/types.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <opencv2/core.hpp>
#include <string>

#include "temp_folder.h"
#include "trainer/augment.h"
#include "trainer/contract/dataset.h"
#include "trainer/evaluate.h"
#include "trainer/image_cache.h"
#include "trainer/loader.h"
#include "trainer/random.h"
#include "trainer/scenes.h"

namespace {

const contract::Dataset& dataset() {
  static const TempFolder folder;
  static const contract::Dataset loaded = [] {
    const char* named = std::getenv("TRAINYARD_BENCH_DATA");
    if (named == nullptr) {
      trainer::make_scenes({.out = folder.at("yard"), .train = 256, .val = 1, .size = 640});
    }
    return contract::load_dataset(named != nullptr ? named : folder.at("yard/data.yaml")).dataset;
  }();
  return loaded;
}

std::shared_ptr<trainer::ImageCache> make_cache(std::int64_t imgsz) {
  const std::int64_t images = std::ssize(dataset().train);
  return std::make_shared<trainer::ImageCache>(images,
                                               static_cast<std::size_t>(images * 3 * imgsz * imgsz),
                                               trainer::ImageCache::Medium::kMemory);
}

void train_loader(benchmark::State& state) {
  constexpr int kBatch = 16;
  trainer::TrainLoader loader(dataset().train, {},
                              {.batch_per_rank = kBatch,
                               .imgsz = static_cast<int>(state.range(0)),
                               .threads = static_cast<int>(state.range(1)),
                               .cache = state.range(2) != 0 ? make_cache(state.range(0)) : nullptr},
                              {});
  std::int64_t epoch = 0, left = 0;
  for (auto _ : state) {
    if (left == 0) {
      loader.start_epoch(epoch++, 0, true);
      left = loader.batches_per_epoch();
    }
    benchmark::DoNotOptimize(loader.next());
    --left;
  }
  state.SetItemsProcessed(state.iterations() * kBatch);
}
BENCHMARK(train_loader)
    ->ArgNames({"imgsz", "threads", "cache"})
    ->ArgsProduct({{320, 640}, {1, 2}, {0, 1}})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

void mosaic_of_four(benchmark::State& state) {
  cv::setNumThreads(0);
  const int imgsz = static_cast<int>(state.range(0));
  std::array<trainer::Sample, 4> parts;
  for (trainer::Sample& part : parts) {
    part.pixels = cv::Mat(imgsz * 3 / 4, imgsz, CV_8UC3, cv::Scalar(10, 200, 90));
    part.boxes.assign(8, {0, 10, 10, 90, 90});
  }
  std::uint64_t seed = 0;
  for (auto _ : state) {
    trainer::Random random(seed++);
    trainer::Sample sample = trainer::mosaic(parts, imgsz, random);
    sample = trainer::random_perspective(sample, imgsz, {}, random);
    trainer::jitter_colors(sample.pixels, {}, random);
    benchmark::DoNotOptimize(sample);
  }
}
BENCHMARK(mosaic_of_four)->Arg(320)->Arg(640)->Unit(benchmark::kMicrosecond);

// 8400 anchors of a 640 px image, 80 classes; a share of the scores is above the threshold.
void suppression(benchmark::State& state) {
  torch::manual_seed(1);
  torch::Tensor predictions = torch::rand({1, 84, 8400});
  predictions.slice(1, 0, 2) *= 640;
  predictions.slice(1, 2, 4) = predictions.slice(1, 2, 4) * 80 + 8;
  predictions.slice(1, 4) *= 0.001 * (1 + 0.01 * static_cast<double>(state.range(0)));
  for (auto _ : state) {
    benchmark::DoNotOptimize(trainer::non_max_suppression(predictions, {}));
  }
}
BENCHMARK(suppression)->ArgName("percent")->Arg(0)->Arg(1)->Arg(5)->Unit(benchmark::kMillisecond);

}  // namespace

BENCHMARK_MAIN();
