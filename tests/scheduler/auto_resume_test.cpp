// SPDX-License-Identifier: GPL-3.0-or-later
//
// Runs that go on by themselves, against a pretended Slurm.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <random>

#include "world.h"

namespace scheduler {
namespace {

constexpr std::int64_t kFirstHold = 2 * (600 + kMargin) * 1000;

class AutoResumeTest : public ::testing::Test {
 protected:
  // A run of two GPUs and ten minutes, running.
  JobId start_with(std::int64_t milli_gpu_s) {
    give(milli_gpu_s);
    Admission admission = world.admission();
    admission.request.resources.auto_resume = true;
    const JobId id = world.launch(admission);
    world.cluster.start(id);
    world.tick();
    return id;
  }
  void give(std::int64_t milli_gpu_s) {
    const auto status = world.dispatcher().ledger().grant(
        {fmt::format("gift{}", ++gifts_), "user:ada", {milli_gpu_s}, "root", ""}, world.cluster.now);
    EXPECT_TRUE(status && *status == accounting::GrantStatus::kGranted);
  }
  // As the batch script does at its end: scontrol requeuehold, as the user.
  void requeue_held(JobId id) {
    world.cluster.requeue(id);
    world.cluster.jobs.at(id).is_held = true;
  }
  const JobSnapshot& job(JobId id) { return world.cluster.jobs.at(id); }
  World world;

 private:
  int gifts_ = 0;
};

TEST_F(AutoResumeTest, ARunThatItsFundCouldNotPayGoesOnWhenATopupCame) {
  const JobId id = start_with(kFirstHold + 1000);
  world.tick(350);
  world.tick(220);
  ASSERT_EQ(world.cluster.asked_to_stop, std::vector<JobId>{id});
  requeue_held(id);
  for (int i = 0; i < 4; ++i) world.tick(10);
  EXPECT_EQ(world.state(), "paused");
  EXPECT_EQ(world.run().reason.rfind("budget: ", 0), 0u) << world.run().reason;
  EXPECT_TRUE(job(id).is_held);
  EXPECT_EQ(world.run().charged().milli_gpu_s, 2 * 571 * 1000);

  give(10 * accounting::kGpuHour.milli_gpu_s);
  for (int i = 0; i < 3; ++i) world.tick(10);
  EXPECT_FALSE(job(id).is_held);
  EXPECT_EQ(world.state(), "queued");
  EXPECT_EQ(world.balance().held.milli_gpu_s, kFirstHold);
  world.cluster.start(id);
  world.tick(10);
  EXPECT_EQ(world.state(), "running");
  world.cluster.end(id, JobState::kCompleted, 0);
  world.tick(10);
  EXPECT_EQ(world.state(), "finished");
  EXPECT_EQ(world.balance().charged.milli_gpu_s, 2 * (571 + 10) * 1000);
  EXPECT_EQ(world.balance().held.milli_gpu_s, 0);
  world.expect_books_are_right();
}

TEST_F(AutoResumeTest, ItNeedsNoTopupWhereTheLimitOfOneJobWasTooShort) {
  world.site.limits.max_time_s = 600;
  world.restart();
  const JobId id = start_with(10 * accounting::kGpuHour.milli_gpu_s);
  world.tick(590);
  EXPECT_EQ(job(id).time_limit_s, 600);
  requeue_held(id);
  for (int i = 0; i < 3; ++i) world.tick(10);
  EXPECT_FALSE(job(id).is_held);
  EXPECT_EQ(job(id).time_limit_s, 600);
  EXPECT_EQ(world.balance().held.milli_gpu_s, kFirstHold);
  world.expect_books_are_right();
}

TEST_F(AutoResumeTest, WhatTheFundStillHasPaysForAShorterAttempt) {
  const JobId id = start_with(10 * accounting::kGpuHour.milli_gpu_s);
  world.tick(100);
  world.cluster.jobs.at(id).time_limit_s = 600;
  // All but 13 minutes of two GPUs are spent elsewhere.
  const std::int64_t left = 2 * (780 + kMargin) * 1000;
  const auto held = world.dispatcher().ledger().hold(
      {"elsewhere", "user:ada", {world.balance().available.milli_gpu_s - left}, "other", "ada", 0},
      world.cluster.now);
  ASSERT_TRUE(held && *held == accounting::HoldStatus::kHeld);
  world.tick(480);
  world.tick(10);
  requeue_held(id);
  for (int i = 0; i < 4; ++i) world.tick(10);
  EXPECT_FALSE(job(id).is_held);
  EXPECT_GE(job(id).time_limit_s, 600);
  EXPECT_GE(world.balance().available.milli_gpu_s, 0);
  world.expect_books_are_right();
}

TEST_F(AutoResumeTest, APreemptedRunGetsItsWholeLimitAgain) {
  const JobId id = start_with(10 * accounting::kGpuHour.milli_gpu_s);
  for (int i = 0; i < 8; ++i) {
    world.tick(100);
    world.cluster.requeue(id);
    world.cluster.records[id][world.cluster.records[id].size() - 2].state = JobState::kPreempted;
    for (int j = 0; j < 3; ++j) world.tick(10);
    ASSERT_FALSE(job(id).is_held) << i;
    EXPECT_EQ(job(id).time_limit_s, 600);
    EXPECT_EQ(world.balance().held.milli_gpu_s, kFirstHold);
    world.cluster.start(id);
    world.tick();
  }
  EXPECT_EQ(world.state(), "running");
  world.expect_books_are_right();
}

TEST_F(AutoResumeTest, AllJobsTogetherLastAsLongAsTheTierAllowsARun) {
  world.site.limits.max_time_s = 600;
  world.site.tiers = {{.name = "free", .is_default = true, .max_gpus = {}, .max_nodes = {},
                       .max_runs = {}, .max_time_s = 960, .types = {}, .monthly_grant = {},
                       .is_self_service = true, .price = {}, .line = 9}};
  const JobId id = start_with(10 * accounting::kGpuHour.milli_gpu_s);
  world.tick(590);
  requeue_held(id);
  for (int i = 0; i < 4; ++i) world.tick(10);
  EXPECT_FALSE(job(id).is_held);
  EXPECT_EQ(job(id).time_limit_s, 360);  // 591 s of 960 s are used.
  world.cluster.start(id);
  world.tick(1);
  world.tick(200);
  EXPECT_EQ(job(id).time_limit_s, 360);  // Not extended either.
  world.tick(140);
  requeue_held(id);
  for (int i = 0; i < 3; ++i) world.tick(10);
  EXPECT_EQ(world.cluster.cancelled, std::vector<JobId>{id});
  for (int i = 0; i < 12; ++i) world.tick(10);
  EXPECT_NE(world.run().reason.find("tier free allows a run 16 min, of which 15 are used"),
            std::string::npos) << world.run().reason;
  EXPECT_EQ(world.state(), "stopped");
  EXPECT_EQ(world.balance().held.milli_gpu_s, 0);
  world.expect_books_are_right();
}

TEST_F(AutoResumeTest, NodesThatFailAgainAndAgainEndIt) {
  const JobId id = start_with(10 * accounting::kGpuHour.milli_gpu_s);
  int followed = 0;
  while (world.cluster.cancelled.empty() && followed < 20) {
    world.tick(100);
    world.cluster.requeue(id);
    world.cluster.records[id][world.cluster.records[id].size() - 2].state = JobState::kNodeFail;
    for (int j = 0; j < 3; ++j) world.tick(10);
    if (!world.cluster.cancelled.empty()) break;
    world.cluster.start(id);
    world.tick();
    ++followed;
  }
  EXPECT_EQ(followed, 5);
  world.tick(10);
  EXPECT_EQ(world.state(), "failed");
  EXPECT_NE(world.run().reason.find("nodes failed 6 times"), std::string::npos) << world.run().reason;
  EXPECT_EQ(world.balance().held.milli_gpu_s, 0);
}

TEST_F(AutoResumeTest, AttemptsThatGetNowhereEndIt) {
  const JobId id = start_with(10 * accounting::kGpuHour.milli_gpu_s);
  for (int i = 0; i < 20 && world.cluster.cancelled.empty(); ++i) {
    world.tick(2);
    requeue_held(id);
    for (int j = 0; j < 3; ++j) world.tick(10);
    if (world.cluster.cancelled.empty()) world.cluster.start(id);
  }
  EXPECT_EQ(world.cluster.cancelled, std::vector<JobId>{id});
  world.tick(10);
  EXPECT_NE(world.run().reason.find("in a row"), std::string::npos) << world.run().reason;
}

TEST_F(AutoResumeTest, PauseKeepsTheJobWaitingUntilResume) {
  const JobId id = start_with(10 * accounting::kGpuHour.milli_gpu_s);
  ASSERT_FALSE(world.dispatcher().request_pause(kAda, "runone", world.cluster.now)->has_value());
  world.tick();
  EXPECT_EQ(world.cluster.asked_to_stop, std::vector<JobId>{id});
  requeue_held(id);
  for (int i = 0; i < 10; ++i) world.tick(60);
  EXPECT_EQ(world.state(), "paused");
  EXPECT_EQ(world.run().reason, "paused by ada");
  EXPECT_TRUE(job(id).is_held);

  EXPECT_TRUE(world.dispatcher().request_resume(kBob, "runone", world.cluster.now)->has_value());
  EXPECT_FALSE(world.dispatcher().request_resume(kAda, "runone", world.cluster.now)->has_value());
  for (int i = 0; i < 3; ++i) world.tick(10);
  EXPECT_FALSE(job(id).is_held);
  EXPECT_TRUE(world.dispatcher().request_resume(kAda, "runone", world.cluster.now)->has_value());
}

TEST_F(AutoResumeTest, StopEndsItThoughItsJobRequeuesItself) {
  const JobId id = start_with(10 * accounting::kGpuHour.milli_gpu_s);
  ASSERT_FALSE(world.dispatcher().request_stop(kAda, "runone", world.cluster.now)->has_value());
  world.tick();
  requeue_held(id);
  for (int i = 0; i < 4; ++i) world.tick(10);
  EXPECT_EQ(world.state(), "stopped");
  EXPECT_EQ(world.balance().held.milli_gpu_s, 0);
  EXPECT_TRUE(world.dispatcher().audit()->faults.empty());
}

TEST_F(AutoResumeTest, ARunWithoutItIsStoppedByAPause) {
  world.grant("user:ada", 10);
  const JobId id = world.launch(world.admission());
  world.cluster.start(id);
  world.tick();
  ASSERT_FALSE(world.dispatcher().request_pause(kAda, "runone", world.cluster.now)->has_value());
  world.tick();
  world.cluster.end(id, JobState::kFailed, 10);
  world.tick();
  EXPECT_EQ(world.state(), "stopped");
}

TEST_F(AutoResumeTest, TheServiceMayDieAtAnyPointOfIt) {
  const JobId id = start_with(kFirstHold + 1000);
  const auto step = [&](std::int64_t seconds) {
    world.restart();
    world.tick(seconds);
  };
  step(350);
  step(220);
  requeue_held(id);
  for (int i = 0; i < 4; ++i) step(10);
  EXPECT_EQ(world.state(), "paused");
  give(accounting::kGpuHour.milli_gpu_s);
  for (int i = 0; i < 3; ++i) step(10);
  EXPECT_FALSE(job(id).is_held);
  EXPECT_EQ(world.balance().held.milli_gpu_s, kFirstHold);
  world.expect_books_are_right();
}

// Timed runs on a partition of twenty minutes, two GPUs of weight 1.5.
class TimedTest : public AutoResumeTest {
 protected:
  static constexpr std::int64_t kHours_s = 3'240, kRate = 2 * 1'500;

  TimedTest() {
    world.cluster.about.partition_max_s = {{"gpu", 1'200}};
    world.site.types[0].weights = {{0, 1'500}};
    world.restart();
  }
  Admission timed() const {
    Admission admission = world.admission();
    admission.request.resources.time_limit_s.reset();
    admission.request.resources.auto_resume = true;
    admission.request.args.time_h = 0.9;
    return admission;
  }
  // The fund has what the hours cost, and nothing more.
  JobId launch() {
    give(kRate * kHours_s);
    const JobId id = world.launch(timed());
    EXPECT_EQ(world.balance().available.milli_gpu_s, 0);
    return id;
  }
  void start(JobId id) {
    world.cluster.start(id);
    world.tick(0);
    EXPECT_LE(kRate * (job(id).time_limit_s + kMargin), world.run().last().remaining().milli_gpu_s);
    EXPECT_LE(job(id).time_limit_s, 1'200);
  }
  void wait() {
    for (int i = 0; i < 4; ++i) world.tick(10);
  }
  void expect_all_released(std::int64_t used_s) {
    EXPECT_EQ(world.balance().charged.milli_gpu_s, kRate * used_s);
    EXPECT_EQ(world.balance().held.milli_gpu_s, 0);
    EXPECT_EQ(world.balance().available.milli_gpu_s, kRate * (kHours_s - used_s));
    world.expect_books_are_right();
    EXPECT_TRUE(world.dispatcher().audit()->faults.empty());
  }
};

TEST_F(TimedTest, ItsHoursAreSpentInSeveralJobsAndTheRestIsReleased) {
  const JobId id = launch();
  EXPECT_EQ(job(id).time_limit_s, 1'200);
  start(id);
  world.tick(1'175);
  requeue_held(id);
  wait();
  EXPECT_EQ(world.state(), "queued");
  EXPECT_FALSE(job(id).is_held);
  EXPECT_EQ(job(id).time_limit_s, 1'200);  // 2065 s are left.
  EXPECT_EQ(world.balance().held.milli_gpu_s, kRate * (kHours_s - 1'175));

  world.tick(5'000);  // Waiting costs nothing.
  start(id);
  world.tick(1'180);
  requeue_held(id);
  wait();
  EXPECT_FALSE(job(id).is_held);
  EXPECT_EQ(job(id).time_limit_s, 780);  // 885 s less the margin: the last.
  start(id);
  world.tick(700);
  world.cluster.end(id, JobState::kCompleted, 0);
  wait();
  EXPECT_EQ(world.state(), "finished");
  expect_all_released(1'175 + 1'180 + 700);
}

TEST_F(TimedTest, TheLastJobIsShorterThanTheOthersThoughMoreWouldFit) {
  const JobId id = launch();
  start(id);
  world.tick(1'900);  // slurmctld was away and ended nothing.
  requeue_held(id);
  wait();
  EXPECT_EQ(job(id).time_limit_s, 1'140);  // 1340 s are left, and none for a job after the next.
  EXPECT_FALSE(job(id).is_held);
}

TEST_F(TimedTest, ItsLostHoursAreSpentAndItGoesOnWithTheRest) {
  const JobId id = launch();
  start(id);
  world.tick(600);
  world.cluster.requeue(id);  // Slurm's own: nobody holds it.
  world.cluster.records[id][0].state = JobState::kNodeFail;
  wait();
  EXPECT_EQ(job(id).time_limit_s, 1'200);
  start(id);
  world.tick(1'100);
  world.cluster.requeue(id);
  world.cluster.records[id][1].state = JobState::kPreempted;
  wait();
  EXPECT_FALSE(job(id).is_held);
  EXPECT_EQ(job(id).time_limit_s, 1'200);  // 1540 s are left, and another can follow.
  start(id);
  world.tick(1'190);
  requeue_held(id);
  wait();
  EXPECT_EQ(job(id).time_limit_s, 240);
  start(id);
  world.tick(200);
  world.cluster.end(id, JobState::kCompleted, 0);
  wait();
  EXPECT_EQ(world.state(), "finished");
  expect_all_released(1'100 + 1'190 + 200);  // What the lost node cost was given back to the fund.
}

// 1360 s are left: the job's limit of 1200 s is paid, and another could not follow it.
TEST_F(TimedTest, ALastJobThatSlurmStartsBeforeTheServiceLooksIsCutWhileItRuns) {
  const JobId id = launch();
  start(id);
  world.tick(1'180);
  requeue_held(id);
  wait();
  start(id);
  world.tick(700);
  world.cluster.requeue(id);
  world.cluster.records[id][1].state = JobState::kPreempted;

  start(id);
  wait();

  EXPECT_EQ(job(id).time_limit_s, 1'140);
  world.tick(1'000);
  world.cluster.end(id, JobState::kCompleted, 0);
  wait();
  EXPECT_EQ(world.state(), "finished");
  expect_all_released(1'180 + 700 + 1'040);
}

TEST_F(TimedTest, WhereNoJobIsWorthItsRestItStopsAndSaysSo) {
  const JobId id = launch();
  for (const std::int64_t lasts_s : {1'180, 1'180, 760}) {
    start(id);
    world.tick(lasts_s);
    requeue_held(id);
    wait();
  }
  EXPECT_EQ(world.state(), "stopped");
  EXPECT_EQ(world.run().reason.rfind("hours: 120 s of them are left, less than the 180 s", 0), 0u)
      << world.run().reason;
  expect_all_released(1'180 + 1'180 + 760);
  // More of them, and it goes on.
  give(kRate * 3'600);
  Admission more = timed();
  more.segment = 1;
  more.request.args.time_h = 1.9;
  more.request.args.epochs = 20;
  const JobId next = world.launch(more);
  EXPECT_EQ(job(next).time_limit_s, 1'200);
  EXPECT_EQ(world.balance().held.milli_gpu_s, kRate * (6'840 - 3'120));
}

TEST_F(TimedTest, APauseKeepsItsHours) {
  const JobId id = launch();
  start(id);
  ASSERT_FALSE(world.dispatcher().request_pause(kAda, "runone", world.cluster.now)->has_value());
  world.tick(100);
  requeue_held(id);
  wait();
  EXPECT_EQ(world.state(), "paused");
  world.tick(50'000);
  EXPECT_EQ(world.balance().held.milli_gpu_s, kRate * (kHours_s - 100));
  EXPECT_FALSE(world.dispatcher().request_resume(kAda, "runone", world.cluster.now)->has_value());
  wait();
  EXPECT_FALSE(job(id).is_held);
  EXPECT_EQ(job(id).time_limit_s, 1'200);
}

TEST_F(TimedTest, AStopBetweenTwoJobsReleasesTheRest) {
  const JobId id = launch();
  start(id);
  world.tick(1'170);
  requeue_held(id);
  world.tick(1);
  ASSERT_FALSE(world.dispatcher().request_stop(kAda, "runone", world.cluster.now)->has_value());
  wait();
  EXPECT_EQ(world.state(), "stopped");
  expect_all_released(1'170);
}

TEST_F(TimedTest, NeitherDeathsNorWhateverEndsItsJobsTakesMoreThanItsHours) {
  std::mt19937 dice(7);
  give(kRate * kHours_s);
  for (int life = 0; life < 30; ++life) {
    SCOPED_TRACE(life);
    const std::string run_id = fmt::format("life{:04}", life);
    Admission admission = timed();
    admission.run_id = run_id;
    const std::int64_t charged = world.balance().charged.milli_gpu_s;
    const JobId id = world.launch(admission);
    ASSERT_EQ(world.balance().available.milli_gpu_s, 0);
    int jobs = 0;
    for (; jobs < 40 && !is_terminal(world.run(run_id).state); ++jobs) {
      world.cluster.start(id);
      world.tick(1);
      // Until its limit, or until Slurm ends it so late as it may.
      const std::int64_t most_s = job(id).time_limit_s + (dice() % 4 == 0 ? kMargin : 0);
      world.tick(std::min<std::int64_t>(100 + dice() % 1'500, most_s) - 1);
      if (dice() % 2 == 0) {
        requeue_held(id);
      } else {
        world.cluster.requeue(id);
        world.cluster.records[id][world.cluster.records[id].size() - 2].state = JobState::kPreempted;
      }
      for (int i = 0; i < 6; ++i) {
        if (dice() % 3 == 0) world.restart();
        world.tick(10);
      }
    }
    EXPECT_GE(jobs, 2);
    EXPECT_EQ(to_name(world.run(run_id).state), "stopped") << world.run(run_id).reason;
    const std::int64_t cost = world.balance().charged.milli_gpu_s - charged;
    EXPECT_LE(cost, kRate * kHours_s);
    EXPECT_GT(cost, kRate * (kHours_s - 1'200));
    EXPECT_EQ(world.balance().held.milli_gpu_s, 0);
    give(cost);
  }
  EXPECT_TRUE(world.dispatcher().audit()->notes.empty());  // No excess.
  world.expect_books_are_right();
}

TEST_F(TimedTest, OneThatFitsIntoAJobGoesOnAfterAPreemption) {
  world.cluster.about.partition_max_s.clear();
  world.restart();
  const JobId id = launch();
  EXPECT_EQ(job(id).time_limit_s, 3'120);  // 3240 s less the margin.
  world.cluster.start(id);
  world.tick(1'000);
  world.cluster.requeue(id);
  world.cluster.records[id][0].state = JobState::kPreempted;
  wait();
  EXPECT_EQ(job(id).time_limit_s, 2'100);  // 2240 s less the margin.
  EXPECT_FALSE(job(id).is_held);
}

TEST(AutoResumeScript, RequeuesItselfOnlyWhereItIsToGoOn) {
  Plan plan;
  plan.tres_per_node = "gres:gpu:1";
  plan.time_limit_s = 600;
  const auto script = [&] { return render_job_script(plan, {"runone", 0}, "/runs/runone", test_site()); };
  EXPECT_EQ(script().find("requeuehold"), std::string::npos);
  plan.auto_resume = true;
  EXPECT_NE(script().find("scontrol requeuehold \"$SLURM_JOB_ID\""), std::string::npos);
}

TEST(AutoResumeRequest, IsKeptInJsonAndToml) {
  const auto read = read_request("", {{"data=", "data", "/d.yaml"}, {"--auto-resume", "auto_resume", "true"}}, "/");
  ASSERT_TRUE(read.faults.empty()) << read.faults.front().message;
  EXPECT_TRUE(read.request.resources.auto_resume);
  EXPECT_TRUE(nlohmann::json(read.request).get<TrainingRequest>().resources.auto_resume);
  EXPECT_NE(to_toml(read.request).find("auto_resume = true"), std::string::npos);
  const auto wrong = read_request("", {{"data=", "data", "/d.yaml"}, {"x", "auto_resume", "maybe"}}, "/");
  EXPECT_EQ(wrong.faults.size(), 1u);
}

}  // namespace
}  // namespace scheduler
