// SPDX-License-Identifier: Apache-2.0
// trainer/image_store.h
//
// The images of a split, decoded and resized so that they fit imgsz x imgsz, the newest `capacity`
// of them kept in memory (3 x imgsz x imgsz bytes each at most), and all in a cache where one is
// given. An image that cannot be used, or is odd, is named once. Any number of threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <opencv2/core.hpp>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "trainer/contract/dataset.h"
#include "trainer/image_cache.h"

namespace trainer {

class ImageStore {
 public:
  struct Fitted {
    cv::Mat pixels;  // BGR, not to be written to; empty where the image cannot be used.
    cv::Size original;
  };

  // `images` outlives the store.
  ImageStore(const std::vector<contract::ImageEntry>& images, int imgsz, std::size_t capacity,
             std::shared_ptr<ImageCache> cache = nullptr);

  [[nodiscard]] Fitted get(std::int64_t index);
  // The nearest image from `index` on that can be used: the same for all who ask. Throws
  // std::runtime_error, which names the first images and why, where there is none.
  [[nodiscard]] std::int64_t usable_from(std::int64_t index);
  // "images/a.jpg: is no JPEG that can be decoded.": each once.
  [[nodiscard]] std::vector<std::string> take_unreadable();
  // Of images that are used: "images/a.jpg: is cut short: ...", each once.
  [[nodiscard]] std::vector<std::string> take_odd();

 private:
  struct Entry {
    std::int64_t index = 0;
    Fitted image;
  };
  void remember(std::int64_t index, const Fitted& image);

  const std::vector<contract::ImageEntry>& images_;
  const int imgsz_;
  const std::size_t capacity_;
  const std::shared_ptr<ImageCache> cache_;  // May be none.

  std::mutex mutex_;
  std::list<Entry> entries_;  // Newest first.
  std::unordered_map<std::int64_t, std::list<Entry>::iterator> by_index_;
  std::unordered_set<std::int64_t> unusable_, odd_named_;
  std::vector<std::string> first_unusable_;     // A few, for usable_from.
  std::vector<std::string> unreadable_, odds_;  // Not yet taken.
};

}  // namespace trainer
