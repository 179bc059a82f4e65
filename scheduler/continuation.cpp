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

}  // namespace

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
  const bool is_other = job.gpus > segment.plan.gpus ||
                        (!job.partition.empty() && job.partition != segment.plan.partition);
  if (is_other) return;  // add_coverage() rejects it.
  if (segment.pause_requested) {
    if (!job.is_held) actions.push_back(HoldJob{job.id, "paused by " + segment.stopped_by});
    return;
  }
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
