// SPDX-License-Identifier: GPL-3.0-or-later
//
// On how many GPUs and on which nodes a run is placed, and what that costs, against a pretended Slurm.
#include <gtest/gtest.h>

#include "scheduler/run_folder.h"
#include "tests/scheduler/files.h"
#include "world.h"

namespace scheduler {
namespace {

class PlacementTest : public ::testing::Test {
 protected:
  void SetUp() override { world.grant("user:ada", 10); }
  // One to four GPUs, as many as there are.
  Admission elastic(const std::string& id, int segment = 0) const {
    Admission admission = world.admission(id, segment);
    admission.request.resources.gpus = 4;
    admission.request.resources.gpus_min = 1;
    return admission;
  }
  int gpus_of(const std::string& id) { return world.run(id).last().plan.gpus; }
  void end(JobId job, JobState state, int exit_code) {
    world.tick(60);
    world.cluster.end(job, state, exit_code);
    world.tick();
  }
  World world;
};

TEST_F(PlacementTest, ARangeOfGpusTakesWhatIsFreeAtEachStart) {
  Admission fixed = world.admission("fixed2");
  const JobId other = world.launch(fixed);
  world.cluster.start(other);
  world.tick();

  // Two of four are taken; three would not divide the batch either.
  const JobId job = world.launch(elastic("range1"));
  EXPECT_EQ(gpus_of("range1"), 2);
  world.cluster.start(job);
  end(job, JobState::kFailed, 10);
  EXPECT_EQ(world.state("range1"), "stopped");

  // Resumed when all are free, on all of them; its hold is theirs.
  end(other, JobState::kCompleted, 0);
  const std::int64_t spent = world.balance().charged.milli_gpu_s;
  const JobId more = world.launch(elastic("range1", 1));
  EXPECT_EQ(gpus_of("range1"), 4);
  EXPECT_EQ(world.balance().held.milli_gpu_s, 4 * (600 + kMargin) * 1000);
  world.cluster.start(more);
  end(more, JobState::kCompleted, 0);
  EXPECT_EQ(world.state("range1"), "finished");
  EXPECT_EQ(world.balance().charged.milli_gpu_s - spent, 4 * 60 * 1000);
  world.expect_books_are_right();
}

TEST_F(PlacementTest, WhereNothingIsFreeARangeWaitsForTheMostThatItsFundPays) {
  Admission fixed = world.admission("fixed4");
  fixed.request.resources.gpus = 4;
  world.cluster.start(world.launch(fixed));
  world.tick();
  world.launch(elastic("range4"));
  EXPECT_EQ(gpus_of("range4"), 4);

  // What is left pays one GPU for ten minutes, not two.
  const std::int64_t left = (600 + kMargin) * 1000 + 5000;
  const auto held = world.dispatcher().ledger().hold(
      {"elsewhere", "user:ada", {world.balance().available.milli_gpu_s - left}, "other", "ada", 0},
      world.cluster.now);
  ASSERT_TRUE(held && *held == accounting::HoldStatus::kHeld);
  world.launch(elastic("range5"));
  EXPECT_EQ(gpus_of("range5"), 1);

  // And where not even the least is paid, that one's numbers are said.
  const auto refused = world.dispatcher().admit(kAda, elastic("range6"), world.cluster.now);
  ASSERT_TRUE(refused);
  ASSERT_TRUE(std::holds_alternative<Refusal>(*refused));
  EXPECT_NE(std::get<Refusal>(*refused).reasons.front().find("(1 x h100 x 10 min"),
            std::string::npos)
      << std::get<Refusal>(*refused).reasons.front();
}

TEST_F(PlacementTest, ATierBoundsARange) {
  Tier tier;
  tier.name = "free";
  tier.is_default = true;
  tier.max_gpus = 2;
  world.site.tiers = {tier};
  world.restart();
  world.tick();

  world.launch(elastic("range2"));

  EXPECT_EQ(gpus_of("range2"), 2);
}

// What a batch script does that found a bad node: requeue, and leave the node out, as the user.
TEST_F(PlacementTest, ARunThatLeavesABadNodeOutPaysBothAttemptsFromItsHold) {
  const JobId job = world.launch(world.admission());
  world.cluster.start(job);
  world.tick(20);
  world.cluster.requeue(job);
  world.cluster.jobs.at(job).excluded_nodes = "n1";
  world.tick();

  const auto view = world.dispatcher().find("runone");
  ASSERT_TRUE(view && *view && (*view)->job);
  EXPECT_EQ((*view)->job->excluded_nodes, "n1");
  EXPECT_EQ(world.state(), "queued");
  EXPECT_EQ(world.run().charged().milli_gpu_s, 2 * 20 * 1000);

  world.cluster.start(job);
  end(job, JobState::kCompleted, 0);
  EXPECT_EQ(world.state(), "finished");
  EXPECT_EQ(world.run().last().charges.size(), 2u);
  EXPECT_EQ(world.balance().charged.milli_gpu_s, 2 * (20 + 60) * 1000);
  EXPECT_EQ(world.balance().held.milli_gpu_s, 0);
  world.expect_books_are_right();
}

TEST(AttemptEnds, AreReadFromTheRunsFolderAsFarAsTheyMakeSense) {
  const test::Folder folder;
  test::write_file(
      folder.path() / "attempts.jsonl",
      "{\"segment\":0,\"attempt\":0,\"job\":5,\"start\":1,\"nodes\":\"n[1-2]\"}\n"
      "{\"segment\":0,\"attempt\":0,\"job\":5,\"end\":9,\"code\":32,\"is_crash\":0,"
      "\"checkpoint\":\"\",\"bad_nodes\":\"n2\"}\n"
      "nonsense\n{\"end\":3}\n{\"segment\":1,\"attempt\":1,\"end\":9,\"code\":0,\"bad_no");

  const std::vector<AttemptEnd> ends = read_attempt_ends(folder.path().string());

  ASSERT_EQ(ends.size(), 1u);
  EXPECT_EQ(ends[0].code, 32);
  EXPECT_EQ(ends[0].bad_nodes, "n2");
  EXPECT_TRUE(read_attempt_ends("/nowhere").empty());

  // Only the attempt's own report names its nodes: the newest one is of another attempt.
  test::write_file(folder.path() / "preflight.json", "{}");
  EXPECT_EQ(preflight_report(folder.path().string(), ends[0]), "");
  test::write_file(folder.path() / "preflight-0-0.json", "{}");
  EXPECT_EQ(preflight_report(folder.path().string(), ends[0]),
            "preflight-0-0.json");
}

}  // namespace
}  // namespace scheduler
