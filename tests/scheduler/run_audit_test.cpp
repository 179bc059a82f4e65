// SPDX-License-Identifier: GPL-3.0-or-later
//
// The audit of the ledger against the events of the runs: one test each way in which a file that was
// changed, or a fault, makes them differ.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "accounting/till.h"
#include "scheduler/service.h"
#include "world.h"

namespace scheduler {
namespace {

using nlohmann::json;
using Strings = std::vector<std::string>;

class RunAudit : public testing::Test {
 protected:
  // "runone" had a charge that was given back; "runtwo" is running.
  void SetUp() override {
    world.grant("user:ada", 10);
    const JobId first = world.launch(world.admission());
    world.cluster.start(first);
    world.tick();
    world.cluster.now += 20;
    world.cluster.end(first, JobState::kNodeFail, 0);
    for (int i = 0; i < 3; ++i) world.tick(5);
    second_ = world.launch(world.admission("runtwo"));
    world.cluster.start(second_);
    world.tick();
    ASSERT_TRUE(faults().empty()) << faults().front();
  }
  std::vector<std::string> faults() {
    const auto report = world.dispatcher().audit();
    EXPECT_TRUE(report) << report.error().message;
    return report ? report->faults : std::vector<std::string>{"no audit"};
  }
  void expect_fault(const std::string& text) {
    const auto found = faults();
    const bool is_among = std::any_of(found.begin(), found.end(), [&](const std::string& fault) {
      return fault.find(text) != std::string::npos;
    });
    EXPECT_TRUE(is_among) << text << " is not among " << fmt::format("{}", fmt::join(found, "\n"));
  }
  // The triggers are put back behind it: the events tell, and not these.
  void tamper(const std::string& sql) {
    std::string drop, make;
    const auto read = world.database.query(
        "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' AND tbl_name LIKE 'run%'", {},
        [&](const accounting::Row& row) {
          drop += "DROP TRIGGER " + row.text(0) + ";";
          make += row.text(1) + ";";
        });
    ASSERT_TRUE(read);
    const auto done = world.database.execute_script(drop + sql + ";" + make);
    ASSERT_TRUE(done) << done.error().message;
  }
  World world;
  JobId second_ = 0;
};

TEST_F(RunAudit, NamesAChargeWithoutItsEvent) {
  tamper("DELETE FROM run_event WHERE kind = 'AttemptCharged'");
  expect_fault("charge fake/runone/0/0: the ledger has 42000 mGPUs, and no event of a run knows of it.");
}

TEST_F(RunAudit, NamesAChargeWhoseEventHasOtherNumbers) {
  for (const char* field : {"charged", "refunded", "gpus", "end"}) {
    SCOPED_TRACE(field);
    const auto add = [&](int number) {
      tamper(fmt::format(
          "UPDATE run_event SET body = json_set(body, '$.{0}', json_extract(body, '$.{0}') + {1}) "
          "WHERE kind = 'AttemptCharged'", field, number));
    };
    add(1);
    expect_fault("charge fake/runone/0/0: the ledger has 2 GPU x 21 s x 1.000 = 42000 mGPUs");
    add(-1);
    EXPECT_TRUE(faults().empty());
  }
}

TEST_F(RunAudit, NamesAnEventWithoutItsCharge) {
  auto store = RunStore::open(world.database);
  ASSERT_TRUE(store);
  scheduler::Run run = world.run("runtwo");
  AttemptCharged charge;
  charge.job = 99;
  charge.charged = {5};
  ASSERT_TRUE(store->append(run, {world.cluster.now, charge}));
  expect_fault("charge runtwo/0/0: an event of its run has 5 mGPUs, and the ledger has no such charge.");
}

TEST_F(RunAudit, NamesAnOpenHoldWhoseRunIsClosed) {
  auto store = RunStore::open(world.database);
  ASSERT_TRUE(store);
  scheduler::Run run = world.run("runtwo");
  ASSERT_TRUE(store->append(run, {world.cluster.now, SegmentClosed{0, Outcome::kFailed, "x"}}));
  expect_fault("hold runtwo/0: it is open in the ledger, and segment 0 of run runtwo is closed.");
}

TEST_F(RunAudit, NamesAClosedHoldWhoseRunIsOpen) {
  ASSERT_TRUE(world.dispatcher().ledger().release("runtwo/0", "x", world.cluster.now));
  expect_fault("hold runtwo/0: it is closed in the ledger, and segment 0 of run runtwo is open.");
}

TEST_F(RunAudit, NamesAHoldThatGrewBehindItsRun) {
  ASSERT_TRUE(world.dispatcher().ledger().extend({"x", "runtwo/0", {1'000}, "ada", ""},
                                                 world.cluster.now));
  expect_fault("hold runtwo/0: the ledger has 1380000 mGPUs of user:ada, 1381000 of them left;");
}

TEST_F(RunAudit, NamesAnOpenHoldOfNoRun) {
  ASSERT_TRUE(world.dispatcher().ledger().hold({"runone/7", "user:ada", {1'000}, "runone", "ada"},
                                               world.cluster.now));
  expect_fault("hold runone/7: 1000 mGPUs of user:ada are set aside, and no open segment has it.");
}

TEST_F(RunAudit, NamesARunWithoutItsHold) {
  auto store = RunStore::open(world.database);
  ASSERT_TRUE(store);
  scheduler::Run run;
  run.id = "runthree";
  const RunCreated created{kAda.uid, "ada", "user:ada", "x", "/x", {}};
  ASSERT_TRUE(store->append(run, {world.cluster.now, created}));
  const Plan plan = world.run("runtwo").last().plan;
  ASSERT_TRUE(store->append(run, {world.cluster.now, SegmentOpened{0, plan, "runthree/0", ""}}));
  expect_fault("hold runthree/0: segment 0 of run runthree has it, and the ledger does not.");
}

TEST_F(RunAudit, KnowsTheHoldsOfQuotes) {
  auto till = accounting::Till::open(world.database, world.dispatcher().ledger());
  ASSERT_TRUE(till);
  accounting::Quote quote;
  quote.id = "q1";
  quote.user = "ada";
  quote.fund = "user:ada";
  quote.hold = {1'000};
  quote.expires = world.cluster.now + 100;
  ASSERT_TRUE(till->keep_quote(quote));
  const auto keep = [&](const std::string& id) {
    const auto held = world.dispatcher().ledger().hold(
        {"quote/" + id, "user:ada", {1'000}, "", "ada", 0, 100, id}, world.cluster.now);
    ASSERT_TRUE(held && *held == accounting::HoldStatus::kHeld);
  };

  keep("q1");
  EXPECT_TRUE(faults().empty());
  keep("q2");
  expect_fault("hold quote/q2: 1000 mGPUs of user:ada are set aside, and there is no quote q2.");
  ASSERT_TRUE(till->use_quote("q1", "runtwo"));
  expect_fault("hold quote/q1: 1000 mGPUs of user:ada are set aside, and quote q1 was used by run runtwo.");
}

TEST_F(RunAudit, NamesAMissingTriggerOfEachTableThatIsOnlyAddedToAndAnOpeningPutsItBack) {
  Strings triggers;
  ASSERT_TRUE(world.database.query(
      "SELECT name FROM sqlite_schema WHERE type = 'trigger' AND tbl_name LIKE 'run%'", {},
      [&](const accounting::Row& row) { triggers.push_back(row.text(0)); }));
  EXPECT_EQ(triggers.size(), 4u);
  for (const std::string& trigger : triggers) {
    SCOPED_TRACE(trigger);
    ASSERT_TRUE(world.database.execute_script("DROP TRIGGER " + trigger));
    expect_fault("schema: the trigger " + trigger + " is missing.");
    world.restart();
    EXPECT_TRUE(faults().empty());
    EXPECT_NE(world.dispatcher().ledger().findings()->back().text.find(trigger), std::string::npos);
  }
  ASSERT_TRUE(world.database.execute_script(
      "DROP TRIGGER run_event_is_append_only_u;"
      "CREATE TRIGGER run_event_is_append_only_u BEFORE UPDATE ON run_event BEGIN SELECT 1; END"));
  expect_fault("schema: the trigger run_event_is_append_only_u was changed.");
  world.restart();
  EXPECT_FALSE(world.database.run("UPDATE run_event SET time = 0", {}));
  EXPECT_FALSE(world.database.run("DELETE FROM run_allocation", {}));
}

// --- A head that somebody kept ----------------------------------------------------------------

TEST_F(RunAudit, FindsWhatWasCutOffByARememberedHead) {
  const auto faults_since = [&](std::int64_t seq, const std::string& hash) {
    const json answer = answer_request(
        world.dispatcher(), world.site, kAdmin,
        {{"verb", "audit"}, {"since_seq", seq}, {"since_hash", hash}}, world.cluster.now);
    return answer.at("ok").get<bool>() ? answer.at("result").at("faults").dump() : "refused";
  };
  const accounting::Head head = *world.dispatcher().ledger().head();
  world.grant("user:ada", 1);

  EXPECT_EQ(faults_since(head.seq, head.hash), "[]");
  EXPECT_NE(faults_since(head.seq, std::string(64, 'a')).find("the books were made anew"),
            std::string::npos);
  EXPECT_NE(faults_since(head.seq + 2, head.hash).find("the newest were cut off"), std::string::npos);
  EXPECT_EQ(faults_since(0, head.hash), "refused");
  EXPECT_EQ(faults_since(head.seq, "abc"), "refused");
}

// --- Hours that nothing else gives back -------------------------------------------------------

// What was noticed of one attempt explains nothing of the next one.
TEST_F(RunAudit, AFindingExplainsItsAllocationAndNoOther) {
  world.cluster.now += 10;
  world.cluster.requeue(second_);
  const UtcSeconds first_start = world.cluster.records.at(second_)[0].start;
  world.cluster.start(second_);
  world.tick(10);
  world.cluster.end(second_, JobState::kCompleted, 0);
  for (int i = 0; i < 3; ++i) world.tick(5);
  ASSERT_TRUE(world.dispatcher().ledger().record_finding(
      {world.cluster.now, "run runtwo",
       fmt::format("job {} from {} on: noticed", second_, accounting::format_utc(first_start))}));
  ASSERT_TRUE(faults().empty()) << faults().front();
  auto& records = world.cluster.records.at(second_);
  records[0].end -= 5;
  EXPECT_TRUE(faults().empty()) << faults().front();
  records[1].end -= 5;
  expect_fault(fmt::format("run runtwo (job {}): attempt 1 is charged with", second_));
}

class Release : public RunAudit {
 protected:
  std::string release(const std::string& id, const Caller& caller = kAdmin) {
    const json answer = answer_request(world.dispatcher(), world.site, caller,
                                       {{"verb", "release"}, {"run", id}, {"note", "stuck"}},
                                       world.cluster.now);
    return answer.at("ok").get<bool>() ? "released" : answer.at("messages").at(0);
  }
};

TEST_F(Release, GivesBackTheHoldOfARunThatCannotBeCharged) {
  // As books of an older version may have it: the charge's id is another transfer's.
  ASSERT_TRUE(world.dispatcher().ledger().set(
      {"fake/runtwo/0/0", "user:bob", "default_fund", "user:bob", 0, "bob", ""}, world.cluster.now));
  EXPECT_NE(release("runtwo").find("end it first"), std::string::npos);
  world.cluster.now += 20;
  world.cluster.end(second_, JobState::kCompleted, 0);
  ASSERT_FALSE(world.dispatcher().tick(world.cluster.now));

  EXPECT_EQ(release("runtwo", kAda), "only an admin releases what is set aside");
  EXPECT_EQ(release("runtwo"), "released");
  world.tick();

  EXPECT_EQ(world.state("runtwo"), "failed");
  EXPECT_EQ(world.run("runtwo").reason, "released by root: stuck");
  EXPECT_EQ(world.balance().held.milli_gpu_s, 0);
  EXPECT_TRUE(faults().empty()) << faults().front();
  EXPECT_NE(release("runtwo").find("neither an open run nor a hold"), std::string::npos);
}

TEST_F(Release, IsDoneWithItsEntryOrNotAtAll) {
  ASSERT_TRUE(world.dispatcher().ledger().hold({"runone/7", "user:ada", {1'000}, "runone", "ada"},
                                               world.cluster.now));
  world.cluster.jobs.erase(second_);
  world.cluster.records.erase(second_);
  world.tick();
  ASSERT_TRUE(world.database.execute_script(
      "CREATE TRIGGER full BEFORE INSERT ON admin_act BEGIN SELECT RAISE(ABORT, 'disk full'); END"));
  const std::int64_t held = world.balance().held.milli_gpu_s;

  EXPECT_NE(release("runtwo").find("disk full"), std::string::npos);
  EXPECT_NE(release("runone/7").find("disk full"), std::string::npos);
  EXPECT_EQ(world.balance().held.milli_gpu_s, held);
  EXPECT_EQ(world.state("runtwo"), "running");

  ASSERT_TRUE(world.database.execute_script("DROP TRIGGER full"));
  EXPECT_EQ(release("runtwo"), "released");
  EXPECT_EQ(release("runone/7"), "released");
  EXPECT_EQ(world.balance().held.milli_gpu_s, 0);
  const auto acts = world.dispatcher().till().acts();
  ASSERT_TRUE(acts);
  ASSERT_EQ(acts->size(), 2u);
  EXPECT_EQ((*acts)[0].act + " " + (*acts)[0].detail, "release runtwo: stuck");
}

TEST_F(Release, GivesBackAHoldOfNoRun) {
  ASSERT_TRUE(world.dispatcher().ledger().hold({"runone/7", "user:ada", {1'000}, "runone", "ada"},
                                               world.cluster.now));
  EXPECT_NE(release("runtwo/0").find("which is open"), std::string::npos);
  EXPECT_EQ(release("runone/7"), "released");
  EXPECT_EQ(release("runone/7"), "hold runone/7 is closed already");
  EXPECT_TRUE(faults().empty());
}

}  // namespace
}  // namespace scheduler
