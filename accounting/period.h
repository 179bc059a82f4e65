// SPDX-License-Identifier: GPL-3.0-or-later
// accounting/period.h
//
// A stretch of the calendar, in UTC: what a statement or a report is of. Half open, so that periods
// that follow each other share no second.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "accounting/amount.h"

namespace accounting {

struct Period {
  UtcSeconds from = 0;
  UtcSeconds to = 0;  // The first second that is no more in it. 0: no end.
};

// "2026", "2026-11", "2026-Q4", "2026-11-24"; two of them or of instants as "FROM..TO", TO included
// where it is a year, quarter, month or day, and either left out; "day", "month", "quarter", "year": the
// one of `now`; "last-month" and so on: the one before. Nothing where it is none of these, or ends
// before it begins.
[[nodiscard]] std::optional<Period> parse_period(std::string_view text, UtcSeconds now);

}  // namespace accounting
