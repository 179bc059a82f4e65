// SPDX-License-Identifier: GPL-3.0-or-later
// accounting/statement.h
//
// A statement: the lines of a fund or a run, for people (text) and programs (CSV, JSON).
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "accounting/ledger.h"

namespace accounting {

// What charges cost in money: by the price of the quote that their hours were held by, else by the
// price that was known and in force when they were held. A charge costs its hours rounded up to a
// whole minor unit; a debt or a refund what it adds to or takes from that, so that they add up to the
// cost of what is left. Nothing changes where there is no price.
[[nodiscard]] Expected<void> add_costs(Database& db, std::vector<StatementLine>& lines);

// What a charge came to, by the lines that a statement shows of it.
struct ChargeBill {
  Amount charged;               // To its hold.
  Amount owed;                  // Beyond it, where the fund bears that.
  Amount refunded;              // Of both, by policy or by an admin.
  std::optional<std::int64_t> cost_minor = {};  // Of what is left; nothing where hours have no price.
  std::string currency = {};
};
// Of each charge of the run, by its id.
[[nodiscard]] Expected<std::map<std::string, ChargeBill>> bills_of(Database& db,
                                                                   const std::string& run);

// In quotes where it has a comma, a quote or a line end in it.
[[nodiscard]] std::string csv_field(const std::string& text);

// A table with one row a line; a charge shows its arithmetic "2 GPU x 93 s x 1.000".
[[nodiscard]] std::string statement_text(const std::vector<StatementLine>& lines);
[[nodiscard]] std::string statement_csv(const std::vector<StatementLine>& lines);
// An array of objects; amounts as integers of milli-GPU-seconds.
[[nodiscard]] std::string statement_json(const std::vector<StatementLine>& lines);

}  // namespace accounting
