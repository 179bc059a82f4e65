// SPDX-License-Identifier: GPL-3.0-or-later
//
// The books are audited beside the service: nobody waits for it, and its end is the same.
#include "scheduler/verifier.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <thread>

#include "files.h"
#include "scheduler/service.h"
#include "world.h"

namespace scheduler {
namespace {

using nlohmann::json;
using Strings = std::vector<std::string>;

constexpr const char* kReport =
    R"({"faults":["a","b"],"notes":["n"],"charges_compared":7,"unallocated_gpu_s":2})";

// Asks until it is over.
Expected<AuditReport> report_of(Verifier& verifier) {
  while (true) {
    auto report = verifier.ask(std::chrono::steady_clock::now());
    if (!report || !report->is_pending) return report;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

TEST(Verifier, IsAskedUntilItKnows) {
  const test::Folder folder;
  const std::string gate = (folder.path() / "gate").string();
  Verifier verifier({"sh", "-c", "while [ ! -e \"$1\" ]; do sleep 0.05; done; echo \"$2\"", "sh", gate,
                     kReport});
  for (int i = 0; i < 3; ++i) {
    const auto asked = verifier.ask(std::chrono::steady_clock::now());
    ASSERT_TRUE(asked);
    EXPECT_TRUE(asked->is_pending);
  }
  test::write_file(gate, "");
  const auto report = report_of(verifier);
  ASSERT_TRUE(report) << report.error().message;
  EXPECT_EQ(report->faults, (Strings{"a", "b"}));
  EXPECT_EQ(report->notes, (Strings{"n"}));
  EXPECT_EQ(report->charges_compared, 7);
  EXPECT_EQ(report->unallocated_gpu_s, 2);
  EXPECT_EQ(report_of(verifier)->faults, (Strings{"a", "b"}));  // Anew.
}

TEST(Verifier, SaysWhatWentWrong) {
  Verifier broken({"sh", "-c", "echo '{}'; exit 3"});
  EXPECT_NE(report_of(broken).error().message.find("exit code 3"), std::string::npos);
  Verifier silent({"true"});
  EXPECT_NE(report_of(silent).error().message.find("no report"), std::string::npos);
  Verifier other({"echo", "{}"});
  EXPECT_NE(report_of(other).error().message.find("its report"), std::string::npos);
  Verifier honest({"echo", R"({"error":"slurmdbd is down"})"});
  EXPECT_NE(report_of(honest).error().message.find("slurmdbd is down"), std::string::npos);
}

// Books in a file, with three runs that were charged.
class Aside : public testing::Test {
 protected:
  void SetUp() override {
    world.site.database = (folder.path() / "books.db").string();
    world.database = std::move(*accounting::Database::open(world.site.database));
    world.restart();
    world.grant("user:ada", 10);
    for (int i = 0; i < 3; ++i) {
      const JobId job = world.launch(world.admission("runnumber" + std::to_string(i)));
      world.cluster.start(job);
      world.tick(20);
      world.cluster.end(job, JobState::kCompleted, 0);
      for (int tick = 0; tick < 3; ++tick) world.tick(5);
    }
  }
  json audit() { return json::parse(audit_aside(world.site, world.cluster)); }

  test::Folder folder;
  World world;
};

TEST_F(Aside, TheProgramFindsWhatTheServiceWouldFindAndWritesNothing) {
  EXPECT_EQ(audit().at("faults"), json::array());
  EXPECT_EQ(audit().at("charges_compared"), 3);

  ASSERT_TRUE(world.database.run("UPDATE account SET balance = 1 WHERE name = 'fund:user:ada'", {}));
  const json report = audit();
  EXPECT_EQ(report.at("faults").get<Strings>(), world.dispatcher().audit()->faults);
  EXPECT_FALSE(report.at("faults").empty());
  world.cluster.database_is_up = false;
  EXPECT_EQ(audit().at("error"), "slurmdbd is down");
}

TEST_F(Aside, MoreRunsThanAPageHasAreAllCompared) {
  // The last of them 1,200 times more under other names.
  const auto done = world.database.execute_script(
      "CREATE TEMP TABLE number (n INTEGER);"
      "WITH RECURSIVE more(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM more WHERE n < 1200) "
      "INSERT INTO number SELECT n FROM more;"
      "INSERT INTO run SELECT 'copy' || n, uid, user, created + n, state, is_open FROM run, number "
      "WHERE id = 'runnumber2';"
      "INSERT INTO run_event (run, time, kind, body) SELECT 'copy' || n, time, kind, body "
      "FROM run_event, number WHERE run = 'runnumber2' ORDER BY n, seq;"
      "DROP TABLE number;");
  ASSERT_TRUE(done) << done.error().message;

  const auto report = world.dispatcher().audit();
  ASSERT_TRUE(report) << report.error().message;
  // Each copy: a charge and a hold that the ledger does not have, and an allocation that is charged
  // twice. The runs before them are right.
  EXPECT_EQ(report->faults.size(), 3u * 1'200);
  EXPECT_EQ(report->charges_compared, 3);
  EXPECT_EQ(report->notes.size(), 1'200u);  // Of no copy slurmdbd has a record.
  EXPECT_NE(report->faults.back().find("is charged to run runnumber2 and to run copy1200"),
            std::string::npos) << report->faults.back();
  const json aside = audit();
  EXPECT_EQ(aside.at("faults").size(), 1'001u);
  EXPECT_EQ(aside.at("faults").back(), "2600 more faults");
}

TEST(Audit, IsPendingWhileTheBooksAreAudited) {
  World world;
  world.tick();
  AuditReport known;
  known.is_pending = true;
  world.dispatcher().audit_by([&]() -> Expected<AuditReport> { return known; });
  const auto ask = [&](const char* verb) {
    return answer_request(world.dispatcher(), world.site, kAdmin, {{"verb", verb}}, world.cluster.now)
        .at("result");
  };
  EXPECT_EQ(ask("audit"), json({{"pending", true}}));
  EXPECT_TRUE(ask("acts").at("acts").empty());  // Not yet.
  EXPECT_EQ(world.cluster.questions, 0);
  known = {.faults = {"account x: wrong"}, .notes = {"job 1: gone"}, .charges_compared = 3};
  ASSERT_TRUE(world.dispatcher().ledger().record_finding({world.cluster.now, "run x", "lost"}));
  EXPECT_EQ(ask("audit").at("faults"), json({"account x: wrong"}));
  EXPECT_EQ(ask("audit").at("notes").size(), 2u);  // The finding stands before it.
  EXPECT_EQ(ask("audit").at("notes").back(), "job 1: gone");
  EXPECT_EQ(world.cluster.questions, 0);  // Nobody waited for slurmdbd.
  EXPECT_EQ(ask("acts").at("acts").size(), 3u);
}

}  // namespace
}  // namespace scheduler
