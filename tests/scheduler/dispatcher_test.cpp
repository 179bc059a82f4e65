// SPDX-License-Identifier: GPL-3.0-or-later
//
// The dispatcher against a pretended Slurm: every way a run can end, every fault between two lines.
#include "scheduler/dispatcher.h"

#include <gtest/gtest.h>

#include <functional>
#include <optional>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "world.h"

namespace scheduler {
namespace {

class DispatcherTest : public ::testing::Test {
 protected:
  void SetUp() override { world.grant("user:ada", 10); }
  World world;
};

TEST_F(DispatcherTest, ChargesWhatSlurmAllocatedAndReleasesTheRest) {
  const JobId job = world.launch(world.admission());
  EXPECT_EQ(world.balance().held.milli_gpu_s, 2 * (600 + kMargin) * 1000);
  world.tick();
  EXPECT_EQ(world.state(), "queued");

  world.cluster.start(job);
  world.tick();
  EXPECT_EQ(world.state(), "running");
  world.cluster.now += 93;
  world.cluster.end(job, JobState::kCompleted, 0);
  world.tick();

  EXPECT_EQ(world.state(), "finished");
  EXPECT_EQ(world.balance().charged.milli_gpu_s, 2 * 94 * 1000);
  EXPECT_EQ(world.balance().held.milli_gpu_s, 0);
  world.expect_books_are_right();
  const auto report = world.dispatcher().audit();
  ASSERT_TRUE(report);
  EXPECT_TRUE(report->faults.empty()) << report->faults.front();
  EXPECT_EQ(report->charges_compared, 1);
}

TEST_F(DispatcherTest, RefusesMoreThanTheFundHasWithBothNumbersAndWhatWouldFit) {
  Admission admission = world.admission();
  admission.request.resources.time_limit_s = 6 * 3600;

  const auto outcome = world.dispatcher().admit(kAda, admission, world.cluster.now);

  ASSERT_TRUE(outcome);
  const auto* refusal = std::get_if<Refusal>(&*outcome);
  ASSERT_NE(refusal, nullptr);
  EXPECT_NE(refusal->reasons.front().find("10.000 GPU-h available"), std::string::npos);
  EXPECT_NE(refusal->reasons.front().find("12.050 GPU-h"), std::string::npos);
  EXPECT_NE(refusal->reasons.front().find("4 h 58 min would fit"), std::string::npos)
      << refusal->reasons.front();
  EXPECT_EQ(world.balance().held.milli_gpu_s, 0);
  EXPECT_FALSE(*world.dispatcher().find("runone"));
}

TEST_F(DispatcherTest, ARetryOfTheSameAdmissionHoldsOnce) {
  ASSERT_TRUE(world.dispatcher().admit(kAda, world.admission(), world.cluster.now));
  const auto held = world.balance().held;

  const auto again = world.dispatcher().admit(kAda, world.admission(), world.cluster.now);
  ASSERT_TRUE(again);
  ASSERT_NE(std::get_if<Admitted>(&*again), nullptr);
  EXPECT_TRUE(std::get<Admitted>(*again).was_known);
  EXPECT_EQ(world.balance().held, held);

  Admission other = world.admission();
  other.request.args.epochs = 11;
  const auto refused = world.dispatcher().admit(kAda, other, world.cluster.now);
  ASSERT_TRUE(refused);
  EXPECT_NE(std::get_if<Refusal>(&*refused), nullptr);
  EXPECT_EQ(world.balance().held, held);
}

TEST_F(DispatcherTest, ForeignFundsAndRunsAreRefused) {
  Admission admission = world.admission("bobsrun");
  admission.request.resources.fund = "user:ada";
  const auto outcome = world.dispatcher().admit(kBob, admission, world.cluster.now);
  ASSERT_TRUE(outcome);
  EXPECT_NE(std::get_if<Refusal>(&*outcome), nullptr);

  world.launch(world.admission());
  const auto stopped = world.dispatcher().request_stop(kBob, "runone", world.cluster.now);
  ASSERT_TRUE(stopped);
  EXPECT_TRUE(stopped->has_value());
  const auto by_admin = world.dispatcher().request_stop(kAdmin, "runone", world.cluster.now);
  ASSERT_TRUE(by_admin);
  EXPECT_FALSE(by_admin->has_value());
}

TEST_F(DispatcherTest, AGroupsFundIsSpentByItsMembersAlone) {
  world.grant("group:vision", 5);
  Admission admission = world.admission();
  admission.request.resources.fund = "group:vision";
  EXPECT_NE(world.launch(admission), 0u);
  EXPECT_GT(world.balance("group:vision").held.milli_gpu_s, 0);

  admission.run_id = "bobsrun";
  const auto outcome = world.dispatcher().admit(kBob, admission, world.cluster.now);
  ASSERT_TRUE(outcome);
  EXPECT_NE(std::get_if<Refusal>(&*outcome), nullptr);
}

TEST_F(DispatcherTest, AHoldWhoseJobNeverAppearsIsReleased) {
  ASSERT_TRUE(world.dispatcher().admit(kAda, world.admission(), world.cluster.now));
  world.tick(30);
  EXPECT_EQ(world.state(), "held");
  world.tick(31);
  EXPECT_EQ(world.state(), "failed");
  EXPECT_EQ(world.balance().held.milli_gpu_s, 0);
}

TEST_F(DispatcherTest, AJobWhoseSubmissionReplyWasLostIsFoundByItsComment) {
  world.cluster.submit_loses_its_reply = true;
  EXPECT_EQ(world.launch(world.admission()), 0u);
  world.tick();
  EXPECT_EQ(world.state(), "queued");
}

TEST_F(DispatcherTest, ASecondJobForOneHoldIsCancelled) {
  const JobId job = world.launch(world.admission());
  const Plan plan = world.run().last().plan;
  const auto second = world.cluster.submit(
      make_job_spec(plan, {"runone", 0}, "/runs/runone", world.site, {}));
  world.tick();
  EXPECT_EQ(world.cluster.cancelled, std::vector<JobId>{second->id});
  EXPECT_EQ(*world.run().last().job, job);
}

TEST_F(DispatcherTest, StopAsksARunningTrainerAndCancelsAWaitingJob) {
  const JobId job = world.launch(world.admission());
  world.cluster.start(job);
  world.tick();
  ASSERT_TRUE(world.dispatcher().request_stop(kAda, "runone", world.cluster.now));
  world.tick();
  EXPECT_EQ(world.state(), "stopping");
  EXPECT_EQ(world.cluster.asked_to_stop, std::vector<JobId>{job});
  world.cluster.now += 3;
  world.cluster.end(job, JobState::kFailed, 10);
  world.tick();
  EXPECT_EQ(world.state(), "stopped");
  EXPECT_EQ(world.run().reason, "stopped by ada; the checkpoint is saved");

  const JobId other = world.launch(world.admission("runtwo"));
  ASSERT_TRUE(world.dispatcher().request_stop(kAda, "runtwo", world.cluster.now));
  world.tick();
  EXPECT_EQ(world.cluster.cancelled, std::vector<JobId>{other});
  world.tick(10);
  EXPECT_EQ(world.state("runtwo"), "stopped");
  EXPECT_EQ(world.run("runtwo").charged().milli_gpu_s, 0);
  world.expect_books_are_right();
}

TEST_F(DispatcherTest, AResumedRunIsChargedTheSumOfItsSegments) {
  const JobId job = world.launch(world.admission());
  world.cluster.start(job);
  world.tick();
  world.cluster.now += 49;
  world.cluster.end(job, JobState::kFailed, 10);
  world.tick();
  ASSERT_EQ(world.state(), "stopped");

  Admission second = world.admission("runone", 1);
  second.epochs_done = 4;
  const JobId next = world.launch(second);
  EXPECT_NE(next, job);
  world.cluster.start(next);
  world.tick();
  world.cluster.now += 29;
  world.cluster.end(next, JobState::kCompleted, 0);
  world.tick();

  EXPECT_EQ(world.state(), "finished");
  EXPECT_EQ(world.balance().charged.milli_gpu_s, 2 * (50 + 30) * 1000);
  world.expect_books_are_right();
}

TEST_F(DispatcherTest, EveryAttemptOfARequeuedJobIsChargedAndTheLimitIsCutToWhatIsLeft) {
  const JobId job = world.launch(world.admission());
  world.cluster.start(job);
  world.tick();
  world.cluster.now += 199;
  world.cluster.requeue(job);
  world.tick();

  EXPECT_EQ(world.run().charged().milli_gpu_s, 2 * 200 * 1000);
  // 690 s were held, 200 are gone: 490 - 90 of margin leave six whole minutes.
  EXPECT_EQ(world.cluster.jobs.at(job).time_limit_s, 360);
  world.cluster.start(job);
  world.tick();
  EXPECT_EQ(world.state(), "running");
  world.cluster.now += 99;
  world.cluster.end(job, JobState::kCompleted, 0);
  world.tick();
  EXPECT_EQ(world.state(), "finished");
  EXPECT_EQ(world.balance().charged.milli_gpu_s, 2 * (200 + 100) * 1000);
  world.expect_books_are_right();
}

TEST_F(DispatcherTest, ManyAttemptsWithTheServiceAwayAreChargedAndTheLimitCutInOneLook) {
  const JobId job = world.launch(world.admission());
  for (int attempt = 0; attempt < 20; ++attempt) {
    world.cluster.start(job);
    world.cluster.now += 10;
    world.cluster.requeue(job);
  }
  world.cluster.start(job);
  world.tick();
  EXPECT_EQ(world.run().last().charges.size(), 20U);
  // 690 s were held, 200 are gone.
  EXPECT_EQ(world.cluster.jobs.at(job).time_limit_s, 360);
}

// Slurm counts the restarts of each job; what an earlier segment's job was charged is none of them.
TEST_F(DispatcherTest, OfAResumedRunAnAttemptThatNobodySawIsChargedAndTheLimitCut) {
  world.cluster.start(world.launch(world.admission()));
  world.tick(10);
  world.cluster.end(*world.run().last().job, JobState::kFailed, 10);  // Saved and stopped.
  world.tick(10);
  ASSERT_EQ(world.run().last().charges.size(), 1U);
  const JobId next = world.launch(world.admission("runone", 1));
  world.tick();
  world.cluster.start(next);
  world.cluster.now += 200;
  world.cluster.requeue(next);
  world.cluster.start(next);
  world.tick();
  world.tick();
  ASSERT_EQ(world.run().last().index, 1);
  EXPECT_EQ(world.run().last().charges.size(), 1U);
  // 690 s were held, 200 are gone.
  EXPECT_EQ(world.cluster.jobs.at(next).time_limit_s, 360);
  world.expect_books_are_right();
}

TEST_F(DispatcherTest, ALimitThatSomebodyRaisedIsCutBack) {
  const JobId job = world.launch(world.admission());
  world.cluster.start(job);
  world.tick();
  world.cluster.jobs.at(job).time_limit_s = 86'400;
  world.tick();
  EXPECT_EQ(world.cluster.jobs.at(job).time_limit_s, 600);
}

// The GPUs of the type "h100" cost there what the type "metered" does, which may not be in the tier.
TEST_F(DispatcherTest, APartitionThatAnotherTypePricesIsRefusedAndNamesThatType) {
  Admission admission = world.admission();
  admission.request.resources.partition = "metered";
  const auto outcome = world.dispatcher().admit(kAda, admission, world.cluster.now);
  ASSERT_TRUE(outcome);
  const auto* refusal = std::get_if<Refusal>(&*outcome);
  ASSERT_NE(refusal, nullptr);
  EXPECT_NE(refusal->reasons.front().find("is that of type \"metered\""), std::string::npos)
      << refusal->reasons.front();
  EXPECT_EQ(world.balance().held.milli_gpu_s, 0);
}

TEST_F(DispatcherTest, AJobThatWasGivenGpusOfAnotherTypeIsCancelled) {
  const JobId job = world.launch(world.admission());
  world.cluster.jobs.at(job).gpu_type = "h100";
  world.tick();
  EXPECT_TRUE(world.cluster.cancelled.empty());
  world.cluster.jobs.at(job).gpu_type = "b300";
  world.tick();
  EXPECT_EQ(world.cluster.cancelled, std::vector<JobId>{job});
}

// Slurm may give it a dearer GPU than the one that is held for.
TEST_F(DispatcherTest, AJobThatNamesNoTypeWhereItsPlanDoesIsCancelled) {
  const JobId job = world.launch(world.admission());
  world.cluster.jobs.at(job).gpu_type = "";
  world.tick();
  EXPECT_EQ(world.cluster.cancelled, std::vector<JobId>{job});
}

TEST_F(DispatcherTest, AJobThatWasGivenMoreGpusIsCancelled) {
  const JobId job = world.launch(world.admission());
  world.cluster.jobs.at(job).gpus = 4;
  world.tick();
  EXPECT_EQ(world.cluster.cancelled, std::vector<JobId>{job});
  world.tick(10);
  EXPECT_EQ(world.state(), "failed");
  EXPECT_NE(world.run().reason.find("4 GPUs"), std::string::npos);
  EXPECT_EQ(world.balance().held.milli_gpu_s, 0);
}

// Its owner asked for a stop, it was requeued, and with the service dead it was given more and started:
// it may not take the time to save that a stop gives.
TEST_F(DispatcherTest, AStopIsNoTimeForGpusThatNobodyHolds) {
  const JobId job = world.launch(world.admission());
  world.cluster.start(job);
  world.tick();
  ASSERT_TRUE(world.dispatcher().request_stop(kAda, "runone", world.cluster.now));
  world.cluster.now += 10;
  world.cluster.requeue(job);
  world.cluster.jobs.at(job).gpus = 4;
  world.cluster.start(job);
  world.restart();
  world.tick();
  EXPECT_EQ(world.cluster.cancelled, std::vector<JobId>{job});
  world.tick(10);
  EXPECT_EQ(world.state(), "failed");
  EXPECT_NE(world.run().reason.find("4 GPUs"), std::string::npos) << world.run().reason;
  world.expect_books_are_right();
}

// slurmdbd is silent about the attempt before: what is left of the hold is not known, but no more than
// all of it.
TEST_F(DispatcherTest, ALimitBeyondTheWholeHoldIsCutBeforeEarlierAttemptsAreCharged) {
  const JobId job = world.launch(world.admission());
  world.cluster.start(job);
  world.tick();
  world.cluster.database_is_up = false;
  world.cluster.now += 50;
  world.cluster.requeue(job);
  world.cluster.start(job);
  world.cluster.jobs.at(job).time_limit_s = 86'400;
  world.tick();
  EXPECT_TRUE(world.run().last().charges.empty());
  EXPECT_EQ(world.cluster.jobs.at(job).time_limit_s, 600);
  world.cluster.database_is_up = true;
  world.tick(10);
  world.tick(10);
  EXPECT_EQ(world.run().last().charges.size(), 1U);
  // 690 s were held, 50 are gone.
  EXPECT_EQ(world.cluster.jobs.at(job).time_limit_s, 540);
}

TEST_F(DispatcherTest, AFinishedJobThatSomebodyRequeuesIsCancelled) {
  const JobId job = world.launch(world.admission());
  world.cluster.start(job);
  world.tick();
  world.cluster.end(job, JobState::kCompleted, 0);
  world.tick();
  ASSERT_EQ(world.state(), "finished");
  world.cluster.requeue(job);
  world.tick();
  EXPECT_EQ(world.cluster.cancelled, std::vector<JobId>{job});
}

TEST_F(DispatcherTest, ChargeIsCappedByTheHoldAndTheExcessIsAFinding) {
  const JobId job = world.launch(world.admission());
  world.cluster.start(job);
  world.tick();
  world.cluster.now += 1999;
  world.cluster.end(job, JobState::kTimeout, 0);
  world.tick();
  EXPECT_EQ(world.state(), "stopped");
  EXPECT_EQ(world.balance().charged.milli_gpu_s, 2 * (600 + kMargin) * 1000);
  EXPECT_EQ(world.dispatcher().ledger().findings()->size(), 1u);
  world.expect_books_are_right();
}

TEST_F(DispatcherTest, TheExcessIsTheFundsDebtWhereTheSiteSaysSo) {
  world.site.fund_owes_excess = true;
  const auto available = world.balance().available.milli_gpu_s;
  const JobId job = world.launch(world.admission());
  world.cluster.start(job);
  world.tick();
  world.cluster.now += 1999;
  world.cluster.end(job, JobState::kTimeout, 0);
  world.tick();
  // It has enough to pay it at once.
  EXPECT_EQ(world.balance().charged.milli_gpu_s, 2 * 2000 * 1000);
  EXPECT_EQ(world.balance().available.milli_gpu_s, available - 2 * 2000 * 1000);
  EXPECT_EQ(world.dispatcher().ledger().findings()->size(), 1u);
  world.expect_books_are_right();
}

TEST_F(DispatcherTest, SettlesFromSlurmdbdWhenTheControllerHasForgottenTheJob) {
  const JobId job = world.launch(world.admission());
  world.cluster.start(job);
  world.tick();
  world.cluster.now += 50;
  world.cluster.end(job, JobState::kCompleted, 0);
  world.cluster.purge(job);
  world.restart();
  world.tick();
  EXPECT_EQ(world.state(), "finished");
  EXPECT_EQ(world.balance().charged.milli_gpu_s, 2 * 51 * 1000);
}

TEST_F(DispatcherTest, WaitsForSlurmdbdAndThenBelievesTheController) {
  const JobId job = world.launch(world.admission());
  world.cluster.start(job);
  world.tick();
  world.cluster.database_is_up = false;
  world.cluster.now += 49;
  world.cluster.end(job, JobState::kCompleted, 0);
  world.tick();
  EXPECT_EQ(world.state(), "settling");
  EXPECT_GT(world.balance().held.milli_gpu_s, 0);
  world.tick(99);
  EXPECT_EQ(world.state(), "settling");
  world.tick(10);
  EXPECT_EQ(world.state(), "finished");
  EXPECT_EQ(world.balance().charged.milli_gpu_s, 2 * 50 * 1000);
}

// Nodes that are powered up for a job: Slurm sets its start anew when they are there, without a restart.
TEST_F(DispatcherTest, WhatNodesTakeToBootIsAsSlurmRecordsIt) {
  const JobId job = world.launch(world.admission());
  world.cluster.start(job);
  world.cluster.jobs.at(job).is_powering_up = true;
  world.tick();
  world.tick(200);
  EXPECT_EQ(world.state(), "queued");
  world.cluster.jobs.at(job).is_powering_up = false;
  world.cluster.start(job);
  world.tick();
  EXPECT_EQ(world.state(), "running");
  world.tick(200);
  world.cluster.end(job, JobState::kCompleted, 0);
  world.tick();
  EXPECT_EQ(world.state(), "finished");
  EXPECT_EQ(world.balance().charged.milli_gpu_s, 2 * 201 * 1000);
  const auto findings = world.dispatcher().ledger().findings();
  EXPECT_TRUE(findings && findings->empty());
  world.expect_books_are_right();
}

TEST_F(DispatcherTest, ARecordThatIsLostIsNeitherFreeNorEndless) {
  const JobId job = world.launch(world.admission());
  world.cluster.start(job);
  world.tick();
  world.tick(40);
  world.cluster.purge(job);
  world.cluster.records.clear();
  world.tick(60);
  EXPECT_EQ(world.state(), "running");
  world.tick(200);
  world.tick(200);
  EXPECT_EQ(world.state(), "failed");
  const std::int64_t charged = world.balance().charged.milli_gpu_s;
  EXPECT_GE(charged, 2 * 20 * 1000);
  EXPECT_LE(charged, 2 * 45 * 1000);
  EXPECT_EQ(world.balance().held.milli_gpu_s, 0);
  world.expect_books_are_right();
}

TEST_F(DispatcherTest, ARecordBeyondTheNextSubmissionWaitsForTheRecordOfTheAttemptBetween) {
  const JobId job = world.launch(world.admission());
  world.cluster.start(job);
  world.tick();
  world.cluster.now += 99;
  world.cluster.requeue(job);
  world.cluster.now += 20;
  world.cluster.start(job);
  world.cluster.now += 30;
  world.cluster.requeue(job);
  auto& records = world.cluster.records[job];
  records[0].end += 200;
  const auto late = records;
  records.resize(1);
  world.tick();
  EXPECT_EQ(world.run().charged().milli_gpu_s, 0);  // It ended before the attempt that is not recorded yet.
  records = late;
  world.tick();
  EXPECT_EQ(world.run().charged().milli_gpu_s, 2 * (100 + 30) * 1000);
  world.expect_books_are_right();
}

TEST_F(DispatcherTest, ARecordBeyondTheNextSubmissionIsChargedInTheEnd) {
  const JobId job = world.launch(world.admission());
  world.cluster.start(job);
  world.cluster.now += 100;
  world.cluster.requeue(job);
  world.cluster.now += 10;
  world.cluster.requeue(job);  // What was between is never recorded.
  auto& records = world.cluster.records[job];
  records[0].end += 90;
  records.resize(1);
  world.tick();
  EXPECT_EQ(world.run().charged().milli_gpu_s, 0);
  world.tick(world.site.record_wait_s / 2);
  EXPECT_EQ(world.run().charged().milli_gpu_s, 2 * 110 * 1000);  // Up to the submission that is known.
}

TEST_F(DispatcherTest, ARecordThatEndsInTheFutureIsLeftAlone) {
  const JobId shown = world.launch(world.admission("shownrun"));
  const JobId gone = world.launch(world.admission("gonerun"));
  world.cluster.start(shown);
  world.cluster.start(gone);
  world.tick();
  world.cluster.now += 48;
  world.tick();
  world.cluster.end(shown, JobState::kCompleted, 0);
  world.cluster.end(gone, JobState::kCompleted, 0);
  world.cluster.records[shown].back().end += 5000;
  world.cluster.records[gone].back().end += 5000;
  world.cluster.purge(gone);
  for (int i = 0; i < 5; ++i) world.tick(60);
  EXPECT_EQ(world.run("shownrun").charged().milli_gpu_s, 2 * 50 * 1000);
  EXPECT_EQ(world.run("gonerun").charged().milli_gpu_s, 2 * 50 * 1000);
  EXPECT_EQ(world.balance().held.milli_gpu_s, 0);
  world.expect_books_are_right();
}

TEST_F(DispatcherTest, AnAttemptOfNoSecondsWhoseRecordGrewCostsNothing) {
  const JobId job = world.launch(world.admission());
  world.tick(5);
  world.cluster.start(job);
  world.cluster.requeue(job);
  world.tick();
  world.cluster.records[job].front().end += 300;
  world.cluster.now += 10;
  world.cluster.start(job);
  world.cluster.now += 20;
  world.cluster.end(job, JobState::kCompleted, 0);
  world.tick();
  EXPECT_EQ(world.state(), "finished");
  EXPECT_EQ(world.balance().charged.milli_gpu_s, 2 * 20 * 1000);
}

TEST_F(DispatcherTest, TheAuditNamesALostRecordAlsoWhereAnotherOfTheJobNeverRan) {
  const JobId job = world.launch(world.admission());
  world.cluster.start(job);
  world.cluster.now += 50;
  world.cluster.requeue(job);
  world.tick();
  world.cluster.end(job, JobState::kCancelled, 0);
  world.tick(10);
  ASSERT_EQ(world.run().charged().milli_gpu_s, 2 * 50 * 1000);
  world.cluster.records[job].erase(world.cluster.records[job].begin());
  const auto report = world.dispatcher().audit();
  ASSERT_TRUE(report);
  ASSERT_EQ(report->notes.size(), 1u);
  EXPECT_NE(report->notes[0].find("slurmdbd has no record of attempt 0"), std::string::npos);
}

TEST_F(DispatcherTest, AControllerThatIsDownChangesNothing) {
  const JobId job = world.launch(world.admission());
  world.cluster.start(job);
  world.tick();
  world.cluster.controller_is_up = false;
  world.tick(5000);
  EXPECT_EQ(world.state(), "running");
  EXPECT_FALSE(world.dispatcher().trouble().empty());
  world.cluster.controller_is_up = true;
  world.tick();
  EXPECT_EQ(world.state(), "running");
}

TEST_F(DispatcherTest, Scenario15OneRecordThatMakesNoSenseHoldsUpNoOther) {
  const JobId bad = world.launch(world.admission("badrun"));
  const JobId good = world.launch(world.admission("goodrun"));
  world.cluster.start(bad);
  world.cluster.start(good);
  world.tick();
  world.cluster.now += 49;
  world.cluster.end(bad, JobState::kCompleted, 0);
  world.cluster.end(good, JobState::kCompleted, 0);
  world.cluster.records[bad].back().gpus = -3;
  world.cluster.records[bad].back().end = INT64_MAX;
  world.tick();
  EXPECT_EQ(world.state("goodrun"), "finished");
  for (int i = 0; i < 3; ++i) world.tick(60);
  EXPECT_EQ(world.state("badrun"), "finished");
  EXPECT_EQ(world.run("badrun").charged().milli_gpu_s, 2 * 50 * 1000);
  const auto findings = world.dispatcher().ledger().findings();
  ASSERT_TRUE(findings);
  EXPECT_EQ(findings->size(), 2u);  // The record, and that what was seen is charged.
  world.expect_books_are_right();
}

TEST_F(DispatcherTest, Scenario33AFundThatIsClosedUnderARunningJobStillPaysForIt) {
  const JobId job = world.launch(world.admission());
  world.cluster.start(job);
  world.tick();
  const auto closed = world.dispatcher().ledger().set(
      {"close1", "user:ada", "closed", "1", 0, "root", "account removed"}, world.cluster.now);
  ASSERT_TRUE(closed && *closed == accounting::SetStatus::kSet);
  world.cluster.now += 29;
  // Slurm cancels the jobs of an account that is removed.
  world.cluster.end(job, JobState::kCancelled, 0);
  world.tick();
  EXPECT_EQ(world.state(), "cancelled");
  EXPECT_EQ(world.balance().charged.milli_gpu_s, 2 * 30 * 1000);
  EXPECT_EQ(world.balance().held.milli_gpu_s, 0);
  const auto refused = world.dispatcher().admit(kAda, world.admission("another"), world.cluster.now);
  ASSERT_TRUE(refused);
  const auto* refusal = std::get_if<Refusal>(&*refused);
  ASSERT_NE(refusal, nullptr);
  EXPECT_NE(refusal->reasons.front().find("closed to new runs"), std::string::npos);
  world.expect_books_are_right();
}

TEST_F(DispatcherTest, Scenario31WhatACopyDoesNotKnowIsNamedBeforeAnythingIsAdmitted) {
  auto store = RunStore::open(world.database);
  ASSERT_TRUE(store);
  ASSERT_TRUE(store->set_restored(world.cluster.now));
  // A job of a run that was admitted after the copy was made.
  Plan plan;
  plan.name = "lost";
  plan.tres_per_node = "gres:gpu:2";
  const auto lost = world.cluster.submit(make_job_spec(plan, {"lostrun", 0}, "/runs/l", world.site, {}));
  world.cluster.start(lost->id);
  world.restart();
  world.cluster.database_is_up = false;
  world.tick();
  EXPECT_FALSE(world.dispatcher().admit(kAda, world.admission(), world.cluster.now));
  world.cluster.database_is_up = true;
  world.tick();
  EXPECT_TRUE(world.dispatcher().admit(kAda, world.admission(), world.cluster.now));
  const auto findings = world.dispatcher().ledger().findings();
  ASSERT_TRUE(findings);
  ASSERT_EQ(findings->size(), 1u);
  EXPECT_NE(findings->front().text.find("lost.lostrun"), std::string::npos);
  world.restart();
  world.tick();
  EXPECT_EQ(world.dispatcher().ledger().findings()->size(), 1u);
}

TEST_F(DispatcherTest, ARuleOfTheFundRefusesATrainingRunInWords) {
  const auto set = world.dispatcher().ledger().set({"rule1", "user:ada", "gpus_max", "1", 0, "root", ""},
                                                   world.cluster.now);
  ASSERT_TRUE(set && *set == accounting::SetStatus::kSet);
  const auto outcome = world.dispatcher().admit(kAda, world.admission(), world.cluster.now);
  ASSERT_TRUE(outcome);
  const auto* refusal = std::get_if<Refusal>(&*outcome);
  ASSERT_NE(refusal, nullptr);
  EXPECT_NE(refusal->reasons.front().find("may have 1 GPUs at once"), std::string::npos);
}

struct Ending {
  JobState state;
  int exit_code;
  const char* run_state;
  const char* words;
};

TEST_F(DispatcherTest, EveryEndHasItsReasonInWords) {
  const Ending kEndings[] = {
      {JobState::kCompleted, 0, "finished", "finished"},
      {JobState::kFailed, 10, "stopped", "stopped by a signal or its stop file"},
      {JobState::kFailed, 11, "stopped", "time limit of 10 min came near"},
      {JobState::kFailed, 20, "failed", "exit code 20"},
      {JobState::kFailed, 137, "failed", "signal 9"},
      {JobState::kFailed, 1, "failed", "exit code 1"},
      {JobState::kTimeout, 0, "stopped", "Slurm ended the job at its time limit"},
      {JobState::kNodeFail, 0, "failed", "a node failed"},
      {JobState::kPreempted, 0, "stopped", "preempted"},
      {JobState::kOutOfMemory, 0, "failed", "out of memory"},
      {JobState::kCancelled, 0, "cancelled", "scancel"},
  };
  int number = 0;
  for (const Ending& ending : kEndings) {
    const std::string id = fmt::format("ending{}", number++);
    SCOPED_TRACE(id + " " + to_name(ending.state));
    const JobId job = world.launch(world.admission(id));
    world.cluster.start(job);
    world.tick();
    world.cluster.now += 9;
    world.cluster.end(job, ending.state, ending.exit_code);
    world.tick();
    EXPECT_EQ(world.state(id), ending.run_state);
    EXPECT_NE(world.run(id).reason.find(ending.words), std::string::npos) << world.run(id).reason;
    EXPECT_EQ(world.run(id).charged().milli_gpu_s, 2 * 10 * 1000);
  }
  world.expect_books_are_right();
}

// The whole life of a run, with the service killed before every tick: same books.
TEST_F(DispatcherTest, ARestartBeforeEveryTickLeavesTheSameBooks) {
  const auto live = [&](bool with_restarts) {
    World w;
    w.grant("user:ada", 10);
    const auto step = [&](std::int64_t seconds) {
      if (with_restarts) w.restart();
      w.tick(seconds);
      if (with_restarts) w.restart();
    };
    const JobId job = w.launch(w.admission());
    step(1);
    w.cluster.start(job);
    step(1);
    w.cluster.now += 100;
    w.cluster.requeue(job);
    step(1);
    w.cluster.start(job);
    step(1);
    (void)w.dispatcher().request_stop(kAda, "runone", w.cluster.now);
    step(1);
    w.cluster.end(job, JobState::kFailed, 10);
    step(1);
    w.expect_books_are_right();
    return std::pair(w.state(), w.balance().charged.milli_gpu_s);
  };
  EXPECT_EQ(live(false), live(true));
  EXPECT_EQ(live(true).first, "stopped");
}

TEST(RunEvents, SurviveTheirJson) {
  const std::vector<EventBody> events = {
      JobSubmitted{1, 17},
      SubmissionFailed{0, "no such account"},
      AttemptStarted{0, 17, 2, 1000, 4, "n[1-2]"},
      StopRequested{"ada"},
      CancelRequested{"bob"},
      LimitCut{0, 600, 300},
      JobRejected{0, "changed"},
      JobEnded{0, 17, 1, JobState::kNodeFail, 1, 9, 10, 20, 4},
      AttemptCharged{0, 17, 1, JobState::kRequeued, 10, 20, 4, {40'000}, {1}, 12, {}},
      StartRefused{0, 17, 3, 1000, "not covered"},
      SegmentClosed{0, Outcome::kStopped, "stopped"}};
  for (const EventBody& event : events) {
    SCOPED_TRACE(event_kind(event));
    const auto json = event_to_json(event);
    EXPECT_EQ(event_to_json(event_from_json(event_kind(event), json)), json);
  }
  EXPECT_THROW((void)event_from_json("Nonsense", {}), std::exception);
}

}  // namespace
}  // namespace scheduler
