// SPDX-License-Identifier: GPL-3.0-or-later
//
// Changes the raw tables behind the ledger's back, and sees verify() name what was done.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "accounting/journal.h"
#include "accounting/till.h"
#include "books.h"

namespace accounting {
namespace {

constexpr UtcSeconds kNow = 1'795'507'200;

// A grant (1), a hold (2), a charge (3), a release (4), and an open hold (5) with a cut charge (6).
void fill(Books& books) {
  must(books.ledger.grant(grant_of("g1", "user:ada", hours(100)), kNow));
  must(books.ledger.hold(hold_of("r1/1", "user:ada", hours(64)), kNow + 1));
  must(books.ledger.charge(charge_of("alpha/17/0", "r1/1", 8, 3'600), kNow + 2));
  must(books.ledger.release("r1/1", "done", kNow + 3));
  must(books.ledger.hold(hold_of("r2/1", "user:ada", hours(4)), kNow + 4));
  must(books.ledger.charge(charge_of("alpha/18/0", "r2/1", 8, 3'600), kNow + 5));
}

// Runs `sql` with every trigger, key and constraint out of the way, then puts the triggers back.
void tamper(Books& books, const std::string& sql) {
  std::vector<std::pair<std::string, std::string>> triggers;
  must(books.db.query("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'", {},
                      [&](const Row& row) { triggers.emplace_back(row.text(0), row.text(1)); }));
  must(books.db.execute_script("PRAGMA foreign_keys=OFF; PRAGMA ignore_check_constraints=ON"));
  for (const auto& [name, text] : triggers) must(books.db.execute_script("DROP TRIGGER " + name));
  must(books.db.execute_script(sql));
  for (const auto& [name, text] : triggers) must(books.db.execute_script(text));
  must(books.db.execute_script("PRAGMA foreign_keys=ON; PRAGMA ignore_check_constraints=OFF"));
}

// All that came with later versions: a dated grant (7), a credit limit (8), a hold of both (9), its
// extension (10) and reduction (11), a charge beyond it (12) with its debt (13) and repayment (14), a
// refund (15).
void fill_more(Books& books) {
  fill(books);
  Grant dated = grant_of("d1", "user:bob", hours(10));
  dated.expires = kNow + 1'000'000;
  must(books.ledger.grant(dated, kNow + 6));
  must(books.ledger.set({"s1", "user:bob", "credit_limit", "3600000", 0, "root", ""}, kNow + 7));
  must(books.ledger.hold(hold_of("b1/1", "user:bob", hours(6)), kNow + 8));
  must(books.ledger.extend({"b1/1/e", "b1/1", hours(2), "root", ""}, kNow + 9));
  must(books.ledger.reduce({"b1/1/d", "b1/1", hours(1), "root", ""}, kNow + 10));
  Charge charge = charge_of("alpha/19/0", "b1/1", 8, 3'600);
  charge.excess = Excess::kFundOwes;
  must(books.ledger.charge(charge, kNow + 11));
  must(books.ledger.refund({"alpha/19/0/x", "alpha/19/0", hours(1), "root", ""}, kNow + 12));
}

struct Tampering {
  std::string name;
  std::string sql;
  std::string fault;  // A part of one of the sentences of verify().
};

void PrintTo(const Tampering& tampering, std::ostream* out) {
  *out << tampering.sql;
}

class Tampered : public testing::TestWithParam<Tampering> {};

TEST_P(Tampered, IsNamedByVerify) {
  Books books;
  fill_more(books);
  ASSERT_EQ(must(books.ledger.verify()), std::vector<std::string>{});

  tamper(books, GetParam().sql);

  const auto faults = must(books.ledger.verify());
  std::string all;
  for (const std::string& fault : faults) all += fault + "\n";
  EXPECT_NE(all.find(GetParam().fault), std::string::npos) << "verify() says:\n" << all;
}

const Tampering kTamperings[] = {
    {"AmountOfAGrant", "UPDATE transfer SET amount = amount + 1 WHERE seq = 1",
     "transfer 1 (g1): it was changed after it was written"},
    {"AmountOfACharge", "UPDATE transfer SET amount = amount - 1 WHERE seq = 3",
     "8 GPU x 3600 s x 1000, of a hold with 230400000 mGPUs left, charges 28800000 mGPUs, not "
     "28799999"},
    {"SecondsOfACharge", "UPDATE transfer SET seconds = 1 WHERE seq = 3",
     "transfer 3 (alpha/17/0): it is not what was requested"},
    {"PayerOfAHold", "UPDATE transfer SET debit = 'fund:user:eve' WHERE seq = 2",
     "transfer 2 (r1/1): it takes fund:user:eve to -230400000 mGPUs, below its floor of 0"},
    {"NegativeAmount", "UPDATE transfer SET amount = -5 WHERE seq = 1",
     "transfer 1 (g1): the amount -5 is negative"},
    {"OverflowingAmount", "UPDATE transfer SET amount = 9223372036854775807 WHERE seq IN (1, 2, 3)",
     "overflow"},
    {"SmallestAmount",
     "UPDATE transfer SET amount = -9223372036854775807 - 1 WHERE seq IN (1, 2, 3, 4)",
     "transfer 2 (r1/1): the amount -9223372036854775808 is negative"},
    {"Note", "UPDATE transfer SET note = 'nothing to see' WHERE seq = 4",
     "transfer 4 (r1/1/release): it was changed after it was written"},
    {"Actor", "UPDATE transfer SET actor = 'eve' WHERE seq = 2",
     "transfer 2 (r1/1): it was changed after it was written"},
    {"Kind", "UPDATE transfer SET kind = 'gift' WHERE seq = 1",
     "transfer 1 (g1): the kind \"gift\" is not known"},
    {"Time", "UPDATE transfer SET ts_us = 5 WHERE seq = 4",
     "transfer 4 (r1/1/release): its time 5 us is not later"},
    {"RemovedFromTheMiddle", "DELETE FROM transfer WHERE seq = 3",
     "transfer 4 (r1/1/release): it follows transfer 2: one is missing"},
    {"RemovedAndRenumbered",
     "DELETE FROM transfer WHERE seq = 4; UPDATE transfer SET seq = seq - 1 WHERE seq > 4",
     "transfer 4 (r2/1): the chain is broken"},
    {"RemovedFromTheEnd", "DELETE FROM transfer WHERE seq = 15",
     "account usage:alpha: stored balance 68400000 mGPUs, transfers give 72000000."},
    {"LargerRefund", "UPDATE transfer SET amount = 36000000 WHERE seq = 15",
     "transfer 15 (alpha/19/0/x): it refunds 36000000 mGPUs of the 28800000 mGPUs left of charge"},
    {"RefundOfAnotherCharge", "UPDATE transfer SET ref = 'alpha/17/0' WHERE seq = 15",
     "transfer 15 (alpha/19/0/x): it was changed after it was written"},
    {"LargerDebt", "UPDATE transfer SET amount = amount + 1 WHERE seq = 13",
     "transfer 13 (alpha/19/0/debt): it makes a debt of 3600001 mGPUs"},
    {"LargerExtension", "UPDATE transfer SET amount = amount + 1 WHERE seq = 10",
     "transfer 10 (b1/1/e): it was changed after it was written"},
    {"ReductionBeyondTheHold", "UPDATE transfer SET amount = 36000000 WHERE seq = 11",
     "transfer 11 (b1/1/d): 36000000 mGPUs exceed the 28800000 mGPUs left of hold b1/1"},
    {"LargerCreditLimit", "UPDATE transfer SET value = '7200000' WHERE seq = 8",
     "transfer 8 (s1): it was changed after it was written"},
    {"SettingBesideItsTransfer", "UPDATE setting SET value = '5' WHERE name = 'credit_limit'",
     "setting credit_limit of user:bob: stored \"5\", transfers give \"3600000\""},
    {"UseOfACapThatIsNone", "INSERT INTO member_use VALUES ('user:ada', 'ada', 5)",
     "use of user:ada by ada: stored 5 mGPUs, and there is no cap"},
    {"InventedSetting", "INSERT INTO setting VALUES ('user:ada', 'gpus_max', '9', 0)",
     "setting gpus_max of user:ada: stored \"9\", transfers give \"\""},
    {"RemovedSetting", "DELETE FROM setting",
     "setting credit_limit of user:bob: it has a transfer but no row"},
    {"LaterExpiry", "UPDATE lot SET expires_s = expires_s + 1", "lot d1: stored with"},
    {"RemainderOfALot", "UPDATE lot SET remaining = remaining + 1", "lot d1: stored with"},
    {"RemovedLot", "DELETE FROM lot_draw; DELETE FROM lot", "lots: 0 are stored, transfers give 1"},
    {"DrawOfAHold", "UPDATE lot_draw SET remaining = remaining + 1",
     "hold b1/1: stored with 1 mGPUs of grant d1, transfers give 0"},
    {"MemberOfAHold", "UPDATE hold SET member = 'eve' WHERE id = 'b1/1'", "hold b1/1: stored"},
    {"ChangedWithItsHash", "UPDATE transfer SET amount = 1, hash = prev_hash WHERE seq = 1",
     "transfer 2 (r1/1): the chain is broken"},
    {"Swapped",
     "UPDATE transfer SET seq = 99 WHERE seq = 2; UPDATE transfer SET seq = 2 WHERE seq = 3; "
     "UPDATE transfer SET seq = 3 WHERE seq = 99",
     "transfer 2 (alpha/17/0): there is no hold r1/1"},
    {"BalanceOfAFund", "UPDATE account SET balance = balance + 7 WHERE name = 'fund:user:ada'",
     "account fund:user:ada: stored balance 316800007 mGPUs, transfers give 316800000"},
    {"SumOfTheBalances", "UPDATE account SET balance = balance + 7 WHERE name = 'treasury'",
     "the balances of all accounts sum to 7 mGPUs, not 0"},
    {"FloorOfAFund", "UPDATE account SET floor = -1000 WHERE name = 'fund:user:ada'",
     "account fund:user:ada: its kind, fund, unit or floor was changed"},
    {"FloorTakenAway", "UPDATE account SET floor = NULL WHERE name = 'fund:user:ada'",
     "account fund:user:ada: its kind, fund, unit or floor was changed"},
    {"UnitOfAFund", "UPDATE account SET unit = 'EUR' WHERE name = 'fund:user:ada'",
     "account fund:user:ada: its kind, fund, unit or floor was changed"},
    {"RemovedAccount", "DELETE FROM account WHERE name = 'usage:alpha'",
     "account usage:alpha: it has transfers but no row"},
    {"InventedAccount",
     "INSERT INTO account (name, kind, fund, floor, balance) "
     "VALUES ('fund:user:eve', 'fund', 'user:eve', 0, 5)",
     "account fund:user:eve: stored balance 5 mGPUs, transfers give 0"},
    {"RemainderOfAHold", "UPDATE hold SET remaining = 5 WHERE id = 'r2/1'",
     "hold r2/1: stored user:ada with 5 mGPUs left"},
    {"ReopenedHold", "UPDATE hold SET closed_seq = NULL WHERE id = 'r1/1'", "hold r1/1: stored"},
    {"RemovedHold", "DELETE FROM hold WHERE id = 'r2/1'",
     "hold r2/1: it has a transfer but no row"},
    {"InventedHold", "INSERT INTO hold (id, fund, run, remaining) VALUES ('r9/1', 'user:ada', 'r9', 0)",
     "hold r9/1: it has a row but no transfer"},
    {"RemovedFinding", "DELETE FROM finding",
     "charge alpha/18/0: it was cut to its hold, and no finding says so"},
    {"BalanceAfterATransfer", "UPDATE transfer SET credit_after = credit_after + 1 WHERE seq = 2",
     "it says that"},
    {"EmptiedBooks", "DELETE FROM transfer", "stored balance"},
};

std::string test_name(const testing::TestParamInfo<Tampering>& tampering) {
  return tampering.param.name;
}

INSTANTIATE_TEST_SUITE_P(Rows, Tampered, testing::ValuesIn(kTamperings), test_name);

TEST(TamperedCap, WhatIsKeptOfItsUseIsComparedWithTheTransfers) {
  const std::vector<Tampering> tamperings{
      {"", "UPDATE member_use SET amount = amount - 1",
       "use of user:ada by ada: stored 43199999 mGPUs, transfers give 43200000"},
      {"", "DELETE FROM member_use", "use of user:ada by ada: it has no row"},
      {"", "UPDATE member_use SET member = 'eve'",
       "use of user:ada by eve: stored 43200000 mGPUs, and there is no cap"}};
  for (const Tampering& each : tamperings) {
    SCOPED_TRACE(each.sql);
    Books books;
    fill(books);
    must(books.ledger.set({"s1", "user:ada", "cap/ada", "360000000", 0, "root", ""}, kNow + 6));
    ASSERT_EQ(must(books.ledger.verify()), std::vector<std::string>{});

    tamper(books, each.sql);

    std::string all;
    for (const std::string& fault : must(books.ledger.verify())) all += fault + "\n";
    EXPECT_NE(all.find(each.fault), std::string::npos) << "verify() says:\n" << all;
  }
}

TEST(TamperedBooks, AStatementThatOverflowsIsAnErrorAndNotANumber) {
  Books books;
  fill(books);

  tamper(books,
         "UPDATE transfer SET amount = 9223372036854775807 WHERE kind = 'grant';"
         "UPDATE transfer SET amount = -9223372036854775807 - 1 WHERE kind = 'hold';"
         "UPDATE transfer SET credit_after = 9223372036854775807 WHERE kind = 'hold'");

  const auto lines = books.ledger.lines("", "");
  ASSERT_FALSE(lines);
  EXPECT_NE(lines.error().message.find("overflows"), std::string::npos) << lines.error().message;
  EXPECT_FALSE(export_journal(books.db));
}

TEST(TamperedSchema, AMissingTriggerIsNamed) {
  Books books;
  fill(books);

  must(books.db.execute_script("DROP TRIGGER transfer_no_delete"));

  EXPECT_EQ(must(books.ledger.verify()),
            std::vector<std::string>{"schema: the trigger transfer_no_delete is missing."});
}

TEST(TamperedSchema, AChangedTriggerIsNamed) {
  Books books;
  fill(books);

  must(books.db.execute_script(
      "DROP TRIGGER transfer_no_delete;"
      "CREATE TRIGGER transfer_no_delete BEFORE DELETE ON transfer BEGIN SELECT 1; END"));

  EXPECT_EQ(must(books.ledger.verify()),
            std::vector<std::string>{"schema: the trigger transfer_no_delete was changed."});
}

// Two receipts, of which the second went back in part.
void sell(Books& books) {
  Till till = must(Till::open(books.db, books.ledger));
  must(till.set_price({kNow, "EUR", 74, "root"}, kNow));
  must(till.pay({"webhook", "pay_1", "user:ada", "EUR", 740, "", "webhook"}, kNow + 20));
  must(till.pay({"webhook", "pay_2", "user:ada", "EUR", 1'480, "", "webhook"}, kNow + 21));
  must(till.reverse({"webhook", "re_1", "refund", "pay_2", "EUR", 74, "webhook"}, kNow + 22));
}

TEST(TamperedTill, WhatWasChangedIsNamed) {
  const std::pair<std::string, std::string> tamperings[] = {
      {"UPDATE receipt SET minor = 1, amount = 1 WHERE number = 1",
       "receipt 1: it says 1 mGPUs for user:ada; its grant pay/webhook/pay_1 has 36000000 mGPUs for "
       "user:ada."},
      {"UPDATE receipt SET minor = 741 WHERE number = 1",
       "receipt 1: it is \"receipt 1: 7.41 EUR at 0.74 EUR a GPU-h\" of payment pay/webhook/pay_1; its "
       "grant pay/webhook/pay_1 says \"receipt 1: 7.40 EUR at 0.74 EUR a GPU-h\"."},
      {"UPDATE receipt SET fund = 'user:eve' WHERE number = 2", "receipt 2: it says 72000000 mGPUs for "
       "user:eve; its grant"},
      {"UPDATE receipt SET reference = 'pay_9' WHERE number = 2", "of payment pay/webhook/pay_9; its "
       "grant pay/webhook/pay_2"},
      {"UPDATE receipt SET grant_id = 'nothing' WHERE number = 2",
       "receipt 2: there is no grant nothing."},
      {"DELETE FROM receipt WHERE number = 1", "receipt 2: it follows receipt 0: one is missing."},
      {"DELETE FROM receipt WHERE number = 2", "grant pay/webhook/pay_2: its receipt is missing"},
      {"UPDATE payment_reversed SET amount = 5",
       "receipt 2: its reversals say that 5 mGPUs went back, the transfers 3600000 mGPUs."}};
  for (const auto& [sql, fault] : tamperings) {
    SCOPED_TRACE(sql);
    Books books;
    fill(books);
    sell(books);
    ASSERT_EQ(must(books.ledger.verify()), std::vector<std::string>{});

    tamper(books, sql);

    std::string all;
    for (const std::string& each : must(books.ledger.verify())) all += each + "\n";
    EXPECT_NE(all.find(fault), std::string::npos) << "verify() says:\n" << all;
  }
}

TEST(TamperedTill, AnEditedReceiptAndItsDroppedTriggerAreNamed) {
  Books books;
  sell(books);

  must(books.db.execute_script(
      "DROP TRIGGER receipt_no_update; DROP TRIGGER price_no_delete;"
      "CREATE TRIGGER price_no_delete BEFORE DELETE ON price BEGIN SELECT 1; END;"
      "UPDATE receipt SET amount = amount + 1 WHERE number = 1"));

  EXPECT_EQ(must(books.ledger.verify()),
            (std::vector<std::string>{
                "schema: the trigger price_no_delete was changed.",
                "schema: the trigger receipt_no_update is missing.",
                "receipt 1: it says 36000001 mGPUs for user:ada; its grant pay/webhook/pay_1 has "
                "36000000 mGPUs for user:ada."}));
}

TEST(TamperedSchema, TablesOfOtherModulesAreNoFault) {
  Books books;
  fill(books);

  must(books.db.execute_script("CREATE TABLE run_event (seq INTEGER PRIMARY KEY) STRICT"));

  EXPECT_EQ(must(books.ledger.verify()), std::vector<std::string>{});
}

}  // namespace
}  // namespace accounting
