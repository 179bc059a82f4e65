// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/hold_refusal.h
//
// Why the books set nothing aside, in words with the numbers.
#pragma once

#include "accounting/ledger.h"
#include "scheduler/error.h"

namespace scheduler {

// All of what is wanted at once: the tasks of an array together, the parts of a heterogeneous job.
struct HoldAsked {
  std::string fund, member;
  accounting::Amount amount;
  std::int64_t gpus = 0;
  std::int64_t runs = 1;
};

// Of the statuses that are the fund's own rules; nothing for the others. It tells what is in use
// now: to be asked when nothing of what was wanted is held (any more).
[[nodiscard]] Expected<std::optional<Refusal>> rule_refusal(const accounting::Ledger& ledger,
                                                            accounting::HoldStatus status,
                                                            const HoldAsked& asked);

// The same of the rules that bind whenever it is asked, not only while other runs are open: closed, in
// debt, a cap that is used up, more at once than there may ever be. Nothing where hours alone want.
[[nodiscard]] Expected<std::optional<Refusal>> lasting_refusal(const accounting::Ledger& ledger,
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
