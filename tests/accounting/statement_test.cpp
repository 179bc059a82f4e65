// SPDX-License-Identifier: GPL-3.0-or-later
#include "accounting/statement.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "accounting/till.h"
#include "books.h"

namespace accounting {
namespace {

constexpr UtcSeconds kNow = 1'795'507'200;

std::vector<StatementLine> lines_of_a_term() {
  Books books;
  Ledger& ledger = books.ledger;
  must(ledger.grant({.id = "g-2026-1",
                     .fund = "user:ada",
                     .amount = hours(100),
                     .actor = "root",
                     .note = "term 2026, \"winter\" \xc3\xa9t\xc3\xa9"},
                    kNow));
  must(ledger.hold(hold_of("r1/1", "user:ada", hours(64)), kNow + 60));
  must(ledger.charge(charge_of("alpha/17/0", "r1/1", 2, 93), kNow + 200));
  Charge late = charge_of("alpha/17/1", "r1/1", 8, 36'000);
  late.weight_milli = 1'500;
  must(ledger.charge(late, kNow + 40'000));
  must(ledger.release("r1/1", "TIMEOUT", kNow + 40'001));
  must(ledger.grant(grant_of("g-2026-2", "group:vision", {1}), kNow + 50'000));
  return must(ledger.lines("", ""));
}

// On a mismatch the two texts are shown, with what accepts the new one.
void expect_golden(const std::string& name, const std::string& text) {
  const std::string path = std::string(TRAINYARD_GOLDEN_DIR) + "/" + name;
  if (std::getenv("TRAINYARD_ACCEPT_GOLDEN") != nullptr) {
    std::ofstream(path, std::ios::binary) << text;
    return;
  }
  EXPECT_EQ(text, content_of(path)) << path << " differs. To accept the new text:\n"
                                    << "  TRAINYARD_ACCEPT_GOLDEN=1 ctest -R Statement";
}

TEST(Statement, TheTextIsATable) {
  expect_golden("statement.txt", statement_text(lines_of_a_term()));
}

TEST(Statement, TheCsvHasExactNumbers) {
  expect_golden("statement.csv", statement_csv(lines_of_a_term()));
}

TEST(Statement, TheJsonHasExactNumbers) {
  expect_golden("statement.json", statement_json(lines_of_a_term()));
}

// 0.74 EUR an hour, then 1.48 EUR; one run has a quote, one was held before there was a price.
std::vector<StatementLine> priced_lines() {
  Books books;
  Ledger& ledger = books.ledger;
  Till till = must(Till::open(books.db, ledger));
  must(ledger.grant(grant_of("g1", "user:ada", hours(1'000)), kNow));
  must(ledger.hold(hold_of("r0/0", "user:ada", hours(2)), kNow));
  must(till.set_price({kNow + 10, "EUR", 74, "root"}, kNow + 10));
  must(ledger.hold(hold_of("r1/0", "user:ada", hours(2)), kNow + 20));
  must(till.keep_quote({.id = "q1", .user = "ada", .fund = "user:ada", .type = "h100", .gpus = 1,
                        .weight_milli = 1'000, .hold = hours(2), .expected = hours(1),
                        .currency = "EUR", .price_minor = 74, .made = kNow + 20,
                        .expires = kNow + 900, .run = ""}));
  must(till.set_price({kNow + 30, "EUR", 148, "root"}, kNow + 30));
  Hold quoted = hold_of("r2/0", "user:ada", hours(2));
  quoted.quote = "q1";
  must(ledger.hold(quoted, kNow + 40));
  must(ledger.hold(hold_of("r3/0", "user:ada", hours(2)), kNow + 40));
  // Known too late for the runs before.
  must(till.set_price({kNow + 30, "EUR", 999, "root"}, kNow + 41));
  must(ledger.charge(charge_of("a/r0/0/0", "r0/0", 1, 3'600), kNow + 4'000));
  must(ledger.charge(charge_of("a/r1/0/0", "r1/0", 1, 100), kNow + 4'000));   // 2.06 cents
  must(ledger.charge(charge_of("a/r2/0/0", "r2/0", 1, 3'600), kNow + 4'000));
  must(ledger.charge(charge_of("a/r3/0/0", "r3/0", 1, 3'600), kNow + 4'000));
  // Two refunds, that leave nothing of the 3 cents.
  must(ledger.refund({"a/r1/0/0/node", "a/r1/0/0", {33'000}, "root", ""}, kNow + 5'000));
  must(ledger.refund({"a/r1/0/0/admin", "a/r1/0/0", {67'000}, "root", ""}, kNow + 5'000));
  auto lines = must(ledger.lines("", ""));
  must(add_costs(books.db, lines));
  return lines;
}

TEST(Statement, ACostIsByThePriceOfTheDayOnWhichItsHoursWereHeld) {
  std::vector<std::string> costs;
  for (const StatementLine& line : priced_lines()) {
    if (line.cost_minor) costs.push_back(line.id + " " + format_money(*line.cost_minor, line.currency));
  }
  EXPECT_EQ(costs, (std::vector<std::string>{
                       "a/r1/0/0 0.03 EUR", "a/r2/0/0 0.74 EUR", "a/r3/0/0 1.48 EUR",
                       "a/r1/0/0/node -0.01 EUR", "a/r1/0/0/admin -0.02 EUR"}));
}

TEST(Statement, WithPricesItHasCosts) {
  expect_golden("statement_priced.txt", statement_text(priced_lines()));
  expect_golden("statement_priced.csv", statement_csv(priced_lines()));
  expect_golden("statement_priced.json", statement_json(priced_lines()));
}

TEST(Statement, NoLinesAreStillAStatement) {
  EXPECT_EQ(statement_text({}),
            "time  kind  fund  run  id  GPU-h  available  balance  arithmetic  note\n"
            "charged: 0.000 GPU-h (0 mGPUs) in 0 charges\n");
  EXPECT_EQ(statement_json({}), "[]\n");
}

TEST(Statement, ASumThatOverflowsIsNotPrintedWrong) {
  StatementLine line;
  line.kind = "charge";
  line.amount = {INT64_MAX};

  EXPECT_EQ(statement_text({line, line}).find("charged:"), std::string::npos);
}

}  // namespace
}  // namespace accounting
