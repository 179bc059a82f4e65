// SPDX-License-Identifier: GPL-3.0-or-later
//
// Slurm's coordinators and operators: what they may do, what they may not, and that nothing waits for
// slurmdbd.
#include "scheduler/slurm_rights.h"

#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "files.h"
#include "scheduler/service.h"
#include "world.h"

namespace scheduler {
namespace {

using nlohmann::json;

const SlurmRights kRights{.operators = {"olga"}, .coordinators = {{"visionacct", {"carol", "olga"}},
                                                                  {"nlpacct", {"nina"}}}};

Caller caller(const std::string& user, std::uint32_t uid) { return {uid, user, {}, false}; }

class RightsOfSlurm : public testing::Test {
 protected:
  void SetUp() override {
    world.site.rights = {.slurm_operators = true, .slurm_coordinators = true};
    world.site.managed.accounts = {{"visionacct", "group:vision"}, {"nlpacct", "group:nlp"}};
    world.tick();
    world.grant("group:vision", 100);
    world.grant("group:nlp", 100);
    give_rights(carol, world.site, kRights);
    give_rights(nina, world.site, kRights);
    give_rights(olga, world.site, kRights);
  }
  json ask(const Caller& who, const json& request) {
    return answer_request(world.dispatcher(), world.site, who, request, world.cluster.now);
  }
  bool may(const Caller& who, const json& request) { return ask(who, request).at("ok").get<bool>(); }
  static json set(const std::string& id, const std::string& name) {
    return {{"verb", "set"}, {"id", id}, {"fund", "group:vision"}, {"name", name}, {"value", "5"}};
  }
  void launch(const std::string& id) {
    Admission admission = world.admission(id);
    admission.request.resources.fund = "group:vision";
    ASSERT_NE(world.launch(admission), 0u);
    world.tick();
  }

  World world;
  Caller carol = caller("carol", 2000), nina = caller("nina", 2001), olga = caller("olga", 2002);
};

TEST_F(RightsOfSlurm, ACoordinatorLeadsTheFundOfHisAccountAlone) {
  EXPECT_FALSE(carol.is_admin);
  EXPECT_TRUE(may(carol, {{"verb", "fund"}, {"fund", "group:vision"}}));
  EXPECT_TRUE(may(carol, {{"verb", "statement"}, {"fund", "group:vision"}}));
  EXPECT_FALSE(may(nina, {{"verb", "fund"}, {"fund", "group:vision"}}));

  for (const char* name : {"cap/ada", "gpus/ada", "runs/ada", "member_gpus_max", "member_runs_max"}) {
    SCOPED_TRACE(name);
    EXPECT_FALSE(may(nina, set(std::string("n") + name, name)));
    EXPECT_TRUE(may(carol, set(std::string("c") + name, name)));
  }
  // He shares out, he makes no hours.
  for (const char* name : {"credit_limit", "gpus_max", "runs_max"}) {
    SCOPED_TRACE(name);
    EXPECT_FALSE(may(carol, set(std::string("x") + name, name)));
  }
  EXPECT_FALSE(may(carol, {{"verb", "grant"}, {"id", "g"}, {"fund", "group:vision"}, {"amount", 5}}));
  EXPECT_FALSE(may(carol, {{"verb", "export"}, {"what", "journal"}}));
  EXPECT_FALSE(may(carol, {{"verb", "audit"}}));
}

TEST_F(RightsOfSlurm, ACoordinatorStopsHisMembersRunsAndItIsLoggedWithHisName) {
  launch("runone");
  EXPECT_EQ(ask(carol, {{"verb", "list"}, {"all", true}}).at("result").at("runs").size(), 1u);
  EXPECT_TRUE(ask(nina, {{"verb", "list"}, {"all", true}}).at("result").at("runs").empty());
  EXPECT_FALSE(may(kBob, {{"verb", "list"}, {"all", true}}));
  EXPECT_FALSE(may(nina, {{"verb", "stop"}, {"run", "runone"}}));
  EXPECT_FALSE(may(kBob, {{"verb", "cancel"}, {"run", "runone"}}));
  EXPECT_TRUE(may(carol, {{"verb", "stop"}, {"run", "runone"}}));

  EXPECT_EQ(world.run().last().stopped_by, "carol");
  const json acts = ask(kAdmin, {{"verb", "acts"}}).at("result").at("acts");
  ASSERT_EQ(acts.size(), 1u);
  EXPECT_EQ(acts.at(0).at("actor"), "carol");
  EXPECT_EQ(acts.at(0).at("act"), "stop");
  EXPECT_EQ(acts.at(0).at("detail"), "run runone of ada");
  EXPECT_TRUE(may(kAda, {{"verb", "cancel"}, {"run", "runone"}}));  // Her own: no act of an admin.
  EXPECT_EQ(ask(kAdmin, {{"verb", "acts"}}).at("result").at("acts").size(), 1u);
}

// Behind as many runs of others as the list is long.
TEST_F(RightsOfSlurm, ACoordinatorFindsHisMembersRunsAmongManyOfOthers) {
  launch("runone");
  world.grant("user:ada", 100);
  for (const char* id : {"other1", "other2", "other3", "other4", "other5"}) {
    world.cluster.now += 1;
    ASSERT_NE(world.launch(world.admission(id)), 0u);
  }
  const json runs =
      ask(carol, {{"verb", "list"}, {"all", true}, {"count", 1}}).at("result").at("runs");
  ASSERT_EQ(runs.size(), 1u);
  EXPECT_EQ(runs.at(0).at("run"), "runone");
  EXPECT_TRUE(ask(nina, {{"verb", "list"}, {"all", true}, {"count", 1}})
                  .at("result").at("runs").empty());
}

TEST_F(RightsOfSlurm, ACoordinatorEndsRunsAndResumesNone) {
  Admission admission = world.admission("runone");
  admission.request.resources.account = "nlpacct";
  admission.request.resources.auto_resume = true;
  world.grant("user:ada", 10);
  ASSERT_NE(world.launch(admission), 0u);
  EXPECT_TRUE(may(nina, {{"verb", "pause"}, {"run", "runone"}}));
  EXPECT_FALSE(may(nina, {{"verb", "resume"}, {"run", "runone"}}));
  EXPECT_TRUE(may(kAdmin, {{"verb", "resume"}, {"run", "runone"}}));
  EXPECT_TRUE(may(nina, {{"verb", "pause"}, {"run", "runone"}}));
  EXPECT_TRUE(may(kAda, {{"verb", "resume"}, {"run", "runone"}}));
}

TEST_F(RightsOfSlurm, ARunShowsNobodyTheWalletThatPaidALaterSegment) {
  Caller eve = caller("eve", 2003);
  eve.groups = {"vision"};
  world.grant("user:ada", 7);
  Admission first = world.admission("runone");
  first.request.resources.fund = "group:vision";
  const JobId job = world.launch(first);
  world.cluster.start(job);
  world.tick(10);
  world.cluster.end(job, JobState::kFailed, 10);
  for (int i = 0; i < 3; ++i) world.tick(10);
  ASSERT_EQ(world.state(), "stopped");
  ASSERT_NE(world.launch(world.admission("runone", 1)), 0u);
  world.tick();

  const auto funds_of = [&](const Caller& who) {
    const json answer = ask(who, {{"verb", "statement"}, {"run", "runone"}, {"format", "json"}});
    std::set<std::string> funds;
    for (const json& line : answer.at("result").at("lines")) funds.insert(line.at("fund"));
    return funds;
  };
  EXPECT_EQ(funds_of(eve), std::set<std::string>{"group:vision"});
  EXPECT_EQ(funds_of(kAda), (std::set<std::string>{"group:vision", "user:ada"}));
  const json seen = ask(eve, {{"verb", "show"}, {"run", "runone"}}).at("result");
  EXPECT_EQ(seen.at("segments").at(0).at("charges").size(), 1u);
  EXPECT_EQ(seen.at("fund"), "");
  EXPECT_EQ(seen.at("held"), 0);
  EXPECT_EQ(seen.dump().find("user:ada"), std::string::npos) << seen.dump();
  const json own = ask(kAda, {{"verb", "show"}, {"run", "runone"}}).at("result");
  EXPECT_EQ(own.at("fund"), "user:ada");
  EXPECT_GT(own.at("held"), 0);
}

TEST_F(RightsOfSlurm, TheAccountOfTheJobCountsToo) {
  Admission admission = world.admission("runone");
  admission.request.resources.account = "nlpacct";
  world.grant("user:ada", 10);
  ASSERT_NE(world.launch(admission), 0u);

  EXPECT_TRUE(may(nina, {{"verb", "stop"}, {"run", "runone"}}));
  EXPECT_FALSE(may(nina, {{"verb", "fund"}, {"fund", "user:ada"}}));
  // Her list names the run that she may stop, and not what pays it.
  const std::string runs = ask(nina, {{"verb", "list"}, {"all", true}}).dump();
  EXPECT_NE(runs.find("runone"), std::string::npos) << runs;
  EXPECT_EQ(runs.find("user:ada"), std::string::npos) << runs;
}

TEST_F(RightsOfSlurm, AnOperatorIsAnAdminWhereTheSiteSaysSo) {
  EXPECT_TRUE(olga.is_admin);
  EXPECT_TRUE(may(olga, {{"verb", "grant"}, {"id", "g"}, {"fund", "group:vision"}, {"amount", 5}}));
  EXPECT_TRUE(may(olga, {{"verb", "export"}, {"what", "journal"}}));
  EXPECT_EQ(ask(kAdmin, {{"verb", "acts"}}).at("result").at("acts").at(0).at("actor"), "olga");

  world.site.rights = {};
  Caller again = caller("olga", 2002);
  give_rights(again, world.site, kRights);
  EXPECT_FALSE(again.is_admin);
  EXPECT_TRUE(again.led_funds.empty());
}

TEST(RightsCache, LearnsAsideAndKeepsWhatItKnew) {
  const test::Folder folder;
  const std::string answer = (folder.path() / "answer").string();
  test::write_file(answer, json(kRights).dump());
  Site site;
  site.rights = {.slurm_operators = true, .slurm_coordinators = false, .refresh_s = 300};
  RightsCache cache(site, {"cat", answer});
  auto now = std::chrono::steady_clock::now();

  const auto until = [&](const std::function<bool(const std::string&)>& is_done) {
    std::string line;
    for (int i = 0; i < 12'000; ++i) {
      line = cache.pump(now);
      if (is_done(line)) return line;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return std::string("it never came");
  };
  EXPECT_EQ(until([&](const std::string&) { return !cache.rights().operators.empty(); }), "");
  EXPECT_TRUE(cache.rights().coordinators.at("nlpacct").contains("nina"));

  // slurmdbd is away: a line in the log, and yesterday's rights for a day.
  std::filesystem::remove(answer);
  now += std::chrono::seconds(301);
  EXPECT_NE(until([](const std::string& line) { return !line.empty(); }).find("exit code 1"),
            std::string::npos);
  EXPECT_FALSE(cache.rights().operators.empty());
  now += std::chrono::hours(25);
  (void)cache.pump(now);
  EXPECT_TRUE(cache.rights().operators.empty());
}

TEST(RightsCache, AsksNobodyWhereTheSiteDoesNotWantIt) {
  Site site;
  RightsCache cache(site, {"/nonexistent"});
  EXPECT_EQ(cache.pump(std::chrono::steady_clock::now()), "");
}

}  // namespace
}  // namespace scheduler
