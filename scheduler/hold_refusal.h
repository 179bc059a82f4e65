// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/hold_refusal.h
//
// Why the books set nothing aside, in words with the numbers.
#pragma once

#include "accounting/ledger.h"
#include "scheduler/error.h"

namespace scheduler {

struct HoldAsked {
  std::string fund, member;
  accounting::Amount amount;
  std::int64_t gpus = 0;
};

// Of the statuses that are the fund's own rules; nothing for the others.
[[nodiscard]] Expected<std::optional<Refusal>> rule_refusal(const accounting::Ledger& ledger,
                                                            accounting::HoldStatus status,
                                                            const HoldAsked& asked);

}  // namespace scheduler
