// SPDX-License-Identifier: GPL-3.0-or-later
//
// The second fence: what is written for whom, and what weakens it.
#include "scheduler/slurm_limits.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <thread>

#include "files.h"
#include "world.h"

namespace scheduler {
namespace {

SlurmPolicy sound_policy() {
  SlurmPolicy policy;
  policy.enforces_limits = policy.is_safe = true;
  policy.has_submit_plugin = policy.has_start_gate = true;
  policy.min_job_age_s = 300;
  policy.qos = {{"normal", false, 1}};
  return policy;
}

Site managed_site() {
  Site site;
  site.managed.partitions = {"metered"};
  site.slurm.limits = true;
  InstanceType type;
  type.partition = "metered";
  type.weights = {{0, 500}};
  InstanceType other = type;
  other.partition = "gpu";
  other.weights = {{0, 100}};
  site.types = {type, other};
  return site;
}

std::vector<std::string> groups_of_ada(const std::string& user) {
  return user == "ada" ? std::vector<std::string>{"vision"} : std::vector<std::string>{};
}

TEST(SlurmLimits, ASoundConfigurationHasNoWeakness) {
  EXPECT_EQ(weaknesses(sound_policy(), managed_site()), std::vector<std::string>{});
}

TEST(SlurmLimits, EachWeaknessIsNamed) {
  const auto only = [](auto change) {
    SlurmPolicy policy = sound_policy();
    change(policy);
    const auto found = weaknesses(policy, managed_site());
    return found.size() == 1 ? found.front() : std::to_string(found.size()) + " weaknesses";
  };
  EXPECT_NE(only([](SlurmPolicy& p) { p.has_submit_plugin = false; }).find("JobSubmitPlugins"),
            std::string::npos);
  EXPECT_NE(only([](SlurmPolicy& p) { p.has_start_gate = false; }).find("PrologSlurmctld"),
            std::string::npos);
  EXPECT_NE(only([](SlurmPolicy& p) { p.is_over_time_unlimited = true; }).find("OverTimeLimit"),
            std::string::npos);
  // Of a partition that nobody pays for it is the site's own affair.
  EXPECT_NE(only([](SlurmPolicy& p) { p.unlimited_partitions = {"debug", "gpu"}; })
                .find("OverTimeLimit of partition gpu is UNLIMITED"),
            std::string::npos);
  EXPECT_NE(only([](SlurmPolicy& p) { p.suspends_to_preempt = true; }).find("PreemptMode"),
            std::string::npos);
  EXPECT_NE(only([](SlurmPolicy& p) { p.min_job_age_s = 2; }).find("MinJobAge of slurm.conf is 2 s"),
            std::string::npos);
  EXPECT_NE(only([](SlurmPolicy& p) { p.is_safe = false; }).find("\"safe\""), std::string::npos);
  EXPECT_NE(only([](SlurmPolicy& p) { p.enforces_limits = false; }).find("\"limits\""),
            std::string::npos);
  EXPECT_NE(only([](SlurmPolicy& p) { p.qos[0].has_gpu_minutes = true; }).find("QOS normal has a limit"),
            std::string::npos);
  EXPECT_NE(only([](SlurmPolicy& p) { p.qos[0].usage_factor = 0; }).find("UsageFactor 0"),
            std::string::npos);
}

TEST(SlurmLimits, WithoutTheFenceItsWeaknessesDoNotCount) {
  SlurmPolicy policy = sound_policy();
  policy.enforces_limits = policy.is_safe = false;
  policy.qos[0].has_gpu_minutes = true;
  Site site = managed_site();
  site.slurm.limits = false;
  EXPECT_EQ(weaknesses(policy, site), std::vector<std::string>{});
}

TEST(SlurmLimits, AFenceIsWhatSlurmCountedAndWhatAllFundsOfTheUserCanPay) {
  // Ten GPU-minutes of the reference GPU are twenty at weight 0.500, and a minute for rounding.
  const Spendable spendable{{"user:ada", {600'000}}, {"group:vision", {60'000}}, {"user:bob", {600'000}}};
  const std::vector<Association> associations{
      {"acct", "ada", "metered", 125, std::nullopt}, {"acct", "bob", "metered", 0, 7},
      {"acct", "carol", "metered", 61, std::nullopt}};
  const auto fences =
      fences_to_write(associations, spendable, managed_site(), groups_of_ada);
  ASSERT_EQ(fences.size(), 3U);
  EXPECT_EQ(fences[0].gpu_minutes, 2 + 21 + 3);
  EXPECT_EQ(fences[1].gpu_minutes, 21);
  EXPECT_EQ(fences[2].gpu_minutes, 1);  // No fund: what was used, and nothing more.
}

TEST(SlurmLimits, OnlyAssociationsOfManagedPartitionsAndOnlyWhatChangedAreWritten) {
  const std::vector<Association> associations{{"acct", "bob", "", 0, std::nullopt},
                                              {"acct", "", "metered", 0, std::nullopt},
                                              {"acct", "bob", "gpu", 0, std::nullopt},
                                              {"acct", "bob", "metered", 60, 22}};
  const Spendable spendable{{"user:bob", {600'000}}};
  EXPECT_TRUE(fences_to_write(associations, spendable, managed_site(), groups_of_ada).empty());
}

TEST(SlurmLimits, AFundAsLargeAsTheBooksCanHoldFitsIntoAFence) {
  const std::vector<Association> associations{{"acct", "ada", "metered", 0, std::nullopt}};
  const Spendable spendable{{"user:ada", {INT64_MAX}}, {"group:vision", {INT64_MAX}}};
  const auto fences = fences_to_write(associations, spendable, managed_site(), groups_of_ada);
  ASSERT_EQ(fences.size(), 1U);
  EXPECT_GT(fences[0].gpu_minutes, 0);
}

// The rounds that the service has run aside, with a program that says what a test wants.
class RoundsAside : public testing::Test {
 protected:
  std::vector<std::string> pump_until_idle(FenceKeeper& keeper) {
    std::vector<std::string> lines;
    const auto take = [&] {
      for (std::string& line : keeper.pump(1000, SteadyTime::clock::now())) {
        lines.push_back(std::move(line));
      }
    };
    take();
    while (keeper.is_busy()) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      take();
    }
    return lines;
  }

  void SetUp() override { world.site.database = folder.path() / "books.db"; }

  test::Folder folder;
  World world;
};

TEST_F(RoundsAside, AWeaknessIsAFindingOnce) {
  const FenceRound round{{"OverTimeLimit is odd"}, 0};
  const std::vector<std::string> command{"sh", "-c", "echo '" + nlohmann::json(round).dump() + "'"};
  for (int i = 0; i < 2; ++i) {
    FenceKeeper keeper(world.site, world.dispatcher().ledger(), command);
    EXPECT_TRUE(pump_until_idle(keeper).empty());
  }
  const auto findings = world.dispatcher().ledger().findings();
  ASSERT_TRUE(findings.has_value());
  int named = 0;
  for (const auto& finding : *findings) named += finding.text == "OverTimeLimit is odd" ? 1 : 0;
  EXPECT_EQ(named, 1);
}

TEST_F(RoundsAside, WhatCannotBeDoneIsSaidOnce) {
  FenceKeeper keeper(world.site, world.dispatcher().ledger(), {"sh", "-c", "exit 3"});
  const auto lines = pump_until_idle(keeper);
  ASSERT_EQ(lines.size(), 1U);
  EXPECT_NE(lines[0].find("exit code 3"), std::string::npos) << lines[0];
}

TEST_F(RoundsAside, NothingIsRunWhereTheSiteAsksForNothing) {
  world.site.slurm.check = false;
  FenceKeeper keeper(world.site, world.dispatcher().ledger(), {"sh", "-c", "exit 3"});
  EXPECT_TRUE(pump_until_idle(keeper).empty());
}

}  // namespace
}  // namespace scheduler
