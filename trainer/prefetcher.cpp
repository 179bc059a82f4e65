// SPDX-License-Identifier: Apache-2.0
#include "trainer/prefetcher.h"

#include <algorithm>
#include <deque>
#include <utility>

namespace trainer {

struct Prefetcher::Slot {
  std::shared_ptr<RawBatch> batch;
  int taken = 0;  // Samples handed to threads.
  int done = 0;
  std::exception_ptr error;  // The first one.

  [[nodiscard]] int size() const { return static_cast<int>(batch->samples.size()); }
  [[nodiscard]] bool is_done() const { return done == size(); }
};

// What one call of start began. Guarded by mutex_; `fill` does not change.
struct Prefetcher::Series {
  std::int64_t opened = 0, end = 0;  // The next batch to open; one past the last.
  std::int64_t samples = 0;
  Fill fill;
  std::deque<std::shared_ptr<Slot>> slots;  // In order, the next one to hand out first.

  [[nodiscard]] std::shared_ptr<Slot> first_with_work() const {
    const auto found = std::find_if(slots.begin(), slots.end(),
                                    [](const auto& slot) { return slot->taken < slot->size(); });
    return found == slots.end() ? nullptr : *found;
  }
};

Prefetcher::Prefetcher(int threads, int batch_size, std::size_t bytes_per_sample)
    : batch_size_(batch_size),
      batches_ahead_(2 + std::max(0, threads - 1) / batch_size),
      bytes_per_sample_(bytes_per_sample) {
  try {
    for (int i = 0; i < std::max(1, threads); ++i) threads_.emplace_back([this] { work(); });
  } catch (...) {  // No room for another thread: those that run must end before the members do.
    stop();
    threads_.clear();
    throw;
  }
}

Prefetcher::~Prefetcher() {
  stop();
}  // threads_ is the last member, so it joins first.

void Prefetcher::stop() {
  const std::lock_guard lock(mutex_);
  is_stopping_ = true;
  work_or_stop_.notify_all();
}

void Prefetcher::start(std::int64_t first, std::int64_t end, std::int64_t samples, Fill fill) {
  auto series = std::make_shared<Series>();
  series->opened = first;
  series->end = end;
  series->samples = samples;
  series->fill = std::move(fill);
  for (std::int64_t i = 0; i < batches_ahead_; ++i) open_slot(*series);
  const std::lock_guard lock(mutex_);
  series_ = std::move(series);
  work_or_stop_.notify_all();
}

std::shared_ptr<RawBatch> Prefetcher::next() {
  std::unique_lock lock(mutex_);
  if (!series_ || series_->slots.empty()) return nullptr;
  const std::shared_ptr<Slot> slot = series_->slots.front();
  batch_done_.wait(lock, [&] { return slot->is_done(); });
  series_->slots.pop_front();
  open_slot(*series_);
  work_or_stop_.notify_all();
  if (slot->error) std::rethrow_exception(slot->error);
  return slot->batch;
}

void Prefetcher::open_slot(Series& series) const {
  if (series.opened >= series.end) return;
  auto slot = std::make_shared<Slot>();
  slot->batch = std::make_shared<RawBatch>();
  slot->batch->number = series.opened;
  const std::int64_t left = series.samples - series.opened * batch_size_;
  const auto size = static_cast<std::size_t>(std::min<std::int64_t>(batch_size_, left));
  slot->batch->samples.resize(size);
  // Every byte is written by `fill`.
  slot->batch->pixels = std::make_unique_for_overwrite<unsigned char[]>(size * bytes_per_sample_);
  series.slots.push_back(std::move(slot));
  ++series.opened;
}

void Prefetcher::work() {
  std::unique_lock lock(mutex_);
  while (!is_stopping_) {
    const std::shared_ptr<Series> series = series_;
    const std::shared_ptr<Slot> slot = series ? series->first_with_work() : nullptr;
    if (!slot) {
      work_or_stop_.wait(lock);
      continue;
    }
    const int sample = slot->taken++;
    lock.unlock();
    std::exception_ptr error;
    try {
      series->fill(*slot->batch, sample);
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    if (error && !slot->error) slot->error = error;
    ++slot->done;
    if (slot->is_done()) batch_done_.notify_all();
  }
}

}  // namespace trainer
