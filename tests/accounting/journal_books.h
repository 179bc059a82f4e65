// SPDX-License-Identifier: GPL-3.0-or-later
// tests/accounting/journal_books.h
//
// Books whose journal is read by programs that are not ours, and a way to run these.
#pragma once

#include <sys/wait.h>

#include <cstdio>
#include <fstream>
#include <string>

#include "accounting/journal.h"
#include "accounting/till.h"
#include "books.h"

namespace accounting {

inline constexpr UtcSeconds kNow = 1'795'507'200;  // 2026-11-24T08:00:00Z

struct Answer {
  int code = -1;
  std::string output;
};

inline Answer answer_of_program(const std::string& program, const std::string& arguments) {
  const std::string command = "LC_ALL=C.UTF-8 '" + program + "' " + arguments + " 2>&1";
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

// Names and notes that a journal could take for something else.
inline void fill(Books& books) {
  Grant grant = grant_of("g1", "user:ada", hours(100));
  grant.note = "a, b; c: d | e [2020-01-01] (x) date:2020-01-01 = 5 * ! \xc3\xa9 @ 3 \"q\" \\n #t ^l";
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

inline std::string written(const TemporaryFolder& folder, const std::string& journal) {
  const std::string path = folder.file("ledger.journal");
  std::ofstream(path) << journal;
  return path;
}

// A transfer of each kind but those of payments.
inline void fill_with_every_kind(Books& books) {
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
}

// A GPU-hour is 0.74 EUR: 10 EUR are paid and 0.74 go back; a charge of 3 cents of which one is
// refunded, and one of 1.48 EUR.
inline void fill_with_money(Books& books) {
  Till till = must(Till::open(books.db, books.ledger));
  must(till.set_price({kNow, "EUR", 74, "root"}, kNow));
  must(till.pay({"web-shop_1.a", "p1", "user:ada", "EUR", 1'000, "", "shop"}, kNow + 10));
  must(books.ledger.hold(hold_of("r1/1", "user:ada", hours(1)), kNow + 20));
  must(books.ledger.charge(charge_of("alpha/17/0", "r1/1", 1, 100), kNow + 120));
  must(books.ledger.release("r1/1", "done", kNow + 130));
  must(books.ledger.refund({"alpha/17/0/x", "alpha/17/0", {33'000}, "root", ""}, kNow + 140));
  must(till.reverse({"web-shop_1.a", "re1", "refund", "p1", "EUR", 74, "shop"}, kNow + 90'000));
  must(books.ledger.hold(hold_of("r2/1", "user:ada", hours(2)), kNow + 90'010));
  must(books.ledger.charge(charge_of("alpha/18/0", "r2/1", 1, 7'200), kNow + 100'000));
  must(books.ledger.release("r2/1", "done", kNow + 100'001));
}

// The books of the examples in docs/formats/journal.md.
inline void fill_for_the_page(Books& books) {
  Till till = must(Till::open(books.db, books.ledger));
  must(till.set_price({kNow, "EUR", 74, "root"}, kNow));
  must(till.pay({"shop", "p1", "group:vision_2", "EUR", 7'400, "", "root"}, kNow));
  must(books.ledger.hold(hold_of("r1/1", "group:vision_2", hours(4)), kNow + 3'600));
  must(books.ledger.charge(charge_of("alpha/r1/1/0", "r1/1", 2, 5'400), kNow + 86'400));
  must(books.ledger.release("r1/1", "done", kNow + 86'400));
}

// A block of the page, "```KIND".
inline std::string block_of_page(const std::string& kind) {
  const std::string page = content_of(TRAINYARD_JOURNAL_FORMAT);
  const std::string fence = "\n```" + kind + "\n";
  const std::size_t begin = page.find(fence);
  const std::size_t end = page.find("\n```\n", begin + 1);
  if (begin == std::string::npos || end == std::string::npos) return "";
  return page.substr(begin + fence.size(), end + 1 - begin - fence.size());
}

}  // namespace accounting
