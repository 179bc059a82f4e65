// SPDX-License-Identifier: GPL-3.0-or-later
//
// What `trainyard` says of money and funds.
#include "scheduler/console.h"

#include <gtest/gtest.h>

#include <cmath>

namespace scheduler {
namespace {

constexpr std::int64_t kHour = 3'600'000;

Plan plan_of_hours(std::int64_t expected, std::int64_t hold) {
  Plan plan;
  plan.fund = "group:vision";
  plan.quote.expected = {expected * kHour};
  plan.quote.hold = {hold * kHour};
  return plan;
}

TEST(Money, IsSaidWhereHoursHaveAPrice) {
  Plan plan = plan_of_hours(2, 3);
  EXPECT_EQ(money_text(plan), "");
  plan.quote.price_minor = 74;
  plan.quote.currency = "EUR";
  EXPECT_EQ(money_text(plan), "about 1.48 EUR, first hold 2.22 EUR, at 0.74 EUR a GPU-hour");
  plan.is_timed = true;
  EXPECT_EQ(money_text(plan), "about 1.48 EUR, never more than 2.22 EUR, at 0.74 EUR a GPU-hour");
}

TEST(Fund, IsToldWithWhatIsLeftOfIt) {
  EXPECT_EQ(fund_text(plan_of_hours(2, 3), 10 * kHour, 0),
            "group:vision has 10.000 GPU-h available; 7.000 GPU-h would be left beside the hold, "
            "about 8.000 GPU-h after the run");
  EXPECT_EQ(fund_text(plan_of_hours(2, 3), 2 * kHour, 0),
            "group:vision has 2.000 GPU-h available: this run would be refused");
}

TEST(Fund, MayBeSpentDownToItsCredit) {
  EXPECT_EQ(fund_text(plan_of_hours(2, 3), 2 * kHour, 1 * kHour),
            "group:vision has 2.000 GPU-h available and 1.000 GPU-h of credit; -1.000 GPU-h would "
            "be left beside the hold, about 0.000 GPU-h after the run");
  EXPECT_EQ(fund_text(plan_of_hours(2, 4), 2 * kHour, 1 * kHour),
            "group:vision has 2.000 GPU-h available and 1.000 GPU-h of credit: this run would be "
            "refused");
}

TEST(Epoch, ThatWasNotValidatedHasNoMap) {
  contract::MetricsRecord record;
  record.kind = "epoch";
  record.epoch = 3;
  record.epochs = 60;
  record.values = {{"train/box_loss", 1.5},        {"train/cls_loss", 2.25},
                   {"train/dfl_loss", 1},          {"metrics/mAP50(B)", 0.5},
                   {"metrics/mAP50-95(B)", 0.25},  {"images_per_s", 23.14}};
  EXPECT_EQ(epoch_text(record),
            "epoch 3/60  box 1.500  cls 2.250  dfl 1.000  mAP50 0.500  mAP50-95 0.250  23.1 img/s");
  record.values["metrics/mAP50(B)"] = record.values["metrics/mAP50-95(B)"] = std::nan("");
  EXPECT_EQ(epoch_text(record),
            "epoch 3/60  box 1.500  cls 2.250  dfl 1.000  mAP50 -  mAP50-95 -  23.1 img/s");
}

}  // namespace
}  // namespace scheduler
