// SPDX-License-Identifier: GPL-3.0-or-later
//
// Ids that a caller chooses to be in the way of another: he takes none of the service's.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "accounting/webhook.h"
#include "scheduler/books_desk.h"
#include "scheduler/plain_job.h"
#include "scheduler/secret_key.h"
#include "scheduler/service.h"
#include "world.h"

namespace scheduler {
namespace {

using nlohmann::json;

constexpr std::int64_t kHour = 3'600'000;

class ForeignIds : public testing::Test {
 protected:
  void SetUp() override { world.grant("user:ada", 10); }
  json ask(const Caller& caller, const json& request) {
    return answer_request(world.dispatcher(), world.site, caller, request, world.cluster.now);
  }
  json done(const Caller& caller, const json& request) {
    const json answer = ask(caller, request);
    EXPECT_TRUE(answer.at("ok").get<bool>()) << request.dump() << answer.dump();
    return answer.value("result", json());
  }
  // Bob asks for something harmless under an id that the service will make.
  void squat(const std::string& id) {
    done(kBob, {{"verb", "set"}, {"id", id}, {"fund", "user:bob"}, {"name", "default_fund"},
                {"value", "user:bob"}});
  }
  // The same as it stands in the books of a version that took callers' ids as they were.
  void squat_of_old(const std::string& id) {
    const auto set = world.dispatcher().ledger().set(
        {id, "user:bob", "default_fund", "user:bob", 0, "bob", ""}, world.cluster.now);
    ASSERT_TRUE(set && *set == accounting::SetStatus::kSet);
  }
  void give_allowances() {
    Tier free{.name = "free", .is_default = true, .max_gpus = {}, .max_nodes = {}, .max_runs = {},
              .max_time_s = {}, .types = {}, .monthly_grant = {3 * kHour}, .is_self_service = true,
              .price = {}, .line = 9};
    world.site.tiers = {free};
    ASSERT_TRUE(turn_books(world.dispatcher(), world.site, world.cluster.now));
  }
  std::vector<accounting::Finding> findings() { return *world.dispatcher().ledger().findings(); }
  JobId start_run() {
    const JobId id = world.launch(world.admission());
    world.cluster.start(id);
    world.tick();
    return id;
  }
  void end(JobId id, JobState state) {
    world.cluster.now += 20;
    world.cluster.end(id, state, 0);
    for (int i = 0; i < 3; ++i) world.tick(5);
  }
  World world;
};

// With what the service writes before it an id is still one, and else it is said what an id is.
TEST_F(ForeignIds, AreAsLongAsTheLedgerTakesThem) {
  const auto refusal_of = [&](const json& request) {
    const json answer = ask(kAdmin, request);
    return answer.at("ok").get<bool>() ? "" : answer.at("kind").get<std::string>() + ": " +
                                                   answer.at("messages").at(0).get<std::string>();
  };
  for (const std::string& id : {std::string(161, 'a'), std::string("a b"), std::string("a/release")}) {
    SCOPED_TRACE(id);
    const json grant = {{"verb", "grant"}, {"id", id}, {"fund", "user:ada"}, {"amount", kHour}};
    EXPECT_EQ(refusal_of(grant).find("bad_request: \"" + id + "\" is no id: 1 to 160 letters"), 0u);
    const json set = {{"verb", "set"}, {"id", id}, {"fund", "user:ada"}, {"name", "gpus_max"},
                      {"value", "9"}};
    EXPECT_EQ(refusal_of(set).find("bad_request: \"" + id + "\" is no id: 1 to 160 letters"), 0u);
  }
  done(kAdmin, {{"verb", "grant"}, {"id", std::string(160, 'a')}, {"fund", "user:ada"}, {"amount", kHour}});
  done(kBob, {{"verb", "set"}, {"id", std::string(160, 'b')}, {"fund", "user:bob"},
              {"name", "default_fund"}, {"value", "user:bob"}});
  const std::string of_quote = refusal_of({{"verb", "quote"}, {"id", "a b"}, {"request", json::object()}});
  EXPECT_NE(of_quote.find("1 to 64 letters, digits and ._@+-"), std::string::npos) << of_quote;
}

TEST_F(ForeignIds, TakeNoAllowance) {
  squat("allowance/ada/1970-01");
  give_allowances();
  EXPECT_EQ(world.balance().available.milli_gpu_s, 13 * kHour);
  EXPECT_TRUE(findings().empty());
}

TEST_F(ForeignIds, ThatTookAnAllowanceBeforeAreNamed) {
  squat_of_old("allowance/ada/1970-01");
  give_allowances();
  give_allowances();
  EXPECT_EQ(world.balance().available.milli_gpu_s, 10 * kHour);
  ASSERT_EQ(findings().size(), 1u);
  EXPECT_EQ(findings()[0].text,
            "fund user:ada did not get its 3.000 GPU-h of tier free: another transfer has the id of the "
            "grant. Give them: trainyard admin grant");
}

// It has the allowance of the tier before: nothing is amiss.
TEST_F(ForeignIds, AreNotAnotherTierInTheMiddleOfTheMonth) {
  give_allowances();
  world.site.tiers[0].monthly_grant = {5 * kHour};
  ASSERT_TRUE(turn_books(world.dispatcher(), world.site, world.cluster.now));
  EXPECT_EQ(world.balance().available.milli_gpu_s, 13 * kHour);
  EXPECT_TRUE(findings().empty());
}

TEST_F(ForeignIds, TakeNoPaymentAndNoVoucher) {
  std::string folder = (std::filesystem::temp_directory_path() / "foreign_ids_XXXXXX").string();
  ASSERT_NE(::mkdtemp(folder.data()), nullptr);
  world.site.database = folder + "/books.db";
  squat("pay/webhook/pay_1");
  squat("voucher/V1");
  done(kAdmin, {{"verb", "price_set"}, {"currency", "EUR"}, {"minor", 100}});
  const std::string body = json{{"id", "evt"},
                                {"type", "payment.succeeded"},
                                {"data",
                                 {{"payment", "pay_1"}, {"fund", "user:ada"}, {"currency", "EUR"},
                                  {"amount_minor", 200}, {"quote", ""}}}}
                               .dump();
  const std::string key = *secret_key(world.site.database + ".webhook_key");

  done(kAdmin, {{"verb", "webhook"}, {"body", body},
                {"signature", accounting::sign_webhook(key, body, world.cluster.now)}});
  const json made = done(kAdmin, {{"verb", "voucher_make"}, {"id", "V1"}, {"amount", kHour}});
  done(kAda, {{"verb", "voucher_use"}, {"code", made.at("code")}});

  EXPECT_EQ(world.balance().available.milli_gpu_s, 13 * kHour);
  world.expect_books_are_right();
  std::filesystem::remove_all(folder);
}

// Run ids stand in the comments of jobs, for everybody to see.
TEST_F(ForeignIds, LeaveTheSettlementOfARunAlone) {
  const JobId id = start_run();
  for (const char* own : {"fake/runone/0/0", "fake/runone/0/0/refund/NODE_FAIL", "runone/0+0", "runone/1"}) {
    squat(own);
  }

  world.tick(350);
  world.tick(10);
  EXPECT_EQ(world.cluster.jobs.at(id).time_limit_s, 1200);
  end(id, JobState::kNodeFail);

  const Segment& segment = world.run().last();
  ASSERT_EQ(segment.charges.size(), 1u);
  EXPECT_GT(segment.charges[0].charged.milli_gpu_s, 0);
  EXPECT_EQ(segment.charges[0].refunded, segment.charges[0].charged);
  EXPECT_EQ(world.balance().held.milli_gpu_s, 0);
  EXPECT_NE(world.launch(world.admission("runone", 1)), 0u);
  world.expect_books_are_right();
}

TEST_F(ForeignIds, ThatTookARefundBeforeAreNamed) {
  const JobId id = start_run();
  squat_of_old("fake/runone/0/0/refund/NODE_FAIL");
  end(id, JobState::kNodeFail);
  EXPECT_EQ(world.run().last().charges.at(0).refunded.milli_gpu_s, 0);
  ASSERT_EQ(findings().size(), 1u);
  EXPECT_EQ(findings()[0].subject, "fake/runone/0/0");
}

TEST_F(ForeignIds, ThatTookAnExtensionBeforeAreNoMatterOfTheFund) {
  start_run();
  squat_of_old("runone/0+0");
  world.cluster.now += 350;
  const auto looked = world.dispatcher().tick(world.cluster.now);
  ASSERT_FALSE(looked);
  EXPECT_EQ(looked.error().message, "run runone: more for hold runone/0: the ledger answered status 2");
  EXPECT_FALSE(world.run().last().budget_ended);
}

TEST_F(ForeignIds, OfTwoUsersAreTwo) {
  const auto chosen = [](const Caller& caller) {
    return json{{"verb", "set"}, {"id", "mine"}, {"fund", "user:" + caller.user},
                {"name", "default_fund"}, {"value", "user:" + caller.user}};
  };
  EXPECT_FALSE(done(kBob, chosen(kBob)).at("was_known").get<bool>());
  EXPECT_FALSE(done(kAda, chosen(kAda)).at("was_known").get<bool>());
  EXPECT_TRUE(done(kAda, chosen(kAda)).at("was_known").get<bool>());
}

TEST_F(ForeignIds, OfAdminsAreOnesAndStayTheirsAcrossAnUpgrade) {
  const json grant{{"verb", "grant"}, {"id", "top-up"}, {"fund", "user:ada"}, {"amount", kHour}};
  const Caller other{901, "olga", {}, true};
  EXPECT_FALSE(done(kAdmin, grant).at("was_known").get<bool>());
  EXPECT_TRUE(done(kAdmin, grant).at("was_known").get<bool>());
  EXPECT_EQ(ask(other, grant).at("messages").at(0), "grant top-up exists with other content");

  ASSERT_TRUE(world.dispatcher().ledger().grant({"old", "user:ada", {kHour}, "root", ""},
                                                world.cluster.now));
  json again = grant;
  again["id"] = "old";
  EXPECT_TRUE(done(kAdmin, again).at("was_known").get<bool>());
  EXPECT_EQ(world.balance().available.milli_gpu_s, 12 * kHour);
  EXPECT_FALSE(ask(kAdmin, {{"verb", "grant"}, {"id", ""}, {"fund", "user:ada"}, {"amount", kHour}})
                   .at("ok").get<bool>());
}

// What bob left in the books under an admin's id before an upgrade does not keep the admin from it.
TEST_F(ForeignIds, AreNoAnswerToAnAdmin) {
  squat_of_old("top-up");
  done(kAdmin, {{"verb", "grant"}, {"id", "top-up"}, {"fund", "user:ada"}, {"amount", kHour}});
  EXPECT_EQ(world.balance().available.milli_gpu_s, 11 * kHour);
}

TEST_F(ForeignIds, OfAQuoteAreNames) {
  for (const char* id : {"", "a/b", "q+2"}) {
    SCOPED_TRACE(id);
    const Admission admission = world.admission();
    const json answer = ask(kAda, {{"verb", "quote"}, {"id", id}, {"request", admission.request},
                                   {"train_images", 100}, {"val_images", 20}});
    EXPECT_FALSE(answer.at("ok").get<bool>());
  }
}

// --- The run of another's job -----------------------------------------------------------------

std::string refusal(World& world, const Caller& caller, const Admission& admission) {
  const auto outcome = world.dispatcher().admit(caller, admission, world.cluster.now);
  if (!outcome) return outcome.error().message;
  const auto* refused = std::get_if<Refusal>(&*outcome);
  return refused == nullptr ? "it was admitted" : refused->reasons.front();
}

TEST_F(ForeignIds, OfRunsAreNoneOfTheServices) {
  world.grant("user:bob", 10);
  for (const char* id : {"0123456789abcdef", "0123456789abcdeft0", "0123456789abcdeft12", "voucher",
                         "allowance", "reversal"}) {
    SCOPED_TRACE(id);
    EXPECT_NE(refusal(world, kBob, world.admission(id)).find("one that the service makes"),
              std::string::npos);
  }
  for (const char* id : {"0123456789abcdeft", "0123456789abcdeg", "0123456789abcde", "vouchers"}) {
    SCOPED_TRACE(id);
    EXPECT_EQ(refusal(world, kBob, world.admission(id)), "it was admitted");
  }
}

// A version that did not refuse it has admitted a training under the stamp of another's waiting job.
class RunUnderAStamp : public ForeignIds {
 protected:
  void SetUp() override {
    ForeignIds::SetUp();
    world.grant("user:bob", 10);
    job_ = world.cluster.submit_plain(2, 600);
    stamp_ = parse_stamp(world.cluster.jobs.at(job_).admin_comment)->id;
    Plan plan;
    plan.type = "h100";
    plan.partition = "gpu";
    plan.fund = "user:bob";
    plan.gpus = 1;
    plan.time_limit_s = 60;
    plan.quote.weight_milli = 1000;
    plan.quote.hold = {200'000};
    const auto held = world.dispatcher().ledger().hold(
        {stamp_ + "/0", "user:bob", plan.quote.hold, stamp_, "bob", 1}, world.cluster.now);
    ASSERT_TRUE(held && *held == accounting::HoldStatus::kHeld);
    auto store = RunStore::open(world.database);
    ASSERT_TRUE(store);
    scheduler::Run run;
    run.id = stamp_;
    ASSERT_TRUE(store->append(run, {world.cluster.now, RunCreated{kBob.uid, "bob", "user:bob", "x", "/x", {}}}));
    ASSERT_TRUE(store->append(run, {world.cluster.now, SegmentOpened{0, plan, stamp_ + "/0", "hash"}}));
    world.restart();
  }
  JobId job_ = 0;
  std::string stamp_;
};

TEST_F(RunUnderAStamp, NeitherGetsTheJobNorEndsIt) {
  world.tick();
  ASSERT_TRUE(world.dispatcher().request_cancel(kBob, stamp_, world.cluster.now));
  for (int i = 0; i < 3; ++i) world.tick(10);

  EXPECT_TRUE(world.cluster.cancelled.empty());
  const JobSnapshot& job = world.cluster.jobs.at(job_);
  EXPECT_EQ(job.state, JobState::kPending);
  EXPECT_TRUE(job.is_held);
  EXPECT_EQ(job.time_limit_s, 600);
  EXPECT_NE(job.comment.find("cancel the job and submit it again"), std::string::npos) << job.comment;
  EXPECT_EQ(world.state(stamp_), "cancelled");
  world.expect_books_are_right();
}

// A client may tell any job's number as its run's.
TEST_F(ForeignIds, OfJobsTakeNoneFromAnother) {
  world.grant("user:bob", 10);
  const JobId plain = world.cluster.submit_plain(1, 600);
  world.tick();
  world.cluster.start(plain);
  world.tick();
  ASSERT_TRUE(std::holds_alternative<Admitted>(
      *world.dispatcher().admit(kBob, world.admission("zzzzzzzzzz"), world.cluster.now)));
  ASSERT_TRUE(world.dispatcher().submitted(kBob, "zzzzzzzzzz", 0, plain, world.cluster.now));
  world.cluster.jobs.at(plain).admin_comment.clear();  // An operator's doing.
  world.tick();
  EXPECT_TRUE(world.cluster.cancelled.empty());
}

}  // namespace
}  // namespace scheduler
