// SPDX-License-Identifier: Apache-2.0
#include "trainer/image_store.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <opencv2/imgproc.hpp>
#include <stdexcept>
#include <utility>

#include "trainer/image.h"

namespace trainer {

ImageStore::ImageStore(const std::vector<contract::ImageEntry>& images, int imgsz,
                       std::size_t capacity, std::shared_ptr<ImageCache> cache)
    : images_(images), imgsz_(imgsz), capacity_(capacity), cache_(std::move(cache)) {}

ImageStore::Fitted ImageStore::get(std::int64_t index) {
  if (cache_) {
    ImageCache::Image image = cache_->find(index);
    if (!image.pixels.empty()) return {std::move(image.pixels), image.original};
  }
  {
    const std::lock_guard lock(mutex_);
    if (unusable_.contains(index)) return {};
    if (const auto found = by_index_.find(index); found != by_index_.end()) {
      entries_.splice(entries_.begin(), entries_, found->second);
      return entries_.front().image;
    }
  }
  // Decoded outside the lock. Two threads may decode the same image at once; both get the same.
  const std::string& path = images_[static_cast<std::size_t>(index)].path;
  ReadImage read = read_image(path);
  if (read.pixels.empty()) {
    const std::lock_guard lock(mutex_);
    if (unusable_.insert(index).second) {
      constexpr std::size_t kNamedMax = 3;
      unreadable_.push_back(fmt::format("{}: {}", path, read.problem));
      if (first_unusable_.size() < kNamedMax) first_unusable_.push_back(unreadable_.back());
    }
    return {};
  }
  if (!read.note.empty()) {
    const std::lock_guard lock(mutex_);
    if (odd_named_.insert(index).second) odds_.push_back(fmt::format("{}: {}", path, read.note));
  }
  Fitted image{.pixels = read.pixels, .original = read.pixels.size()};
  const Letterbox plan = plan_letterbox(image.original, {imgsz_, imgsz_});
  if (plan.resized != image.original) {
    cv::resize(read.pixels, image.pixels = cv::Mat(), plan.resized, 0, 0, cv::INTER_LINEAR);
  }
  if (cache_) {
    cache_->put(index, image.pixels, image.original);
    ImageCache::Image kept = cache_->find(index);
    if (!kept.pixels.empty()) return {std::move(kept.pixels), kept.original};
  }
  const std::lock_guard lock(mutex_);
  remember(index, image);
  return image;
}

void ImageStore::remember(std::int64_t index, const Fitted& image) {
  if (capacity_ == 0 || by_index_.contains(index)) return;
  entries_.push_front({index, image});
  by_index_[index] = entries_.begin();
  if (entries_.size() <= capacity_) return;
  by_index_.erase(entries_.back().index);
  entries_.pop_back();
}

std::int64_t ImageStore::usable_from(std::int64_t index) {
  const auto count = static_cast<std::int64_t>(images_.size());
  for (std::int64_t step = 0; step < count; ++step) {
    const std::int64_t candidate = (index + step) % count;
    if (!get(candidate).pixels.empty()) return candidate;
  }
  const std::lock_guard lock(mutex_);
  throw std::runtime_error(
      fmt::format("none of {} images can be read:\n{}", count, fmt::join(first_unusable_, "\n")));
}

std::vector<std::string> ImageStore::take_unreadable() {
  const std::lock_guard lock(mutex_);
  return std::exchange(unreadable_, {});
}

std::vector<std::string> ImageStore::take_odd() {
  const std::lock_guard lock(mutex_);
  return std::exchange(odds_, {});
}

}  // namespace trainer
