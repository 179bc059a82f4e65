// SPDX-License-Identifier: Apache-2.0
#include "trainer/sampler.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "trainer/random.h"

namespace trainer {
namespace {

// Streams that are no position of a sample.
constexpr std::uint64_t kOrderStream = ~std::uint64_t{0};
constexpr std::uint64_t kSizeStream = std::uint64_t{1} << 63;  // And the batch.

}  // namespace

int batch_size_pixels(std::uint64_t seed, std::int64_t epoch, std::int64_t batch, int imgsz,
                      double multi_scale) {
  constexpr std::int64_t kStride = 32;
  if (multi_scale == 0) return imgsz;
  // As the reference draws: any number of pixels, then down to the stride.
  const auto low = static_cast<std::int64_t>(imgsz * (1 - multi_scale));
  const auto high = static_cast<std::int64_t>(imgsz * (1 + multi_scale)) + kStride;
  Random random(seed, static_cast<std::uint64_t>(epoch),
                kSizeStream | static_cast<std::uint64_t>(batch));
  const std::int64_t side = (low + random.below(high - low)) / kStride * kStride;
  return static_cast<int>(std::max(kStride, side));
}

EpochOrder::EpochOrder(std::int64_t images, std::uint64_t seed, std::int64_t epoch)
    : order_(static_cast<std::size_t>(images)) {
  std::iota(order_.begin(), order_.end(), std::int64_t{0});
  Random random(seed, static_cast<std::uint64_t>(epoch), kOrderStream);
  for (std::int64_t i = images - 1; i > 0; --i) {
    std::swap(order_[static_cast<std::size_t>(i)],
              order_[static_cast<std::size_t>(random.below(i + 1))]);
  }
}

std::int64_t EpochOrder::image_at(std::int64_t position) const {
  const auto count = static_cast<std::int64_t>(order_.size());
  return order_[static_cast<std::size_t>((position % count + count) % count)];
}

std::int64_t EpochOrder::image_before(std::int64_t position, std::int64_t steps_back) const {
  return image_at(position - steps_back);
}

}  // namespace trainer
