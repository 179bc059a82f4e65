// SPDX-License-Identifier: GPL-3.0-or-later
// accounting/amount.h
//
// An amount of GPU work: an integer of milli-GPU-seconds of the reference GPU. Every amount is an
// exact product gpus x seconds x weight_milli; nothing is ever divided but for printing. One
// GPU-hour is 3 600 000. Arithmetic that would overflow is refused, never wrapped.
#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace accounting {

using UtcSeconds = std::int64_t;  // Seconds since 1970-01-01 UTC.

struct Amount {
  std::int64_t milli_gpu_s = 0;

  friend auto operator<=>(const Amount&, const Amount&) = default;
};

inline constexpr Amount kGpuHour{3'600'000};

// gpus x seconds x weight_milli; nothing where an operand is negative or the product overflows.
[[nodiscard]] std::optional<Amount> usage_amount(std::int64_t gpus, std::int64_t seconds,
                                                 std::int64_t weight_milli);
[[nodiscard]] std::optional<Amount> checked_add(Amount a, Amount b);
[[nodiscard]] std::optional<Amount> checked_sub(Amount a, Amount b);

// "64.000 GPU-h": three decimals, rounded half away from zero; for people. The exact figure is
// milli_gpu_s.
[[nodiscard]] std::string to_gpu_hours(Amount amount);

// "10", "10h", "0.5h", "90m", "1800s": exact, GPU-hours where no unit stands. Nothing where the
// text is not a positive number or is finer than one milli-GPU-second.
[[nodiscard]] std::optional<Amount> parse_gpu_hours(std::string_view text);

}  // namespace accounting
