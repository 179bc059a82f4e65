// SPDX-License-Identifier: GPL-3.0-or-later
#include "accounting/period.h"

#include <gtest/gtest.h>

#include "accounting/tariff.h"

namespace accounting {
namespace {

std::string text_of(std::string_view period, std::string_view now = "2026-11-24T08:00:00Z") {
  const auto parsed = parse_period(period, *parse_utc(now));
  if (!parsed) return "none";
  return format_utc(parsed->from).substr(0, 10) + " " +
         (parsed->to == 0 ? "open" : format_utc(parsed->to).substr(0, 10));
}

TEST(Period, IsAYearAQuarterAMonthOrADay) {
  EXPECT_EQ(text_of("2026"), "2026-01-01 2027-01-01");
  EXPECT_EQ(text_of("2026-Q1"), "2026-01-01 2026-04-01");
  EXPECT_EQ(text_of("2026-Q4"), "2026-10-01 2027-01-01");
  EXPECT_EQ(text_of("2026-11"), "2026-11-01 2026-12-01");
  EXPECT_EQ(text_of("2026-12"), "2026-12-01 2027-01-01");
  EXPECT_EQ(text_of("2028-02-29"), "2028-02-29 2028-03-01");
}

TEST(Period, IsTheOneOfTodayOrTheOneBefore) {
  EXPECT_EQ(text_of("day"), "2026-11-24 2026-11-25");
  EXPECT_EQ(text_of("month"), "2026-11-01 2026-12-01");
  EXPECT_EQ(text_of("quarter"), "2026-10-01 2027-01-01");
  EXPECT_EQ(text_of("year"), "2026-01-01 2027-01-01");
  EXPECT_EQ(text_of("last-day", "2026-03-01T00:00:00Z"), "2026-02-28 2026-03-01");
  EXPECT_EQ(text_of("last-month", "2026-01-31T23:59:59Z"), "2025-12-01 2026-01-01");
  EXPECT_EQ(text_of("last-quarter", "2026-02-01T00:00:00Z"), "2025-10-01 2026-01-01");
  EXPECT_EQ(text_of("last-year"), "2025-01-01 2026-01-01");
}

TEST(Period, IsARangeWhoseEndIsIncluded) {
  EXPECT_EQ(text_of("2026-11-01..2026-11-30"), "2026-11-01 2026-12-01");
  EXPECT_EQ(text_of("2026-Q1..2026-Q2"), "2026-01-01 2026-07-01");
  EXPECT_EQ(text_of("2026-11-24T08:00:00Z..2026-11-24T09:00:00Z"), "2026-11-24 2026-11-24");
  EXPECT_EQ(text_of("2026-11.."), "2026-11-01 open");
  EXPECT_EQ(text_of("..2026"), "1970-01-01 2027-01-01");
}

TEST(Period, IsNothingElse) {
  for (const char* text : {"", "..", "2026-13", "2026-00", "2026-Q5", "2026-Q0", "26-11", "november",
                           "2026-02-30", "2026-11-02..2026-11-01", "2026-11..2026-10", "last-week",
                           "last-", "2026-1", "20261", "2026-11-24x", "9999", "-2026", "2026 "}) {
    SCOPED_TRACE(text);
    EXPECT_EQ(text_of(text), "none");
  }
}

}  // namespace
}  // namespace accounting
