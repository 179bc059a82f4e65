// SPDX-License-Identifier: GPL-3.0-or-later
#include "accounting/tariff.h"

#include <gtest/gtest.h>

#include <limits>

namespace accounting {
namespace {

TEST(Tariff, AWeightIsInForceFromItsInstantUntilTheNext) {
  const std::vector<WeightPeriod> periods{{100, 1'000}, {200, 1'500}, {300, 0}};

  EXPECT_EQ(weight_at(periods, 99), std::nullopt);
  EXPECT_EQ(weight_at(periods, 100), 1'000);
  EXPECT_EQ(weight_at(periods, 199), 1'000);
  EXPECT_EQ(weight_at(periods, 200), 1'500);
  EXPECT_EQ(weight_at(periods, std::numeric_limits<std::int64_t>::max()), 0);
  EXPECT_EQ(weight_at({}, 100), std::nullopt);
}

TEST(Tariff, WeightsAreWholeThousandths) {
  EXPECT_EQ(parse_weight("1"), 1'000);
  EXPECT_EQ(parse_weight("0.5"), 500);
  EXPECT_EQ(parse_weight("2.125"), 2'125);
  EXPECT_EQ(parse_weight("2.12500"), 2'125);
  EXPECT_EQ(parse_weight("0"), 0);
  EXPECT_EQ(parse_weight("9223372036854775.807"), std::numeric_limits<std::int64_t>::max());
  for (const char* text : {"", ".", ".5", "1.", "-1", "+1", "1.0001", "1e3", " 1", "1 ", "abc",
                           "1.2.3", "9223372036854775.808"}) {
    SCOPED_TRACE(text);
    EXPECT_EQ(parse_weight(text), std::nullopt);
  }
}

TEST(Tariff, AFormattedWeightParsesToItself) {
  EXPECT_EQ(format_weight(500), "0.500");
  EXPECT_EQ(format_weight(2'125), "2.125");
  EXPECT_EQ(format_weight(-5), "-0.005");
  for (const std::int64_t weight_milli : {0L, 1L, 999L, 1'000L, 123'456'789L}) {
    SCOPED_TRACE(weight_milli);
    EXPECT_EQ(parse_weight(format_weight(weight_milli)), weight_milli);
  }
}

TEST(Tariff, InstantsAreUtc) {
  EXPECT_EQ(parse_utc("1970-01-01"), 0);
  EXPECT_EQ(parse_utc("2026-11-24"), 1'795'478'400);
  EXPECT_EQ(parse_utc("2026-11-24T08:00:00Z"), 1'795'507'200);
  EXPECT_EQ(parse_utc("2000-02-29T23:59:59Z"), 951'868'799);
  EXPECT_EQ(parse_utc("0000-01-01"), -62'167'219'200);
}

TEST(Tariff, WhatIsNoInstantIsRefused) {
  for (const char* text : {"", "2026", "2026-11", "2026-1-1", "2026-13-01", "2026-02-29",
                           "2026-11-24T08:00:00", "2026-11-24T24:00:00Z", "2026-11-24T08:60:00Z",
                           "2026-11-24T08:00:60Z", "2026-11-24 08:00:00Z", "2026-11-24T08:00:00Zx",
                           "-026-11-24", "2026-11-24T08:00:00+01:00"}) {
    SCOPED_TRACE(text);
    EXPECT_EQ(parse_utc(text), std::nullopt);
  }
}

TEST(Tariff, AFormattedInstantParsesToItself) {
  for (const std::int64_t when :
       {-62'167'219'200L, -1L, 0L, 951'868'799L, 1'795'507'200L, 253'402'300'799L}) {
    SCOPED_TRACE(when);
    EXPECT_EQ(parse_utc(format_utc(when)), when);
  }
}

TEST(Tariff, AnInstantThatNoCalendarPageHasIsPrintedAsANumber) {
  EXPECT_EQ(format_utc(std::numeric_limits<std::int64_t>::max()), "@9223372036854775807");
  EXPECT_EQ(format_utc(std::numeric_limits<std::int64_t>::min()), "@-9223372036854775808");
}

}  // namespace
}  // namespace accounting
