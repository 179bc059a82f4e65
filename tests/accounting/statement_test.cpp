// SPDX-License-Identifier: GPL-3.0-or-later
#include "accounting/statement.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

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
