// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/continuation.h
//
// How a run with auto_resume goes on: its job requeues itself (or Slurm requeues it), and waits until
// its next attempt is paid. Pure.
#pragma once

#include <vector>

#include "scheduler/run.h"

namespace scheduler {

// Does the view's job wait for a further attempt of a run that goes on by itself?
[[nodiscard]] bool is_continuation(const Run& run, const View& view);

// Precondition: is_continuation, and all attempts before are in the books. Preemptions are followed
// without end; nodes that fail again and again and attempts that get nowhere are not.
void add_continuation(const Run& run, const View& view, UtcSeconds now, const Patience& patience,
                      std::vector<Action>& actions);

}  // namespace scheduler
