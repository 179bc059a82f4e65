// SPDX-License-Identifier: GPL-3.0-or-later
//
// The journal is read by the real hledger: a second program recomputes the books. Where hledger is
// missing this fails; it is in the list of packages of scripts/test.
#include "accounting/journal.h"

#include <gtest/gtest.h>

#include <set>
#include <sstream>

#include "journal_books.h"

namespace accounting {
namespace {

Answer hledger(const std::string& arguments) { return answer_of_program(TRAINYARD_HLEDGER, arguments); }

TEST(Journal, IsAcceptedByHledger) {
  const TemporaryFolder folder;
  Books books;
  fill(books);
  const std::string path = written(folder, must(export_journal(books.db)));

  const Answer strict = hledger("check --strict -f '" + path + "'");
  const Answer ordered = hledger("check ordereddates -f '" + path + "'");

  EXPECT_EQ(strict.code, 0) << strict.output;
  EXPECT_EQ(ordered.code, 0) << ordered.output;
}

TEST(Journal, GivesTheSameBalancesInHledger) {
  const TemporaryFolder folder;
  Books books;
  fill(books);
  const std::string path = written(folder, must(export_journal(books.db)));

  const Answer balances = hledger("balance --flat -E -N -O csv -f '" + path + "'");

  std::set<std::string> expected{"\"account\",\"balance\""};
  must(books.db.query("SELECT name, balance FROM account", {}, [&](const Row& row) {
    const std::string amount =
        row.integer(1) == 0 ? "0" : std::to_string(row.integer(1)) + " mGPUs";
    expected.insert("\"" + row.text(0) + "\",\"" + amount + "\"");
  }));
  std::set<std::string> rows;
  std::istringstream output(balances.output);
  for (std::string row; std::getline(output, row);) rows.insert(row);
  EXPECT_EQ(rows, expected);
}

TEST(Journal, FindsATransferByItsTags) {
  const TemporaryFolder folder;
  Books books;
  fill(books);
  const std::string path = written(folder, must(export_journal(books.db)));

  EXPECT_EQ(hledger("register tag:run=^r1$ -O csv -f '" + path + "' | wc -l").output, "9\n");
  EXPECT_EQ(hledger("tags id --values -f '" + path + "' | wc -l").output, "8\n");
}

TEST(Journal, IsRefusedByHledgerOnceAnAmountIsChanged) {
  const TemporaryFolder folder;
  Books books;
  fill(books);
  std::string journal = must(export_journal(books.db));
  const std::size_t at = journal.find("  186000 mGPUs");
  ASSERT_NE(at, std::string::npos);
  journal.replace(at, 8, "  186001");

  const Answer answer = hledger("check --strict -f '" + written(folder, journal) + "'");

  EXPECT_NE(answer.code, 0);
  EXPECT_NE(answer.code, 127) << "hledger is not installed";
}

TEST(Journal, OfEveryKindOfTransferIsAccepted) {
  const TemporaryFolder folder;
  Books books;
  fill_with_every_kind(books);
  std::set<std::string> kinds;
  must(books.db.query("SELECT DISTINCT kind FROM transfer", {},
                      [&kinds](const Row& row) { kinds.insert(row.text(0)); }));
  ASSERT_EQ(kinds, (std::set<std::string>{"begin", "charge", "debt", "expire", "extend", "grant",
                                          "hold", "reduce", "refund", "release", "repay", "set"}));

  const Answer answer =
      hledger("check --strict -f '" + written(folder, must(export_journal(books.db))) + "'");

  EXPECT_EQ(answer.code, 0) << answer.output;
}

// The money accounts as hledger has them, a line each.
std::set<std::string> money_in_hledger(const std::string& path) {
  std::istringstream output(
      hledger("balance --flat -N -E -O csv cost tariff till sales -f '" + path + "'").output);
  std::set<std::string> rows;
  std::string row;
  std::getline(output, row);  // The titles.
  while (std::getline(output, row)) rows.insert(row);
  return rows;
}

TEST(Journal, ShowsWhatWasPaidAndWhatAChargeCosts) {
  const TemporaryFolder folder;
  Books books;
  fill_with_money(books);
  const std::string journal = must(export_journal(books.db));
  const std::string path = written(folder, journal);

  const Answer strict = hledger("check --strict -f '" + path + "'");

  EXPECT_EQ(strict.code, 0) << strict.output << journal;
  EXPECT_EQ(money_in_hledger(path),
            (std::set<std::string>{"\"cost:user:ada\",\"1.50 EUR\"",
                                   "\"sales:user:ada\",\"-9.26 EUR\"",
                                   "\"tariff\",\"-1.50 EUR\"",
                                   "\"till:web-shop_1.a\",\"9.26 EUR\""}));
  EXPECT_NE(journal.find("    tariff  0.01 EUR = -0.02 EUR\n"
                         "    cost:user:ada  -0.01 EUR = 0.02 EUR\n"),
            std::string::npos)
      << journal;
}

TEST(Journal, ShowsMoneyThatWentBackWithoutHours) {
  const TemporaryFolder folder;
  Books books;
  Till till = must(Till::open(books.db, books.ledger));
  must(till.set_price({kNow, "EUR", 7'200'000, "root"}, kNow));  // A cent buys half a mGPUs.
  must(till.pay({"shop", "p1", "user:ada", "EUR", 3, "", "shop"}, kNow));
  must(till.reverse({"shop", "re1", "refund", "p1", "EUR", 1, "shop"}, kNow + 100'000));
  const std::string path = written(folder, must(export_journal(books.db)));

  EXPECT_EQ(hledger("check --strict ordereddates -f '" + path + "'").code, 0);
  EXPECT_EQ(money_in_hledger(path),
            (std::set<std::string>{"\"sales:user:ada\",\"-0.02 EUR\"",
                                   "\"till:shop\",\"0.02 EUR\""}));
}

TEST(Journal, IsThatOfItsPage) {
  Books books;
  fill_for_the_page(books);
  const TemporaryFolder folder;

  const Answer answer =
      hledger("check --strict -f '" + written(folder, block_of_page("hledger")) + "'");

  EXPECT_EQ(must(export_journal(books.db)), block_of_page("hledger"));
  EXPECT_EQ(answer.code, 0) << answer.output;
}

TEST(Journal, OfAnEmptyLedgerIsAccepted) {
  const TemporaryFolder folder;
  Books books;

  const Answer answer =
      hledger("check --strict -f '" + written(folder, must(export_journal(books.db))) + "'");

  EXPECT_EQ(answer.code, 0) << answer.output;
}

}  // namespace
}  // namespace accounting
