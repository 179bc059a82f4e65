// SPDX-License-Identifier: GPL-3.0-or-later
// accounting/journal.h
//
// All transfers as an hledger journal, so that anybody can recompute the books with a program that
// is not ours: hledger check --strict -f ledger.journal.
#pragma once

#include <string>

#include "accounting/ledger.h"

namespace accounting {

// One transaction a transfer, in the integer commodity mGPUs (milli-GPU-seconds), with the tags id,
// run, hold and hash. Each posting asserts the balance that the ledger derived for its account.
[[nodiscard]] Expected<std::string> export_journal(Database& db);

}  // namespace accounting
