// SPDX-License-Identifier: GPL-3.0-or-later
//
// Books that older versions of the schema made go forward when they are opened, with a row in every
// table that those versions knew, and stay right.
#include <gtest/gtest.h>

#include "accounting/alerts.h"
#include "accounting/measured.h"
#include "accounting/part_schema.h"
#include "accounting/till.h"
#include "books.h"

namespace accounting {
namespace {

constexpr UtcSeconds kLater = 1'795'700'000;

struct Upgraded {
  explicit Upgraded(int version) {
    Database made = must(Database::open(path));
    must(made.execute_script(
        content_of(TRAINYARD_GOLDEN_DIR "/books_v" + std::to_string(version) + ".sql")));
    must(made.query("SELECT value FROM ledger_meta WHERE key = 'schema_version'", {},
                    [this](const Row& row) { written = row.integer(0); }));
    must(made.query("SELECT name FROM sqlite_schema WHERE type = 'table'", {},
                    [this](const Row& row) { tables.push_back(row.text(0)); }));
    for (const std::string& table : tables) {
      must(made.query("SELECT count(*) FROM " + table, {},
                      [&](const Row& row) { EXPECT_GT(row.integer(0), 0) << table; }));
    }
  }
  TemporaryFolder folder;
  std::string path = folder.file("books.db");
  std::int64_t written = 0;
  std::vector<std::string> tables;
};

class Upgrade : public testing::TestWithParam<int> {};

TEST_P(Upgrade, BooksGoForwardAndStayRight) {
  const Upgraded old(GetParam());
  ASSERT_EQ(old.written, GetParam());

  Books books(old.path);
  must(Till::open(books.db, books.ledger));
  EXPECT_EQ(books.count("SELECT value FROM ledger_meta WHERE key = 'schema_version'"), 8);
  EXPECT_EQ(must(books.ledger.verify()), std::vector<std::string>{});
  EXPECT_EQ(books.count("SELECT amount = (SELECT amount FROM member_use_sum "
                        "                  WHERE fund = 'group:vision' AND member = 'ada') "
                        "FROM member_use WHERE fund = 'group:vision' AND member = 'ada'"), 1);
  const FundBalance vision = *must(books.ledger.balance("group:vision"));
  EXPECT_EQ(vision.charged, hours(6));  // 8 hours, of which 2 were given back.
  EXPECT_EQ(must(books.ledger.setting("group:vision", "cap/ada")), "180000000");
  EXPECT_EQ(must(books.ledger.setting("group:vision", "gpus_max")), std::nullopt);
  EXPECT_EQ(must(books.ledger.extend({"r1/0+0", "r1/0", hours(5), "ada", ""}, kLater)),
            ExtendStatus::kAlreadyExtended);
  EXPECT_EQ(must(books.ledger.release("r3/0", "late", kLater)), ReleaseStatus::kReleased);
  EXPECT_EQ(must(books.ledger.grant(grant_of("new", "user:ada", hours(1)), kLater)),
            GrantStatus::kGranted);
  EXPECT_EQ(must(books.ledger.verify()), std::vector<std::string>{});
}

INSTANTIATE_TEST_SUITE_P(EachVersion, Upgrade, testing::Values(2, 3, 4, 5, 7));

TEST(Upgrades, DatedGrantsOfVersion3EndAsTheyWereMade) {
  const Upgraded old(3);
  Books books(old.path);
  const auto grants = must(books.ledger.dated_grants("user:ada"));
  EXPECT_FALSE(grants.empty());
  must(books.ledger.turn(kLater + 10'000'000));
  EXPECT_TRUE(must(books.ledger.dated_grants("user:ada")).empty());
  EXPECT_EQ(must(books.ledger.balance("group:vision"))->later, Amount{});
  EXPECT_EQ(must(books.ledger.verify()), std::vector<std::string>{});
}

TEST(Upgrades, PaymentsEstimatesAndAlertsOfVersion4Count) {
  const Upgraded old(4);
  Books books(old.path);
  Till till = must(Till::open(books.db, books.ledger));
  EXPECT_EQ(must(till.pay({"webhook", "pay_1", "user:ada", "EUR", 1'000, "q1", "webhook"}, kLater)).status,
            PayStatus::kAlreadyPaid);
  const auto receipts = must(till.receipts("user:ada"));
  ASSERT_EQ(receipts.size(), 1u);
  EXPECT_EQ(must(till.reversed_minor(receipts[0])), 400);
  // A chargeback that was told before its payment.
  must(till.pay({"webhook", "pay_2", "user:ada", "EUR", 100, "", "webhook"}, kLater));
  EXPECT_EQ(must(till.receipts("user:ada")).size(), 2u);
  EXPECT_EQ(must(till.reversed_minor(must(till.receipts("user:ada"))[1])), 100);
  EXPECT_EQ(must(till.acts()).size(), 1u);
  EXPECT_TRUE(must(measured_rate(books.db, {"yolov8n", 640, "h100", 8})));
  EXPECT_FALSE(must(take_alerts(books.db, "command", 10, kLater)).empty());
  EXPECT_EQ(must(books.ledger.verify()), std::vector<std::string>{});
}

// What version 5 kept of a fund that got its hours in the minute in which others of it expired: what
// it had at the look behind both, or at the transfer, by the program that wrote it.
TEST(Upgrades, AlertsOfVersion5AreReckonedFromWhatTheFundHadWhenItGotItsHours) {
  for (const std::int64_t given : {10, 20}) {
    SCOPED_TRACE(given);
    TemporaryFolder folder;
    {
      Books old(folder.file("books.db"));
      Grant first = grant_of("g1", "user:ada", hours(10));
      first.expires = kLater + 30;
      must(old.ledger.grant(first, kLater));
      must(old.ledger.grant(grant_of("g2", "user:ada", hours(10)), kLater + 10));
      must(old.ledger.turn(kLater + 40));
      must(old.db.run("INSERT INTO alert_arm VALUES ('user:ada', 2, ?1, 0)",
                      {hours(given).milli_gpu_s}));
      must(old.db.execute_script(  // What version 7 adds.
          "DROP TRIGGER setting_cap_gone; DROP TRIGGER setting_cap; DROP TRIGGER transfer_use_hold;"
          "DROP TRIGGER transfer_use_change; DROP TRIGGER transfer_use_refund;"
          "DROP VIEW member_use_sum; DROP TABLE member_use;"));
      must(old.db.run("UPDATE ledger_meta SET value = '5' WHERE key = 'schema_version'", {}));
    }
    Books books(folder.file("books.db"));
    must(books.ledger.hold(hold_of("r1/0", "user:ada", hours(7)), kLater + 100));
    EXPECT_TRUE(must(raise_alerts(books.db, books.ledger, {}, kLater + 100)).empty());
    must(books.ledger.hold(hold_of("r2/0", "user:ada", hours(1)), kLater + 100));
    const auto raised = must(raise_alerts(books.db, books.ledger, {}, kLater + 100));
    ASSERT_EQ(raised.size(), 1u);
    EXPECT_EQ(raised[0].level, 80);
    EXPECT_EQ(raised[0].given, hours(10));
  }
}

// An hour was held, two were used, the second of them owed and paid, and both were given back.
TEST(Upgrades, WhatVersion7SubtractedFromAMembersUseAndNeverAddedIsAdded) {
  const Upgraded old(7);
  {
    Database made = must(Database::open(old.path));
    std::int64_t kept = 0;
    must(made.query("SELECT amount FROM member_use WHERE fund = 'group:owing'", {},
                    [&kept](const Row& row) { kept = row.integer(0); }));
    ASSERT_EQ(kept, -hours(1).milli_gpu_s);
  }
  Books books(old.path);
  EXPECT_EQ(must(books.ledger.member_use("group:owing", "bob")), Amount{});
  Hold within = hold_of("owing2/0", "group:owing", hours(5));
  within.actor = "bob";
  Hold beyond = hold_of("owing3/0", "group:owing", hours(1));
  beyond.actor = "bob";
  EXPECT_EQ(must(books.ledger.hold(within, kLater)), HoldStatus::kHeld);
  EXPECT_EQ(must(books.ledger.hold(beyond, kLater)), HoldStatus::kExceedsMemberCap);
  EXPECT_EQ(must(books.ledger.verify()), std::vector<std::string>{});
}

TEST(Upgrades, TheTillHasAVersionOfItsOwn) {
  Books books;
  must(Till::open(books.db, books.ledger));
  EXPECT_EQ(books.count("SELECT value FROM ledger_meta WHERE key = 'till_version'"), 1);
  must(books.db.run("UPDATE ledger_meta SET value = '7' WHERE key = 'till_version'", {}));
  const auto opened = Till::open(books.db, books.ledger);
  ASSERT_FALSE(opened);
  EXPECT_NE(opened.error().message.find("till version 7 is newer than the 1"), std::string::npos);
}

TEST(Upgrades, APartGoesForwardScriptByScriptAndWhollyOrNot) {
  Books books;
  std::vector<std::string> scripts{"CREATE TABLE part (a INTEGER) STRICT;"};
  must(open_part(books.db, "part", scripts));
  scripts.push_back("ALTER TABLE part ADD COLUMN b INTEGER; INSERT INTO part VALUES (1, 2);");
  scripts.push_back("CREATE TABLE part (a INTEGER) STRICT;");
  EXPECT_FALSE(open_part(books.db, "part", scripts));
  EXPECT_EQ(books.count("SELECT count(*) FROM part"), 0);
  scripts.back() = "UPDATE part SET b = 3;";
  must(open_part(books.db, "part", scripts));
  must(open_part(books.db, "part", scripts));
  EXPECT_EQ(books.count("SELECT sum(b) FROM part"), 3);
  EXPECT_EQ(books.count("SELECT value FROM ledger_meta WHERE key = 'part_version'"), 3);
}

}  // namespace
}  // namespace accounting
