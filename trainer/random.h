// SPDX-License-Identifier: Apache-2.0
// trainer/random.h
//
// Random numbers that are a function of what they are for, not of what was drawn before: a stream
// is named by (seed, epoch, position), so neither threads nor an interruption changes it.
// Splitmix64 (Steele, Lea and Flood 2014) over a counter. The same on every machine.
#pragma once

#include <cstdint>

namespace trainer {

class Random {
 public:
  explicit Random(std::uint64_t seed, std::uint64_t epoch = 0, std::uint64_t position = 0)
      : key_(mix(mix(mix(seed) + epoch + 1) + position + 1)) {}

  std::uint64_t bits() { return mix(key_ + ++count_ * kGolden); }
  // In [0, 1).
  double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }
  double uniform(double low, double high) { return low + (high - low) * uniform(); }
  // In 0..bound-1; bound at least 1. The bias is below bound / 2^64.
  std::int64_t below(std::int64_t bound) {
    return static_cast<std::int64_t>(bits() % static_cast<std::uint64_t>(bound));
  }
  bool chance(double probability) { return uniform() < probability; }

 private:
  static constexpr std::uint64_t kGolden = 0x9e3779b97f4a7c15;
  static std::uint64_t mix(std::uint64_t z) {
    z += kGolden;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }

  std::uint64_t key_;
  std::uint64_t count_ = 0;
};

}  // namespace trainer
