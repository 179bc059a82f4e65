// SPDX-License-Identifier: Apache-2.0
// trainer/image_cache.h
//
// Decoded images that all ranks of a host share: one copy a host, filled by whoever decodes an
// image first. The memory is a file without a name (in RAM or on the host's disk), so nothing is
// left behind, however a run ends. Any number of threads and processes; nobody waits for anybody:
// an image that another one is just storing counts as not there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <opencv2/core.hpp>
#include <string>

#include "trainer/communicator.h"

namespace trainer {

class ImageCache {
 public:
  enum class Medium { kMemory, kDisk };
  struct Image {
    cv::Mat pixels;     // Lies in the cache, lives as long as it, and is not to be written to.
    cv::Size original;  // Of the image before it was fitted.
  };

  // Room for `images` images of together `bytes_max` bytes; nothing is taken before it is used.
  // Throws std::system_error.
  ImageCache(std::int64_t images, std::size_t bytes_max, Medium medium);
  // The cache of another process of this host and user. Throws std::system_error.
  explicit ImageCache(const std::string& handle);
  ~ImageCache();
  ImageCache(const ImageCache&) = delete;
  ImageCache& operator=(const ImageCache&) = delete;

  // What the other constructor takes, for as long as this process lives.
  [[nodiscard]] std::string handle() const;
  // Empty pixels: not there.
  [[nodiscard]] Image find(std::int64_t index) const;
  // Keeps a copy where there is room and nobody else did. `pixels`: 8 bit, three channels.
  void put(std::int64_t index, const cv::Mat& pixels, cv::Size original);

  [[nodiscard]] std::int64_t images_kept() const;
  [[nodiscard]] std::size_t bytes_kept() const;
  [[nodiscard]] bool is_full() const;  // Something was not kept for want of room.

 private:
  struct Header;
  struct Slot;
  void map(std::size_t bytes);

  int descriptor_ = -1;
  void* memory_ = nullptr;
  std::size_t bytes_mapped_ = 0;
  Header* header_ = nullptr;
  Slot* slots_ = nullptr;
};

// Half of what this job may still take: of the smaller of the host's free memory and what the
// cgroups of this process leave, or of the free space in the temporary folder.
[[nodiscard]] std::size_t cache_bytes_allowed(ImageCache::Medium medium);

struct HostCache {
  std::shared_ptr<ImageCache> cache;
  std::string note;  // Why ranks of this host do not share one, where they do not.
};
// One cache for all ranks of each host, for `images` images of at most `image_bytes_max` bytes.
// Where the ranks of a host cannot see each other's each has a smaller one of its own; where there
// can be none it is empty. A collective.
[[nodiscard]] HostCache make_host_cache(Communicator& communicator, std::int64_t images,
                                        std::size_t image_bytes_max, ImageCache::Medium medium);

}  // namespace trainer
