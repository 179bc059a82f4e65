// SPDX-License-Identifier: Apache-2.0
#include "trainer/sampler.h"

#include <numeric>
#include <utility>

#include "trainer/random.h"

namespace trainer {
namespace {

constexpr std::uint64_t kOrderStream = ~std::uint64_t{0};  // No position of a sample.

}  // namespace

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
