// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/continuation.h
//
// How a run with auto_resume goes on: its job requeues itself (or Slurm requeues it), and waits until
// its next attempt is paid. Pure.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "scheduler/run.h"

namespace scheduler {

// How the reason begins for which a run whose hours, or its tier's, are used is not continued: it counts
// as stopped, not as failed.
inline constexpr std::string_view kHoursUsed = "hours: ";

// The limit of the next job of a timed run that has `left_s` of its hours: the plan's job_limit_s
// where another can follow it; else less, so that its script knows it for the last, with the margin
// inside the hours. 0: too little is left for a job.
[[nodiscard]] std::int64_t timed_limit_s(const Plan& plan, std::int64_t left_s,
                                         std::int64_t margin_s);

// Does the view's job wait for a further attempt of a run that goes on by itself?
[[nodiscard]] bool is_continuation(const Run& run, const View& view);

// Precondition: is_continuation, and all attempts before are in the books. Preemptions are followed
// without end; nodes that fail again and again and attempts that get nowhere are not.
void add_continuation(const Run& run, const View& view, UtcSeconds now, const Patience& patience,
                      std::vector<Action>& actions);

// Of a timed run's job that runs, all attempts before it in the books: one that Slurm put back into
// the queue itself may have started before its limit was set. It is set late; its script looks again.
void add_late_limit(const Run& run, const View& view, const Patience& patience,
                    std::vector<Action>& actions);

}  // namespace scheduler
