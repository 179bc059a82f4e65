// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/submission.h
//
// One hold, one job: a submission whose answer was lost is looked for in Slurm before it is called failed
// or done again.
#pragma once

#include <variant>

#include "scheduler/cluster.h"

namespace scheduler {

struct NotSubmitted {  // The job is not in Slurm.
  Error why;
};
struct Unsure {        // Slurm neither answered nor let itself be asked: the job may be there.
  Error why;
};

using Submission = std::variant<Submitted, NotSubmitted, Unsure>;

// Submits the job of `spec`, which is known by its comment and its owner `uid`. With `is_again` somebody
// may have done so before: that job is looked for first, and only where there is none a new one is
// submitted. Of several the one with the lowest number counts, as for the service.
[[nodiscard]] Submission submit_once(Cluster& cluster, const JobSpec& spec, std::uint32_t uid,
                                     bool is_again);

}  // namespace scheduler
