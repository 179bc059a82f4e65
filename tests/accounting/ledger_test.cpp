// SPDX-License-Identifier: GPL-3.0-or-later
//
// What the tables cannot say: transactions, notes, findings, the schema.
#include "accounting/ledger.h"

#include <gtest/gtest.h>

#include "books.h"

namespace accounting {
namespace {

constexpr UtcSeconds kNow = 1'795'507'200;
constexpr int kNewestVersion = 8;

TEST(Ledger, AnOperationJoinsTheTransactionOfItsCaller) {
  Books books;
  must(books.ledger.grant(grant_of("g1", "user:ada", hours(10)), kNow));
  must(books.db.execute_script("CREATE TABLE event (what TEXT) STRICT"));

  EXPECT_FALSE(books.db.transact([&]() -> Expected<void> {
    must(books.db.run("INSERT INTO event VALUES ('RunHeld')", {}));
    EXPECT_EQ(must(books.ledger.hold(hold_of("r1/1", "user:ada", hours(5)), kNow)),
              HoldStatus::kHeld);
    EXPECT_EQ(must(books.ledger.balance("user:ada"))->held, hours(5));
    return tl::unexpected(Error{"stop"});
  }));

  EXPECT_EQ(must(books.ledger.balance("user:ada"))->held, Amount{0});
  EXPECT_EQ(books.count("SELECT count(*) FROM event"), 0);
  EXPECT_EQ(must(books.ledger.hold_state("r1/1")), std::nullopt);
  EXPECT_EQ(must(books.ledger.verify()), std::vector<std::string>{});
}

TEST(Ledger, ALineKeepsWhatWasRequested) {
  Books books;
  must(books.ledger.grant(
      {.id = "g1", .fund = "user:ada", .amount = hours(10), .actor = "root", .note = "term 2026"},
      kNow));
  must(books.ledger.hold(hold_of("r1/1", "user:ada", hours(5)), kNow + 10));
  must(books.ledger.charge(charge_of("alpha/17/0", "r1/1", 2, 93), kNow + 20));
  must(books.ledger.release("r1/1", "COMPLETED", kNow + 30));

  const auto lines = must(books.ledger.lines("user:ada", ""));

  ASSERT_EQ(lines.size(), 4u);
  EXPECT_EQ(lines[0].note, "term 2026");
  EXPECT_EQ(lines[0].actor, "root");
  EXPECT_EQ(lines[1].run, "r1");
  EXPECT_EQ(lines[1].actor, "ada");
  EXPECT_EQ(lines[2].kind, "charge");
  EXPECT_EQ(lines[2].fund, "user:ada");
  EXPECT_EQ(lines[2].run, "r1");
  EXPECT_EQ(lines[2].id, "alpha/17/0");
  EXPECT_EQ(lines[2].amount, Amount{186'000});
  EXPECT_EQ(lines[2].gpus, 2);
  EXPECT_EQ(lines[2].seconds, 93);
  EXPECT_EQ(lines[2].weight_milli, 1'000);
  EXPECT_EQ(lines[2].end - lines[2].start, 93);
  EXPECT_EQ(lines[2].note, "h100 COMPLETED");
  EXPECT_EQ(lines[2].when, kNow + 20);
  EXPECT_EQ(lines[3].id, "r1/1/release");
  EXPECT_EQ(lines[3].note, "COMPLETED");
  EXPECT_EQ(lines[3].available_after, Amount{36'000'000 - 186'000});
}

TEST(Ledger, ANoteThatCannotBePrintedIsMadePrintableAndStaysOneRequest) {
  Books books;
  Grant grant = grant_of("g1", "user:ada", hours(1));
  grant.note = "tab\there\nline, bad \xff\xc3 byte, \xc3\xa9, surrogate \xed\xa0\x80";

  EXPECT_EQ(must(books.ledger.grant(grant, kNow)), GrantStatus::kGranted);
  EXPECT_EQ(must(books.ledger.grant(grant, kNow)), GrantStatus::kAlreadyGranted);

  EXPECT_EQ(must(books.ledger.lines("", ""))[0].note,
            "tab?here?line, bad ?? byte, \xc3\xa9, surrogate ???");
  grant.id = "g2";
  grant.note = std::string(999, 'x') + "\xc3\xa9";
  must(books.ledger.grant(grant, kNow));
  EXPECT_EQ(must(books.ledger.lines("", ""))[1].note, std::string(999, 'x'));
  EXPECT_EQ(must(books.ledger.verify()), std::vector<std::string>{});
}

TEST(Ledger, AnActorWithAControlCharacterIsInvalid) {
  Books books;
  Grant grant = grant_of("g1", "user:ada", hours(1));
  grant.actor = "root\nhold";
  EXPECT_EQ(must(books.ledger.grant(grant, kNow)), GrantStatus::kInvalid);
  grant.actor = std::string("root\0", 5);
  EXPECT_EQ(must(books.ledger.grant(grant, kNow)), GrantStatus::kInvalid);
  grant.actor = "DOM\\Ad\xc3\xa9le";
  EXPECT_EQ(must(books.ledger.grant(grant, kNow)), GrantStatus::kGranted);
}

TEST(Ledger, TheTimeOfATransferIsLaterThanThatOfTheOneBefore) {
  Books books;
  for (const UtcSeconds now : {kNow, kNow, kNow - 500, kNow + 1, UtcSeconds{-5}}) {
    must(books.ledger.grant(
        grant_of("g" + std::to_string(books.count("SELECT count(*) FROM transfer")), "user:ada",
                 hours(1)),
        now));
  }

  std::vector<UtcSeconds> whens;
  for (const StatementLine& line : must(books.ledger.lines("", ""))) whens.push_back(line.when);
  EXPECT_EQ(whens, (std::vector<UtcSeconds>{kNow, kNow, kNow, kNow + 1, kNow + 1}));
  EXPECT_EQ(books.count("SELECT count(DISTINCT ts_us) FROM transfer"), 5);
  EXPECT_EQ(must(books.ledger.verify()), std::vector<std::string>{});
}

TEST(Ledger, TheSameFindingIsKeptOnce) {
  Books books;
  must(books.ledger.record_finding({kNow, "r1", "no record in slurmdbd"}));
  must(books.ledger.record_finding({kNow + 5, "r1", "no record in slurmdbd"}));
  must(books.ledger.record_finding({kNow + 6, "r2", "no record in slurmdbd"}));

  const auto findings = must(books.ledger.findings());

  ASSERT_EQ(findings.size(), 2u);
  EXPECT_EQ(findings[0].when, kNow);
  EXPECT_EQ(findings[1].subject, "r2");
}

TEST(Ledger, TheFindingOfAnExcessNamesBothNumbers) {
  Books books;
  must(books.ledger.grant(grant_of("g1", "user:ada", hours(10)), kNow));
  must(books.ledger.hold(hold_of("r1/1", "user:ada", hours(1)), kNow));
  must(books.ledger.charge(charge_of("alpha/17/0", "r1/1", 2, 3'600), kNow));

  const auto findings = must(books.ledger.findings());

  ASSERT_EQ(findings.size(), 1u);
  EXPECT_EQ(findings[0].subject, "alpha/17/0");
  EXPECT_EQ(findings[0].text,
            "charge alpha/17/0: 2 GPU x 3600 s x 1.000 = 7200000 mGPUs exceeds the 3600000 mGPUs "
            "left of hold r1/1; the site bears 3600000 mGPUs (1.000 GPU-h).");
}

TEST(Ledger, AllBalancesComeInTheOrderOfTheirFunds) {
  Books books;
  must(books.ledger.grant(grant_of("g1", "user:ada", hours(1)), kNow));
  must(books.ledger.grant(grant_of("g2", "group:vision", hours(2)), kNow));

  const auto balances = must(books.ledger.balances());

  ASSERT_EQ(balances.size(), 2u);
  EXPECT_EQ(balances[0].fund, "group:vision");
  EXPECT_EQ(balances[1].fund, "user:ada");
  EXPECT_EQ(must(books.ledger.balance("user:a%")), std::nullopt);
}

TEST(Ledger, TheHeadMovesWithEachTransferAndWithNothingElse) {
  Books books;
  EXPECT_EQ(must(books.ledger.head()).seq, 0);
  EXPECT_EQ(must(books.ledger.head()).hash, std::string(64, '0'));

  must(books.ledger.grant(grant_of("g1", "user:ada", hours(1)), kNow));
  const Head first = must(books.ledger.head());
  must(books.ledger.grant(grant_of("g1", "user:ada", hours(1)), kNow));
  must(books.ledger.record_finding({kNow, "a", "b"}));
  EXPECT_EQ(must(books.ledger.head()).hash, first.hash);
  EXPECT_EQ(first.seq, 1);

  must(books.ledger.grant(grant_of("g2", "user:ada", hours(1)), kNow));
  EXPECT_EQ(must(books.ledger.head()).seq, 2);
}

TEST(Ledger, HistoryCannotBeEditedThroughTheDatabase) {
  Books books;
  must(books.ledger.grant(grant_of("g1", "user:ada", hours(1)), kNow));
  must(books.ledger.hold(hold_of("r1/1", "user:ada", hours(1)), kNow));
  must(books.ledger.release("r1/1", "", kNow));
  must(books.ledger.record_finding({kNow, "a", "b"}));

  for (const char* sql :
       {"UPDATE transfer SET note = 'x'", "DELETE FROM transfer",
        "INSERT OR REPLACE INTO transfer SELECT * FROM transfer WHERE seq = 1",
        "UPDATE account SET name = 'fund:user:eve' WHERE name = 'fund:user:ada'",
        "UPDATE account SET unit = 'EUR'", "UPDATE account SET balance = -1 WHERE floor = 0",
        "DELETE FROM account", "UPDATE hold SET fund = 'user:eve'",
        "UPDATE hold SET closed_seq = NULL", "DELETE FROM hold", "UPDATE finding SET text = 'x'",
        "DELETE FROM finding"}) {
    SCOPED_TRACE(sql);
    EXPECT_FALSE(books.db.run(sql, {}));
  }
  EXPECT_EQ(must(books.ledger.verify()), std::vector<std::string>{});
}

TEST(Ledger, OpeningAgainChangesNothing) {
  Books books;
  must(books.ledger.grant(grant_of("g1", "user:ada", hours(1)), kNow));

  const Ledger again = must(Ledger::open(books.db));

  EXPECT_EQ(must(again.balance("user:ada"))->available, hours(1));
  EXPECT_EQ(books.count("SELECT value FROM ledger_meta WHERE key = 'schema_version'"),
            kNewestVersion);
}

TEST(Ledger, AFileOfTheFirstVersionGoesForwardAndStaysRight) {
  const TemporaryFolder folder;
  const std::string path = folder.file("books.db");
  {
    Database made = must(Database::open(path));
    must(made.execute_script(content_of(TRAINYARD_GOLDEN_DIR "/books_v1.sql")));
  }

  Books books(path);

  EXPECT_EQ(books.count("SELECT value FROM ledger_meta WHERE key = 'schema_version'"),
            kNewestVersion);
  EXPECT_EQ(must(books.ledger.verify()), std::vector<std::string>{});
  EXPECT_EQ(must(books.ledger.balance("user:ada"))->charged, hours(16));
  EXPECT_EQ(must(books.ledger.release("r1/1", "again", kNow)), ReleaseStatus::kAlreadyReleased);
  EXPECT_EQ(must(books.ledger.hold({"r3/1", "user:ada", hours(1), "r3", "ada"}, kNow)),
            HoldStatus::kAlreadyHeld);
  EXPECT_EQ(must(books.ledger.extend({"r3/1/e", "r3/1", hours(1), "ada", ""}, kNow)),
            ExtendStatus::kExtended);
  EXPECT_EQ(must(books.ledger.refund({"alpha/17/0/x", "alpha/17/0", hours(16), "root", ""}, kNow)),
            RefundStatus::kRefunded);
  EXPECT_EQ(must(books.ledger.verify()), std::vector<std::string>{});
}

TEST(Ledger, TheDatabaseItselfRefusesToEditHistory) {
  Books books;
  must(books.ledger.grant(grant_of("g1", "user:ada", hours(10)), kNow));
  must(books.ledger.hold(hold_of("r1/1", "user:ada", hours(1)), kNow));
  must(books.ledger.charge(charge_of("a/1/0", "r1/1", 1, 3'600), kNow));

  for (const char* sql :
       {"UPDATE transfer SET amount = 1", "UPDATE transfer SET note = 'x' WHERE seq = 1",
        "DELETE FROM transfer WHERE seq = 3", "DELETE FROM hold", "UPDATE hold SET member = 'eve'",
        "INSERT OR REPLACE INTO transfer SELECT * FROM transfer WHERE seq = 1",
        "INSERT INTO transfer (seq, id, kind, debit, credit, amount, run, gpus, seconds, "
        "weight_milli, start_s, end_s, actor, note, content_hash, ts_us, prev_hash, hash, ref) "
        "SELECT seq + 1, 'x', 'refund', credit, 'fund:user:ada', amount + 1, run, 0, 0, 0, 0, 0, "
        "'', '', '', ts_us + 1, hash, 'y', 'a/1/0' FROM transfer WHERE seq = 3"}) {
    SCOPED_TRACE(sql);
    EXPECT_FALSE(books.db.run(sql, {}));
  }
  EXPECT_EQ(must(books.ledger.verify()), std::vector<std::string>{});
}

TEST(Ledger, AFileOfANewerProgramIsRefused) {
  Books books;
  must(books.db.run("UPDATE ledger_meta SET value = '999' WHERE key = 'schema_version'", {}));

  const auto opened = Ledger::open(books.db);

  ASSERT_FALSE(opened);
  const std::string told = "999 is newer than the " + std::to_string(kNewestVersion);
  EXPECT_NE(opened.error().message.find(told), std::string::npos)
      << opened.error().message;
}

// What a statement of one run or one month shows is what the whole one shows of them.
TEST(Ledger, AStatementOfAPartHasTheBalancesOfTheWhole) {
  Books books;
  must(books.ledger.grant(grant_of("g1", "user:ada", hours(100)), kNow));
  must(books.ledger.grant(grant_of("g2", "user:bob", hours(100)), kNow));
  for (int i = 0; i < 40; ++i) {
    const std::string run = "r" + std::to_string(i);
    const std::string fund = i % 3 == 0 ? "user:bob" : "user:ada";
    must(books.ledger.hold(hold_of(run + "/1", fund, hours(1)), kNow + 1'000 * i));
    if (i < 4) continue;
    const std::string before = "r" + std::to_string(i - 4);
    must(books.ledger.charge(charge_of("a/" + before + "/0", before + "/1", 1, 60 * i),
                             kNow + 1'000 * i + 10));
    must(books.ledger.release(before + "/1", "done", kNow + 1'000 * i + 20));
  }
  const auto text = [](const StatementLine& line) {
    return line.id + " " + std::to_string(line.available_after.milli_gpu_s) + " " +
           std::to_string(line.balance_after.milli_gpu_s);
  };
  const auto part = [&](const std::string& fund, const std::string& run, const Period& period) {
    std::vector<std::string> texts;
    for (const auto& line : must(books.ledger.lines(fund, run, period))) texts.push_back(text(line));
    return texts;
  };
  std::vector<std::string> of_run, of_bob, of_time;
  const Period period{kNow + 7'010, kNow + 31'000};
  for (const auto& line : must(books.ledger.lines("", ""))) {
    if (line.run == "r12") of_run.push_back(text(line));
    if (line.fund == "user:bob") of_bob.push_back(text(line));
    if (line.when >= period.from && line.when < period.to && line.fund == "user:ada") {
      of_time.push_back(text(line));
    }
  }
  ASSERT_EQ(of_run.size(), 3u);

  EXPECT_EQ(part("", "r12", {}), of_run);
  EXPECT_EQ(part("user:bob", "", {}), of_bob);
  EXPECT_EQ(part("user:ada", "", period), of_time);
  EXPECT_EQ(part("user:ada", "r12", {}), std::vector<std::string>{});
  EXPECT_EQ(part("user:bob", "", {kNow + 100'000'000, 0}), std::vector<std::string>{});
}

TEST(Ledger, AHundredThousandTransfersDoNotSlowTheNextOne) {
  Books books;
  must(books.db.transact([&]() -> Expected<void> {
    must(books.ledger.grant(grant_of("g1", "user:ada", hours(1'000'000)), kNow));
    for (int i = 0; i < 25'000; ++i) {
      const std::string run = "r" + std::to_string(i);
      must(books.ledger.hold(hold_of(run + "/1", "user:ada", hours(1)), kNow));
      must(books.ledger.charge(charge_of("a/" + run + "/0", run + "/1", 1, 1'800), kNow));
      must(books.ledger.charge(charge_of("a/" + run + "/1", run + "/1", 1, 600), kNow));
      must(books.ledger.release(run + "/1", "done", kNow));
    }
    return {};
  }));
  ASSERT_EQ(must(books.ledger.head()).seq, 100'001);

  // Neither a balance nor the next transfer looks at all of them.
  const auto plan_of = [&books](const std::string& sql) {
    std::string plan;
    must(books.db.query("EXPLAIN QUERY PLAN " + sql, {},
                        [&plan](const Row& row) { plan += row.text(3) + "\n"; }));
    return plan;
  };
  EXPECT_EQ(plan_of("SELECT sum(amount) FROM transfer WHERE kind = 'grant' AND credit = 'x'")
                .find("SCAN"),
            std::string::npos);
  EXPECT_EQ(plan_of("SELECT seq, ts_us, hash FROM transfer ORDER BY seq DESC LIMIT 1")
                .find("TEMP B-TREE"),
            std::string::npos);
  EXPECT_EQ(must(books.ledger.balance("user:ada"))->charged, Amount{25'000LL * 2'400'000});
  EXPECT_EQ(must(books.ledger.lines("", "r7")).size(), 4u);
  EXPECT_EQ(must(books.ledger.verify()), std::vector<std::string>{});
}

}  // namespace
}  // namespace accounting
