// SPDX-License-Identifier: Apache-2.0
// trainer/bfloat16.h
//
// The upper half of a float, rounded to nearest, ties to even.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace trainer {

[[nodiscard]] inline std::uint16_t to_bfloat16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  constexpr std::uint32_t kHalf = 0x7fff;
  constexpr std::uint16_t kQuiet = 0x40;  // A NaN stays one whatever its lower half held.
  const auto upper = static_cast<std::uint16_t>(bits >> 16);
  if (std::isnan(value)) return upper | kQuiet;
  return static_cast<std::uint16_t>((bits + kHalf + (upper & 1U)) >> 16);
}

[[nodiscard]] inline float from_bfloat16(std::uint16_t half) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(half) << 16);
}

}  // namespace trainer
