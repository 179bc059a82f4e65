// SPDX-License-Identifier: GPL-3.0-or-later
#include "accounting/measured.h"

#include <gtest/gtest.h>

#include "books.h"

namespace accounting {
namespace {

const WorkKind kKind{"yolov8n", 640, "h100", 2};

MeasuredRun run_of(const std::string& name, std::int64_t seconds, std::int64_t ended = 100) {
  return {.run = name, .kind = kKind, .image_tenths = 10'000, .seconds = seconds, .ended = ended,
          .low_s = 50, .high_s = 150};
}

TEST(MeasuredRuns, GiveNoRateWhereNothingWasMeasured) {
  Books books;

  EXPECT_FALSE(must(measured_rate(books.db, kKind)));
  EXPECT_TRUE(must(measured_rates(books.db)).empty());
  EXPECT_NE(rates_text({}).find("no run was measured yet"), std::string::npos);
}

TEST(MeasuredRuns, OneRunGivesItsRateWithAWideBand) {
  Books books;
  must(keep_measured(books.db, run_of("r1", 100)));
  must(keep_measured(books.db, run_of("r1", 900)));  // Kept already.

  const auto rate = must(measured_rate(books.db, kKind));
  ASSERT_TRUE(rate);
  EXPECT_EQ(rate->runs, 1);
  EXPECT_DOUBLE_EQ(rate->seconds_per_image, 0.1);
  EXPECT_EQ(rate->band_permille, 300);
  EXPECT_EQ(rate->checked, 1);
  EXPECT_EQ(rate->within, 1);
}

TEST(MeasuredRuns, TheBandIsTheLargestDeviationFromTheMedian) {
  Books books;
  for (const auto& [name, seconds] : {std::pair{"r1", 100}, {"r2", 104}, {"r3", 96}, {"r4", 160}}) {
    must(keep_measured(books.db, run_of(name, seconds)));
  }

  const auto rate = must(measured_rate(books.db, kKind));
  ASSERT_TRUE(rate);
  EXPECT_DOUBLE_EQ(rate->seconds_per_image, 0.102);
  EXPECT_EQ(rate->band_permille, 569);  // 0.160 / 0.102 = 1.5686
  EXPECT_EQ(rate->checked, 4);
  EXPECT_EQ(rate->within, 3);  // 160 s are outside the band of 50 s to 150 s.
}

TEST(MeasuredRuns, TheNewestCountAndTheBandIsNeverBelowTenPercent) {
  Books books;
  must(keep_measured(books.db, run_of("old", 900, 1)));
  for (int i = 0; i < 20; ++i) must(keep_measured(books.db, run_of("r" + std::to_string(i), 100, 2)));

  const auto rate = must(measured_rate(books.db, kKind));
  EXPECT_EQ(rate->runs, 20);
  EXPECT_EQ(rate->checked, 21);
  EXPECT_EQ(rate->band_permille, 100);
}

TEST(MeasuredRuns, OtherKindsAreKeptApartAndListed) {
  Books books;
  must(keep_measured(books.db, run_of("r1", 100)));
  MeasuredRun other = run_of("r2", 50);
  other.kind.ranks = 4;
  must(keep_measured(books.db, other));

  const auto rates = must(measured_rates(books.db));
  ASSERT_EQ(rates.size(), 2u);
  EXPECT_EQ(rates[1].kind.ranks, 4);
  EXPECT_EQ(rates_csv({rates[0]}),
            "model,imgsz,type,ranks,runs,seconds_per_image,band_permille,within,checked\n"
            "yolov8n,640,h100,2,1,0.100000000,300,1,1\n");
  EXPECT_NE(rates_text(rates).find("+-30.0%"), std::string::npos);
}

}  // namespace
}  // namespace accounting
