// SPDX-License-Identifier: GPL-3.0-or-later
//
// Epochs runs that need longer than was thought, against a pretended Slurm.
#include "scheduler/plain_job.h"
#include "world.h"

namespace scheduler {
namespace {

constexpr std::int64_t kMinute = 60'000;  // Milli-GPU-seconds of one GPU.

class ExtensionTest : public ::testing::Test {
 protected:
  JobId start_with(std::int64_t hours_milli) {
    give(hours_milli);
    const JobId id = world.launch(world.admission());
    world.cluster.start(id);
    world.tick();
    return id;
  }
  void give(std::int64_t hours_milli) {
    const auto status = world.dispatcher().ledger().grant(
        {fmt::format("x{}", ++gifts_), "user:ada", {hours_milli}, "root", ""}, world.cluster.now);
    EXPECT_TRUE(status && *status == accounting::GrantStatus::kGranted);
  }
  void set_rule(const std::string& name, const std::string& value) {
    const auto set = world.dispatcher().ledger().set(
        {"rule/" + name, "user:ada", name, value, 0, "root", ""}, world.cluster.now);
    ASSERT_TRUE(set && *set == accounting::SetStatus::kSet);
  }
  std::int64_t limit(JobId id) { return world.cluster.jobs.at(id).time_limit_s; }
  World world;

 private:
  int gifts_ = 0;
};

TEST_F(ExtensionTest, TheHoldGrowsAndThenTheLimitAheadOfTheEnd) {
  const JobId id = start_with(10 * 60 * kMinute);
  const auto held = world.balance().held;
  world.tick(200);
  EXPECT_EQ(limit(id), 600);
  world.tick(150);
  EXPECT_EQ(world.balance().held.milli_gpu_s, held.milli_gpu_s + 2 * 10 * kMinute);
  world.tick(10);
  EXPECT_EQ(limit(id), 1200);
  world.tick(10);
  world.cluster.end(id, JobState::kCompleted, 0);
  world.tick(10);
  EXPECT_EQ(world.state(), "finished");
  EXPECT_EQ(world.balance().held.milli_gpu_s, 0);
  world.expect_books_are_right();
}

TEST_F(ExtensionTest, WhoHasLeftTheGroupDrawsNoNewHoursFromItsFund) {
  world.grant("group:vision", 10);
  Admission admission = world.admission();
  admission.request.resources.fund = "group:vision";
  const JobId id = world.launch(admission);
  world.cluster.start(id);
  world.tick();
  const auto held = world.balance("group:vision").held;
  world.ada.groups = {};
  world.tick(350);
  world.tick(10);
  EXPECT_EQ(limit(id), 600);
  EXPECT_EQ(world.balance("group:vision").held, held);
  ASSERT_TRUE(world.run().last().budget_ended);
  EXPECT_NE(world.run().last().budget_ended->find("group:vision is not ada's to spend any more"),
            std::string::npos);
  world.ada = kAda;
  world.tick(61);
  world.tick(10);
  EXPECT_EQ(limit(id), 1200);
}

TEST_F(ExtensionTest, Scenario1TheHoldStandsBeforeTheLimitEvenWhereTheServiceDiesBetween) {
  const JobId id = start_with(10 * 60 * kMinute);
  world.cluster.set_time_limit_is_refused = true;
  world.cluster.now += 350;
  (void)world.dispatcher().tick(world.cluster.now);
  (void)world.dispatcher().tick(world.cluster.now + 10);
  EXPECT_EQ(limit(id), 600);
  EXPECT_EQ(world.balance().held.milli_gpu_s, 2 * (1200 + kMargin) * 1000);
  world.restart();
  world.cluster.set_time_limit_is_refused = false;
  world.tick(20);
  world.tick(10);
  EXPECT_EQ(limit(id), 1200);
  EXPECT_EQ(world.balance().held.milli_gpu_s, 2 * (1200 + kMargin) * 1000);
}

// The first attempt has used 351 s of the 1200 s that are held when the limit can be raised.
TEST_F(ExtensionTest, ALimitThatIsRaisedLateIsOfWhatEarlierAttemptsHaveLeft) {
  const JobId id = start_with(10 * 60 * kMinute);
  world.cluster.set_time_limit_is_refused = true;
  world.cluster.now += 350;
  (void)world.dispatcher().tick(world.cluster.now);
  ASSERT_EQ(world.balance().held.milli_gpu_s, 2 * (1200 + kMargin) * 1000);
  world.cluster.requeue(id);
  for (int i = 0; i < 3; ++i) {
    world.cluster.now += 10;
    (void)world.dispatcher().tick(world.cluster.now);
  }
  world.cluster.set_time_limit_is_refused = false;
  world.cluster.start(id);
  for (int i = 0; i < 3; ++i) {
    world.tick(10);
    EXPECT_LE(2 * (limit(id) + kMargin) * 1000, world.balance().held.milli_gpu_s) << i;
  }
  EXPECT_EQ(limit(id), 840);
  world.expect_books_are_right();
}

// A full disk shows at the commit. Nothing is done by what the books do not have.
TEST_F(ExtensionTest, WhatIsNotCommittedRaisesNoLimitAndPaysNothing) {
  const JobId id = start_with(10 * 60 * kMinute);
  auto& db = world.dispatcher().database();
  ASSERT_TRUE(db.execute_script(
      "PRAGMA foreign_keys = ON; CREATE TABLE parent(id INTEGER PRIMARY KEY);"
      "CREATE TABLE child(id INTEGER REFERENCES parent(id) DEFERRABLE INITIALLY DEFERRED);"
      "CREATE TRIGGER full_disk AFTER INSERT ON run_event WHEN new.kind IN ('HoldExtended', "
      "'AttemptCharged', 'SegmentClosed') BEGIN INSERT INTO child VALUES(7); END;"));
  const auto held = world.balance().held;
  for (int i = 0; i < 3; ++i) {
    world.cluster.now += 150;
    (void)world.dispatcher().tick(world.cluster.now);
  }
  EXPECT_EQ(limit(id), 600);
  EXPECT_EQ(world.balance().held, held);
  world.cluster.end(id, JobState::kCompleted, 0);
  for (int i = 0; i < 3; ++i) {
    world.cluster.now += 20;
    (void)world.dispatcher().tick(world.cluster.now);
  }
  EXPECT_EQ(world.balance().held, held);
  EXPECT_EQ(world.balance().charged.milli_gpu_s, 0);

  ASSERT_TRUE(db.execute_script("DROP TRIGGER full_disk; PRAGMA foreign_keys = OFF;"));
  world.tick(10);
  world.tick(10);
  EXPECT_EQ(world.state(), "finished");
  EXPECT_EQ(world.balance().charged.milli_gpu_s, 2 * 451 * 1000);  // A second at the start.
  EXPECT_EQ(world.balance().held.milli_gpu_s, 0);
}

TEST_F(ExtensionTest, WhereTheFundCannotPayTheRunSavesPausesAndSaysWhatItTakes) {
  const JobId id = start_with(2 * (600 + kMargin) * 1000 + 1000);
  world.tick(350);
  EXPECT_EQ(limit(id), 600);
  EXPECT_TRUE(world.cluster.asked_to_stop.empty());
  world.tick(220);
  EXPECT_EQ(world.cluster.asked_to_stop, std::vector<JobId>{id});
  world.cluster.end(id, JobState::kFailed, 10);
  world.tick(10);
  EXPECT_EQ(world.state(), "stopped");
  const std::string reason = world.run().reason;
  EXPECT_EQ(reason.rfind("budget: fund user:ada has 0.000 GPU-h available", 0), 0u) << reason;
  EXPECT_NE(reason.find("the next 10 min of this run need 0.333 GPU-h"), std::string::npos);
  EXPECT_NE(reason.find("trainyard resume runone"), std::string::npos);
  world.expect_books_are_right();
}

TEST_F(ExtensionTest, WhatTheFundStillHasIsUsedToTheMinute) {
  const JobId id = start_with(2 * (600 + kMargin) * 1000 + 2 * 3 * kMinute + 1000);
  world.tick(350);
  world.tick(10);
  EXPECT_EQ(limit(id), 600 + 180);
  EXPECT_EQ(world.balance().available.milli_gpu_s, 1000);
}

TEST_F(ExtensionTest, ATimedRunIsNeverExtended) {
  world.grant("user:ada", 10);
  Admission timed = world.admission();
  timed.request.args.time_h = 0.2;
  timed.request.resources.time_limit_s.reset();
  const JobId id = world.launch(timed);
  world.cluster.start(id);
  const auto before = limit(id);
  for (int i = 0; i < 6; ++i) world.tick(100);
  EXPECT_EQ(limit(id), before);
}

TEST_F(ExtensionTest, ATopupBeforeTheLimitExtendsARunThatTheFundCouldNotPay) {
  const JobId id = start_with(2 * (600 + kMargin) * 1000 + 1000);
  world.tick(350);
  ASSERT_TRUE(world.run().last().budget_ended);
  EXPECT_EQ(world.state(), "running");
  EXPECT_EQ(world.run().reason.rfind("budget: fund user:ada has 0.000 GPU-h available", 0), 0u)
      << world.run().reason;

  give(10 * 60 * kMinute);
  for (int i = 0; i < 3; ++i) world.tick(10);

  EXPECT_EQ(limit(id), 1200);
  EXPECT_EQ(world.run().reason, "");
  EXPECT_FALSE(world.run().last().budget_ended);
  world.tick(200);  // Where it would have been asked to save and leave.
  EXPECT_TRUE(world.cluster.asked_to_stop.empty());
  world.expect_books_are_right();
}

TEST_F(ExtensionTest, AFundThatCannotPayIsAskedAgainOnlyWhenTheBooksChangeOrAMinuteIsOver) {
  (void)start_with(2 * (600 + kMargin) * 1000 + 1000);
  world.tick(350);
  const auto said = world.run().last().budget_ended;
  give(30 * 1000);  // Not a minute of two GPUs: other numbers, the same answer.
  world.tick(10);
  EXPECT_NE(world.run().last().budget_ended, said);
  EXPECT_NE(world.run().reason.find("has 0.009 GPU-h available"), std::string::npos)
      << world.run().reason;
}

TEST_F(ExtensionTest, AMembersCapIsUsedToTheMinuteAndThenNamed) {
  const std::int64_t first = 2 * (600 + kMargin) * 1000;
  set_rule("cap/ada", std::to_string(first + 2 * 3 * kMinute + 1000));
  const JobId id = start_with(100 * 60 * kMinute);
  world.tick(350);
  world.tick(10);
  EXPECT_EQ(limit(id), 600 + 180);

  world.tick(180);

  const std::string reason = world.run().reason;
  EXPECT_EQ(reason.rfind("budget: ada may use 0.484 GPU-h of fund user:ada and has 0.483 GPU-h in use; "
                         "this needs 0.333 GPU-h more.", 0), 0u) << reason;
  EXPECT_NE(reason.find("trainyard resume runone"), std::string::npos) << reason;
  EXPECT_EQ(limit(id), 600 + 180);
  world.expect_books_are_right();
}

TEST_F(ExtensionTest, AClosedFundAndNotItsBalanceIsWhyARunIsNotExtended) {
  const JobId id = start_with(100 * 60 * kMinute);
  set_rule("closed", "1");
  world.tick(350);
  EXPECT_EQ(limit(id), 600);
  const std::string reason = world.run().reason;
  EXPECT_EQ(reason.rfind("budget: fund user:ada is closed to new runs.", 0), 0u) << reason;
  EXPECT_EQ(reason.find("available"), std::string::npos) << reason;
  world.tick(220);
  world.cluster.end(id, JobState::kFailed, 10);
  world.tick(10);
  EXPECT_EQ(world.run().reason, reason);
}

TEST_F(ExtensionTest, TheLongestAllocationOfItsTierBindsItAndALaterTierDoesNot) {
  Tier tier;
  tier.name = "free";
  tier.is_default = true;
  tier.max_time_s = 780;
  world.site.tiers = {tier};
  const JobId id = start_with(100 * 60 * kMinute);
  world.site.tiers[0].max_time_s = 36'000;
  world.restart();  // It was admitted under the tier as it was.
  world.tick(350);
  for (int i = 0; i < 3; ++i) world.tick(10);
  EXPECT_EQ(limit(id), 780);
  for (int i = 0; i < 5; ++i) world.tick(60);
  EXPECT_EQ(limit(id), 780);
  EXPECT_EQ(world.balance().held.milli_gpu_s, 2 * (780 + kMargin) * 1000);
}

TEST_F(ExtensionTest, TheReasonOfItsEndNamesTheLimitThatWasSetLast) {
  for (const auto& [state, code] : {std::pair{JobState::kTimeout, 0}, {JobState::kFailed, 11}}) {
    SCOPED_TRACE(to_name(state));
    JobEnded ended;
    ended.state = state;
    ended.exit_code = code;
    ended.gpus = 2;
    scheduler::Run run;
    Plan plan;
    plan.time_limit_s = 600;
    run = apply(std::move(run), {1, RunCreated{}});
    run = apply(std::move(run), {2, SegmentOpened{0, plan, "h", ""}});
    EXPECT_NE(explain_end(run.last(), ended, 0).reason.find("time limit of 10 min"), std::string::npos)
        << explain_end(run.last(), ended, 0).reason;
    run = apply(std::move(run), {3, LimitRaised{0, 1200}});
    EXPECT_NE(explain_end(run.last(), ended, 0).reason.find("time limit of 20 min"), std::string::npos);
    run = apply(std::move(run), {4, LimitCut{0, 1200, 900}});
    EXPECT_NE(explain_end(run.last(), ended, 0).reason.find("time limit of 15 min"), std::string::npos);
  }
}

// slurmdbd closed the record of an attempt a second time, later: 300 s more than are in the books. What
// is left of the hold pays for the next attempt only as long as they are not.
TEST(RestOfAHold, IsNotActedUponInTheRoundThatChargesSomeOfIt) {
  constexpr JobId kJob = 7;
  Patience patience;
  Plan plan;
  plan.partition = "metered";
  plan.gpus = 1;
  plan.time_limit_s = 600;
  plan.quote.weight_milli = 1000;
  plan.quote.hold = {(600 + patience.margin_s(plan) + 100) * 1000};
  scheduler::Run run;
  run.id = "0000000000000001";
  RunCreated created;
  created.uid = 1000;
  created.is_plain = true;
  run = apply(std::move(run), {900, created});
  run = apply(std::move(run), {900, SegmentOpened{0, plan, "h", ""}});
  run = apply(std::move(run), {900, JobSubmitted{0, kJob, 900}});
  run = apply(std::move(run), {1000, AttemptStarted{0, kJob, 0, 1000, 1, "n1", 900, 0}});
  AttemptCharged charge;
  charge.job = kJob;
  charge.state = JobState::kRequeued;
  charge.start = 1000;
  charge.end = 1100;
  charge.gpus = 1;
  charge.charged = {100'000};
  charge.submit = 900;
  run = apply(std::move(run), {1110, charge});
  JobSnapshot job;
  job.id = kJob;
  job.uid = 1000;
  job.state = JobState::kPending;
  job.admin_comment = "trainyard-job:0000000000000001:";
  job.comment = with_reason("", "an earlier attempt is not charged yet");
  job.partition = "metered";
  job.submit = 1500;
  job.time_limit_s = 600;
  job.attempt = 1;
  job.gpus = 1;
  job.is_held = job.is_held_by_admin = true;
  AllocationRecord record;
  record.id = kJob;
  record.uid = 1000;
  record.state = JobState::kRequeued;
  record.partition = "metered";
  record.submit = 900;
  record.start = 1000;
  record.end = 1100;
  record.gpus = 1;
  View view;
  view.jobs_known = view.records_known = true;
  view.job = &job;
  view.records = {record};

  const auto as_charged = next_actions(run, view, 1510, patience);
  ASSERT_EQ(as_charged.size(), 1u);
  EXPECT_TRUE(std::holds_alternative<ReleaseJob>(as_charged[0]));

  view.records[0].end = 1400;
  const auto with_more = next_actions(run, view, 1510, patience);
  ASSERT_EQ(with_more.size(), 1u);
  ASSERT_TRUE(std::holds_alternative<PostCharge>(with_more[0]));
  charge = std::get<PostCharge>(with_more[0]).charge;
  EXPECT_EQ(charge.end - charge.start, 300);

  charge.charged = {300'000};
  run = apply(std::move(run), {1510, charge});
  for (const Action& action : next_actions(run, view, 1510, patience)) {
    EXPECT_FALSE(std::holds_alternative<ReleaseJob>(action));
  }
}

}  // namespace
}  // namespace scheduler
