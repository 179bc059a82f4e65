// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/refund_policy.h
//
// What a site gives back of an attempt that ended through no fault of its user ([refunds] of
// docs/formats/site.md). Pure.
#pragma once

#include <optional>
#include <span>
#include <string>

#include "scheduler/run.h"
#include "scheduler/site.h"

namespace scheduler {

struct PolicyRefund {
  std::string reason;  // The word of refunds.states: one refund of a charge for each.
  Amount amount;       // > 0, and never more than was charged.
};

// Whether its nodes' failed Prologs count (Cluster::failed_prologs). Of one that its owner cancelled, they
// do not; of a job that FAILED, only where it may have been an srun's or salloc's.
[[nodiscard]] bool may_have_failed_at_launch(const Segment& segment, const AttemptCharged& charged,
                                             const Site& site);

// Of the attempt of this segment; nothing: its charge stays. `failed_prologs`: of the attempt's nodes.
[[nodiscard]] std::optional<PolicyRefund> refund_of(const Segment& segment,
                                                    const AttemptCharged& charged, const Site& site,
                                                    std::span<const UtcSeconds> failed_prologs = {});

}  // namespace scheduler
