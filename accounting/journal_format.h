// SPDX-License-Identifier: GPL-3.0-or-later
// accounting/journal_format.h
//
// Private to the module: how a journal is written, for hledger and for beancount.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "accounting/journal.h"

namespace accounting {

// The unit of GPU work; every other unit is a currency.
inline constexpr std::string_view kGpuUnit = "mGPUs";

struct JournalPosting {
  std::string account;       // "fund:user:ada"
  std::string unit;          // mGPUs, EUR
  std::int64_t amount = 0;   // In mGPUs or minor units.
  std::int64_t balance = 0;  // Of the account, after it.
};

struct JournalEntry {
  std::string day;           // "2026-11-24", never before the entry's before.
  std::int64_t seq = 0;      // Of the transfer; 0: of none.
  std::string description;
  std::vector<std::pair<std::string_view, std::string>> tags;
  std::vector<JournalPosting> postings;
};

class JournalWriter {
 public:
  explicit JournalWriter(JournalFormat format) : format_(format) {}
  void add(const JournalEntry& entry);
  // All of it, with what it declares. Nothing may be added afterwards.
  [[nodiscard]] std::string finish(const Head& head);

 private:
  struct Account {
    std::string unit, since;
    std::int64_t balance = 0;
    bool has_moved = false;  // On the day of the last entry.
  };
  void add_hledger(const JournalEntry& entry);
  void add_beancount(const JournalEntry& entry);
  void assert_balances();
  [[nodiscard]] std::string hledger_head() const;
  [[nodiscard]] std::string beancount_head() const;

  JournalFormat format_;
  std::map<std::string, Account> accounts_;
  std::string first_day_, day_, body_;
};

// "fund:group:vision_2.x" -> "Assets:Fund:Group-vision-U2-Dx": no two accounts share a name.
[[nodiscard]] std::string beancount_account(std::string_view account);

}  // namespace accounting
