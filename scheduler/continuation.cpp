// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/continuation.h"

#include <algorithm>

#include <fmt/format.h>

namespace scheduler {
namespace {

constexpr int kNodeFailuresMax = 5;
constexpr int kIdleAttemptsMax = 5;              // In a row.
constexpr std::int64_t kIdleAttempt_s = 30;      // Too short to have trained.
constexpr std::int64_t kPausedMax_s = 30 * 86'400;
constexpr std::int64_t kShortestAttempt_s = 600;

int node_failures(const Segment& segment) {
  return static_cast<int>(std::count_if(
      segment.charges.begin(), segment.charges.end(), [](const AttemptCharged& charge) {
        return charge.state == JobState::kNodeFail || charge.state == JobState::kBootFail;
      }));
}

int idle_attempts(const Segment& segment) {
  int idle = 0;
  for (const AttemptCharged& charge : segment.charges) {
    const bool is_idle = charge.end - charge.start < kIdleAttempt_s &&
                         charge.state != JobState::kPreempted;
    idle = is_idle ? idle + 1 : 0;
  }
  return idle;
}

// Why it does not go on; empty: it does.
std::string why_not(const Run& run, const JobSnapshot& job, UtcSeconds now) {
  const Segment& segment = run.last();
  if (segment.rejected) return *segment.rejected;
  if (const int failures = node_failures(segment); failures > kNodeFailuresMax) {
    return fmt::format("nodes failed {} times under this run; {} are followed", failures,
                       kNodeFailuresMax);
  }
  if (const int idle = idle_attempts(segment); idle > kIdleAttemptsMax) {
    return fmt::format("{} attempts in a row lasted less than {} s each", idle, kIdleAttempt_s);
  }
  if (now - job.submit > kPausedMax_s && run.state == RunState::kPaused) {
    return fmt::format("it was paused for {} days", kPausedMax_s / 86'400);
  }
  return "";
}

// Of a timed run: what is left of the hours that it was quoted.
std::int64_t hours_left_s(const Segment& segment) {
  const Plan& plan = segment.plan;
  const std::int64_t left_s = plan.quote.expected_s - segment.charged_seconds();
  const auto second = accounting::usage_amount(plan.gpus, 1, plan.quote.weight_milli);
  if (!second || second->milli_gpu_s == 0) return left_s;
  return std::min(left_s, segment.remaining().milli_gpu_s / second->milli_gpu_s);
}

// All its hours are held since it was admitted: a further attempt costs nothing more. Its limit is
// set before it is let start.
void add_timed_continuation(const Run& run, const View& view, UtcSeconds now,
                            const Patience& patience, std::vector<Action>& actions) {
  const Segment& segment = run.last();
  const JobSnapshot& job = *view.job;
  const std::int64_t left_s = hours_left_s(segment);
  const std::int64_t margin_s = patience.margin_s(segment.plan);
  const std::int64_t limit_s = timed_limit_s(segment.plan, left_s, margin_s);
  if (limit_s == 0) {
    actions.push_back(CancelJob{
        job.id, fmt::format("{}{} s of them are left, less than the {} s that another job needs. "
                            "Its weights are those of its last epoch, or where none is finished of "
                            "its last checkpoint; it can be resumed with a larger time",
                            kHoursUsed, std::max<std::int64_t>(left_s, 0),
                            margin_s + segment.plan.job_shortest_s)});
  } else if (job.time_limit_s > limit_s) {
    actions.push_back(CutLimit{job.id, limit_s});
  } else if (job.is_held && is_covered(run, view, now, patience)) {
    actions.push_back(ReleaseJob{job.id});
  }
}

// The jobs of an epochs run together last no longer than its tier allows. Ends or shortens the next one.
bool is_bound_by_tier(const Run& run, const JobSnapshot& job, std::vector<Action>& actions) {
  const auto left_s = tier_left_s(run);
  if (!left_s || job.time_limit_s <= *left_s) return false;
  const std::int64_t limit_s = *left_s / 60 * 60;
  const Plan& plan = run.last().plan;
  if (limit_s >= 2 * kIdleAttempt_s) {
    actions.push_back(CutLimit{job.id, limit_s});
    if (!job.is_held) actions.push_back(HoldJob{job.id, "its tier's hours are reckoned"});
  } else {
    actions.push_back(CancelJob{
        job.id, fmt::format("{}tier {} allows a run {} min, of which {} are used: too little is left for "
                            "another job. It goes on under a tier that allows more", kHoursUsed,
                            plan.tier, plan.tier_max_s / 60, run.allocated_s() / 60)});
  }
  return true;
}

}  // namespace

std::int64_t timed_limit_s(const Plan& plan, std::int64_t left_s, std::int64_t margin_s) {
  constexpr std::int64_t kMinute = 60;
  const std::int64_t fits_s = (left_s - margin_s) / kMinute * kMinute;
  if (left_s - margin_s < plan.job_shortest_s || fits_s < kMinute) return 0;
  if (plan.job_limit_s == 0 || fits_s < plan.job_limit_s) return fits_s;
  const bool is_last = left_s - plan.job_limit_s < margin_s + plan.job_shortest_s;
  return is_last ? plan.job_limit_s - kMinute : plan.job_limit_s;
}

void add_late_limit(const Run& run, const View& view, const Patience& patience,
                    std::vector<Action>& actions) {
  const Segment& segment = run.last();
  if (segment.plan.job_limit_s == 0 || view.job->state != JobState::kRunning) return;
  const std::int64_t limit_s =
      timed_limit_s(segment.plan, hours_left_s(segment), patience.margin_s(segment.plan));
  if (limit_s > 0 && view.job->time_limit_s > limit_s) {
    actions.push_back(CutLimit{view.job->id, limit_s});
  }
}

bool is_continuation(const Run& run, const View& view) {
  return run.last().plan.auto_resume && view.job != nullptr && view.job->attempt > 0 &&
         view.job->state == JobState::kPending;
}

void add_continuation(const Run& run, const View& view, UtcSeconds now, const Patience& patience,
                      std::vector<Action>& actions) {
  const Segment& segment = run.last();
  const JobSnapshot& job = *view.job;
  if (const std::string why = why_not(run, job, now); !why.empty()) {
    actions.push_back(CancelJob{job.id, why});
    return;
  }
  if (!is_as_planned(segment, job)) return;  // add_coverage() rejects it.
  if (segment.pause_requested) {
    if (!job.is_held) actions.push_back(HoldJob{job.id, "paused by " + segment.stopped_by});
    return;
  }
  if (segment.plan.is_timed) return add_timed_continuation(run, view, now, patience, actions);
  if (is_bound_by_tier(run, job, actions)) return;
  if (is_covered(run, view, now, patience)) {
    if (job.is_held) actions.push_back(ReleaseJob{job.id});
    return;
  }
  const std::int64_t least_s = std::min(
      job.time_limit_s, std::max(kShortestAttempt_s, segment.plan.time_limit_s / 4));
  actions.push_back(FundAttempt{job.id, job.time_limit_s, least_s});
  if (!job.is_held) actions.push_back(HoldJob{job.id, "its hours are set aside"});
}

}  // namespace scheduler
