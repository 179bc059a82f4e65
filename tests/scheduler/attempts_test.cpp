// SPDX-License-Identifier: GPL-3.0-or-later
//
// Attempts that neither a look nor slurmdbd has shown as they were: each is paid once, or named.
#include <utility>

#include <gtest/gtest.h>

#include "scheduler/submission.h"
#include "world.h"

namespace scheduler {
namespace {

class AttemptsTest : public ::testing::Test {
 protected:
  void SetUp() override { world.grant("user:ada", 10); }

  JobId launch_and_start() {
    const JobId job = world.launch(world.admission());
    world.cluster.start(job);
    world.tick();
    return job;
  }
  JobId submit_again() {
    const Plan plan = world.run().last().plan;
    return world.cluster.submit(make_job_spec(plan, {"runone", 0}, "/runs/runone", world.site, {}))->id;
  }
  // Runs for so long, unless it is looked at.
  void run_for(JobId job, std::int64_t seconds) {
    world.cluster.start(job);
    world.cluster.now += seconds;
  }
  // The run has no job that it knows of. The first job and the second; both run for 10 s.
  std::pair<JobId, JobId> run_two_of_unheard_clients() {
    world.cluster.submit_loses_its_reply = true;
    EXPECT_EQ(world.launch(world.admission()), 0U);
    world.cluster.submit_loses_its_reply = false;
    const JobId first = world.cluster.jobs.begin()->first, second = submit_again();
    world.cluster.start(first);
    run_for(second, 10);
    return {first, second};
  }
  std::vector<std::string> findings() {
    std::vector<std::string> texts;
    const auto found = world.dispatcher().ledger().findings();
    for (const auto& each : *found) texts.push_back(each.text);
    return texts;
  }
  std::int64_t charged_gpu_s() { return world.run().charged().milli_gpu_s / 1000; }

  World world;
};

// A client whose answer was lost submits again, and both jobs get their nodes before the next look.
TEST_F(AttemptsTest, ASecondJobForOneHoldThatRanIsNamed) {
  const JobId job = launch_and_start();
  const JobId second = submit_again();
  const UtcSeconds start = world.cluster.now + 3;
  world.cluster.now = start;
  run_for(second, 10);
  world.tick();
  EXPECT_EQ(world.cluster.cancelled, std::vector<JobId>{second});
  EXPECT_EQ(findings(), std::vector<std::string>{fmt::format(
      "job {} of run runone had 2 GPUs from {} on and no hold: it is not the job of an open segment. "
      "Nobody pays for it", second, accounting::format_utc(start))});
  world.cluster.end(job, JobState::kCompleted, 0);
  for (int i = 0; i < 3; ++i) world.tick();
  EXPECT_EQ(charged_gpu_s(), 2 * 15);
  EXPECT_EQ(findings().size(), 1U);
  world.expect_books_are_right();
}

TEST_F(AttemptsTest, OfTwoJobsOfWhichNeitherIsKnownTheFirstIsTheRunsAndTheOtherIsNamed) {
  const auto [first, second] = run_two_of_unheard_clients();
  world.cluster.end(second, JobState::kCompleted, 0);
  world.tick();
  EXPECT_EQ(*world.run().last().job, first);
  ASSERT_EQ(findings().size(), 1U);
  EXPECT_EQ(findings()[0].rfind(fmt::format("job {} of run runone had 2 GPUs", second), 0), 0U);
  world.tick();
  EXPECT_EQ(findings().size(), 1U);
}

// The service dies between the finding and the end of the second job, and the first is gone before it is back.
TEST_F(AttemptsTest, ASecondJobThatWasNamedIsNotTakenForTheFirstLater) {
  const auto [first, second] = run_two_of_unheard_clients();
  world.cluster.end(first, JobState::kCompleted, 0);
  world.cluster.service_dies_at_cancel = true;
  EXPECT_THROW((void)world.dispatcher().tick(world.cluster.now), std::runtime_error);
  world.cluster.service_dies_at_cancel = false;
  world.restart();
  world.cluster.purge(first);
  for (int i = 0; i < 3; ++i) world.tick(20);
  EXPECT_EQ(*world.run().last().job, first);
  EXPECT_EQ(charged_gpu_s(), 2 * 10);
  EXPECT_EQ(world.cluster.cancelled, std::vector<JobId>{second});
  for (const std::string& each : findings()) {
    EXPECT_EQ(each.rfind(fmt::format("job {} of run runone had 2 GPUs", second), 0), 0U) << each;
  }
  world.expect_books_are_right();
}

// Its fund cannot pay its second attempt, and an operator lets it go all the same.
TEST_F(AttemptsTest, WhatAJobHadThatSomebodyReleasedWithoutItsHoursIsADifferenceWithAName) {
  const JobId job = world.cluster.submit_plain(1, 600);
  world.tick();
  run_for(job, 10);
  world.tick();
  world.cluster.requeue(job);
  world.cluster.jobs.at(job).time_limit_s = 11 * 3600;
  for (int i = 0; i < 3; ++i) world.tick(5);
  ASSERT_TRUE(world.cluster.jobs.at(job).is_held_by_admin);
  (void)world.cluster.release(job, "");
  run_for(job, 10);
  for (int i = 0; i < 3; ++i) world.tick(5);
  EXPECT_EQ(world.cluster.cancelled, std::vector<JobId>{job});
  const auto report = world.dispatcher().audit();
  ASSERT_TRUE(report);
  EXPECT_TRUE(report->faults.empty()) << report->faults.front();
  EXPECT_NE(report->notes.back().find("which nobody is charged"), std::string::npos);
}

TEST_F(AttemptsTest, WhatAJobWithoutAHoldHadBeforeItWasRestartedIsNamed) {
  (void)launch_and_start();
  const JobId second = submit_again();
  run_for(second, 10);
  world.cluster.requeue(second);
  world.tick();
  EXPECT_EQ(world.cluster.cancelled, std::vector<JobId>{second});
  EXPECT_EQ(findings(), std::vector<std::string>{fmt::format(
      "job {} of run runone was restarted 1 times, and it is not the job of an open segment: nobody pays "
      "for more than 0 of its allocations before", second)});
}

// Both came and went while nobody looked.
TEST_F(AttemptsTest, OfTwoJobsThatAreFoundByTheirNameTheFirstIsChargedAndTheOtherNamed) {
  world.cluster.submit_loses_its_reply = true;
  ASSERT_EQ(world.launch(world.admission()), 0U);
  world.cluster.submit_loses_its_reply = false;
  const JobId first = world.cluster.jobs.begin()->first, second = submit_again();
  for (const JobId job : {first, second}) {
    run_for(job, 10);
    world.cluster.end(job, JobState::kCompleted, 0);
    world.cluster.purge(job);
  }
  for (int i = 0; i < 4; ++i) world.tick(60);
  EXPECT_EQ(world.state(), "finished");
  EXPECT_EQ(*world.run().last().job, first);
  EXPECT_EQ(charged_gpu_s(), 2 * 10);
  ASSERT_EQ(findings().size(), 1U);
  EXPECT_EQ(findings()[0].rfind(fmt::format("job {} of run runone had 2 GPUs from ", second), 0), 0U);
  world.expect_books_are_right();
}

// Its name is that of the next segment's too.
TEST_F(AttemptsTest, AJobThatALateClientSubmitsForAnEarlierSegmentIsNotTakenForTheNext) {
  for (const bool is_before : {true, false}) {
    const std::string id = is_before ? "runbefore" : "runafter";
    ASSERT_TRUE(world.dispatcher().admit(kAda, world.admission(id), world.cluster.now));
    for (int i = 0; i < 2; ++i) world.tick(61);
    ASSERT_EQ(world.state(id), "failed");
    const Plan plan = world.run(id).last().plan;
    const auto late = [&] {
      const JobId job =
          world.cluster.submit(make_job_spec(plan, {id, 0}, "/runs/" + id, world.site, {}))->id;
      run_for(job, 10);
      world.tick();
      world.cluster.purge(job);
    };
    if (is_before) late();
    ASSERT_TRUE(world.dispatcher().admit(kAda, world.admission(id, 1), world.cluster.now));
    if (!is_before) late();
    for (int i = 0; i < 4; ++i) world.tick(60);
    EXPECT_EQ(world.run(id).last().index, 1);
    EXPECT_EQ(world.state(id), "failed");
    EXPECT_EQ(world.run(id).charged().milli_gpu_s, 0);
  }
  EXPECT_EQ(findings().size(), 2U);
  world.expect_books_are_right();
}

TEST_F(AttemptsTest, OfAJobThatIsGoneRestartsWhoseRecordsAreLostAreNamed) {
  const JobId job = world.launch(world.admission());
  run_for(job, 10);
  world.cluster.requeue(job);  // Unseen.
  run_for(job, 20);
  world.cluster.database_is_up = false;
  world.tick();
  world.cluster.end(job, JobState::kCompleted, 0);
  world.cluster.purge(job);
  auto& records = world.cluster.records[job];
  records.erase(records.begin());
  world.cluster.database_is_up = true;
  for (int i = 0; i < 4; ++i) world.tick(60);
  EXPECT_EQ(world.state(), "finished");
  EXPECT_EQ(charged_gpu_s(), 2 * 21);
  ASSERT_EQ(findings().size(), 1U);
  EXPECT_NE(findings()[0].find("was started 2 times, and neither slurmdbd nor a look at the controller "
                               "has shown more than 1 allocations of it"), std::string::npos)
      << findings()[0];
}

TEST_F(AttemptsTest, AnEndedJobThatIsRequeuedAndOverAgainBetweenTwoLooksIsWaitedFor) {
  const JobId job = launch_and_start();
  world.cluster.now += 9;
  world.cluster.end(job, JobState::kFailed, 1);
  world.cluster.database_is_up = false;
  world.tick();
  ASSERT_EQ(world.state(), "settling");
  world.cluster.now += 5;
  world.cluster.requeue(job);
  run_for(job, 30);
  world.cluster.end(job, JobState::kCompleted, 0);
  world.tick(5);
  world.cluster.purge(job);
  for (int i = 0; i < 4; ++i) world.tick(60);
  // As seen: both, and nothing of the wait between them.
  EXPECT_EQ(charged_gpu_s(), 2 * (10 + 30));
  EXPECT_EQ(world.state(), "finished");
  EXPECT_EQ(findings().size(), 2U);
  world.expect_books_are_right();
}

// Of the attempt between neither start nor end is known, nor how long the job waited before it.
TEST_F(AttemptsTest, AChargeAsSeenTakesInNoWaitOfAttemptsThatNobodySaw) {
  const JobId job = launch_and_start();
  world.cluster.database_is_up = false;
  world.tick(10);
  world.cluster.requeue(job);
  world.cluster.now += 300;
  run_for(job, 20);
  world.cluster.requeue(job);
  world.cluster.now += 300;
  world.cluster.start(job);
  for (int i = 0; i < 3; ++i) world.tick(60);
  ASSERT_EQ(world.run().last().charges.size(), 1U);
  EXPECT_EQ(charged_gpu_s(), 2 * 11);
  world.cluster.end(job, JobState::kCompleted, 0);
  for (int i = 0; i < 4; ++i) world.tick(60);
  EXPECT_EQ(charged_gpu_s(), 2 * (11 + 180));
  ASSERT_EQ(findings().size(), 3U);
  EXPECT_NE(findings()[2].find("was started 3 times"), std::string::npos) << findings()[2];
}

TEST_F(AttemptsTest, ASubmissionWhoseAnswerWasLostIsFoundAndNotDoneAgain) {
  ASSERT_TRUE(world.dispatcher().admit(kAda, world.admission(), world.cluster.now));
  const JobSpec spec = make_job_spec(world.run().last().plan, {"runone", 0}, "/runs/runone", world.site, {});
  world.cluster.submit_loses_its_reply = true;
  const auto first = submit_once(world.cluster, spec, kAda.uid, false);
  ASSERT_TRUE(std::holds_alternative<Submitted>(first));
  const JobId job = world.cluster.jobs.begin()->first;
  EXPECT_EQ(std::get<Submitted>(first).id, job);
  // The client died, and its user tries again.
  const auto second = submit_once(world.cluster, spec, kAda.uid, true);
  ASSERT_TRUE(std::holds_alternative<Submitted>(second));
  EXPECT_EQ(std::get<Submitted>(second).id, job);
  EXPECT_EQ(world.cluster.jobs.size(), 1U);
  // Another's job with that comment is not it.
  world.cluster.uid = kBob.uid;
  const auto of_bob = submit_once(world.cluster, spec, kBob.uid, true);
  ASSERT_TRUE(std::holds_alternative<Submitted>(of_bob));
  EXPECT_NE(std::get<Submitted>(of_bob).id, job);
  EXPECT_EQ(world.cluster.jobs.size(), 2U);
}

TEST_F(AttemptsTest, AJobThatSlurmWouldNeverStartWasNotSubmittedAndSlurmSaysWhy) {
  ASSERT_TRUE(world.dispatcher().admit(kAda, world.admission(), world.cluster.now));
  const JobSpec spec = make_job_spec(world.run().last().plan, {"runone", 0}, "/runs/runone", world.site, {});
  world.cluster.would_never_start = true;
  const auto submission = submit_once(world.cluster, spec, kAda.uid, false);
  ASSERT_TRUE(std::holds_alternative<NotSubmitted>(submission));
  EXPECT_EQ(std::get<NotSubmitted>(submission).why.message, "Slurm would never start the job");
}

TEST_F(AttemptsTest, WithTheControllerAwayNobodyKnowsWhetherAJobWasTaken) {
  ASSERT_TRUE(world.dispatcher().admit(kAda, world.admission(), world.cluster.now));
  const JobSpec spec = make_job_spec(world.run().last().plan, {"runone", 0}, "/runs/runone", world.site, {});
  world.cluster.submit_loses_its_reply = true;
  world.cluster.controller_is_up = false;
  EXPECT_TRUE(std::holds_alternative<Unsure>(submit_once(world.cluster, spec, kAda.uid, false)));
  EXPECT_TRUE(std::holds_alternative<Unsure>(submit_once(world.cluster, spec, kAda.uid, true)));
  EXPECT_EQ(world.cluster.jobs.size(), 1U);  // It was taken, and is the run's.
  world.cluster.controller_is_up = true;
  world.tick();
  EXPECT_EQ(world.state(), "queued");
}

// slurmctld may give a number anew, and the audit tells its jobs apart by their times.
class AuditOfNumbersTest : public AttemptsTest {
 protected:
  // A plain job that ran to its end while nobody looked, long after those before it.
  void run_unseen(JobId number) {
    world.cluster.now += 1000;
    AllocationRecord record;
    record.id = number;
    record.uid = 1000;
    record.name = "wrap";
    record.partition = "metered";
    record.submit = record.start = world.cluster.now;
    record.end = world.cluster.now + 30;
    record.gpus = 2;
    record.state = JobState::kCompleted;
    world.cluster.records[number].push_back(record);
    world.cluster.now += 30;
  }
  std::string notes() {
    const auto report = world.dispatcher().audit();
    std::string text;
    for (const std::string& each : report->notes) text += each + "\n";
    return text;
  }
};

TEST_F(AuditOfNumbersTest, AJobOfAnEarlierOnesNumberIsNoPartOfThatRun) {
  const JobId paid = world.cluster.submit_plain(1, 600);
  world.tick();
  world.cluster.start(paid);
  world.tick();
  world.cluster.end(paid, JobState::kCompleted, 0);
  for (int i = 0; i < 3; ++i) world.tick(10);
  ASSERT_EQ(world.balance().charged.milli_gpu_s, 1000);
  ASSERT_EQ(notes(), "");
  run_unseen(paid);
  EXPECT_NE(notes().find(fmt::format("job {} of uid 1000: slurmdbd has 2 GPUs on partition metered from ",
                                     paid)), std::string::npos) << notes();
}

TEST_F(AuditOfNumbersTest, AnOlderFindingOfTheNumberIsNotAboutTheNewJob) {
  (void)world.cluster.submit_plain(1, 600);
  world.tick();  // From here on the partition's jobs are the service's.
  const JobId stray = world.cluster.submit_plain(1, 600);
  world.cluster.jobs.at(stray).admin_comment.clear();
  world.cluster.start(stray);
  world.tick(5);
  ASSERT_EQ(findings().size(), 1U);
  EXPECT_NE(findings()[0].find("ran on partition metered with 1 GPUs from "), std::string::npos);
  const std::string before = notes();
  EXPECT_EQ(before.find("no run of the books claims"), std::string::npos) << before;
  run_unseen(stray);
  EXPECT_NE(notes().find("no run of the books claims"), std::string::npos) << notes();
}

}  // namespace
}  // namespace scheduler
