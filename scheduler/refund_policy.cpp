// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/refund_policy.h"

#include <algorithm>

#include "accounting/tariff.h"
#include "trainer/contract/exit_code.h"

namespace scheduler {

namespace {

// The gate answers within 20 s (slurm/start_gate.in); slurmctld puts the job back within seconds.
constexpr std::int64_t kGate_s = 60;

// slurmctld drains the node and puts the job back, or ends it, in the same second as a rule, and in no
// certain order: slurmd tells of both, one message after the other.
constexpr std::int64_t kPutBack_s = 60, kDrained_s = 10;
// A Prolog takes no longer; a job that ran may have been put back by its owner when another's failed.
constexpr std::int64_t kProlog_s = 600;

bool is_named_by(const Site& site, const std::string& word) {
  const auto& states = site.refunds.states;
  return std::find(states.begin(), states.end(), word) != states.end();
}

bool failed_at_launch(const AttemptCharged& charged, std::span<const UtcSeconds> failed_prologs) {
  // A job may also fail by itself while another's Prolog fails on its node: there the two must be closer.
  const std::int64_t before_s = charged.state == JobState::kFailed ? kDrained_s : kPutBack_s;
  return std::any_of(failed_prologs.begin(), failed_prologs.end(), [&](UtcSeconds failed) {
    return failed >= std::max(charged.start, charged.end - before_s) &&
           failed <= charged.end + kDrained_s;
  });
}

bool was_kept_out(const Segment& segment, const AttemptCharged& charged) {
  const auto& refused = segment.refused_starts;
  return charged.state == JobState::kRequeued &&
         std::any_of(refused.begin(), refused.end(), [&](const StartRefused& each) {
           return each.job == charged.job && each.start == charged.start;
         });
}

bool ended_on_bad_node(const Segment& segment, const AttemptCharged& charged) {
  return !segment.is_plain && charged.state == JobState::kFailed &&
         charged.exit_code == static_cast<int>(contract::ExitCode::kBadNode);
}

// What was given back of earlier parts of the same allocation: a record that grew is charged in parts.
// Each attempt of a job has a submit time of its own.
Amount given_back_before(const Segment& segment, const AttemptCharged& charged) {
  Amount sum;
  if (charged.submit == 0) return sum;
  for (const AttemptCharged& other : segment.charges) {
    const bool is_part = other.job == charged.job && other.submit == charged.submit &&
                         other.start < charged.start;
    if (is_part) sum.milli_gpu_s += other.refunded.milli_gpu_s;
  }
  return sum;
}

}  // namespace

bool may_have_failed_at_launch(const Segment& segment, const AttemptCharged& charged, const Site& site) {
  if (charged.end <= charged.start || !is_named_by(site, RefundPolicy::kLaunchFailed)) return false;
  if (charged.state == JobState::kRequeued) return true;
  if (charged.state == JobState::kCancelled) return charged.killed_by_uid == 0;
  // An srun that hears of it before slurmctld has cancelled the job ends it itself, with the error as its
  // exit code.
  return charged.state == JobState::kFailed && segment.is_plain &&
         charged.end - charged.start <= kProlog_s;
}

std::optional<PolicyRefund> refund_of(const Segment& segment, const AttemptCharged& charged,
                                      const Site& site, std::span<const UtcSeconds> failed_prologs) {
  PolicyRefund refund{to_name(charged.state), site.refunds.cap};
  if (!is_named_by(site, refund.reason)) {
    std::int64_t longest_s = 0;
    if (was_kept_out(segment, charged)) {
      refund.reason = RefundPolicy::kStartRefused;
      longest_s = kGate_s;
    } else if (may_have_failed_at_launch(segment, charged, site) &&
               failed_at_launch(charged, failed_prologs)) {
      refund.reason = RefundPolicy::kLaunchFailed;
      longest_s = kProlog_s;
    } else if (ended_on_bad_node(segment, charged)) {
      // The job runs as its user, who can end it with any code: no more than a preflight takes.
      refund.reason = RefundPolicy::kBadNode;
      const InstanceType* type = site.find_type(segment.plan.type);
      longest_s = site.launch.preflight_s + (type == nullptr ? 0 : type->startup_s);
    }
    if (!is_named_by(site, refund.reason)) return std::nullopt;
    const auto longest = accounting::usage_amount(charged.gpus, longest_s,
                                                  segment.plan.quote.weight_milli);
    if (longest) refund.amount = std::min(refund.amount, *longest);
  }
  refund.amount.milli_gpu_s -= given_back_before(segment, charged).milli_gpu_s;
  refund.amount = std::min(refund.amount, charged.charged);
  if (refund.amount <= Amount{}) return std::nullopt;
  return refund;
}

}  // namespace scheduler
