// SPDX-License-Identifier: GPL-3.0-or-later
// accounting/member_limits.h
//
// Private to the module: what is in use, and how much one member of a group may have at once, by
// the fund's settings gpus/MEMBER and runs/MEMBER, or member_gpus_max and member_runs_max for all
// that have none of their own. Runs in the caller's transaction.
#pragma once

#include <optional>
#include <string>

#include "accounting/ledger.h"

namespace accounting {

// What the open holds of a fund have; of one member where `member` is not empty.
[[nodiscard]] Expected<OpenUse> open_use_of(Database& db, const std::string& fund,
                                            const std::string& member);

// The first of them that a new hold of the member would break.
[[nodiscard]] Expected<std::optional<HoldStatus>> beyond_member_limits(Database& db,
                                                                       const Hold& hold);

}  // namespace accounting
