// SPDX-License-Identifier: GPL-3.0-or-later
//
// The log of what admins did that is no transfer: no act without its entry, none for what only reads,
// and read a part at a time. And which names a fund may have.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "accounting/till.h"
#include "scheduler/service.h"
#include "world.h"

namespace scheduler {
namespace {

using nlohmann::json;

class Acts : public testing::Test {
 protected:
  void SetUp() override {
    world.grant("user:ada", 10);
    world.tick();
  }
  json ask(const Caller& caller, const json& request) {
    return answer_request(world.dispatcher(), world.site, caller, request, world.cluster.now);
  }
  json acts(const json& more = json::object()) {
    json request = {{"verb", "acts"}};
    request.update(more);
    return ask(kAdmin, request).at("result").at("acts");
  }
  World world;
};

TEST_F(Acts, WithoutItsEntryNothingIsDone) {
  ASSERT_NE(world.launch(world.admission()), 0u);
  ASSERT_TRUE(acts().empty());
  ASSERT_TRUE(world.database.execute_script(
      "CREATE TRIGGER full_disk BEFORE INSERT ON admin_act BEGIN "
      "SELECT RAISE(ABORT, 'database or disk is full'); END;"));

  for (const char* verb : {"stop", "cancel"}) {
    SCOPED_TRACE(verb);
    EXPECT_EQ(ask(kAdmin, {{"verb", verb}, {"run", "runone"}}).at("kind"), "error");
  }
  world.restart();
  EXPECT_FALSE(world.run().last().stop_requested);
  EXPECT_FALSE(world.run().last().cancel_requested);

  ASSERT_TRUE(world.database.execute_script("DROP TRIGGER full_disk;"));
  EXPECT_TRUE(ask(kAdmin, {{"verb", "stop"}, {"run", "runone"}}).at("ok").get<bool>());
  EXPECT_TRUE(world.run().last().stop_requested);
  EXPECT_EQ(acts().size(), 1u);
}

TEST_F(Acts, WhatWasRefusedHasNoEntry) {
  ASSERT_NE(world.launch(world.admission()), 0u);
  EXPECT_EQ(ask(kBob, {{"verb", "stop"}, {"run", "runone"}}).at("kind"), "refused");
  EXPECT_EQ(ask(kAdmin, {{"verb", "stop"}, {"run", "nosuchrun"}}).at("kind"), "refused");
  EXPECT_TRUE(acts().empty());
}

TEST_F(Acts, ATimersExportsAreNone) {
  for (int i = 0; i < 3; ++i) {
    for (const char* what : {"prometheus", "ondemand"}) {
      EXPECT_TRUE(ask(kAdmin, {{"verb", "export"}, {"what", what}}).at("ok").get<bool>());
    }
  }
  EXPECT_TRUE(acts().empty());
  EXPECT_TRUE(ask(kAdmin, {{"verb", "export"}, {"what", "journal"}}).at("ok").get<bool>());
  EXPECT_EQ(acts().size(), 1u);
}

TEST_F(Acts, AreReadAPartAtATime) {
  auto till = accounting::Till::open(world.database, world.dispatcher().ledger());
  ASSERT_TRUE(till);
  for (int i = 1; i <= 1'003; ++i) {
    ASSERT_TRUE(till->record({world.cluster.now, "root", "audit", fmt::format("{}", i)}));
  }
  const json newest = acts();
  ASSERT_EQ(newest.size(), 1'000u);
  EXPECT_EQ(newest.front().at("detail"), "4");
  EXPECT_EQ(newest.back().at("detail"), "1003");
  const json older = acts({{"count", 2}, {"before", newest.front().at("number")}});
  ASSERT_EQ(older.size(), 2u);
  EXPECT_EQ(older.front().at("detail"), "2");
  EXPECT_EQ(older.back().at("detail"), "3");
}

TEST_F(Acts, FundsHaveTheNamesOfADirectoryOrAreToldWhichTheyMayHave) {
  const auto grant = [&](const std::string& fund) {
    return ask(kAdmin, {{"verb", "grant"}, {"id", "g/" + fund}, {"fund", fund}, {"amount", 5}});
  };
  EXPECT_TRUE(grant("user:eve@dept").at("ok").get<bool>());
  const Caller eve{1002, "eve@dept", {"c++@dept"}, false};
  EXPECT_EQ(ask(eve, {{"verb", "fund"}}).at("result").at("available"), 5);
  EXPECT_TRUE(ask(kAdmin, {{"verb", "set"}, {"id", "s"}, {"fund", "user:eve@dept"},
                           {"name", "cap/eve@dept"}, {"value", "5"}}).at("ok").get<bool>());
  const json refused = ask(kAdmin, {{"verb", "grant"}, {"id", "g2"}, {"fund", "group:domain users"},
                                    {"amount", 5}});
  EXPECT_NE(refused.at("messages").at(0).get<std::string>().find("letters, digits and \"._@+-\""),
            std::string::npos);
}

}  // namespace
}  // namespace scheduler
