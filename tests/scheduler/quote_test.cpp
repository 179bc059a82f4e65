// SPDX-License-Identifier: GPL-3.0-or-later
//
// What a quote binds: the training it is for, the most that it costs, and the hours that were paid
// for it.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <limits>
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
  json signed_message(const json& body) {
    const std::string key = *secret_key(world.site.database + ".webhook_key");
    return {{"verb", "webhook"}, {"body", body.dump()},
            {"signature", accounting::sign_webhook(key, body.dump(), world.cluster.now)}};
  }
  json payment(const std::string& name, std::int64_t minor, const std::string& quote = "",
               const std::string& fund = "user:ada", const std::string& currency = "EUR") {
    return signed_message({{"id", "evt"},
                           {"type", "payment.succeeded"},
                           {"data",
                            {{"payment", name},
                             {"fund", fund},
                             {"currency", currency},
                             {"amount_minor", minor},
                             {"quote", quote}}}});
  }
  json refund(const std::string& reversal, const std::string& of, std::int64_t minor) {
    return signed_message({{"id", "evt"},
                           {"type", "payment.refunded"},
                           {"data",
                            {{"payment", of},
                             {"reversal", reversal},
                             {"currency", "EUR"},
                             {"amount_minor", minor}}}});
  }
  void set_price(std::int64_t minor) {
    done(kAdmin, {{"verb", "price_set"}, {"currency", "EUR"}, {"minor", minor}});
  }
  void set(const std::string& name, const json& value) {
    done(kAdmin, {{"verb", "set"}, {"id", "s" + std::to_string(++sets_)}, {"fund", "user:ada"},
                  {"name", name}, {"value", value}});
  }
  // Is one of the findings about the payment, and does it hold these words?
  bool is_found(const std::string& name, const std::string& words) {
    const auto findings = world.dispatcher().ledger().findings();
    for (const accounting::Finding& finding : *findings) {
      if (finding.subject == name && finding.text.find(words) != std::string::npos) return true;
    }
    return false;
  }
  std::int64_t held() { return world.balance().held.milli_gpu_s; }
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
  int sets_ = 0;
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

TEST_F(Quotes, HoursThatARuleDoesNotLetBeKeptAreNamed) {
  set_price(3'600);
  const json quoted = quote("quoteone", 10);
  set("cap/ada", "1000");

  const json paid = done(kBob, payment("pay_1", quoted.at("cost_minor"), "quoteone"));

  EXPECT_EQ(paid.at("kept"), false);
  EXPECT_NE(paid.at("not_kept").get<std::string>().find("ada may use"), std::string::npos) << paid;
  EXPECT_TRUE(is_found("pay/webhook/pay_1", "the hours of quote quoteone are not kept"));
  EXPECT_EQ(held(), 0);
  // What was paid is there, and a second telling changes nothing.
  EXPECT_GE(world.balance().available.milli_gpu_s, quoted.at("hold").get<std::int64_t>());
  EXPECT_TRUE(done(kBob, payment("pay_1", quoted.at("cost_minor"), "quoteone")).at("was_known"));
  EXPECT_EQ(done(kBob, payment("pay_2", 100, "nosuch")).at("not_kept"), "there is no quote nosuch");
}

TEST_F(Quotes, WhatARunLeavesOfItsPaymentIsInTheWallet) {
  set_price(3'600);
  const json quoted = quote("quoteone", 10);
  ASSERT_EQ(done(kBob, payment("pay_1", quoted.at("cost_minor"), "quoteone")).at("kept"), true);
  const Plan plan = done(kAda, admit("runone", 10, "quoteone")).at("plan").get<Plan>();
  const auto job = world.cluster.submit(make_job_spec(plan, {"runone", 0}, "/runs/runone", world.site, {}));
  ASSERT_TRUE(job);
  world.cluster.start(job->id);
  world.tick();
  EXPECT_EQ(world.balance().available.milli_gpu_s, 0);
  world.tick(19);
  world.cluster.end(job->id, JobState::kCompleted, 0);
  world.tick();
  ASSERT_EQ(world.state(), "finished");
  EXPECT_EQ(world.balance().charged.milli_gpu_s, 2 * 20 * 1000);
  EXPECT_EQ(world.balance().held.milli_gpu_s, 0);
  EXPECT_EQ(world.balance().available.milli_gpu_s, quoted.at("hold").get<std::int64_t>() - 2 * 20 * 1000);
}

// What is set aside for a quote of a grant that ends meanwhile stays set aside for its run.
TEST_F(Quotes, AQuoteThatWasPaidIsHonouredThoughTheGrantThatItsHoursAreOfHasEnded) {
  set_price(3'600);
  const json quoted = quote("quoteone", 10);
  const std::int64_t hold = quoted.at("hold");
  const auto granted = world.dispatcher().ledger().grant(
      {.id = "dated", .fund = "user:ada", .amount = {hold + 7'000}, .actor = "root", .note = "",
       .expires = world.cluster.now + 1'000}, world.cluster.now);
  ASSERT_TRUE(granted && *granted == accounting::GrantStatus::kGranted);
  ASSERT_EQ(done(kBob, payment("pay_1", quoted.at("cost_minor"), "quoteone")).at("kept"), true);
  // It may use all that was bought beside what is kept.
  const auto spent = world.dispatcher().ledger().hold(
      {.id = "spent/0", .fund = "user:ada", .amount = world.balance().available, .run = "spent",
       .actor = "ada"}, world.cluster.now);
  ASSERT_TRUE(spent && *spent == accounting::HoldStatus::kHeld);
  world.tick(2'000);
  world.expect_books_are_right();

  // A refusal leaves what is kept as it was.
  EXPECT_NE(refusal(kAda, admit("runtwo", 2'000, "quoteone")).find("is for at most"), std::string::npos);
  set("runs_max", "1");
  EXPECT_NE(refusal(kAda, admit("runone", 10, "quoteone")).find("may have 1 runs"), std::string::npos);
  set("runs_max", nullptr);
  EXPECT_EQ(done(kAda, admit("runone", 10, "quoteone")).at("was_known"), false);
  EXPECT_EQ(done(kAda, admit("runone", 10, "quoteone")).at("was_known"), true);
  EXPECT_EQ(world.balance().expired.milli_gpu_s, 0);
  world.expect_books_are_right();

  // What the run leaves of it has expired.
  const auto left = world.dispatcher().ledger().release("runone/0", "done", world.cluster.now);
  ASSERT_TRUE(left && *left == accounting::ReleaseStatus::kReleased);
  EXPECT_EQ(world.balance().expired.milli_gpu_s, hold);
  EXPECT_EQ(world.balance().available.milli_gpu_s, 0);
}

// Money is asked for nothing that could not begin.
TEST_F(Quotes, WhatCouldNeverBeginIsNotQuoted) {
  set_price(3'600);
  int quotes = 0;
  const auto why = [&] {
    json request = admit("unused", 10);
    request["verb"] = "quote";
    request["id"] = "q" + std::to_string(++quotes);
    return refusal(kAda, request);
  };
  const auto only = [&](const std::string& name, const json& value) {
    set(name, value);
    const std::string words = why();
    set(name, nullptr);
    return words;
  };
  world.grant("user:ada", 1);
  EXPECT_EQ(why(), "it was done");
  EXPECT_EQ(only("closed", "1").rfind("fund user:ada is closed to new runs", 0), 0u);
  EXPECT_EQ(only("cap/ada", "1000").rfind("ada may use 0.000 GPU-h of fund user:ada", 0), 0u);
  EXPECT_EQ(only("gpus_max", "1").rfind("fund user:ada may have 1 GPUs at once", 0), 0u);
  EXPECT_EQ(only("member_gpus_max", "1").rfind("ada may have 1 GPUs of fund user:ada at once", 0), 0u);
  EXPECT_EQ(only("gpus/ada", "1").rfind("ada may have 1 GPUs of fund user:ada at once", 0), 0u);
  // What binds only while another run is open does not.
  set("runs_max", "1");
  set("gpus_max", "2");
  done(kAda, admit("another", 10));
  EXPECT_EQ(why(), "it was done");
  set("runs_max", nullptr);
  set("gpus_max", nullptr);

  auto& ledger = world.dispatcher().ledger();
  ASSERT_TRUE(ledger.hold({.id = "owing/0", .fund = "user:ada", .amount = {1'000}, .run = "owing",
                           .actor = "ada"}, world.cluster.now));
  const auto charged = ledger.charge(
      {.id = "other/1/0", .hold_id = "owing/0", .cluster = "other", .gpus = 1, .seconds = 10'000,
       .weight_milli = 1'000, .note = "", .excess = accounting::Excess::kFundOwes}, world.cluster.now);
  ASSERT_TRUE(charged && charged->status == accounting::ChargeStatus::kCharged);
  EXPECT_EQ(why().rfind("fund user:ada owes", 0), 0u);

  Tier tier;
  tier.name = "free";
  tier.is_default = true;
  tier.max_gpus = 1;
  world.site.tiers = {tier};
  EXPECT_EQ(why().rfind("gpus = 2 exceeds the 1 of tier free", 0), 0u);
}

TEST_F(Quotes, HoursThatAreKeptAreNoRun) {
  set_price(3'600);
  set("runs_max", "1");
  set("member_runs_max", "1");
  world.grant("user:ada", 5);
  const json quoted = quote("quoteone", 10);

  EXPECT_EQ(done(kBob, payment("pay_1", quoted.at("cost_minor"), "quoteone")).at("kept"), true);
  done(kAda, admit("another", 10));
  EXPECT_NE(refusal(kAda, admit("thirdrun", 10)).find("may have 1 runs at once"), std::string::npos);
  // Also beside a run that is the last allowed.
  const json second = quote("quotetwo", 10);
  EXPECT_EQ(done(kBob, payment("pay_2", second.at("cost_minor"), "quotetwo")).at("kept"), true);
}

TEST_F(Quotes, AQuoteThatWasRefundedCanBePaidAndKeptAgain) {
  set_price(3'600);
  const json quoted = quote("quoteone", 10);
  const std::int64_t cost = quoted.at("cost_minor"), hold = quoted.at("hold");
  for (const std::string number : {"1", "2", "3"}) {
    EXPECT_EQ(done(kBob, payment("pay_" + number, cost, "quoteone")).at("kept"), true);
    EXPECT_EQ(held(), hold);
    if (number == "3") break;
    EXPECT_EQ(done(kBob, refund("re_" + number, "pay_" + number, cost)).at("due"), 0);
    EXPECT_EQ(held(), 0);
  }
  // The run takes what is kept, not what was kept before.
  EXPECT_EQ(done(kAda, admit("runone", 10, "quoteone")).at("was_known"), false);
  EXPECT_LE(held(), hold);
}

TEST_F(Quotes, KeptHoursStayWhileWhatIsLeftOfThePaymentsCoversThem) {
  set_price(3'600);
  const json quoted = quote("quoteone", 10);
  const std::int64_t cost = quoted.at("cost_minor"), hold = quoted.at("hold");
  done(kBob, payment("pay_1", cost, "quoteone"));
  EXPECT_EQ(done(kBob, payment("pay_2", cost, "quoteone")).at("kept"), true);
  EXPECT_EQ(held(), hold);

  EXPECT_EQ(done(kBob, refund("re_2", "pay_2", cost)).at("due"), 0);
  EXPECT_EQ(held(), hold);
  EXPECT_TRUE(done(kBob, refund("re_2", "pay_2", cost)).at("was_known"));
  EXPECT_EQ(held(), hold);
  done(kBob, refund("re_1", "pay_1", cost));
  EXPECT_EQ(held(), 0);
  EXPECT_EQ(world.balance().owed.milli_gpu_s, 0);
}

TEST_F(Quotes, APaymentThatIsTrueAndNotBookedIsAFinding) {
  const json early = ask(kBob, payment("pay_1", 740));
  EXPECT_EQ(early.at("kind"), "error") << early;  // The sender is told to come again.
  EXPECT_TRUE(is_found("pay/webhook/pay_1", "7.40 EUR for fund user:ada: it is not booked: hours have no"));
  set_price(74);
  EXPECT_EQ(done(kBob, payment("pay_1", 740)).at("was_known"), false);

  EXPECT_EQ(ask(kBob, payment("pay_2", 740, "", "user:ada", "USD")).at("kind"), "refused");
  EXPECT_TRUE(is_found("pay/webhook/pay_2", "7.40 USD for fund user:ada: it is not booked"));
  EXPECT_EQ(ask(kBob, payment("pay_1", 741)).at("kind"), "refused");
  EXPECT_TRUE(is_found("pay/webhook/pay_1", "was told before, of 7.40 EUR"));
  const std::int64_t most = std::numeric_limits<std::int64_t>::max();
  EXPECT_EQ(ask(kBob, payment("pay_3", most)).at("kind"), "refused");
  EXPECT_TRUE(is_found("pay/webhook/pay_3", "buy nothing"));
  EXPECT_EQ(ask(kBob, payment("pay_4", 740, "", "ada")).at("kind"), "refused");
  EXPECT_TRUE(is_found("pay/webhook", "pay_4"));
  // One that was not signed by the key leaves nothing.
  json forged = payment("pay_5", 740);
  forged["body"] = forged["body"].get<std::string>() + " ";
  ask(kBob, forged);
  EXPECT_FALSE(is_found("pay/webhook", "pay_5"));
}

TEST_F(Quotes, APaymentForNobodyIsBookedAndFound) {
  set_price(74);

  done(kBob, payment("pay_1", 740, "", "user:nosuchperson"));
  done(kBob, payment("pay_2", 740, "", "user:root"));

  EXPECT_TRUE(is_found("pay/webhook/pay_1", "there is no user or group of that name"));
  EXPECT_FALSE(is_found("pay/webhook/pay_2", ""));
  EXPECT_EQ(world.balance("user:nosuchperson").available.milli_gpu_s, 36'000'000);
}

TEST_F(Quotes, AVoucherThatIsVoidOrUsedIsNotMade) {
  const json asked = {{"verb", "voucher_make"}, {"id", "v1"}, {"amount", 3'600'000}};
  json late = asked;
  late["expires"] = world.cluster.now;
  EXPECT_NE(refusal(kAdmin, late).find("is void already"), std::string::npos);

  const std::string code = done(kAdmin, asked).at("code");
  EXPECT_EQ(done(kAdmin, asked).at("code"), code);
  done(kAda, {{"verb", "voucher_use"}, {"code", code}});
  EXPECT_NE(refusal(kAdmin, asked).find("voucher v1 was made before and is used"), std::string::npos);
}

}  // namespace
}  // namespace scheduler
