// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/refund_policy.h"

#include <algorithm>

#include "accounting/tariff.h"
#include "trainer/contract/exit_code.h"

namespace scheduler {

std::optional<PolicyRefund> refund_of(const Segment& segment, const AttemptCharged& charged,
                                      const Site& site) {
  const auto& states = site.refunds.states;
  const auto is_named = [&states](const std::string& word) {
    return std::find(states.begin(), states.end(), word) != states.end();
  };
  PolicyRefund refund{to_name(charged.state), std::min(charged.charged, site.refunds.cap)};
  if (!is_named(refund.reason)) {
    const bool is_bad_node = !segment.is_plain && charged.state == JobState::kFailed &&
                             charged.exit_code == static_cast<int>(contract::ExitCode::kBadNode);
    refund.reason = RefundPolicy::kBadNode;
    if (!is_bad_node || !is_named(refund.reason)) return std::nullopt;
    // The job runs as its user, who can end it with any code: no more than a preflight takes.
    const InstanceType* type = site.find_type(segment.plan.type);
    const std::int64_t preflight_s =
        site.launch.preflight_s + (type == nullptr ? 0 : type->startup_s);
    const auto longest = accounting::usage_amount(charged.gpus, preflight_s,
                                                  segment.plan.quote.weight_milli);
    if (longest) refund.amount = std::min(refund.amount, *longest);
  }
  if (refund.amount <= Amount{}) return std::nullopt;
  return refund;
}

}  // namespace scheduler
