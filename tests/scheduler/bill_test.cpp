// SPDX-License-Identifier: GPL-3.0-or-later
//
// What a run is said to have cost is one number, wherever it is said: in `show`, in its statement, and
// in what is reckoned of a run that goes on.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "scheduler/console.h"
#include "scheduler/service.h"
#include "world.h"

namespace scheduler {
namespace {

using nlohmann::json;

class Bill : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    world.site.fund_owes_excess = GetParam();
    world.grant("user:ada", 10);
    ask(kAdmin, {{"verb", "price_set"}, {"currency", "EUR"}, {"minor", 74}});
    world.tick();
  }
  json ask(const Caller& caller, const json& request) {
    const json answer = answer_request(world.dispatcher(), world.site, caller, request,
                                       world.cluster.now);
    EXPECT_TRUE(answer.at("ok").get<bool>()) << answer.dump();
    return answer.value("result", json());
  }
  // Sums of the statement's lines: charged (debts with it), refunded, cost.
  std::vector<std::int64_t> by_statement() {
    std::vector<std::int64_t> sums(3);
    const json statement = ask(kAda, {{"verb", "statement"}, {"run", "runone"}, {"format", "json"}});
    for (const json& line : statement.at("lines")) {
      const std::string kind = line.at("kind");
      const std::int64_t amount = line.at("amount_mgpus");
      if (kind == "charge" || kind == "debt") sums[0] += amount;
      if (kind == "refund") sums[1] += amount;
      sums[2] += line.value("cost_minor", std::int64_t{0});
    }
    return sums;
  }
  std::vector<std::int64_t> by_show() {
    const json run = ask(kAda, {{"verb", "show"}, {"run", "runone"}});
    std::int64_t cost = 0;
    for (const json& charge : run.at("segments").at(0).at("charges")) {
      cost += charge.value("cost_minor", std::int64_t{0});
    }
    return {run.at("charged").get<std::int64_t>(), run.at("refunded").get<std::int64_t>(), cost};
  }
  World world;
};

TEST_P(Bill, IsThatOfTheStatement) {
  const JobId job = world.launch(world.admission());
  world.cluster.start(job);
  world.tick();
  world.cluster.now += 1'000;  // 690 s of it are held.
  world.cluster.end(job, JobState::kCompleted, 0);
  for (int i = 0; i < 3; ++i) world.tick(5);
  ASSERT_EQ(world.state(), "finished");
  const std::int64_t charged = GetParam() ? 2 * 1'001 * 1000 : 2 * 690 * 1000;
  EXPECT_EQ(by_statement()[0], charged);
  EXPECT_EQ(by_show(), by_statement());

  ask(kAdmin, {{"verb", "refund"}, {"charge", "fake/runone/0/0"}, {"reason", "link"},
               {"amount", 1'000'000}});
  EXPECT_EQ(by_statement()[1], 1'000'000);
  EXPECT_EQ(by_show(), by_statement());
  const json text = ask(kAda, {{"verb", "statement"}, {"run", "runone"}});
  EXPECT_NE(text.at("body").get<std::string>().find(fmt::format("({} mGPUs) in 1 charge\n", charged)),
            std::string::npos) << text.at("body").get<std::string>();
}

// An attempt that was given back costs nothing of what the run will have cost.
TEST_P(Bill, OfARunThatGoesOnIsLessItsRefunds) {
  const JobId job = world.launch(world.admission());
  world.cluster.start(job);
  world.tick(20);
  world.cluster.requeue(job);
  for (int i = 0; i < 3; ++i) world.tick(5);
  world.cluster.start(job);
  world.tick();
  ask(kAdmin, {{"verb", "refund"}, {"charge", "fake/runone/0/0"}, {"reason", "link"}});
  const json run = ask(kAda, {{"verb", "show"}, {"run", "runone"}});
  ASSERT_GT(run.at("charged"), 0);
  EXPECT_EQ(run.at("refunded"), run.at("charged"));

  const auto start = run.at("segments").at(0).at("start").get<std::int64_t>();
  const auto now = reestimate_of(run, Pace{.epochs_done = 1, .epochs = 11, .epoch_s = 10,
                                           .as_of = static_cast<double>(start)});
  ASSERT_TRUE(now);
  EXPECT_EQ(now->cost.milli_gpu_s, 2 * 100 * 1000);
  EXPECT_EQ(now->cost_minor, 5);  // 200 GPU-seconds of 74 cents an hour: 4.1.
}

INSTANTIATE_TEST_SUITE_P(TheFundOwesOrNot, Bill, testing::Bool());

}  // namespace
}  // namespace scheduler
