// SPDX-License-Identifier: GPL-3.0-or-later
//
// The journal is read by the real hledger: a second program recomputes the books. Where hledger is
// missing this fails; it is in the list of packages of scripts/test.
#include "accounting/journal.h"

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdio>
#include <fstream>
#include <set>
#include <sstream>

#include "books.h"

namespace accounting {
namespace {

constexpr UtcSeconds kNow = 1'795'507'200;

struct Answer {
  int code = -1;
  std::string output;
};

Answer hledger(const std::string& arguments) {
  const std::string command =
      std::string("LC_ALL=C.UTF-8 '") + TRAINYARD_HLEDGER + "' " + arguments + " 2>&1";
  Answer answer;
  FILE* pipe = ::popen(command.c_str(), "r");
  if (pipe == nullptr) return answer;
  char buffer[4096];
  std::size_t length = 0;
  while ((length = std::fread(buffer, 1, sizeof buffer, pipe)) > 0) {
    answer.output.append(buffer, length);
  }
  const int status = ::pclose(pipe);
  if (WIFEXITED(status)) answer.code = WEXITSTATUS(status);
  return answer;
}

void fill(Books& books) {
  Grant grant = grant_of("g1", "user:ada", hours(100));
  grant.note = "a, b; c: d | e [2020-01-01] (x) date:2020-01-01 = 5 * ! \xc3\xa9 @ 3";
  grant.actor = "root; id: forged, hash: forged";
  must(books.ledger.grant(grant, kNow));
  must(books.ledger.grant(grant_of("g2", "group:vision-2.x_y", hours(7)), kNow));
  must(books.ledger.hold(hold_of("r1/1", "user:ada", hours(64)), kNow + 100'000));
  must(books.ledger.charge(charge_of("alpha/17/0", "r1/1", 2, 93), kNow + 200'000));
  must(books.ledger.charge(charge_of("alpha/17/1", "r1/1", 0, 93), kNow + 200'000));
  must(books.ledger.release("r1/1", "done", kNow + 200'001));
  must(books.ledger.hold(hold_of("r2/1", "group:vision-2.x_y", hours(7)), kNow + 300'000));
  Charge other = charge_of("b-2.x/1/0", "r2/1", 1, 90'000);
  other.cluster = "b-2.x";
  must(books.ledger.charge(other, kNow + 400'000));
}

std::string written(const TemporaryFolder& folder, const std::string& journal) {
  const std::string path = folder.file("ledger.journal");
  std::ofstream(path) << journal;
  return path;
}

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
  Grant dated = grant_of("d1", "user:bob", hours(10));
  dated.expires = kNow + 1'000;
  Grant later = grant_of("d2", "user:bob", hours(5));
  later.from = kNow + 500;
  must(books.ledger.grant(dated, kNow));
  must(books.ledger.grant(later, kNow));
  must(books.ledger.set({"s1", "user:bob", "credit_limit", "3600000", 0, "root", "a, b"}, kNow));
  must(books.ledger.hold(hold_of("b1/1", "user:bob", hours(6)), kNow));
  must(books.ledger.extend({"b1/1/e", "b1/1", hours(2), "root", ""}, kNow));
  must(books.ledger.reduce({"b1/1/d", "b1/1", hours(1), "root", ""}, kNow));
  Charge charge = charge_of("alpha/19/0", "b1/1", 8, 3'600);
  charge.excess = Excess::kFundOwes;
  must(books.ledger.charge(charge, kNow));
  must(books.ledger.refund({"alpha/19/0/x", "alpha/19/0", hours(1), "root", ""}, kNow));
  must(books.ledger.release("b1/1", "done", kNow));
  ASSERT_EQ(must(books.ledger.turn(kNow + 2'000)), 2);
  std::set<std::string> kinds;
  must(books.db.query("SELECT DISTINCT kind FROM transfer", {},
                      [&kinds](const Row& row) { kinds.insert(row.text(0)); }));
  ASSERT_EQ(kinds, (std::set<std::string>{"begin", "charge", "debt", "expire", "extend", "grant",
                                          "hold", "reduce", "refund", "release", "repay", "set"}));

  const Answer answer =
      hledger("check --strict -f '" + written(folder, must(export_journal(books.db))) + "'");

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
