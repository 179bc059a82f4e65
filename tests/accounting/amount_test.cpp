// SPDX-License-Identifier: GPL-3.0-or-later
#include "accounting/amount.h"

#include <gtest/gtest.h>

#include <limits>

namespace accounting {
namespace {

constexpr std::int64_t kMax = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t kMin = std::numeric_limits<std::int64_t>::min();

TEST(Amount, AUsageIsAnExactProduct) {
  EXPECT_EQ(usage_amount(2, 93, 1'000), Amount{186'000});
  EXPECT_EQ(usage_amount(8, 3'600, 2'125), Amount{61'200'000});
  EXPECT_EQ(usage_amount(1, 1, 1), Amount{1});
  EXPECT_EQ(usage_amount(1, kMax, 1), Amount{kMax});
}

TEST(Amount, AUsageWithAZeroIsZeroHoweverLargeTheRest) {
  EXPECT_EQ(usage_amount(0, kMax, kMax), Amount{0});
  EXPECT_EQ(usage_amount(kMax, 0, kMax), Amount{0});
  EXPECT_EQ(usage_amount(kMax, kMax, 0), Amount{0});
}

TEST(Amount, AUsageThatIsNegativeOrOverflowsIsRefused) {
  EXPECT_FALSE(usage_amount(-1, 1, 1));
  EXPECT_FALSE(usage_amount(1, -1, 1));
  EXPECT_FALSE(usage_amount(0, 0, -1));
  EXPECT_FALSE(usage_amount(2, kMax / 2 + 1, 1));
  EXPECT_FALSE(usage_amount(1, kMax / 1'000 + 1, 1'000));
  EXPECT_TRUE(usage_amount(1, kMax / 1'000, 1'000));
}

TEST(Amount, SumsAndDifferencesAreRefusedAtTheEdge) {
  EXPECT_EQ(checked_add({kMax - 1}, {1}), Amount{kMax});
  EXPECT_FALSE(checked_add({kMax}, {1}));
  EXPECT_FALSE(checked_add({kMin}, {-1}));
  EXPECT_EQ(checked_sub({kMin + 1}, {1}), Amount{kMin});
  EXPECT_FALSE(checked_sub({kMin}, {1}));
  EXPECT_FALSE(checked_sub({0}, {kMin}));
}

TEST(Amount, HoursArePrintedWithThreeDecimalsRoundedHalfAwayFromZero) {
  EXPECT_EQ(to_gpu_hours({0}), "0.000 GPU-h");
  EXPECT_EQ(to_gpu_hours({64 * 3'600'000}), "64.000 GPU-h");
  EXPECT_EQ(to_gpu_hours({186'000}), "0.052 GPU-h");
  EXPECT_EQ(to_gpu_hours({1'799}), "0.000 GPU-h");
  EXPECT_EQ(to_gpu_hours({1'800}), "0.001 GPU-h");
  EXPECT_EQ(to_gpu_hours({-1'800}), "-0.001 GPU-h");
  EXPECT_EQ(to_gpu_hours({-1'799}), "0.000 GPU-h");
  EXPECT_EQ(to_gpu_hours({3'600'000 - 1}), "1.000 GPU-h");
  EXPECT_EQ(to_gpu_hours({kMax}), "2562047788015.216 GPU-h");
  EXPECT_EQ(to_gpu_hours({kMin}), "-2562047788015.216 GPU-h");
}

TEST(Amount, HoursAreParsedExactly) {
  EXPECT_EQ(parse_gpu_hours("10"), Amount{36'000'000});
  EXPECT_EQ(parse_gpu_hours("10h"), Amount{36'000'000});
  EXPECT_EQ(parse_gpu_hours("0.5h"), Amount{1'800'000});
  EXPECT_EQ(parse_gpu_hours("90m"), Amount{5'400'000});
  EXPECT_EQ(parse_gpu_hours("1800s"), Amount{1'800'000});
  EXPECT_EQ(parse_gpu_hours("0.001s"), Amount{1});
  EXPECT_EQ(parse_gpu_hours("0.00003125h"), std::nullopt);  // 112.5
  EXPECT_EQ(parse_gpu_hours("0.0000025h"), Amount{9});
  EXPECT_EQ(parse_gpu_hours("1.50000000000000000000h"), Amount{5'400'000});
  EXPECT_EQ(parse_gpu_hours("0000000000000000000000000000001h"), Amount{3'600'000});
}

TEST(Amount, HoursAtTheEdgeOfTheRange) {
  EXPECT_EQ(parse_gpu_hours("9223372036854775.807s"), Amount{kMax});
  EXPECT_EQ(parse_gpu_hours("9223372036854775.808s"), std::nullopt);
  EXPECT_EQ(parse_gpu_hours("2562047788016h"), std::nullopt);
  EXPECT_EQ(parse_gpu_hours("9999999999999999999h"), std::nullopt);
  EXPECT_EQ(parse_gpu_hours("99999999999999999999999999h"), std::nullopt);
}

TEST(Amount, WhatIsNoPositiveExactNumberIsRefused) {
  for (const char* text :
       {"",       "h",    ".",   ".5",    "5.",      "5.h",        "0",   "0h",
        "0.000h", "-1",   "+1",  "1e3",   "1 h",     " 1",         "1 ",  "1hh",
        "1d",     "0x10", "1,5", "1.2.3", "0.0001s", "0.3333333h", "inf", "nan"}) {
    SCOPED_TRACE(text);
    EXPECT_EQ(parse_gpu_hours(text), std::nullopt);
  }
}

}  // namespace
}  // namespace accounting
