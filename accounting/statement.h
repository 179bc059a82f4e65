// SPDX-License-Identifier: GPL-3.0-or-later
// accounting/statement.h
//
// A statement: the lines of a fund or a run, for people (text) and programs (CSV, JSON).
#pragma once

#include <string>
#include <vector>

#include "accounting/ledger.h"

namespace accounting {

// A table with one row a line; a charge shows its arithmetic "2 GPU x 93 s x 1.000".
[[nodiscard]] std::string statement_text(const std::vector<StatementLine>& lines);
[[nodiscard]] std::string statement_csv(const std::vector<StatementLine>& lines);
// An array of objects; amounts as integers of milli-GPU-seconds.
[[nodiscard]] std::string statement_json(const std::vector<StatementLine>& lines);

}  // namespace accounting
