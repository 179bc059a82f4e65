// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/run_audit.h
//
// The ledger against the events of the runs. Both were written in one transaction, so each charge has
// its event and each segment its hold, with the same numbers; what is open in one is open in the other.
#pragma once

#include <string>
#include <vector>

#include "accounting/ledger.h"
#include "scheduler/error.h"
#include "scheduler/run.h"

namespace scheduler {

// One sentence a fault; empty: they agree. `runs`: all that the books have. Changes nothing.
[[nodiscard]] Expected<std::vector<std::string>> compare_with_ledger(accounting::Database& db,
                                                                     accounting::Ledger& ledger,
                                                                     const std::vector<Run>& runs);

}  // namespace scheduler
