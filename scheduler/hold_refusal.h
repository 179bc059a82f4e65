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

// What the fund pays for this member: what is available or may go below zero, within his cap. `bound`
// is what a hold of more would be answered.
struct Payable {
  accounting::Amount amount;
  accounting::HoldStatus bound = accounting::HoldStatus::kExceedsAvailable;
};
[[nodiscard]] Expected<Payable> payable_by(const accounting::Ledger& ledger, const std::string& fund,
                                           const std::string& member);

}  // namespace scheduler
