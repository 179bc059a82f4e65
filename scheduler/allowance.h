// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/allowance.h
//
// What a tier gives its users each month.
#pragma once

#include <string>

#include "accounting/ledger.h"
#include "scheduler/error.h"
#include "scheduler/site.h"

namespace scheduler {

// The month's allowance of the user's tier into his wallet, where he has not got it yet. Once a month
// whatever the tier: a change of tier is for the next month.
[[nodiscard]] Expected<void> give_allowance(accounting::Ledger& ledger, const Site& site,
                                            const std::string& user, accounting::UtcSeconds now);

}  // namespace scheduler
