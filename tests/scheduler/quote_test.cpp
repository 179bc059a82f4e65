// SPDX-License-Identifier: GPL-3.0-or-later
//
// What a quote binds: the training it is for, the most that it costs, and the hours that were paid
// for it.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "accounting/till.h"
#include "accounting/webhook.h"
#include "scheduler/books_desk.h"
#include "scheduler/secret_key.h"
#include "scheduler/service.h"
#include "world.h"

namespace scheduler {
namespace {

using nlohmann::json;

class Quotes : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "quote_test_XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
    world.site.database = name + "/books.db";
    world.tick();
  }
  void TearDown() override {
    world.expect_books_are_right();
    std::filesystem::remove_all(folder_);
  }

  json ask(const Caller& caller, const json& request) {
    return answer_request(world.dispatcher(), world.site, caller, request, world.cluster.now);
  }
  json done(const Caller& caller, const json& request) {
    const json answer = ask(caller, request);
    EXPECT_TRUE(answer.at("ok").get<bool>()) << request.dump() << answer.dump();
    return answer.value("result", json());
  }
  std::string refusal(const Caller& caller, const json& request) {
    const json answer = ask(caller, request);
    if (answer.at("ok").get<bool>()) return "it was done";
    return answer.at("messages").at(0);
  }
  // An epochs run; its limit is the estimate's.
  json admit(const std::string& run, int epochs, const std::string& quote = "") {
    json request = {{"verb", "admit"},
                    {"run", run},
                    {"segment", 0},
                    {"run_dir", "/runs/" + run},
                    {"request", asked(epochs)},
                    {"train_images", 100},
                    {"val_images", 20}};
    if (!quote.empty()) request["quote"] = quote;
    return request;
  }
  json quote(const std::string& id, int epochs) {
    json request = admit("unused", epochs);
    request["verb"] = "quote";
    request["id"] = id;
    return done(kAda, request);
  }
  static TrainingRequest asked(int epochs) {
    TrainingRequest request;
    request.args.data = "/data/data.yaml";
    request.args.epochs = epochs;
    request.resources.gpus = 2;
    return request;
  }
  // As a client does.
  JobId launch(const json& admit) {
    const Plan plan = done(kAda, admit).at("plan").get<Plan>();
    const SegmentName name{admit.at("run"), 0};
    const auto job = world.cluster.submit(make_job_spec(plan, name, admit.at("run_dir"), world.site, {}));
    EXPECT_TRUE(job);
    world.tick();
    world.cluster.start(job->id);
    world.tick();
    return job->id;
  }

  World world;

 private:
  std::filesystem::path folder_;
};

TEST_F(Quotes, AQuoteIsForTheTrainingThatWasQuotedAndNoOther) {
  world.grant("user:ada", 1'000);
  quote("quoteone", 1);
  world.site.types[0].weights = {{0, 3000}};

  EXPECT_NE(refusal(kAda, admit("runone", 2'000, "quoteone")).find("is for at most"),
            std::string::npos) << refusal(kAda, admit("runone", 2'000, "quoteone"));
  json other = admit("runone", 1, "quoteone");
  other["request"]["train"]["data"] = "/data/other.yaml";
  EXPECT_NE(refusal(kAda, other).find("quote quoteone is for another training"), std::string::npos)
      << refusal(kAda, other);
  json grown = admit("runone", 1, "quoteone");
  grown["val_images"] = 21;
  EXPECT_NE(refusal(kAda, grown).find("100 training and 21 validation images now"),
            std::string::npos) << refusal(kAda, grown);
  // Its name and folder are no part of it.
  json named = admit("runone", 1, "quoteone");
  named["request"]["resources"]["name"] = "friday";
  EXPECT_EQ(done(kAda, named).at("plan").at("quote").at("weight_milli"), 1'000);
}

TEST_F(Quotes, AQuoteOfAnOlderVersionIsBoundByItsSize) {
  world.grant("user:ada", 1'000);
  const std::int64_t hold = quote("quoteone", 10).at("hold");
  auto till = accounting::Till::open(world.database, world.dispatcher().ledger());
  ASSERT_TRUE(till);
  accounting::Quote older = **till->quote("quoteone");
  older.id = "quoteold";
  older.content.clear();
  ASSERT_TRUE(till->keep_quote(older));

  EXPECT_NE(refusal(kAda, admit("runone", 2'000, "quoteold")).find("is for at most"),
            std::string::npos);
  EXPECT_EQ(done(kAda, admit("runone", 9, "quoteold")).at("was_known"), false);
  EXPECT_LE(world.balance().held.milli_gpu_s, hold);
}

TEST_F(Quotes, ARunNeverGetsMoreThanItsQuoteAndPausesWithTheReason) {
  world.grant("user:ada", 1'000);
  const std::int64_t most = quote("quoteone", 10).at("hold");
  world.site.types[0].weights = {{0, 3000}};
  const JobId job = launch(admit("runone", 10, "quoteone"));

  for (int i = 0; i < 2'000 && world.cluster.asked_to_stop.empty(); ++i) {
    world.tick(10);
    ASSERT_LE(world.balance().held.milli_gpu_s, most);
  }
  ASSERT_EQ(world.cluster.asked_to_stop, std::vector<JobId>{job});
  world.cluster.end(job, JobState::kFailed, 10);
  for (int i = 0; i < 3; ++i) world.tick(10);

  EXPECT_EQ(world.state(), "stopped");
  EXPECT_EQ(world.run().reason.rfind("budget: quote quoteone is used up", 0), 0u)
      << world.run().reason;
  EXPECT_NE(world.run().reason.find("today's price: trainyard resume runone"), std::string::npos);
  EXPECT_LE(world.balance().charged.milli_gpu_s, most);
  // It goes on without the quote, by today's weight, and only so.
  json next = admit("runone", 10);
  next["segment"] = 1;
  next["epochs_done"] = 5;
  json again = next;
  again["quote"] = "quoteone";
  EXPECT_NE(refusal(kAda, again).find("Resume run runone without it"), std::string::npos);
  EXPECT_EQ(done(kAda, next).at("plan").at("quote").at("weight_milli"), 3'000);
}

TEST_F(Quotes, ARunThatGoesOnByItselfWaitsWhereItsQuoteIsUsedUp) {
  world.grant("user:ada", 1'000);
  const std::int64_t most = quote("quoteone", 10).at("hold");
  json request = admit("runone", 10, "quoteone");
  request["request"]["resources"]["auto_resume"] = "true";
  const JobId job = launch(request);
  for (int i = 0; i < 2'000 && world.cluster.asked_to_stop.empty(); ++i) world.tick(10);
  ASSERT_FALSE(world.cluster.asked_to_stop.empty());
  world.cluster.requeue(job);
  world.cluster.jobs.at(job).is_held = true;
  for (int i = 0; i < 20; ++i) world.tick(10);

  EXPECT_EQ(world.state(), "paused");
  EXPECT_TRUE(world.cluster.jobs.at(job).is_held);
  EXPECT_NE(world.run().reason.find("trainyard stop runone, then trainyard resume runone"),
            std::string::npos) << world.run().reason;
  EXPECT_LE(world.balance().held.milli_gpu_s + world.balance().charged.milli_gpu_s, most);
}

}  // namespace
}  // namespace scheduler
