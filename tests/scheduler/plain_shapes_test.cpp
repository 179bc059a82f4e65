// SPDX-License-Identifier: GPL-3.0-or-later
//
// Plain jobs of several parts or of too long a limit, and what comes to light after the end, against a
// pretended Slurm.
#include "world.h"

namespace scheduler {
namespace {

std::string plain_id(int number, int task = -1) {
  return plain_run_id({fmt::format("{:016}", number), ""}, task);
}

class PlainShapesTest : public ::testing::Test {
 protected:
  void SetUp() override { world.grant("user:ada", 10); }
  const JobSnapshot& job(JobId id) { return world.cluster.jobs.at(id); }
  std::string findings() {
    std::string text;
    const auto read = world.dispatcher().ledger().findings();
    for (const auto& finding : *read) text += finding.subject + ": " + finding.text + "\n";
    return text;
  }
  void set_rule(int number, const std::string& name, const std::optional<std::string>& value) {
    const auto set = world.dispatcher().ledger().set(
        {fmt::format("rule{}", number), "user:ada", name, value, 0, "root", ""}, world.cluster.now);
    ASSERT_TRUE(set && *set == accounting::SetStatus::kSet);
  }
  World world;
};

TEST_F(PlainShapesTest, AllComponentsOfAHeterogeneousJobGetTheirHoursAndAreReleasedTogether) {
  const auto ids = world.cluster.submit_het({1, 0, 3}, 600);
  world.tick();
  for (const JobId id : ids) EXPECT_FALSE(job(id).is_held) << id;
  EXPECT_EQ(world.balance().held.milli_gpu_s, (1 + 3) * (600 + kMargin) * 1000);

  for (const JobId id : ids) world.cluster.start(id);
  world.tick();
  world.tick(60);
  for (const JobId id : ids) world.cluster.end(id, JobState::kCompleted, 0);
  world.tick();
  EXPECT_EQ(world.run(plain_id(1)).charged().milli_gpu_s, 1 * 61 * 1000);
  EXPECT_EQ(world.run(plain_id(3)).charged().milli_gpu_s, 3 * 61 * 1000);
  EXPECT_EQ(world.balance().held.milli_gpu_s, 0);
  world.expect_books_are_right();
}

TEST_F(PlainShapesTest, ComponentsBeyondTheFundKeepAllOfThemWaitingWithTheNumbers) {
  const auto ids = world.cluster.submit_het({2, 4}, 2 * 3600);
  world.tick();
  for (const JobId id : ids) {
    EXPECT_TRUE(job(id).is_held_by_admin) << id;
    EXPECT_NE(job(id).comment.find("needs 12.150 GPU-h"), std::string::npos) << job(id).comment;
    EXPECT_NE(job(id).comment.find(" + "), std::string::npos) << job(id).comment;
    EXPECT_NE(job(id).comment.find("has 10.000 GPU-h"), std::string::npos) << job(id).comment;
  }
  EXPECT_EQ(world.balance().held.milli_gpu_s, 0);

  world.grant("user:ada", 10);
  world.tick(10);
  for (const JobId id : ids) EXPECT_FALSE(job(id).is_held) << id;
  EXPECT_EQ(world.balance().held.milli_gpu_s, 6 * (7200 + kMargin) * 1000);
}

// One part that cannot be quoted keeps the others: Slurm starts none without it.
TEST_F(PlainShapesTest, AComponentThatCannotBeQuotedIsNamed) {
  const auto ids = world.cluster.submit_het({1, 1}, 600);
  world.cluster.jobs.at(ids[1]).gpu_type = "a100";
  world.tick();
  EXPECT_TRUE(job(ids[0]).is_held_by_admin);
  EXPECT_NE(job(ids[0]).comment.find(fmt::format("component {}: ", ids[1])), std::string::npos)
      << job(ids[0]).comment;
  EXPECT_EQ(world.balance().held.milli_gpu_s, 0);
}

// A refusal tells of all that was asked, and counts nothing that was held for it and rolled back.
TEST_F(PlainShapesTest, AnArrayBeyondARuleOfTheFundIsToldItsOwnSum) {
  struct Rule {
    const char *name, *value, *words;
  };
  const Rule kRules[] = {
      {"gpus_max", "3",
       "fund user:ada may have 3 GPUs at once and has 0 in use; this needs 5. Ask for at most 3."},
      {"runs_max", "3",
       "fund user:ada may have 3 runs at once and has 0 in use; this needs 5. Ask for at most 3."},
      {"gpus/ada", "3", "ada may have 3 GPUs of fund user:ada at once and has 0 in use; this needs 5. "},
      {"runs/ada", "3", "ada may have 3 runs of fund user:ada at once and has 0 in use; this needs 5. "},
      {"cap/ada", "1800000",
       "ada may use 0.500 GPU-h of fund user:ada and has 0.000 GPU-h in use; this needs 0.958 GPU-h "
       "more."},
  };
  int number = 0;
  for (const Rule& rule : kRules) {
    SCOPED_TRACE(rule.name);
    set_rule(++number, rule.name, rule.value);
    const JobId id = world.cluster.submit_plain(1, 600, {0, 1, 2, 3, 4});
    world.tick();
    EXPECT_TRUE(job(id).is_held_by_admin);
    EXPECT_NE(job(id).comment.find(rule.words), std::string::npos) << job(id).comment;
    EXPECT_EQ(world.balance().held.milli_gpu_s, 0);
    world.cluster.jobs.erase(id);
    set_rule(++number, rule.name, std::nullopt);
  }
}

TEST_F(PlainShapesTest, ARefusalForGpusTellsThoseOfOpenRuns) {
  set_rule(1, "gpus_max", "3");
  const JobId first = world.cluster.submit_plain(2, 600);
  world.tick();
  ASSERT_FALSE(job(first).is_held);
  const auto ids = world.cluster.submit_het({1, 1}, 600);
  world.tick();
  for (const JobId id : ids) {
    EXPECT_NE(job(id).comment.find("has 2 in use; this needs 2 more. Wait for a run to end"),
              std::string::npos) << job(id).comment;
  }
}

TEST_F(PlainShapesTest, AHeterogeneousJobOfWhichAPartIsNotCoveredIsEndedWhole) {
  const auto ids = world.cluster.submit_het({1, 1}, 600);
  world.tick();
  for (const JobId id : ids) world.cluster.start(id);
  world.cluster.jobs.at(ids[1]).gpus = 64;
  world.cluster.records[ids[1]].back().gpus = 64;
  world.tick();
  world.tick(10);
  for (const JobId id : ids) EXPECT_EQ(job(id).state, JobState::kCancelled) << id;
  world.tick(10);
  EXPECT_EQ(world.balance().held.milli_gpu_s, 0);
  world.expect_books_are_right();
}

TEST_F(PlainShapesTest, ALimitBeyondThatOfThePartitionIsToldAndHoldsNoHours) {
  world.cluster.about.partition_max_s["metered"] = 3600;
  world.restart();
  const JobId id = world.cluster.submit_plain(1, 2 * 3600);
  world.tick();
  EXPECT_TRUE(job(id).is_held_by_admin);
  EXPECT_NE(job(id).comment.find("its limit of 120 min exceeds the 60 min of partition metered"),
            std::string::npos) << job(id).comment;
  EXPECT_NE(job(id).comment.find("timelimit=60"), std::string::npos) << job(id).comment;
  EXPECT_EQ(world.balance().held.milli_gpu_s, 0);

  world.cluster.jobs.at(id).time_limit_s = 3600;
  world.tick(10);
  EXPECT_FALSE(job(id).is_held);
}

// Slurm ends a job so much later than its limit: held from the start, and cut where it comes later.
TEST_F(PlainShapesTest, TheOverTimeLimitOfThePartitionIsHeldAndCutsWhatDoesNotCoverIt) {
  world.cluster.about.partition_over_time_s["metered"] = 240;
  world.restart();
  const JobId id = world.cluster.submit_plain(1, 600);
  world.tick();
  EXPECT_EQ(world.balance().held.milli_gpu_s, (600 + 240 + kMargin) * 1000);
  world.cluster.start(id);
  world.tick();
  EXPECT_EQ(job(id).time_limit_s, 600);

  world.cluster.about.partition_over_time_s["metered"] = 360;
  world.tick(61);
  EXPECT_EQ(job(id).time_limit_s, 480);
}

TEST_F(PlainShapesTest, NothingIsLetIntoAPartitionWhereNoLimitEndsAJob) {
  world.cluster.about.partition_over_time_s["metered"] = ClusterFacts::kNoEnd_s;
  world.restart();
  const JobId id = world.cluster.submit_plain(1, 600);
  world.tick();
  EXPECT_TRUE(job(id).is_held_by_admin);
  EXPECT_NE(job(id).comment.find("partition metered: OverTimeLimit is UNLIMITED"), std::string::npos)
      << job(id).comment;
  EXPECT_EQ(world.balance().held.milli_gpu_s, 0);
}

// An epochs run is not given a longer limit than its partition has.
TEST_F(PlainShapesTest, ARunIsExtendedUpToTheLimitOfItsPartition) {
  world.cluster.about.partition_max_s["gpu"] = 900;
  world.restart();
  const JobId id = world.launch(world.admission());
  world.cluster.start(id);
  world.tick(1);
  world.tick(350);
  for (int i = 0; i < 4; ++i) world.tick(10);
  EXPECT_EQ(job(id).time_limit_s, 900);
}

// The controller forgot the job and slurmdbd is late: it is waited for before its hold is released.
TEST_F(PlainShapesTest, ALostJobWhoseRecordComesLateIsCharged) {
  const JobId id = world.cluster.submit_plain(2, 600);
  world.tick();
  const auto kept = world.cluster.records[id];
  world.cluster.records[id].clear();
  world.cluster.purge(id);
  world.tick(110);
  world.tick(30);
  ASSERT_EQ(world.state(plain_id(1)), "settling");

  world.cluster.records[id] = kept;
  AllocationRecord& record = world.cluster.records[id].back();
  record.start = record.submit + 5;
  record.end = record.submit + 8;
  record.gpus = 2;
  record.state = JobState::kCompleted;
  world.tick(10);
  EXPECT_EQ(world.run(plain_id(1)).charged().milli_gpu_s, 2 * 3 * 1000);
  EXPECT_EQ(findings(), "");
}

TEST_F(PlainShapesTest, ALostJobOfWhichNothingIsEverToldIsNamedWhenItsHoldIsReleased) {
  const JobId id = world.cluster.submit_plain(2, 600);
  world.tick();
  world.cluster.records[id].clear();
  world.cluster.purge(id);
  for (int i = 0; i < 30; ++i) world.tick(10);
  EXPECT_EQ(world.balance().held.milli_gpu_s, 0);
  EXPECT_NE(findings().find(fmt::format("the controller lost job {}", id)), std::string::npos)
      << findings();
}

TEST_F(PlainShapesTest, WhatAJobHadBesideItsChargesIsFoundAtTheSecondLook) {
  const JobId id = world.cluster.submit_plain(2, 600);
  world.tick();
  world.cluster.start(id);
  world.tick(10);
  world.cluster.end(id, JobState::kCompleted, 0);
  world.tick(1);
  world.cluster.purge(id);
  ASSERT_EQ(world.state(plain_id(1)), "finished");
  // A controller that crashed ran it once more, unseen.
  AllocationRecord again = world.cluster.records[id].back();
  again.submit += 20;
  again.start = again.submit + 1;
  again.end = again.start + 7;
  world.cluster.records[id].push_back(again);
  world.cluster.database_is_up = false;
  world.restart();  // It is not forgotten.
  world.tick(105);
  EXPECT_EQ(findings(), "");
  world.cluster.database_is_up = true;
  world.tick(70);
  EXPECT_NE(findings().find("Nobody pays for it"), std::string::npos) << findings();
  const std::string once = findings();
  world.tick(200);
  EXPECT_EQ(findings(), once);
}

// slurmctld crashed before it told slurmdbd of the end, and the start that it told was another.
TEST_F(PlainShapesTest, ARecordThatNobodyClosedIsNamedByTheAuditAsRunaway) {
  const JobId id = world.cluster.submit_plain(2, 600);
  world.tick();
  world.cluster.start(id);
  world.tick();
  world.cluster.now += 49;
  world.cluster.end(id, JobState::kCompleted, 0);
  AllocationRecord& record = world.cluster.records[id].back();
  record.state = JobState::kRunning;
  record.end = 0;
  record.start -= 3;
  for (int i = 0; i < 4; ++i) world.tick(60);
  ASSERT_EQ(world.state(plain_id(1)), "finished");
  ASSERT_EQ(world.run(plain_id(1)).charged().milli_gpu_s, 2 * 50 * 1000);

  const auto report = world.dispatcher().audit();

  ASSERT_TRUE(report) << report.error().message;
  EXPECT_TRUE(report->faults.empty());
  std::string notes;
  for (const std::string& note : report->notes) notes += note + "\n";
  EXPECT_NE(notes.find(fmt::format("run {} (job {}): it is over, and slurmdbd shows it running since {} "
                                   "with 2 GPUs; sacctmgr show runawayjobs",
                                   plain_id(1), id, accounting::format_utc(record.start))),
            std::string::npos) << notes;
  EXPECT_EQ(notes.find("has no record of attempt"), std::string::npos) << notes;

  record.end = record.start + 53;  // Mended by hand.
  const auto again = world.dispatcher().audit();
  ASSERT_TRUE(again);
  for (const std::string& note : again->notes) {
    EXPECT_EQ(note.find("runawayjobs"), std::string::npos) << note;
  }
}

// As Slurm 22.05 shows waiting jobs. What it then gave them on three nodes of eight CPUs and two GPUs, where
// that is more than its sum says: two, three, three, six.
TEST(MostAllocated, IsWhatAJobMayGetOnTheMostNodesThatItMayStartOn) {
  struct Row {
    const char* options;
    Asked asked;
    int nodes, gpus;
    bool fills_nodes = false;
  };
  const std::vector<Row> rows{
      {"--gpus=2", {.tres = "cpu=1,node=1,gres/gpu=2", .per_job = "gres:gpu:2", .nodes = 1, .tasks = 1}, 1, 2},
      {"--gpus=2 --ntasks=3",
       {.tres = "node=1,gres/gpu=2", .per_job = "gres:gpu:2", .nodes = 1, .tasks = 3}, 1, 2},
      {"--nodes=2 --gpus-per-node=1",
       {.tres = "node=2,gres/gpu=2", .per_node = "gres:gpu:1", .nodes = 2, .nodes_max = 2, .tasks = 2}, 2, 2},
      {"--nodes=1-2 --gpus-per-node=1",
       {.tres = "node=1,gres/gpu=1", .per_node = "gres:gpu:1", .nodes = 1, .nodes_max = 2, .tasks = 1}, 2, 2},
      {"--ntasks=3 --cpus-per-task=8 --gpus-per-node=1",
       {.tres = "cpu=24,node=1,gres/gpu=1", .per_node = "gres:gpu:1", .nodes = 3, .tasks = 3}, 3, 3},
      {"--ntasks=3 --gpus-per-node=1",
       {.tres = "cpu=3,node=1,gres/gpu=1", .per_node = "gres:gpu:1", .nodes = 1, .tasks = 3}, 3, 3},
      {"--ntasks=3 --nodes=1 --gpus-per-node=1",
       {.tres = "node=1,gres/gpu=1", .per_node = "gres:gpu:1", .nodes = 1, .nodes_max = 1, .tasks = 3}, 1, 1},
      {"--ntasks=64 --gpus-per-node=2 in a partition of three nodes",
       {.tres = "node=1,gres/gpu=2", .per_node = "gres:gpu:h100:2", .nodes = 1, .tasks = 64,
        .partition_nodes = 3}, 3, 6},
      {"--nodes=1-2 --gpus-per-socket=1 --sockets-per-node=1",
       {.tres = "node=1,gres/gpu=1", .per_socket = "gres:gpu:1", .nodes = 1, .nodes_max = 2, .tasks = 1},
       2, 1, true},
      {"--ntasks=4 --ntasks-per-gpu=2", {.tres = "node=1,gres/gpu=2", .nodes = 1, .tasks = 4}, 1, 2},
      {"--gpus-per-task=1 --ntasks=2", {.tres = "node=1,gres/gpu=2", .nodes = 1, .tasks = 2}, 1, 2},
      {"no GPUs", {.tres = "cpu=4,node=1", .nodes = 1, .tasks = 4}, 1, 0},
      {"nothing that makes sense",
       {.tres = "node=1,gres/gpu=999999", .per_node = "gres:gpu:999999", .nodes = 1, .tasks = 60'000},
       60'000, 1'000'000}};
  for (const Row& row : rows) {
    SCOPED_TRACE(row.options);
    const MostAllocated most = most_allocated(row.asked);
    EXPECT_EQ(most.nodes, row.nodes);
    EXPECT_EQ(most.gpus, row.gpus);
    EXPECT_EQ(most.fills_nodes, row.fills_nodes);
  }
}

// Slurm shows the fewest nodes of a job that it has put back, and no most.
TEST_F(PlainShapesTest, ThatWasPutBackIsHeldForWhatItWasBefore) {
  const JobId id = world.cluster.submit_plain(3, 600);
  world.cluster.jobs.at(id).node_count = 3;
  world.tick();
  world.cluster.start(id);
  world.tick(10);
  world.cluster.requeue(id);
  world.cluster.jobs.at(id).gpus = 1;
  world.cluster.jobs.at(id).node_count = 1;

  for (int i = 0; i < 4; ++i) world.tick(10);

  EXPECT_FALSE(job(id).is_held);
  EXPECT_EQ(world.balance().held.milli_gpu_s, 3 * (600 + kMargin) * 1000);
}

// Whatever it exceeds: what the fund has, what the fund or its user may have at once, or his tier.
TEST_F(PlainShapesTest, ThatSlurmMaySpreadIsToldWhatBindsIt) {
  const auto told = [this](std::int64_t limit_s) {
    const JobId id = world.cluster.submit_plain(60, limit_s);
    world.cluster.jobs.at(id).may_spread = true;
    world.cluster.jobs.at(id).node_count = 30;
    world.tick();
    return job(id).comment;
  };
  const std::string advice = ". Slurm may spread it over 30 nodes, each with its GPUs: --nodes=N binds it";
  std::string comment = told(3600 * 10);
  EXPECT_NE(comment.find("fund user:ada has "), std::string::npos) << comment;
  EXPECT_NE(comment.find(advice), std::string::npos) << comment;

  const auto set = world.dispatcher().ledger().set(
      {.id = "most", .fund = "user:ada", .name = "gpus_max", .value = "8", .actor = "root", .note = ""},
      world.cluster.now);
  ASSERT_TRUE(set);
  comment = told(60);
  EXPECT_NE(comment.find("Ask for at most 8" + advice), std::string::npos) << comment;
}

}  // namespace
}  // namespace scheduler
