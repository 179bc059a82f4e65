// SPDX-License-Identifier: GPL-3.0-or-later
//
// What a run is expected to take and to cost after its first epochs, and where that is shown.
#include "scheduler/pace.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <limits>

#include "files.h"
#include "scheduler/console.h"
#include "scheduler/run_folder.h"

namespace scheduler {
namespace {

using accounting::Amount;
using contract::MetricsRecord;
using nlohmann::json;

constexpr std::int64_t kHour = 3'600'000;

// At 1000 + `train_s`, in steps of which an epoch has ten.
MetricsRecord record(const std::string& kind, std::int64_t step, double train_s) {
  MetricsRecord made;
  made.kind = kind;
  made.time = 1000 + train_s;
  made.epoch = static_cast<int>(step / 10);
  made.epochs = 10;
  made.step = step;
  made.steps_per_epoch = 10;
  made.train_seconds = train_s;
  return made;
}
MetricsRecord epoch(int number, double train_s) { return record("epoch", number * 10, train_s); }

TEST(Pace, IsThatOfTheEpochsWithoutTheStartUp) {
  PaceKeeper keeper;
  keeper.take(record("start", 0, 50));
  EXPECT_FALSE(keeper.pace());
  keeper.take(epoch(1, 80));  // Slower than the others: it fills caches.
  EXPECT_DOUBLE_EQ(keeper.pace()->epoch_s, 30);
  keeper.take(epoch(2, 90));
  keeper.take(epoch(3, 102));
  EXPECT_DOUBLE_EQ(keeper.pace()->epoch_s, 11);
  EXPECT_EQ(keeper.pace()->epochs_done, 3);
  EXPECT_EQ(keeper.pace()->epochs, 10);
  EXPECT_DOUBLE_EQ(keeper.pace()->as_of, 1102);
}

TEST(Pace, OfAResumedRunIsThatOfItsNewestAttempt) {
  PaceKeeper keeper;
  keeper.take(record("start", 0, 50));
  for (int i = 1; i <= 4; ++i) keeper.take(epoch(i, 50 + 10 * i));
  // It goes on amid its fifth epoch, on half of the GPUs.
  keeper.take(record("start", 45, 160));
  EXPECT_DOUBLE_EQ(keeper.pace()->epoch_s, 10);  // Of the attempt before, from now on.
  EXPECT_DOUBLE_EQ(keeper.pace()->as_of, 1160);
  keeper.take(epoch(5, 170));
  EXPECT_DOUBLE_EQ(keeper.pace()->epoch_s, 20);
  keeper.take(epoch(6, 191));
  EXPECT_DOUBLE_EQ(keeper.pace()->epoch_s, 21);
}

TEST(Pace, OfARequeuedRunBeginsWithItsCheckpoint) {
  PaceKeeper keeper;
  keeper.take(record("start", 0, 50));
  for (int i = 1; i <= 7; ++i) keeper.take(epoch(i, 50 + 10 * i));
  // The node was lost: what was done behind the checkpoint is to be done again.
  keeper.take(record("start", 45, 120));
  EXPECT_EQ(keeper.pace()->epochs_done, 4);
  EXPECT_DOUBLE_EQ(keeper.pace()->begun, 0.5);
  EXPECT_DOUBLE_EQ(keeper.pace()->epoch_s, 10);
  EXPECT_DOUBLE_EQ(keeper.pace()->trained_from, 1120);
  keeper.take(epoch(5, 130));
  EXPECT_EQ(keeper.pace()->epochs_done, 5);
  EXPECT_DOUBLE_EQ(keeper.pace()->begun, 0);
}

// Two GPUs of weight 1, from second 1000 on, at 10 s an epoch after 50 s: 150 s in all.
class Reestimated : public testing::Test {
 protected:
  Reestimated() {
    plan.gpus = 2;
    plan.quote.weight_milli = 1000;
    plan.quote.expected_s = 600;
    plan.quote.expected = {2 * 600 * 1000};
    plan.quote.hold = {2 * 900 * 1000};
    standing = {.start = 1000, .held = plan.quote.hold, .available = Amount{kHour}};
  }
  Plan plan;
  Pace pace{.epochs_done = 3, .epochs = 10, .epoch_s = 10, .as_of = 1080};
  Standing standing;
};

TEST_F(Reestimated, RunsAreToldTheirTimeTheirHoursAndWhatIsLeftOfTheFund) {
  const auto now = reestimate(plan, pace, standing);
  ASSERT_TRUE(now);
  EXPECT_EQ(now->left_s, 70);
  EXPECT_EQ(now->end, 1150);
  EXPECT_EQ(now->seconds, 150);
  EXPECT_EQ(now->cost.milli_gpu_s, 300'000);
  EXPECT_EQ(now->after->milli_gpu_s, kHour + 1'800'000 - 300'000);
  EXPECT_FALSE(now->cost_minor);
}

TEST_F(Reestimated, CostCountsWhatEarlierAttemptsWereChargedAndItsMoney) {
  standing.charged = {700'000};
  standing.charged_minor = 15;
  plan.quote.price_minor = 74;
  plan.quote.currency = "EUR";
  const auto now = reestimate(plan, pace, standing);
  ASSERT_TRUE(now);
  EXPECT_EQ(now->cost.milli_gpu_s, 1'000'000);
  EXPECT_EQ(now->cost_minor, 15 + 7);  // 300 GPU-seconds of 74 cents an hour: 6.2, rounded up.
  EXPECT_EQ(now->after->milli_gpu_s, kHour + 1'800'000 - 300'000);
}

// The epochs are those of the attempt before: this one starts up.
TEST_F(Reestimated, ARequeuedRunHasItsRestBeforeItFromTheStartOfItsAttemptOn) {
  standing.start = 2000;
  const auto now = reestimate(plan, pace, standing);
  ASSERT_TRUE(now);
  EXPECT_EQ(now->end, 2070);
  EXPECT_EQ(now->seconds, 70);
  pace.begun = 0.5;
  EXPECT_EQ(reestimate(plan, pace, standing)->end, 2065);
}

// 20 s of start-up, then 250 s of epochs; a job lasts 120 s, and 80 s of this one are left.
TEST_F(Reestimated, ARunOfSeveralJobsStartsUpAndWaitsForEachOfThem) {
  pace = {.epochs_done = 5, .epochs = 30, .epoch_s = 10, .as_of = 1040, .trained_from = 1020};
  standing.job_longest_s = 120;
  standing.wait_s = 1000;
  const auto now = reestimate(plan, pace, standing);
  ASSERT_TRUE(now);
  EXPECT_EQ(now->jobs, 2);  // Of 100 s each without their start-up.
  EXPECT_EQ(now->left_s, 250 + 2 * 20 + 2 * 1000);
  EXPECT_EQ(now->end, 1040 + 250 + 40 + 2000);
  EXPECT_EQ(now->seconds, 40 + 250 + 40);
  EXPECT_EQ(now->cost.milli_gpu_s, 2 * 330 * 1000);
  EXPECT_NE(rest_text(*now).find("with the waits for 2 more jobs"), std::string::npos);
  standing.job_longest_s = 290;
  EXPECT_EQ(reestimate(plan, pace, standing)->jobs, 0);
  standing.job_longest_s = 10;  // Shorter than its start-up: nothing can be said of further ones.
  EXPECT_EQ(reestimate(plan, pace, standing)->jobs, 0);
}

TEST_F(Reestimated, TheWaitIsThatOfTheJobsBefore) {
  json run = {{"state", "running"}, {"charged", 0}, {"held", 1'800'000}, {"job_longest_s", 120},
              {"segments", {{{"plan", plan}, {"opened", 900}, {"start", 1000},
                             {"charges", json::array()}}}}};
  pace = {.epochs_done = 5, .epochs = 16, .epoch_s = 10, .as_of = 1040, .trained_from = 1000};
  const auto left_s = [&] { return reestimate_of(run, pace)->left_s; };
  EXPECT_EQ(left_s(), 110 + 100);
  run["segments"][0]["charges"] = {{{"start", 100}, {"end", 200}}, {{"start", 500}, {"end", 700}}};
  EXPECT_EQ(left_s(), 110 + 300);
}

TEST_F(Reestimated, TimedRunsCostTheirHoldAtMostAndOthersMayNeedMore) {
  pace.epoch_s = 1000;
  EXPECT_GT(reestimate(plan, pace, standing)->cost, standing.held);
  EXPECT_LT(*reestimate(plan, pace, standing)->after, Amount{0});
  plan.is_timed = true;
  EXPECT_EQ(reestimate(plan, pace, standing)->cost, standing.held);
}

TEST_F(Reestimated, NothingIsSaidOfNumbersThatMakeNoSense) {
  const auto said = [&](double epoch_s, double as_of, int epochs) {
    return reestimate(plan, {.epochs_done = 1, .epochs = epochs, .epoch_s = epoch_s, .as_of = as_of},
                      standing).has_value();
  };
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_FALSE(said(0, 1080, 10));
  EXPECT_FALSE(said(-5, 1080, 10));
  EXPECT_FALSE(said(nan, 1080, 10));
  EXPECT_FALSE(said(10, nan, 10));
  EXPECT_FALSE(said(1e300, 1080, 10));
  EXPECT_TRUE(said(10, 1080, 10));
}

// An admin's list opens the files of other people's folders: a pipe would keep it waiting, a device for
// ever.
TEST_F(Reestimated, NothingButARegularFileOfARunsFolderIsOpened) {
  test::Folder folder;
  const std::string metrics = folder.path() / "metrics.jsonl";
  ASSERT_EQ(::mkfifo(metrics.c_str(), 0600), 0);
  EXPECT_EQ(read_progress(folder.path()).epochs_done, 0);
  EXPECT_TRUE(last_lines(metrics, 5).empty());
  EXPECT_TRUE(LineFollower(metrics).take().empty());

  ASSERT_EQ(::symlink("/dev/zero", (folder.path() / "exit.json").c_str()), 0);
  ASSERT_EQ(::symlink("/dev/zero", (folder.path() / "attempts.jsonl").c_str()), 0);
  EXPECT_EQ(exit_message(folder.path()), "");
  EXPECT_TRUE(read_attempt_ends(folder.path()).empty());
}

TEST_F(Reestimated, TheLastLinesOfALongLogAreWholeOnes) {
  test::Folder folder;
  const std::string log = folder.path() / "slurm-1.out";
  test::write_file(log, std::string(100'000, 'x') + "\nfirst\nsecond\nold\rnew\nlast");
  EXPECT_EQ(last_lines(log, 3), (std::vector<std::string>{"second", "new", "last"}));
  EXPECT_EQ(last_lines(log, 9), (std::vector<std::string>{"first", "second", "new", "last"}));
}

TEST_F(Reestimated, ShowsInWordsAndAsJsonWhileTheRunRuns) {
  test::Folder folder;
  std::string lines;
  for (const auto& each : {record("start", 0, 50), epoch(1, 60), epoch(2, 70), epoch(3, 80)}) {
    lines += contract::to_json_line(each) + "\n";
  }
  test::write_file(folder.path() / "metrics.jsonl", lines);
  const auto pace_read = read_progress(folder.path()).pace;
  json run = {{"state", "running"}, {"charged", 0}, {"held", 1'800'000}, {"available", kHour},
              {"segments", {{{"plan", plan}, {"start", 1000}, {"charges", json::array()}}}}};

  const auto now = reestimate_of(run, pace_read);
  ASSERT_TRUE(now);
  EXPECT_EQ(rest_text(*now), "about 1:10 more, to " + local_time(1150));
  EXPECT_EQ(reestimate_json(*now, ""),
            json({{"epochs_done", 3}, {"epochs", 10}, {"seconds_an_epoch", 10.0}, {"left_s", 70},
                  {"end", 1150}, {"seconds", 150}, {"cost", 300'000},
                  {"available_after", kHour + 1'500'000}}));
  for (const char* state : {"queued", "paused", "settling", "finished"}) {
    run["state"] = state;
    EXPECT_FALSE(reestimate_of(run, pace_read)) << state;
  }
}

}  // namespace
}  // namespace scheduler
