// SPDX-License-Identifier: GPL-3.0-or-later
//
// What fits: into the hours of a timed run, into the memory of a GPU.
#include <gtest/gtest.h>

#include <vector>

#include "trainer/auto_batch.h"
#include "trainer/time_budget.h"

namespace trainer {
namespace {

TEST(TimeBudget, PlansWhatFits) {
  const Pace pace{.batch_s = 1, .validation_s = 10, .save_s = 2};

  const double epochs = plan_epochs(2, 1000, pace, 100);

  // 1000 s less the closing (1.2 * 12 + 2 + 3), an epoch of 112 s, the last one's 12 s reserved.
  EXPECT_NEAR(epochs, 2 + (1000 - 19.4 + 12) / 112, 1e-9);
  EXPECT_DOUBLE_EQ(plan_epochs(2, 0, pace, 100), 2 + 12.0 / 112);
  EXPECT_TRUE(is_worth_another_epoch(100, pace, 100));
  EXPECT_FALSE(is_worth_another_epoch(25, pace, 100));
}

TEST(TimeBudget, TheWayToTheNextSaveIsItsBatchesAndTheSave) {
  const Pace pace{.batch_s = 2, .validation_s = 10, .save_s = 5};

  EXPECT_DOUBLE_EQ(saving_seconds(pace, 4), 1.2 * (4 * 2 + 5));
}

TEST(TimeBudget, OneValidationAtTheEndIsNotCountedForEachEpoch) {
  const Pace pace{.batch_s = 1, .validation_s = 10, .save_s = 2, .is_each_epoch_validated = false};

  // The closing has it (1.2 * 12 + 2 + 3), an epoch of 102 s has not.
  EXPECT_DOUBLE_EQ(closing_seconds(pace), 19.4);
  EXPECT_NEAR(plan_epochs(2, 1000, pace, 100), 2 + (1000 - 19.4 + 2) / 102, 1e-9);
}

// Ten minutes in one batch of 0.1 s: the next ones are not taken to be of a minute. A slower pace that
// stays is believed soon.
TEST(TimeBudget, ABatchThatWasHeldUpSaysLittleOfTheNextOnes) {
  EXPECT_NEAR(mean_with(0.1, 600), 0.14, 1e-9);
  EXPECT_NEAR(mean_with(0.1, 0.2), 0.11, 1e-9);
  double mean = 0.1;
  for (int i = 0; i < 30; ++i) mean = mean_with(mean, 2);
  EXPECT_GT(mean, 1.7);
}

TEST(TimeBudget, BestWeightsOfAnEarlierAttemptAreMeasuredInsideTheHours) {
  const Pace pace{.batch_s = 1, .validation_s = 10, .save_s = 2, .is_best_unmeasured = true};
  EXPECT_DOUBLE_EQ(closing_seconds(pace), 1.2 * 22 + 2 + 3);
}

// 100 bytes, and 50 an image.
std::vector<BatchMemory> measured(const std::vector<int>& batches) {
  std::vector<BatchMemory> all;
  for (const int batch : batches) all.push_back({batch, 100.0 + 50.0 * batch});
  return all;
}

TEST(AutoBatch, IsTheLargestWhoseMemoryIsThere) {
  const std::vector<BatchMemory> five = measured({1, 2, 4, 8, 16});

  EXPECT_EQ(fit_batch(five, 100 + 50 * 40.9), 40);
  EXPECT_EQ(fit_batch(five, 100 + 50 * 1.1), 1);
  EXPECT_EQ(fit_batch(five, 100 + 50 * (kAutoBatchMax + 0.5)), kAutoBatchMax);
  EXPECT_EQ(fit_batch(measured({1, 2}), 100 + 50 * 7.5), 7);
  // A line through the middle of what lies beside it: 200 more and less at both ends.
  EXPECT_EQ(fit_batch(std::vector<BatchMemory>{{2, 400}, {2, 0}, {10, 800}, {10, 400}},
                      100 + 50 * 20.5),
            20);
}

TEST(AutoBatch, IsTheDefaultWhereTheMeasurementsSayNothing) {
  EXPECT_EQ(fit_batch({}, 1e9), kAutoBatchDefault);
  EXPECT_EQ(fit_batch(measured({4}), 1e9), kAutoBatchDefault);
  EXPECT_EQ(fit_batch(measured({4, 4}), 1e9), kAutoBatchDefault) << "no line";
  EXPECT_EQ(fit_batch(std::vector<BatchMemory>{{1, 500}, {2, 500}}, 1e9), kAutoBatchDefault);
  EXPECT_EQ(fit_batch(std::vector<BatchMemory>{{1, 500}, {2, 400}}, 1e9), kAutoBatchDefault);
  const std::vector<BatchMemory> five = measured({1, 2, 4, 8, 16});
  EXPECT_EQ(fit_batch(five, 100 + 50 * 0.5), kAutoBatchDefault) << "not one image";
  EXPECT_EQ(fit_batch(five, 100 + 50 * (kAutoBatchMax + 2.0)), kAutoBatchDefault);
}

}  // namespace
}  // namespace trainer
