// SPDX-License-Identifier: GPL-3.0-or-later
//
// The journal is read by the real beancount: bean-check recomputes its balances. Where it is missing
// this fails; it is in the list of packages of scripts/packages.
#include <gtest/gtest.h>

#include <set>
#include <sstream>

#include "accounting/journal_format.h"
#include "journal_books.h"

namespace accounting {
namespace {

Answer bean_check(const std::string& path) {
  return answer_of_program(TRAINYARD_BEAN_CHECK, "--no-cache '" + path + "'");
}

std::string beancount_of(Books& books) {
  return must(export_journal(books.db, JournalFormat::kBeancount));
}

// The sum of each account, as beancount has it: "Equity:Treasury -385200000 MGPUS".
std::set<std::string> balances_in_beancount(const std::string& path) {
  const Answer answer = answer_of_program(
      TRAINYARD_BEAN_QUERY,
      "--no-errors -f csv '" + path + "' 'select account, sum(position) group by account'");
  std::set<std::string> rows;
  std::istringstream lines(answer.output);
  std::string line;
  std::getline(lines, line);  // The titles.
  while (std::getline(lines, line)) {
    for (char& c : line) c = c == ',' ? ' ' : c;
    std::istringstream words(line);
    std::string account, number, unit;
    words >> account >> number >> unit;
    if (!unit.empty()) rows.insert(account + " " + number + " " + unit);
  }
  return rows;
}

TEST(Beancount, AcceptsEveryKindOfTransfer) {
  for (void (*fill_books)(Books&) : {fill, fill_with_every_kind, fill_with_money}) {
    const TemporaryFolder folder;
    Books books;
    fill_books(books);
    const std::string journal = beancount_of(books);

    const Answer answer = bean_check(written(folder, journal));

    EXPECT_EQ(answer.code, 0) << answer.output << journal;
    EXPECT_EQ(answer.output, "");
  }
}

TEST(Beancount, AcceptsAnEmptyLedger) {
  const TemporaryFolder folder;
  Books books;
  EXPECT_EQ(bean_check(written(folder, beancount_of(books))).code, 0);
}

TEST(Beancount, HasTheBalancesOfTheBooks) {
  const TemporaryFolder folder;
  Books books;
  fill(books);

  const auto rows = balances_in_beancount(written(folder, beancount_of(books)));

  std::set<std::string> expected;
  must(books.db.query("SELECT name, balance FROM account WHERE balance <> 0", {},
                      [&expected](const Row& row) {
                        expected.insert(beancount_account(row.text(0)) + " " +
                                        std::to_string(row.integer(1)) + " MGPUS");
                      }));
  EXPECT_EQ(expected.size(), 4u);
  EXPECT_EQ(rows, expected);
}

TEST(Beancount, HasTheMoney) {
  const TemporaryFolder folder;
  Books books;
  fill_with_money(books);

  const auto rows = balances_in_beancount(written(folder, beancount_of(books)));

  for (const char* row : {"Assets:Till:Provider-web--shop-U1-Da 9.26 EUR",
                          "Income:Sales:User-ada -9.26 EUR", "Expenses:Cost:User-ada 1.50 EUR",
                          "Equity:Tariff -1.50 EUR"}) {
    EXPECT_TRUE(rows.contains(row)) << row;
  }
}

// What stands behind `text`, a number, is made one more.
std::string with_one_more(std::string journal, const std::string& text) {
  const std::size_t at = journal.find(text);
  if (at == std::string::npos) throw std::runtime_error(text + " is not in\n" + journal);
  const std::size_t last = journal.find(' ', at + text.size()) - 1;
  ++journal[last];  // No such number of these books ends in 9.
  return journal;
}

TEST(Beancount, RefusesABalanceThatIsWrong) {
  Books books;
  fill_with_money(books);
  const std::string journal = beancount_of(books);
  for (const char* text : {" balance Assets:Held:User-ada  ", " balance Expenses:Cost:User-ada  ",
                           " balance Expenses:Usage:Cluster-alpha  "}) {
    SCOPED_TRACE(text);
    const TemporaryFolder folder;

    const Answer answer = bean_check(written(folder, with_one_more(journal, text)));

    EXPECT_EQ(answer.code, 1);
    EXPECT_NE(answer.output.find("Balance failed for"), std::string::npos) << answer.output;
  }
}

TEST(Beancount, RefusesAnAmountThatIsWrong) {
  const TemporaryFolder folder;
  Books books;
  fill_with_money(books);

  const Answer answer =
      bean_check(written(folder, with_one_more(beancount_of(books), "  Expenses:Usage:Cluster-alpha  ")));

  EXPECT_EQ(answer.code, 1);
  EXPECT_NE(answer.output.find("does not balance"), std::string::npos) << answer.output;
}

TEST(Beancount, HasAnAccountOfItsOwnForEachOfOurs) {
  EXPECT_EQ(beancount_account("fund:group:vision_2.x"), "Assets:Fund:Group-vision-U2-Dx");
  EXPECT_EQ(beancount_account("fund:user:ada+b@dept"), "Assets:Fund:User-ada-Pb-Adept");
  EXPECT_EQ(beancount_account("treasury"), "Equity:Treasury");
  std::set<std::string> names;
  std::size_t count = 0;
  for (const char* kind : {"fund:user:", "fund:group:", "held:user:", "debt:group:", "usage:"}) {
    for (const char* name : {"a-b", "a_b", "a.b", "a--b", "a-Ub", "aUb", "A-b", "-", "_", ".", "-D",
                             "D", "--D", "-.", ".-", "9", "User-a"}) {
      names.insert(beancount_account(std::string(kind) + name));
      ++count;
    }
  }
  EXPECT_EQ(names.size(), count);
}

TEST(Beancount, JournalIsThatOfItsPage) {
  Books books;
  fill_for_the_page(books);
  const TemporaryFolder folder;

  const Answer answer = bean_check(written(folder, block_of_page("beancount")));

  EXPECT_EQ(beancount_of(books), block_of_page("beancount"));
  EXPECT_EQ(answer.code, 0) << answer.output;
}

}  // namespace
}  // namespace accounting
