// SPDX-License-Identifier: GPL-3.0-or-later
//
// Tiers: seen, taken, paid for, and binding plain jobs as well; and what one member of a group may
// have at once.
#include "scheduler/tiers.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "scheduler/service.h"
#include "world.h"

namespace scheduler {
namespace {

using nlohmann::json;

constexpr std::int64_t kHour = 3'600'000;

class Tiers : public testing::Test {
 protected:
  void SetUp() override {
    Tier free{.name = "free", .is_default = true, .max_gpus = 1, .max_nodes = {}, .max_runs = 1,
              .max_time_s = {}, .types = {}, .monthly_grant = {}, .is_self_service = true, .price = {},
              .line = 9};
    Tier pro = free;
    pro.name = "pro";
    pro.is_default = false;
    pro.max_gpus = 4;
    pro.max_runs = 3;
    pro.price = {5 * kHour};
    Tier house = pro;
    house.name = "house";
    house.is_self_service = false;
    world.site.tiers = {free, pro, house};
    world.tick();
  }
  json ask(const Caller& caller, const json& request) {
    return answer_request(world.dispatcher(), world.site, caller, request, world.cluster.now);
  }
  json done(const Caller& caller, const json& request) {
    const json answer = ask(caller, request);
    EXPECT_TRUE(answer.at("ok").get<bool>()) << answer.dump();
    return answer.value("result", json());
  }
  std::string refusal(const Caller& caller, const json& request) {
    const json answer = ask(caller, request);
    return answer.at("ok").get<bool>() ? "it was done" : answer.at("messages").at(0);
  }
  static json upgrade(const std::string& tier, const std::string& id) {
    return {{"verb", "tier_upgrade"}, {"tier", tier}, {"id", id}};
  }
  void set(const std::string& fund, const std::string& name, const json& value) {
    done(kAdmin, {{"verb", "set"}, {"id", "s" + std::to_string(++settings_)}, {"fund", fund},
                  {"name", name}, {"value", value}});
  }
  std::string comment(JobId job) { return world.cluster.jobs.at(job).comment; }

  World world;
  int settings_ = 0;
};

TEST_F(Tiers, AUserSeesThemAllAndWhichIsHis) {
  const json answer = done(kAda, {{"verb", "tiers"}});
  EXPECT_EQ(answer.at("tier"), "free");
  ASSERT_EQ(answer.at("tiers").size(), 3u);
  EXPECT_TRUE(answer.at("tiers").at(0).at("is_own"));
  EXPECT_EQ(answer.at("tiers").at(1).at("price"), 5 * kHour);
  EXPECT_NE(refusal(kBob, {{"verb", "tiers"}, {"user", "ada"}}), "it was done");
}

TEST_F(Tiers, OneIsTakenForItsPriceOnce) {
  EXPECT_NE(refusal(kAda, upgrade("pro", "t1")).find("costs 5.000 GPU-h"), std::string::npos);
  world.grant("user:ada", 7);

  EXPECT_EQ(done(kAda, upgrade("pro", "t2")).at("available"), 2 * kHour);
  EXPECT_TRUE(done(kAda, upgrade("pro", "t2")).at("was_known"));
  EXPECT_NE(refusal(kAda, upgrade("pro", "t3")).find("has tier pro already"), std::string::npos);
  EXPECT_EQ(world.balance().available.milli_gpu_s, 2 * kHour);
  EXPECT_EQ(done(kAda, {{"verb", "tiers"}}).at("tier"), "pro");
  done(kAda, upgrade("free", "t4"));  // Down again costs nothing.
  EXPECT_EQ(world.balance().available.milli_gpu_s, 2 * kHour);
  world.expect_books_are_right();
}

TEST_F(Tiers, ARefusedUpgradeLeavesNothing) {
  world.grant("user:ada", 4);
  EXPECT_NE(refusal(kAda, upgrade("pro", "t1")), "it was done");
  EXPECT_EQ(done(kAda, {{"verb", "tiers"}}).at("tier"), "free");
  EXPECT_NE(refusal(kAda, upgrade("house", "t2")).find("given by an admin"), std::string::npos);
  EXPECT_NE(refusal(kAda, upgrade("gold", "t3")).find("Tiers: free, pro, house"), std::string::npos);
  EXPECT_EQ(world.balance().available.milli_gpu_s, 4 * kHour);

  // A dated allowance buys no tier.
  ASSERT_TRUE(world.dispatcher().ledger().grant(
      {"d1", "user:ada", {9 * kHour}, "root", "", 0, world.cluster.now + 1'000}, world.cluster.now));
  EXPECT_NE(refusal(kAda, upgrade("pro", "t4")).find("has 4.000 GPU-h that do not expire"),
            std::string::npos);
}

TEST_F(Tiers, TellAPlainJobWhatWouldFit) {
  world.grant("user:ada", 100);
  const JobId two = world.cluster.submit_plain(2, 600);
  world.cluster.jobs.at(two).may_spread = true;
  world.cluster.jobs.at(two).node_count = 2;
  world.tick();
  EXPECT_NE(comment(two).find("another tier. Slurm may spread it over 2 nodes"), std::string::npos)
      << comment(two);
}

TEST_F(Tiers, BindPlainJobsTooButOnlyNewOnes) {
  world.grant("user:ada", 100);
  const JobId two = world.cluster.submit_plain(2, 600);
  world.tick();
  EXPECT_NE(comment(two).find("gpus = 2 exceeds the 1 of tier free"), std::string::npos) << comment(two);
  EXPECT_TRUE(world.cluster.jobs.at(two).is_held);

  set("user:ada", "tier", "pro");
  world.tick(30);
  EXPECT_FALSE(world.cluster.jobs.at(two).is_held);
  // It was quoted under pro; a smaller tier later does not turn it away when it is requeued.
  world.cluster.start(two);
  world.tick();
  set("user:ada", "tier", "free");
  world.tick(10);
  world.cluster.requeue(two);
  world.tick();
  world.tick(30);
  world.tick(30);
  EXPECT_EQ(comment(two).find("tier free"), std::string::npos) << comment(two);
}

TEST_F(Tiers, HoursNodesAndTypesAreRefusedWithBothNumbers) {
  world.grant("user:ada", 100);
  Tier& free = world.site.tiers[0];
  free.max_gpus = {};
  free.max_nodes = 1;
  free.max_time_s = 540;
  free.types = {"metered"};
  Admission admission = world.admission();
  admission.request.resources.gpus = 4;
  const auto outcome = world.dispatcher().admit(kAda, admission, world.cluster.now);
  ASSERT_TRUE(outcome) << outcome.error().message;
  const auto* refused = std::get_if<Refusal>(&*outcome);
  ASSERT_NE(refused, nullptr);
  EXPECT_EQ(refused->reasons,
            (std::vector<std::string>{
                "nodes = 2 exceeds the 1 of tier free (site.toml:9).",
                "a time limit of 10 min exceeds the 9 min of tier free (site.toml:9).",
                "type = \"h100\" is not among those of tier free (site.toml:9): metered."}));

  const JobId plain = world.cluster.submit_plain(1, 600);
  world.tick();
  EXPECT_NE(comment(plain).find("a time limit of 10 min exceeds the 9 min of tier free"),
            std::string::npos) << comment(plain);
}

// Each of its jobs is shorter than what the tier allows a run, and all of them are longer.
TEST_F(Tiers, HoursAreThoseOfARunAndNotOfOneOfItsJobs) {
  world.grant("user:ada", 100);
  world.site.limits.max_time_s = 600;
  world.site.tiers[0].max_gpus = {};
  world.site.tiers[0].max_time_s = 1'500;
  const auto why_not = [&](const Admission& admission) -> std::string {
    const auto outcome = world.dispatcher().admit(kAda, admission, world.cluster.now);
    if (!outcome) return outcome.error().message;
    const auto* refused = std::get_if<Refusal>(&*outcome);
    return refused == nullptr ? "" : refused->reasons.front();
  };
  Admission timed = world.admission("runtimed");
  timed.request.resources.time_limit_s.reset();
  timed.request.resources.auto_resume = true;
  timed.request.args.time_h = 0.5;
  EXPECT_EQ(why_not(timed), "30 min of the whole run exceed the 25 min of tier free (site.toml:9).");
  timed.request.args.time_h = 0.4;
  EXPECT_EQ(why_not(timed), "");

  world.site.tiers[0].max_runs = {};
  const JobId job = world.launch(world.admission());
  world.cluster.start(job);
  world.tick();
  world.cluster.now += 500;
  world.cluster.end(job, JobState::kFailed, 10);
  for (int i = 0; i < 3; ++i) world.tick(10);
  ASSERT_EQ(world.state(), "stopped");
  world.site.tiers[0].max_time_s = 1'080;
  EXPECT_EQ(why_not(world.admission("runone", 1)),
            "19 min of the whole run, 8 of them used, exceed the 18 min of tier free (site.toml:9).");
  world.site.tiers[0].max_time_s = 1'140;
  EXPECT_EQ(why_not(world.admission("runone", 1)), "");
}

TEST_F(Tiers, AChangeOfTierBindsNewRunsAndNotTheResumeOfAnOldOne) {
  world.grant("user:ada", 100);
  set("user:ada", "tier", "pro");
  const auto end_of_segment = [&](JobId job) {
    world.cluster.start(job);
    world.tick();
    world.cluster.end(job, JobState::kFailed, 10);
    for (int i = 0; i < 3; ++i) world.tick(10);
    ASSERT_EQ(world.state(), "stopped");
  };
  const auto why_not = [&](const Admission& admission) -> std::string {
    const auto outcome = world.dispatcher().admit(kAda, admission, world.cluster.now);
    if (!outcome) return outcome.error().message;
    const auto* refused = std::get_if<Refusal>(&*outcome);
    return refused == nullptr ? "" : refused->reasons.front();
  };
  end_of_segment(world.launch(world.admission()));

  set("user:ada", "tier", "free");
  EXPECT_NE(why_not(world.admission("another")).find("gpus = 2 exceeds the 1 of tier free"),
            std::string::npos);
  Admission more = world.admission("runone", 1);
  more.request.resources.gpus = 8;  // Not what the run was admitted for under pro either.
  EXPECT_NE(why_not(more), "");
  const JobId job = world.launch(world.admission("runone", 1));
  ASSERT_NE(job, 0u);
  EXPECT_EQ(world.run().last().plan.tier, "pro");
  end_of_segment(job);

  // It is the earlier tier that keeps it going, and no longer than it exists.
  world.site.tiers.erase(world.site.tiers.begin() + 1);
  EXPECT_NE(why_not(world.admission("runone", 2)).find("tier free"), std::string::npos);
}

TEST_F(Tiers, AnArrayCountsAsItsTasks) {
  world.grant("user:ada", 100);
  set("user:ada", "tier", "pro");
  const JobId four = world.cluster.submit_plain(1, 600, {0, 1, 2, 3});
  world.tick();
  EXPECT_NE(comment(four).find("tier pro"), std::string::npos) << comment(four);
  const JobId three = world.cluster.submit_plain(1, 600, {0, 1, 2});
  world.tick();
  EXPECT_FALSE(world.cluster.jobs.at(three).is_held) << comment(three);
}

TEST_F(Tiers, OneMemberOfAGroupHasHisOwnLimits) {
  world.site.tiers.clear();
  world.grant("group:vision", 100);
  const auto run = [this](const std::string& id) {
    Admission admission = world.admission(id);
    admission.request.resources.fund = "group:vision";
    return admission;
  };
  const auto why_not = [&](const Admission& admission) -> std::string {
    const auto outcome = world.dispatcher().admit(kAda, admission, world.cluster.now);
    if (!outcome) return outcome.error().message;
    const auto* refused = std::get_if<Refusal>(&*outcome);
    return refused == nullptr ? "" : refused->reasons.front();
  };

  set("group:vision", "member_gpus_max", "3");
  EXPECT_EQ(why_not(run("runone")), "");
  EXPECT_EQ(why_not(run("runtwo")),
            "ada may have 3 GPUs of fund group:vision at once and has 2 in use; this needs 2 more. Wait "
            "for a run to end, or ask for fewer GPUs, or use another --fund.");
  set("group:vision", "gpus/ada", "4");  // His own counts before everybody's.
  EXPECT_EQ(why_not(run("runtwo")), "");
  set("group:vision", "gpus/ada", "100");
  set("group:vision", "runs/ada", "2");
  EXPECT_NE(why_not(run("runthree")).find("ada may have 2 runs of fund group:vision"),
            std::string::npos);
  set("group:vision", "runs/ada", nullptr);
  set("group:vision", "member_runs_max", "2");
  EXPECT_NE(why_not(run("runthree")).find("ada may have 2 runs"), std::string::npos);
  EXPECT_EQ(ask(kAdmin, {{"verb", "set"}, {"id", "x"}, {"fund", "group:vision"},
                         {"name", "gpus/a b"}, {"value", "1"}}).value("kind", ""), "bad_request");
  world.expect_books_are_right();
}

}  // namespace
}  // namespace scheduler
