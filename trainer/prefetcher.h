// SPDX-License-Identifier: Apache-2.0
// trainer/prefetcher.h
//
// Batches filled ahead of time by threads, sample by sample, and handed out in order. One thread
// calls start and next; `fill` is called by any thread, once a sample.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <opencv2/core.hpp>
#include <thread>
#include <vector>

#include "trainer/contract/dataset.h"

namespace trainer {

// Pixels and labels before they become tensors.
struct RawBatch {
  struct Sample {
    std::vector<contract::Label> labels;  // Normalised to the letterboxed or augmented frame.
    std::int64_t index = 0;               // In the split.
    cv::Size original, resized;           // The resized image stands in the frame at left, top.
    int left = 0, top = 0;
  };
  std::int64_t number = 0;
  std::vector<Sample> samples;
  std::unique_ptr<unsigned char[]> pixels;  // samples x 3 x height x width, RGB.
};

class Prefetcher {
 public:
  // Fills batch.samples[sample] and its part of batch.pixels, and touches nothing else.
  using Fill = std::function<void(RawBatch& batch, int sample)>;

  // At least one thread. About `threads` samples, and never less than two batches, are kept ahead.
  Prefetcher(int threads, int batch_size, std::size_t bytes_per_sample);
  ~Prefetcher();  // Waits for the samples that are being filled, no longer.
  Prefetcher(const Prefetcher&) = delete;
  Prefetcher& operator=(const Prefetcher&) = delete;

  // Batches first..end-1 of `samples` samples in all (the last may be short). Drops what was begun.
  void start(std::int64_t first, std::int64_t end, std::int64_t samples, Fill fill);
  // Nothing after the last batch. Rethrows what `fill` threw, once for its batch.
  [[nodiscard]] std::shared_ptr<RawBatch> next();

 private:
  struct Slot;
  struct Series;
  void work();
  void stop();
  void open_slot(Series& series) const;

  const int batch_size_;
  const std::int64_t batches_ahead_;
  const std::size_t bytes_per_sample_;

  std::mutex mutex_;
  std::condition_variable work_or_stop_;
  std::condition_variable batch_done_;
  std::shared_ptr<Series> series_;  // The newest; an older one lives while its samples are filled.
  bool is_stopping_ = false;
  std::vector<std::jthread> threads_;
};

}  // namespace trainer
