// SPDX-License-Identifier: GPL-3.0-or-later
//
// What [refunds] of site.toml gives back, against a pretended Slurm.
#include <nlohmann/json.hpp>

#include "files.h"
#include "scheduler/refund_policy.h"
#include "scheduler/service.h"
#include "world.h"

namespace scheduler {
namespace {

constexpr int kBadNodeCode = 32;

class RefundPolicyTest : public ::testing::Test {
 protected:
  void SetUp() override { world.grant("user:ada", 10); }
  void policy(std::vector<std::string> states) {
    world.site.refunds.states = std::move(states);
    world.restart();
  }
  // A training of 2 GPUs that ends after so many seconds.
  AttemptCharged trained(const std::string& run, JobState state, int exit_code, std::int64_t seconds) {
    const JobId id = world.launch(world.admission(run));
    end(id, state, exit_code, seconds);
    return world.run(run).last().charges.at(0);
  }
  void end(JobId id, JobState state, int exit_code, std::int64_t seconds) {
    world.cluster.start(id);
    world.tick();
    world.cluster.now += seconds - 1;
    world.cluster.end(id, state, exit_code);
    for (int i = 0; i < 3; ++i) world.tick(5);
  }
  World world;
};

TEST_F(RefundPolicyTest, ABadNodeIsChargedAndGivenBackWhereTheSiteSaysSo) {
  EXPECT_EQ(trained("runone", JobState::kFailed, kBadNodeCode, 20).refunded.milli_gpu_s, 0);
  const auto before = world.balance().charged.milli_gpu_s;
  ASSERT_EQ(before, 2 * 20 * 1000);

  policy({"NODE_FAIL", "BAD_NODE"});
  const auto charged = trained("runtwo", JobState::kFailed, kBadNodeCode, 20);
  EXPECT_EQ(charged.charged.milli_gpu_s, 2 * 20 * 1000);
  EXPECT_EQ(charged.refunded.milli_gpu_s, 2 * 20 * 1000);
  EXPECT_EQ(world.balance().charged.milli_gpu_s, before);
  const auto lines = world.dispatcher().ledger().lines("", "runtwo");
  ASSERT_TRUE(lines);
  int refunds = 0;
  for (const auto& line : *lines) {
    if (line.kind != "refund") continue;
    ++refunds;
    EXPECT_EQ(line.note, "BAD_NODE: refunds of site.toml");
  }
  EXPECT_EQ(refunds, 1);
  world.expect_books_are_right();
}

TEST_F(RefundPolicyTest, OtherFailuresAndPlainJobsWithThatCodeStayCharged) {
  policy({"BAD_NODE"});
  EXPECT_EQ(trained("runone", JobState::kFailed, 31, 20).refunded.milli_gpu_s, 0);
  EXPECT_EQ(trained("runtwo", JobState::kNodeFail, 0, 20).refunded.milli_gpu_s, 0);
  EXPECT_EQ(trained("runthree", JobState::kCancelled, kBadNodeCode, 20).refunded.milli_gpu_s, 0);
  const auto before = world.balance().charged.milli_gpu_s;
  const JobId plain = world.cluster.submit_plain(1, 600);
  world.tick();
  end(plain, JobState::kFailed, kBadNodeCode, 20);
  EXPECT_EQ(world.balance().charged.milli_gpu_s, before + 20 * 1000);
}

// The job runs as its user, who may end it with any code.
TEST_F(RefundPolicyTest, ABadNodeGivesBackNoMoreThanAPreflightTakes) {
  policy({"BAD_NODE"});
  const auto charged = trained("runone", JobState::kFailed, kBadNodeCode, 400);
  EXPECT_EQ(charged.charged.milli_gpu_s, 2 * 400 * 1000);
  EXPECT_EQ(charged.refunded.milli_gpu_s,
            2 * (world.site.launch.preflight_s + world.site.types[0].startup_s) * 1000);

  world.site.refunds.cap = {5'000};
  policy({"BAD_NODE"});
  const auto capped = trained("runtwo", JobState::kFailed, kBadNodeCode, 20);
  EXPECT_EQ(capped.refunded.milli_gpu_s, 5'000);
}

TEST_F(RefundPolicyTest, ABadNodeIsKnownAlsoWhereSlurmdbdIsSilent) {
  policy({"BAD_NODE"});
  const JobId id = world.launch(world.admission());
  world.cluster.start(id);
  world.tick();
  world.cluster.now += 19;
  world.cluster.end(id, JobState::kFailed, kBadNodeCode);
  world.cluster.database_is_up = false;
  for (int i = 0; i < 5; ++i) world.tick(60);
  ASSERT_EQ(world.run().last().charges.size(), 1u);
  EXPECT_EQ(world.run().last().charges[0].refunded, world.run().last().charges[0].charged);
}

TEST_F(RefundPolicyTest, ANodeThatDidNotBootIsGivenBackByDefault) {
  const auto charged = trained("runone", JobState::kBootFail, 0, 50);
  EXPECT_EQ(charged.charged.milli_gpu_s, 2 * 50 * 1000);
  EXPECT_EQ(charged.refunded.milli_gpu_s, 2 * 50 * 1000);
  EXPECT_EQ(world.balance().charged.milli_gpu_s, 0);
}

// A job that its owner requeued while slurmdbd was silent starts again before its first attempt is charged:
// the gate says no, and Slurm puts it back. What that took is given back, whoever restarts meanwhile.
class StartGateRefundTest : public RefundPolicyTest {
 protected:
  std::vector<AttemptCharged> kept_out(std::int64_t seconds) {
    const JobId id = world.cluster.submit_plain(1, 600);
    world.tick();
    world.cluster.start(id);
    world.tick();
    world.cluster.now += 59;
    world.cluster.database_is_up = false;
    world.cluster.requeue(id);
    world.cluster.now += 10;
    world.cluster.start(id);
    for (int i = 0; i < 2; ++i) {
      const auto answer = world.dispatcher().may_start(id, world.cluster.now);
      EXPECT_TRUE(answer && answer->has_value());
    }
    world.restart();
    world.cluster.now += seconds;
    world.cluster.requeue(id);
    world.cluster.database_is_up = true;
    for (int i = 0; i < 4; ++i) world.tick(5);
    const auto run = world.run(fmt::format("{:016}", ++plain_jobs_));
    EXPECT_EQ(run.segments.at(0).refused_starts.size(), 1u);
    return run.segments.at(0).charges;
  }

 private:
  int plain_jobs_ = 0;
};

TEST_F(StartGateRefundTest, AnAttemptThatTheGateKeptOutIsChargedAndGivenBack) {
  const auto charges = kept_out(3);
  ASSERT_EQ(charges.size(), 2u);
  EXPECT_EQ(charges[0].charged.milli_gpu_s, 60 * 1000);
  EXPECT_EQ(charges[0].refunded.milli_gpu_s, 0);  // Its owner's requeue.
  EXPECT_EQ(charges[1].charged.milli_gpu_s, 3 * 1000);
  EXPECT_EQ(charges[1].refunded.milli_gpu_s, 3 * 1000);
  EXPECT_EQ(world.balance().charged.milli_gpu_s, 60 * 1000);
  int refunds = 0;
  const auto lines = world.dispatcher().ledger().lines("", "");
  ASSERT_TRUE(lines);
  for (const auto& line : *lines) {
    if (line.kind != "refund") continue;
    ++refunds;
    EXPECT_EQ(line.note, "START_REFUSED: refunds of site.toml");
  }
  EXPECT_EQ(refunds, 1);
  const auto report = world.dispatcher().audit();
  ASSERT_TRUE(report);
  EXPECT_TRUE(report->faults.empty());
  world.expect_books_are_right();
}

TEST_F(StartGateRefundTest, NoMoreIsGivenBackThanAGateTakesAndNothingWhereTheSiteSaysSo) {
  auto charges = kept_out(200);
  ASSERT_EQ(charges.size(), 2u);
  EXPECT_EQ(charges[1].refunded.milli_gpu_s, 60 * 1000);
  policy({"NODE_FAIL"});
  charges = kept_out(3);
  ASSERT_EQ(charges.size(), 2u);
  EXPECT_EQ(charges[1].refunded.milli_gpu_s, 0);
}

// Of a training of 2 GPUs, 20 s after its start.
TEST_F(RefundPolicyTest, WhatAFailedPrologCostIsChargedAndGivenBack) {
  const JobId id = world.launch(world.admission());
  world.cluster.start(id);
  world.tick();
  world.cluster.now += 19;
  world.cluster.fail_prolog(id);
  world.cluster.controller_is_up = false;  // It alone knows of the node: the charge waits for it.
  for (int i = 0; i < 3; ++i) world.tick(5);
  EXPECT_TRUE(world.run().last().charges.empty());
  world.cluster.controller_is_up = true;
  for (int i = 0; i < 3; ++i) world.tick(5);
  const auto charges = world.run().last().charges;
  ASSERT_EQ(charges.size(), 1u);
  EXPECT_EQ(charges[0].charged.milli_gpu_s, 2 * 20 * 1000);
  EXPECT_EQ(charges[0].refunded, charges[0].charged);
  const auto lines = world.dispatcher().ledger().lines("", "runone");
  ASSERT_TRUE(lines);
  const auto refunds = std::count_if(lines->begin(), lines->end(), [](const auto& line) {
    return line.kind == "refund" && line.note == "LAUNCH_FAILED: refunds of site.toml";
  });
  EXPECT_EQ(refunds, 1);
  world.expect_books_are_right();
}

TEST_F(RefundPolicyTest, ARequeueIsNoFailedLaunchUnlessSlurmDrainedItsNodeThen) {
  const auto refunded = [&](const std::string& run, std::int64_t drained_before_s, const char* node) {
    const JobId id = world.launch(world.admission(run));
    world.cluster.start(id);
    world.tick();
    world.cluster.now += 199;
    world.cluster.drained = {{node, world.cluster.now - drained_before_s}};
    world.cluster.requeue(id);
    for (int i = 0; i < 3; ++i) world.tick(5);
    return world.run(run).last().charges.at(0).refunded.milli_gpu_s;
  };
  EXPECT_EQ(refunded("runone", 60, "n1"), 2 * 200 * 1000);
  EXPECT_EQ(refunded("runtwo", 61, "n1"), 0);
  EXPECT_EQ(refunded("runthree", 0, "n2"), 0);
  policy({"NODE_FAIL"});
  EXPECT_EQ(refunded("runfour", 0, "n1"), 0);
}

// In milli-GPU-seconds.
std::int64_t given_back(const Segment& segment, const AttemptCharged& charged,
                        const std::vector<UtcSeconds>& failed_prologs) {
  const auto refund = refund_of(segment, charged, test_site(), failed_prologs);
  return refund ? refund->amount.milli_gpu_s : 0;
}

TEST(RefundPolicy, OfAFailedLaunchNoMoreIsGivenBackThanAPrologTakes) {
  AttemptCharged charged;
  charged.state = JobState::kRequeued;
  charged.start = 10'000;
  charged.end = 10'700;
  charged.gpus = 2;
  charged.charged = {2 * 700 * 1000};
  Segment segment;
  segment.plan.quote.weight_milli = 1000;
  const auto given = [&](const std::vector<UtcSeconds>& failed_prologs) {
    return given_back(segment, charged, failed_prologs);
  };
  EXPECT_EQ(given({}), 0);
  EXPECT_EQ(given({9'999, 10'639, 10'711}), 0);
  EXPECT_EQ(given({9'999, 10'640}), 2 * 600 * 1000);
  EXPECT_EQ(given({10'710}), 2 * 600 * 1000);
  // Slurm cancels what it may not put back, as root; nobody else's scancel is a failed launch.
  charged.state = JobState::kCancelled;
  EXPECT_EQ(given({10'700}), 2 * 600 * 1000);
  charged.killed_by_uid = 1000;
  EXPECT_EQ(given({10'700}), 0);
  charged.killed_by_uid = 0;
  charged.state = JobState::kRequeued;
  charged.end = charged.start;
  EXPECT_FALSE(may_have_failed_at_launch(segment, charged, test_site()));  // Nothing to give back.
}

// As slurmdbd has it where srun was quicker than slurmctld: FAILED, 0:54 in Slurm 22.05.
TEST(RefundPolicy, AnSrunThatEndsItsJobBeforeSlurmCancelsItFailedAtItsLaunch) {
  AttemptCharged charged;
  charged.state = JobState::kFailed;
  charged.start = 10'000;
  charged.end = 10'600;
  charged.gpus = 1;
  charged.charged = {600 * 1000};
  Segment segment;
  segment.is_plain = true;
  segment.plan.quote.weight_milli = 1000;
  const auto given = [&](UtcSeconds failed_prolog) {
    return given_back(segment, charged, {failed_prolog});
  };
  EXPECT_EQ(given(10'589), 0);
  EXPECT_EQ(given(10'590), 600 * 1000);
  EXPECT_EQ(given(10'610), 600 * 1000);
  EXPECT_EQ(given(10'611), 0);
  charged.end = 10'601;  // No Prolog takes so long: it ran, and then failed.
  EXPECT_EQ(given(10'601), 0);
  charged.end = 10'600;
  segment.is_plain = false;  // A batch job that failed had begun.
  EXPECT_EQ(given(10'600), 0);
}

TEST_F(RefundPolicyTest, APreemptionIsGivenBackWhereTheSiteSaysSo) {
  EXPECT_EQ(trained("runone", JobState::kPreempted, 0, 50).refunded.milli_gpu_s, 0);
  policy({"PREEMPTED"});
  EXPECT_EQ(trained("runtwo", JobState::kPreempted, 0, 50).refunded.milli_gpu_s, 2 * 50 * 1000);
  EXPECT_EQ(world.balance().charged.milli_gpu_s, 2 * 50 * 1000);
  world.expect_books_are_right();
}

// Every state of Slurm's, and the table of docs/operate.md that tells what it costs.
TEST(RefundTable, IsThatOfTheDocumentation) {
  struct Row {
    JobState state;
    bool is_end, is_refunded_by_default, may_be_refunded;
  };
  const std::vector<Row> rows{{JobState::kPending, false, false, false},
                              {JobState::kRunning, false, false, false},
                              {JobState::kSuspended, false, false, false},
                              {JobState::kCompleted, true, false, true},
                              {JobState::kCancelled, true, false, true},
                              {JobState::kFailed, true, false, true},
                              {JobState::kTimeout, true, false, true},
                              {JobState::kNodeFail, true, true, true},
                              {JobState::kPreempted, true, false, true},
                              {JobState::kBootFail, true, true, true},
                              {JobState::kDeadline, true, false, true},
                              {JobState::kOutOfMemory, true, false, true},
                              {JobState::kRequeued, true, false, false},
                              {JobState::kUnknown, false, false, false}};
  const std::string page = test::read_file(test::kSource / "docs/operate.md");
  for (const Row& row : rows) {
    const std::string name = to_name(row.state);
    SCOPED_TRACE(name);
    AttemptCharged charged;
    charged.state = row.state;
    charged.gpus = 2;
    charged.charged = {10 * accounting::kGpuHour.milli_gpu_s};
    Site site = test_site();
    const auto by_default = refund_of(Segment{}, charged, site);
    EXPECT_EQ(by_default.has_value(), row.is_refunded_by_default);
    if (by_default) {
      EXPECT_EQ(by_default->amount, site.refunds.cap);
    }
    EXPECT_EQ(is_ended(job_state_from_name(name)), row.may_be_refunded);
    site.refunds.states = {name};
    if (row.may_be_refunded) {
      EXPECT_TRUE(refund_of(Segment{}, charged, site));
    }

    const std::string line = fmt::format(" | `{}` | yes | {} | {} |\n", name,
                                         row.is_refunded_by_default ? "yes" : "no",
                                         row.may_be_refunded ? "yes" : "no");
    EXPECT_EQ(page.find(line) != std::string::npos, row.is_end) << line;
  }
}

TEST_F(RefundPolicyTest, AChargeOfOlderBooksIsReadWithoutItsExitCode) {
  AttemptCharged charged;
  charged.state = JobState::kFailed;
  charged.exit_code = kBadNodeCode;
  auto json = event_to_json(charged);
  EXPECT_EQ(std::get<AttemptCharged>(event_from_json("AttemptCharged", json)).exit_code, kBadNodeCode);
  json.erase("exit_code");
  EXPECT_EQ(std::get<AttemptCharged>(event_from_json("AttemptCharged", json)).exit_code, 0);
}

TEST_F(RefundPolicyTest, AnAdminsRefundOfAllThatIsLeftMayBeAskedForAgain) {
  ASSERT_EQ(trained("runone", JobState::kFailed, 1, 20).refunded.milli_gpu_s, 0);
  const auto refund = [&](const std::string& reason) {
    return answer_request(world.dispatcher(), world.site, kAdmin,
                          {{"verb", "refund"}, {"charge", "fake/runone/0/0"}, {"reason", reason}},
                          world.cluster.now);
  };
  for (const bool was_known : {false, true}) {
    const auto answer = refund("power");
    ASSERT_TRUE(answer.at("ok").get<bool>()) << answer.dump();
    EXPECT_EQ(answer.at("result").at("refunded"), 2 * 20 * 1000);
    EXPECT_EQ(answer.at("result").at("was_known").get<bool>(), was_known);
  }
  EXPECT_FALSE(refund("again").at("ok").get<bool>());
  EXPECT_EQ(world.balance().charged.milli_gpu_s, 0);
}

// A record that grew is charged in parts, and the cap is one attempt's.
TEST(RefundPolicy, TheCapIsOfTheWholeAllocationHoweverManyPartsItIsChargedIn) {
  const std::int64_t hour = accounting::kGpuHour.milli_gpu_s;
  Site site = test_site();
  site.refunds.states = {"NODE_FAIL"};
  site.refunds.cap = {6 * hour};
  AttemptCharged part;
  part.job = 7;
  part.submit = 100;
  part.start = 200;
  part.end = 300;
  part.state = JobState::kNodeFail;
  part.gpus = 2;
  part.charged = {5 * hour};
  Segment segment;
  const auto first = refund_of(segment, part, site);
  ASSERT_TRUE(first);
  EXPECT_EQ(first->amount.milli_gpu_s, 5 * hour);
  part.refunded = first->amount;
  segment.charges.push_back(part);

  AttemptCharged rest = part;
  rest.start = 300;
  rest.end = 400;
  rest.refunded = {};
  const auto second = refund_of(segment, rest, site);
  ASSERT_TRUE(second);
  EXPECT_EQ(second->amount.milli_gpu_s, 1 * hour);
  rest.submit = 150;  // Another attempt.
  EXPECT_EQ(refund_of(segment, rest, site)->amount.milli_gpu_s, 5 * hour);
}

}  // namespace
}  // namespace scheduler
