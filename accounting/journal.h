// SPDX-License-Identifier: GPL-3.0-or-later
// accounting/journal.h
//
// All transfers as a journal of hledger or beancount, so that anybody can recompute the books with a
// program that is not ours (docs/formats/journal.md).
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "accounting/ledger.h"

namespace accounting {

enum class JournalFormat { kHledger, kBeancount };
[[nodiscard]] std::optional<JournalFormat> parse_journal_format(std::string_view text);

// One transaction a transfer, in milli-GPU-seconds, with what it was made of; beside it the money
// that bought or priced it. The balances that follow are asserted: by hledger behind each posting,
// by beancount at the end of each day. An Error where the books cannot be read or were changed.
[[nodiscard]] Expected<std::string> export_journal(Database& db,
                                                   JournalFormat format = JournalFormat::kHledger);

}  // namespace accounting
