// SPDX-License-Identifier: GPL-3.0-or-later
//
// Jobs of a managed partition, against a pretended Slurm.
#include "world.h"

namespace scheduler {
namespace {

std::string plain_id(int number, int task = -1) {
  return plain_run_id({fmt::format("{:016}", number), ""}, task);
}

class PlainJobTest : public ::testing::Test {
 protected:
  void SetUp() override { world.grant("user:ada", 10); }
  const JobSnapshot& job(JobId id) { return world.cluster.jobs.at(id); }
  World world;
};

TEST_F(PlainJobTest, IsReleasedWhenItsHoursAreSetAsideAndChargedAsSlurmRecords) {
  const JobId id = world.cluster.submit_plain(2, 600);
  world.tick();
  EXPECT_FALSE(job(id).is_held);
  EXPECT_EQ(world.balance().held.milli_gpu_s, 2 * (600 + kMargin) * 1000);

  world.cluster.start(id);
  world.tick();
  world.cluster.now += 41;
  world.cluster.end(id, JobState::kCompleted, 0);
  world.tick();

  EXPECT_EQ(world.state(plain_id(1)), "finished");
  EXPECT_EQ(world.balance().charged.milli_gpu_s, 2 * 42 * 1000);
  EXPECT_EQ(world.balance().held.milli_gpu_s, 0);
  world.expect_books_are_right();
}

TEST_F(PlainJobTest, WithoutHoursWaitsWithTheNumbersUntilAGrantComes) {
  const JobId id = world.cluster.submit_plain(4, 4 * 3600);
  world.tick();
  EXPECT_TRUE(job(id).is_held_by_admin);
  EXPECT_NE(job(id).comment.find("needs 16.100 GPU-h"), std::string::npos) << job(id).comment;
  EXPECT_NE(job(id).comment.find("fund user:ada has 10.000 GPU-h"), std::string::npos);
  EXPECT_EQ(world.balance().held.milli_gpu_s, 0);

  world.grant("user:ada", 10);
  world.tick(10);
  EXPECT_FALSE(job(id).is_held);
  EXPECT_EQ(job(id).comment, "");
}

// What its owner wrote into the comment is there again once it is released.
TEST_F(PlainJobTest, KeepsItsOwnComment) {
  const JobId id = world.cluster.submit_plain(4, 4 * 3600);
  world.cluster.jobs.at(id).comment = "my job";
  world.tick();
  EXPECT_EQ(job(id).comment.rfind("my job [trainyard: needs", 0), 0u) << job(id).comment;
  world.grant("user:ada", 10);
  world.tick(10);
  EXPECT_EQ(job(id).comment, "my job");
}

TEST_F(PlainJobTest, AnAdminsOwnHoldIsLeftAlone) {
  const JobId id = world.cluster.submit_plain(1, 600);
  world.tick();
  ASSERT_FALSE(job(id).is_held);
  world.cluster.jobs.at(id).is_held = world.cluster.jobs.at(id).is_held_by_admin = true;
  world.tick(20);
  EXPECT_TRUE(job(id).is_held);
}

TEST_F(PlainJobTest, ChangedWhileItWaitsIsHeldAndQuotedAnew) {
  const JobId id = world.cluster.submit_plain(1, 600);
  world.tick();
  world.cluster.jobs.at(id).gpus = 2;
  world.cluster.jobs.at(id).time_limit_s = 1200;
  world.tick(10);
  EXPECT_TRUE(job(id).is_held);
  world.tick(10);
  world.tick(10);
  EXPECT_FALSE(job(id).is_held);
  EXPECT_EQ(world.balance().held.milli_gpu_s, 2 * (1200 + kMargin) * 1000);
  EXPECT_EQ(world.run(plain_id(1)).segments.size(), 2u);
  world.expect_books_are_right();
}

TEST_F(PlainJobTest, StartedWithoutAHoldAndWithoutHoursIsCancelledAndNoted) {
  const JobId id = world.cluster.submit_plain(4, 4 * 3600);
  world.tick();
  world.cluster.jobs.at(id).is_held = false;
  world.cluster.start(id);
  world.tick(10);
  EXPECT_EQ(world.cluster.cancelled, std::vector<JobId>{id});
  EXPECT_FALSE(world.dispatcher().ledger().findings()->empty());
}

// The plug-in was taken out of slurm.conf, or does not know the partition.
TEST_F(PlainJobTest, WithoutAStampItWaitsHeldOrIsEndedAndNamed) {
  const auto submit = [&](int gpus) {
    const JobId id = world.cluster.submit_plain(gpus, 600);
    JobSnapshot& job = world.cluster.jobs.at(id);
    job.admin_comment.clear();
    job.is_held = false;
    return id;
  };
  const JobId waiting = submit(2), running = submit(1), ended = submit(1), without_gpus = submit(0);
  const JobId elsewhere = submit(1);
  world.cluster.jobs.at(elsewhere).partition = "gpu";
  for (const JobId id : {running, ended, without_gpus, elsewhere}) world.cluster.start(id);
  world.cluster.now += 30;
  world.cluster.end(ended, JobState::kCompleted, 0);

  world.tick(10);

  EXPECT_TRUE(job(waiting).is_held_by_admin);
  EXPECT_NE(job(waiting).comment.find("never seen by the submit plug-in"), std::string::npos)
      << job(waiting).comment;
  EXPECT_EQ(world.cluster.cancelled, std::vector<JobId>{running});
  std::string findings;
  const auto found = world.dispatcher().ledger().findings();
  ASSERT_TRUE(found);
  for (const auto& each : *found) {
    findings += each.subject + ": " + each.text + "\n";
  }
  for (const JobId id : {running, ended}) {
    const std::string subject = fmt::format("job {} of uid 1000: ran on partition metered", id);
    EXPECT_NE(findings.find(subject), std::string::npos) << findings;
  }
  EXPECT_EQ(std::count(findings.begin(), findings.end(), '\n'), 2) << findings;
}

TEST_F(PlainJobTest, WithoutAStampAnArrayWaitsWholeAndSeveralPartitionsHideNoManagedOne) {
  const JobId array = world.cluster.submit_plain(1, 600, {0, 1, 2});
  const JobId several = world.cluster.submit_plain(1, 600);
  world.cluster.jobs.at(several).partition = "gpu,metered";
  for (const JobId id : {array, several}) world.cluster.jobs.at(id).admin_comment.clear();

  world.tick(10);

  EXPECT_TRUE(job(array).is_held_by_admin);
  EXPECT_TRUE(job(several).is_held_by_admin);
}

TEST_F(PlainJobTest, WhoseStampAnOperatorTookAwayGoesOnAndIsCharged) {
  const JobId id = world.cluster.submit_plain(1, 600);
  world.tick();
  world.cluster.start(id);
  world.tick(10);
  world.cluster.jobs.at(id).admin_comment.clear();
  world.tick(10);
  EXPECT_TRUE(world.cluster.cancelled.empty());
  world.cluster.end(id, JobState::kCompleted, 0);
  for (int i = 0; i < 3; ++i) world.tick(10);
  EXPECT_EQ(world.state(plain_id(1)), "finished");
  EXPECT_EQ(world.balance().charged.milli_gpu_s, 20 * 1000);
  EXPECT_TRUE(world.dispatcher().ledger().findings()->empty());
}

// It came and went while the service was away, and the controller has forgotten it.
TEST_F(PlainJobTest, AnAllocationThatNoRunClaimsIsNamedByTheAudit) {
  const auto ran_unseen = [&](int gpus) {
    const JobId id = world.cluster.submit_plain(gpus, 600);
    world.cluster.start(id);
    world.cluster.now += 30;
    world.cluster.end(id, JobState::kCompleted, 0);
    world.cluster.purge(id);
    return id;
  };
  (void)ran_unseen(1);  // Before the partition was managed.
  const JobId paid = world.cluster.submit_plain(1, 600);
  world.tick();
  world.cluster.start(paid);
  world.tick();
  world.cluster.end(paid, JobState::kCompleted, 0);
  for (int i = 0; i < 3; ++i) world.tick(10);
  ASSERT_EQ(world.balance().charged.milli_gpu_s, 1000);
  const JobId unseen = ran_unseen(2);
  (void)ran_unseen(0);

  const auto report = world.dispatcher().audit();

  ASSERT_TRUE(report) << report.error().message;
  EXPECT_TRUE(report->faults.empty());
  ASSERT_EQ(report->notes.size(), 1u);
  EXPECT_EQ(report->notes[0].rfind(fmt::format("job {} of uid 1000: slurmdbd has 2 GPUs on partition "
                                               "metered from ", unseen), 0), 0u) << report->notes[0];
}

TEST_F(PlainJobTest, TheGateLetsOnlyCoveredJobsThrough) {
  const JobId funded = world.cluster.submit_plain(1, 600);
  const JobId poor = world.cluster.submit_plain(4, 4 * 3600);
  EXPECT_FALSE(world.dispatcher().may_start(funded, world.cluster.now)->has_value());
  EXPECT_TRUE(world.dispatcher().may_start(poor, world.cluster.now)->has_value());
  EXPECT_TRUE(world.dispatcher().may_start(999, world.cluster.now)->has_value());
  world.cluster.jobs.at(funded).time_limit_s = 6000;
  world.cluster.start(funded);
  world.cluster.set_time_limit_is_refused = true;
  EXPECT_FALSE(world.dispatcher().may_start(funded, world.cluster.now).has_value());
}

TEST_F(PlainJobTest, AFundThatIsNotItsOwnersIsNotSpent) {
  world.grant("user:bob", 10);
  const JobId id = world.cluster.submit_plain(1, 600);
  world.cluster.jobs.at(id).comment = "fund=user:bob";
  world.tick();
  EXPECT_TRUE(job(id).is_held_by_admin);
  EXPECT_NE(job(id).comment.find("not ada's to spend"), std::string::npos);
}

TEST_F(PlainJobTest, TheFundFollowsFromTheSlurmAccount) {
  world.site.managed.accounts = {{"vision", "group:vision"}};
  world.grant("group:vision", 10);
  const JobId id = world.cluster.submit_plain(1, 600);
  world.cluster.jobs.at(id).account = "vision";
  world.tick();
  EXPECT_FALSE(job(id).is_held);
  EXPECT_GT(world.balance("group:vision").held.milli_gpu_s, 0);
}

TEST_F(PlainJobTest, AnExclusiveJobIsQuotedWithEveryGpuOfItsNodes) {
  const JobId id = world.cluster.submit_plain(1, 600);
  world.cluster.jobs.at(id).is_exclusive = true;
  world.tick();
  EXPECT_EQ(world.balance().held.milli_gpu_s, 2 * (600 + kMargin) * 1000);
}

TEST_F(PlainJobTest, OfSeveralTypesOfGpuItIsRefusedForNoneOfThemIsItsPrice) {
  const JobId id = world.cluster.submit_plain(2, 600);
  world.cluster.jobs.at(id).has_several_gpu_types = true;
  world.tick();
  EXPECT_TRUE(job(id).is_held_by_admin);
  EXPECT_NE(job(id).comment.find("more than one type of GPU"), std::string::npos) << job(id).comment;
  EXPECT_EQ(world.balance().held.milli_gpu_s, 0);
}

TEST(GpuTypes, AreThoseThatSlurmsTextNamesEachOnce) {
  using Types = std::vector<std::string>;
  EXPECT_EQ(gpu_types_in(""), Types{});
  EXPECT_EQ(gpu_types_in("gres/gpu=4,cpu=8"), Types{});
  EXPECT_EQ(gpu_types_in("gres:gpu:2"), Types{});
  EXPECT_EQ(gpu_types_in("gpu:2(S:0-1)"), Types{});
  EXPECT_EQ(gpu_types_in("gres:gpu:h100:2"), Types{"h100"});
  EXPECT_EQ(gpu_types_in("gpu:h100"), Types{"h100"});
  EXPECT_EQ(gpu_types_in("cpu=2,gres/gpu=2,gres/gpu:h100=2"), Types{"h100"});
  EXPECT_EQ(gpu_types_in("gpu:h100:1,gpu:h100:1"), Types{"h100"});
  EXPECT_EQ(gpu_types_in("gres/gpu=3,gres/gpu:a100=1,gres/gpu:h100=2"), (Types{"a100", "h100"}));
}

TEST_F(PlainJobTest, WithoutGpusItIsReleasedAndCostsNothing) {
  const JobId id = world.cluster.submit_plain(0, 600);
  world.tick();
  EXPECT_FALSE(job(id).is_held);
  EXPECT_EQ(world.balance().held.milli_gpu_s, 0);
}

TEST_F(PlainJobTest, Scenario28WhereSlurmCountsNoGpusNothingIsReleasedOrLetThroughTheGate) {
  const JobId before = world.cluster.submit_plain(0, 600);
  world.cluster.about.counts_gpus = false;  // Since the last look; what a job has is not known now.
  world.tick();
  EXPECT_TRUE(job(before).is_held);
  const JobId after = world.cluster.submit_plain(0, 600);
  world.tick();
  EXPECT_TRUE(job(after).is_held);
  EXPECT_FALSE(world.dispatcher().has_looked());
  EXPECT_NE(world.dispatcher().trouble().find("AccountingStorageTRES=gres/gpu"), std::string::npos);
  EXPECT_FALSE(world.dispatcher().may_start(after, world.cluster.now).has_value());
  world.cluster.about.counts_gpus = true;
  world.tick();
  EXPECT_FALSE(job(before).is_held);
  EXPECT_FALSE(job(after).is_held);
}

TEST_F(PlainJobTest, Scenario34AnArrayIsHeldForTaskByTask) {
  const JobId array = world.cluster.submit_plain(1, 600, {0, 1, 2, 5});
  world.tick();
  EXPECT_FALSE(job(array).is_held);
  EXPECT_EQ(world.balance().held.milli_gpu_s, 4 * (600 + kMargin) * 1000);
  for (int i = 0; i < 4; ++i) {
    const JobId task = world.cluster.split_task(array);
    world.cluster.start(task);
    world.tick(10);
    world.cluster.end(task, JobState::kCompleted, 0);
    world.tick(10);
  }
  EXPECT_EQ(world.state(plain_id(1, 5)), "finished");
  EXPECT_EQ(world.balance().charged.milli_gpu_s, 4 * 10 * 1000);
  EXPECT_EQ(world.balance().held.milli_gpu_s, 0);
  world.expect_books_are_right();
}

TEST_F(PlainJobTest, Scenario34AnArrayIsHeldForAsAWholeOrNotAtAll) {
  const JobId array = world.cluster.submit_plain(2, 2 * 3600, {0, 1, 2});
  world.tick();
  EXPECT_TRUE(job(array).is_held_by_admin);
  EXPECT_NE(job(array).comment.find("3 tasks x 2 GPU"), std::string::npos) << job(array).comment;
  EXPECT_EQ(world.balance().held.milli_gpu_s, 0);
  EXPECT_FALSE(*world.dispatcher().find(plain_id(1, 0)));
  world.expect_books_are_right();
}

TEST_F(PlainJobTest, Scenario10ARequeuedAttemptStartsOnlyWithAHoldOfItsOwn) {
  const JobId id = world.cluster.submit_plain(1, 600);
  world.tick();
  world.cluster.start(id);
  world.tick(10);
  world.cluster.now += 300;
  world.cluster.requeue(id);
  world.cluster.database_is_up = false;
  world.tick(10);
  EXPECT_TRUE(job(id).is_held) << "its first attempt is not charged yet";
  world.cluster.database_is_up = true;
  for (int i = 0; i < 4; ++i) world.tick(10);
  EXPECT_FALSE(job(id).is_held);
  EXPECT_EQ(world.balance().held.milli_gpu_s, (600 + kMargin) * 1000);
  world.cluster.start(id);
  world.tick(10);
  world.cluster.end(id, JobState::kCompleted, 0);
  world.tick(10);
  EXPECT_EQ(world.balance().charged.milli_gpu_s, (310 + 10) * 1000);
  EXPECT_EQ(world.balance().held.milli_gpu_s, 0);
  world.expect_books_are_right();
}

TEST_F(PlainJobTest, WhatGoesWrongWithOneRunKeepsNoOthersJobFromStarting) {
  const JobId bad = world.cluster.submit_plain(1, 600);
  const JobId good = world.cluster.submit_plain(1, 600);
  world.tick();
  world.cluster.start(bad);
  world.tick();
  // Somebody raises its limit, and Slurm refuses to cut it.
  world.cluster.jobs.at(bad).time_limit_s = 86'400;
  world.cluster.set_time_limit_is_refused = true;
  world.cluster.now += 1;
  ASSERT_FALSE(world.dispatcher().tick(world.cluster.now));
  const auto answer = world.dispatcher().may_start(good, world.cluster.now);
  ASSERT_TRUE(answer) << answer.error().message;
  EXPECT_FALSE(answer->has_value());
  EXPECT_FALSE(world.dispatcher().may_start(bad, world.cluster.now));
}

TEST_F(PlainJobTest, ATrainingRunOnAManagedPartitionIsReleasedAndPaidOnce) {
  Admission admission = world.admission();
  admission.request.resources.type = "metered";
  const JobId id = world.launch(admission);
  ASSERT_TRUE(job(id).is_held);
  world.tick();
  EXPECT_FALSE(job(id).is_held);
  world.cluster.start(id);
  world.tick(10);
  world.cluster.end(id, JobState::kCompleted, 0);
  for (int i = 0; i < 3; ++i) world.tick(10);
  EXPECT_EQ(world.balance().charged.milli_gpu_s, 2 * 10 * 1000);
  EXPECT_EQ(world.dispatcher().latest("", 10)->size(), 1u);
  world.restart();
  world.tick(10);
  EXPECT_EQ(world.balance().charged.milli_gpu_s, 2 * 10 * 1000);
  EXPECT_TRUE(world.dispatcher().audit()->faults.empty());
}

// What is held for a training is held for one job; an array is released whole.
TEST_F(PlainJobTest, AnArrayOrAHeterogeneousJobThatBearsARunsCommentIsNotReleasedUnderItsHold) {
  Admission admission = world.admission();
  admission.request.resources.gpus = 1;
  admission.request.resources.type = "metered";
  const auto outcome = world.dispatcher().admit(kAda, admission, world.cluster.now);
  ASSERT_TRUE(outcome && std::holds_alternative<Admitted>(*outcome));
  const JobId array = world.cluster.submit_plain(1, 600, {0, 1, 2});
  const JobId several = world.cluster.submit_plain(1, 600);
  world.cluster.jobs.at(several).het_job = several;
  const JobId task = world.cluster.submit_plain(1, 600);
  world.cluster.jobs.at(task).array_job = array;
  world.cluster.jobs.at(task).array_task = 3;
  for (const JobId id : {array, several, task}) {
    world.cluster.jobs.at(id).comment = "trainyard:runone:0";
    world.cluster.jobs.at(id).gpu_type = "h100";
  }
  for (const JobId id : {array, several, task}) {
    const auto answer = world.dispatcher().may_start(id, world.cluster.now);
    ASSERT_TRUE(answer) << answer.error().message;
    EXPECT_TRUE(*answer);
    EXPECT_TRUE(job(id).is_held || is_ended(job(id).state));
    EXPECT_EQ(std::count(world.cluster.cancelled.begin(), world.cluster.cancelled.end(), id), 1) << id;
  }
  EXPECT_FALSE(world.run().last().job);
}

TEST_F(PlainJobTest, ATrainingRunThatWasToldAReasonIsNoPlainJobWhenItIsOver) {
  Admission admission = world.admission();
  admission.request.resources.type = "metered";
  const JobId id = world.launch(admission);
  world.tick();
  world.cluster.start(id);
  world.tick(10);
  world.cluster.requeue(id);
  const auto recorded = world.cluster.records[id];
  world.cluster.records[id].clear();  // slurmdbd is behind.
  world.tick();
  ASSERT_NE(job(id).comment.find("[trainyard: "), std::string::npos);
  world.cluster.records[id] = recorded;
  world.cluster.end(id, JobState::kCancelled, 0);
  world.cluster.jobs.at(id).start = recorded.front().start;  // As slurmctld shows it.
  world.cluster.jobs.at(id).nodes = "n1";
  for (int i = 0; i < 5; ++i) world.tick(10);
  ASSERT_TRUE(is_terminal(world.run().state));
  world.restart();
  world.tick(10);
  EXPECT_EQ(world.dispatcher().latest("", 10)->size(), 1u);
  EXPECT_EQ(world.balance().charged.milli_gpu_s, 2 * 10 * 1000);
  EXPECT_EQ(world.balance().held.milli_gpu_s, 0);
  const auto report = world.dispatcher().audit();
  ASSERT_TRUE(report) << report.error().message;
  EXPECT_TRUE(report->faults.empty()) << report->faults.front();
}

TEST_F(PlainJobTest, Scenario4AJobIdThatIsGivenAgainIsAnotherJob) {
  const JobId lost = world.cluster.submit_plain(1, 600);
  world.tick();
  ASSERT_FALSE(job(lost).is_held);
  // The controller crashes and forgets it; the next submission gets its number.
  world.cluster.jobs.clear();
  world.cluster.records.clear();
  const JobId other = world.cluster.submit_plain(2, 600);
  JobSnapshot again = job(other);
  world.cluster.jobs.clear();
  again.id = lost;
  world.cluster.jobs[lost] = again;
  world.cluster.records[lost] = world.cluster.records[other];
  world.cluster.records[lost].back().id = lost;
  world.tick(10);
  EXPECT_FALSE(job(lost).is_held);
  world.cluster.start(lost);
  world.tick(10);
  world.cluster.now += 20;
  world.cluster.end(lost, JobState::kCompleted, 0);
  for (int i = 0; i < 5; ++i) world.tick(100);
  EXPECT_EQ(world.run(plain_id(2)).charged().milli_gpu_s, 2 * 30 * 1000);
  world.expect_books_are_right();
  EXPECT_EQ(world.balance().held.milli_gpu_s, 0);
  EXPECT_EQ(world.run(plain_id(1)).charged().milli_gpu_s, 0);
}

TEST_F(PlainJobTest, Scenario4AfterARequeueItsRecordsAreStillTheOtherJobs) {
  const JobId lost = world.cluster.submit_plain(1, 600);
  world.tick();
  const AllocationRecord forgotten = world.cluster.records[lost].back();  // slurmdbd still has it.
  world.cluster.jobs.clear();
  world.cluster.now += 10;
  const JobId other = world.cluster.submit_plain(2, 600);
  JobSnapshot again = job(other);
  world.cluster.jobs.clear();
  again.id = lost;
  world.cluster.jobs[lost] = again;
  world.cluster.records[lost] = world.cluster.records[other];
  world.cluster.records.erase(other);
  world.cluster.records[lost].back().id = lost;
  world.cluster.records[lost].insert(world.cluster.records[lost].begin(), forgotten);
  world.tick();
  ASSERT_FALSE(job(lost).is_held);
  // Nobody looks while it runs, is requeued, runs again and is forgotten.
  world.cluster.now += 5;
  world.cluster.start(lost);
  world.cluster.now += 20;
  world.cluster.requeue(lost);
  world.cluster.records[lost].back().id = lost;
  world.cluster.now += 10;
  world.cluster.start(lost);
  world.cluster.now += 30;
  world.cluster.end(lost, JobState::kCompleted, 0);
  world.cluster.purge(lost);
  for (int i = 0; i < 5; ++i) world.tick(100);
  EXPECT_EQ(world.run(plain_id(1)).charged().milli_gpu_s, 0);
  EXPECT_EQ(world.run(plain_id(2)).charged().milli_gpu_s, 2 * (20 + 30) * 1000);
  EXPECT_EQ(world.balance().held.milli_gpu_s, 0);
  world.expect_books_are_right();
}

TEST_F(PlainJobTest, Scenario8ARecordThatShrankIsAQuestionAndNoRefund) {
  const JobId id = world.cluster.submit_plain(1, 600);
  world.tick();
  world.cluster.start(id);
  world.tick();
  world.cluster.now += 99;
  world.cluster.end(id, JobState::kCompleted, 0);
  world.tick();
  AllocationRecord& record = world.cluster.records[id].back();
  record.end = record.start;
  const auto report = world.dispatcher().audit();
  ASSERT_TRUE(report);
  ASSERT_EQ(report->faults.size(), 1u);
  EXPECT_NE(report->faults[0].find("charged with 1 GPU x 100 s, slurmdbd has 1 GPU x 0 s"),
            std::string::npos) << report->faults[0];
  EXPECT_EQ(world.balance().charged.milli_gpu_s, 100 * 1000);
}

TEST_F(PlainJobTest, Scenario8ARecordThatEndsBeforeTheJobWasLastSeenIsAFinding) {
  const JobId id = world.cluster.submit_plain(1, 7200);
  world.tick();
  world.cluster.start(id);
  const UtcSeconds start = world.cluster.now;
  world.tick();
  world.tick(1000);
  // slurmctld is gone for a while; an admin repairs the runaway record.
  world.cluster.end(id, JobState::kCompleted, 0);
  world.cluster.records[id].back().end = start;
  world.cluster.purge(id);
  world.tick();
  EXPECT_EQ(world.balance().charged.milli_gpu_s, 0);
  const auto findings = world.dispatcher().ledger().findings();
  ASSERT_TRUE(findings && findings->size() == 1u);
  EXPECT_NE(findings->front().text.find("it was seen running at"), std::string::npos);
}

TEST_F(PlainJobTest, Scenario22AnAllocationThatEndsBeforeItStartedCostsNothing) {
  const JobId id = world.cluster.submit_plain(1, 600);
  world.tick();
  world.cluster.start(id);
  world.tick();
  world.cluster.now -= 500;
  world.cluster.end(id, JobState::kCompleted, 0);
  world.cluster.now += 500;
  world.tick();
  EXPECT_EQ(world.balance().charged.milli_gpu_s, 0);
  EXPECT_EQ(world.balance().held.milli_gpu_s, 0);
  world.expect_books_are_right();
}

// slurmctld starts such a record anew at its new time, out of sight of who asks from the submission on.
TEST_F(PlainJobTest, Scenario22AClockThatWasSetBackUnderAJobIsNamed) {
  const JobId id = world.cluster.submit_plain(1, 600);
  world.tick();
  world.cluster.start(id);
  world.tick();
  world.cluster.now += 40;
  world.tick();
  world.cluster.now -= 3600;
  world.cluster.end(id, JobState::kCompleted, 0);
  world.cluster.records.erase(id);
  world.cluster.now += 3600;
  world.tick();
  world.tick(1000);
  EXPECT_EQ(world.balance().charged.milli_gpu_s, 0);
  EXPECT_EQ(world.balance().held.milli_gpu_s, 0);
  const auto findings = world.dispatcher().ledger().findings();
  ASSERT_TRUE(findings && findings->size() == 1u);
  EXPECT_NE(findings->front().text.find("the clock of slurmctld was set back"), std::string::npos)
      << findings->front().text;
  world.expect_books_are_right();
}

TEST_F(PlainJobTest, Scenario25TheLastHoursAreGivenOnce) {
  for (int i = 0; i < 10; ++i) (void)world.cluster.submit_plain(4, 3600);
  world.tick();
  int released = 0;
  for (const auto& [id, each] : world.cluster.jobs) released += each.is_held ? 0 : 1;
  EXPECT_EQ(released, 2);  // Of 10 GPU-hours; each needs 4.1.
  EXPECT_GE(world.balance().available.milli_gpu_s, 0);
  world.expect_books_are_right();
}

TEST_F(PlainJobTest, ARuleOfTheFundIsToldInItsOwnWords) {
  const auto set = world.dispatcher().ledger().set({"rule1", "user:ada", "gpus_max", "1", 0, "root", ""},
                                                   world.cluster.now);
  ASSERT_TRUE(set && *set == accounting::SetStatus::kSet);
  const JobId id = world.cluster.submit_plain(2, 600);
  world.tick();
  EXPECT_NE(job(id).comment.find("may have 1 GPUs at once"), std::string::npos) << job(id).comment;
}

// Running while the service was away, and over before it came back: paid all the same.
TEST_F(PlainJobTest, ARequeueThatNobodySawIsCharged) {
  const JobId id = world.cluster.submit_plain(1, 600);
  world.tick();
  world.cluster.start(id);
  world.tick(10);
  world.cluster.now += 9;
  world.cluster.end(id, JobState::kCompleted, 0);
  world.tick();
  ASSERT_EQ(world.state(plain_id(1)), "finished");
  world.cluster.records[id].back().state = JobState::kCompleted;
  JobSnapshot& again = world.cluster.jobs.at(id);
  ++again.attempt;
  again.submit = world.cluster.now + 5;
  AllocationRecord record = world.cluster.records[id].back();
  record.submit = again.submit;
  again.start = record.start = world.cluster.now + 10;
  again.end = record.end = world.cluster.now + 40;
  world.cluster.records[id].push_back(record);
  world.restart();
  for (int i = 0; i < 3; ++i) world.tick(50);
  EXPECT_EQ(world.balance().charged.milli_gpu_s, (19 + 30) * 1000);
  EXPECT_TRUE(world.dispatcher().audit()->faults.empty());
  world.expect_books_are_right();
}

TEST_F(PlainJobTest, AnEndedJobOfAResumedRunIsNotPaidAgain) {
  Admission admission = world.admission();
  admission.request.resources.type = "metered";
  const JobId id = world.launch(admission);
  world.tick();
  world.cluster.start(id);
  world.tick(10);
  world.cluster.end(id, JobState::kFailed, 10);
  world.tick(10);
  ASSERT_EQ(world.state(), "stopped");
  admission.segment = 1;
  (void)world.launch(admission);
  for (int i = 0; i < 3; ++i) world.tick(10);
  EXPECT_EQ(world.dispatcher().latest("", 10)->size(), 1u);
  EXPECT_EQ(world.balance().charged.milli_gpu_s, 2 * 10 * 1000);
}

// --- Refunds ---------------------------------------------------------------------------------

TEST_F(PlainJobTest, Scenario27ANodeFailureIsChargedAndGivenBackOnceUpToTheCap) {
  world.site.refunds.cap = {30'000};
  world.restart();
  const JobId id = world.cluster.submit_plain(1, 600);
  world.tick();
  world.cluster.start(id);
  world.tick();
  world.cluster.now += 99;
  world.cluster.end(id, JobState::kNodeFail, 0);
  world.tick();
  world.restart();
  world.tick();
  const auto run = world.run(plain_id(1));
  ASSERT_EQ(run.last().charges.size(), 1u);
  EXPECT_EQ(run.last().charges[0].charged.milli_gpu_s, 100'000);
  EXPECT_EQ(run.last().charges[0].refunded.milli_gpu_s, 30'000);
  EXPECT_EQ(world.balance().charged.milli_gpu_s, 70'000);
  EXPECT_EQ(world.balance().available.milli_gpu_s, 10 * accounting::kGpuHour.milli_gpu_s - 70'000);
  world.expect_books_are_right();
}

TEST_F(PlainJobTest, WhatItsUserCausedIsNotGivenBack) {
  for (const JobState state : {JobState::kFailed, JobState::kCancelled, JobState::kTimeout,
                               JobState::kOutOfMemory, JobState::kCompleted}) {
    SCOPED_TRACE(to_name(state));
    const auto before = world.balance().charged;
    const JobId id = world.cluster.submit_plain(1, 600);
    world.tick();
    world.cluster.start(id);
    world.tick();
    world.cluster.now += 49;
    world.cluster.end(id, state, 1);
    world.tick();
    EXPECT_EQ(world.balance().charged.milli_gpu_s, before.milli_gpu_s + 50'000);
  }
}

}  // namespace
}  // namespace scheduler
