// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/refund_policy.h
//
// What a site gives back of an attempt that ended through no fault of its user ([refunds] of
// docs/formats/site.md). Pure.
#pragma once

#include <optional>
#include <string>

#include "scheduler/run.h"
#include "scheduler/site.h"

namespace scheduler {

struct PolicyRefund {
  std::string reason;  // The word of refunds.states: one refund of a charge for each.
  Amount amount;       // > 0, and never more than was charged.
};

// Of the attempt of this segment; nothing: its charge stays.
[[nodiscard]] std::optional<PolicyRefund> refund_of(const Segment& segment,
                                                    const AttemptCharged& charged, const Site& site);

}  // namespace scheduler
