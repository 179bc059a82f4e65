// SPDX-License-Identifier: GPL-3.0-or-later
// accounting/tariff.h
//
// The weight of an instance type by date: how many reference GPUs one of its GPUs counts for, in
// thousandths. Weights are whole numbers so that every charge is an exact product.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "accounting/amount.h"

namespace accounting {

struct WeightPeriod {
  UtcSeconds from = 0;             // In force from this instant until the next period's.
  std::int64_t weight_milli = 0;   // 1000: one reference GPU. >= 0.
};

// Periods in ascending order of `from`, as the parser of site.toml leaves them.
// Nothing where `when` lies before the first period.
[[nodiscard]] std::optional<std::int64_t> weight_at(const std::vector<WeightPeriod>& periods,
                                                    UtcSeconds when);

// "1", "0.5", "2.125" -> 1000, 500, 2125. Nothing where finer than a thousandth, negative or no number.
[[nodiscard]] std::optional<std::int64_t> parse_weight(std::string_view text);
[[nodiscard]] std::string format_weight(std::int64_t weight_milli);  // 500 -> "0.500"

// "2026-11-24" (midnight UTC) or "2026-11-24T08:00:00Z".
[[nodiscard]] std::optional<UtcSeconds> parse_utc(std::string_view text);
[[nodiscard]] std::string format_utc(UtcSeconds when);  // "2026-11-24T08:00:00Z"

}  // namespace accounting
