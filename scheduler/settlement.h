// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/settlement.h
//
// Which allocations of a run are over, which are in the books, and what is still to be charged. Pure.
//
// An allocation is known by its job and its start, not by Slurm's count of restarts: a controller that
// crashed counts anew, starts a job again under the same submit time, or closes a record a second
// time, later. So what is charged is the part of an allocation that no charge of the run covers.
#pragma once

#include <optional>
#include <vector>

#include "scheduler/run.h"

namespace scheduler {

// Nothing that Slurm could have allocated by now: such a record is left alone, with a finding, and what
// was seen is charged.
[[nodiscard]] bool makes_no_sense(const AllocationRecord& record, UtcSeconds now,
                                  const Patience& patience);

// Until when the allocation from `start` to `end` is in the books; nothing: it is not.
[[nodiscard]] std::optional<UtcSeconds> charged_until(const Run& run, JobId job, UtcSeconds start,
                                                      UtcSeconds end);

// Charges of allocations that are over, and notes of records that say less than was charged.
void add_charges(const Run& run, const View& view, UtcSeconds now, const Patience& patience,
                 std::vector<Action>& actions);

// Is all that the job had before its present attempt in the books, so that the rest of the hold is
// known? After record_wait_s what neither slurmdbd nor a look has shown is not waited for.
[[nodiscard]] bool earlier_attempts_are_charged(const Run& run, const View& view, UtcSeconds now,
                                                const Patience& patience);

// Precondition: the segment's job ended. Is there nothing more to wait for?
[[nodiscard]] bool is_settled(const Run& run, const View& view, UtcSeconds now,
                              const Patience& patience);

// Starts of the job of which neither slurmdbd nor a look has shown anything, in words; or nothing.
// `attempts`: how many Slurm counts.
[[nodiscard]] std::string unseen_attempts(const Run& run, JobId job, int attempts);

// A lost job whose hold is released though its end is not known, in words; or nothing.
[[nodiscard]] std::string unseen_end(const Run& run, const View& view);

// The number of the run's next charge.
[[nodiscard]] int next_attempt(const Run& run);

}  // namespace scheduler
