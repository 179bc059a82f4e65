// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/submission.h"

#include <algorithm>
#include <utility>

#include "scheduler/plain_job.h"

namespace scheduler {
namespace {

// 0: there is none.
Expected<JobId> job_with_comment(Cluster& cluster, const std::string& comment, std::uint32_t uid,
                                 bool takes_cancelled) {
  const auto jobs = cluster.load_jobs();
  if (!jobs) return tl::unexpected(jobs.error());
  JobId found = 0;
  for (const JobSnapshot& job : *jobs) {
    const bool is_it = job.uid == uid && without_reason(job.comment) == comment &&
                       (takes_cancelled || job.state != JobState::kCancelled);
    if (is_it) found = found == 0 ? job.id : std::min(found, job.id);
  }
  return found;
}

}  // namespace

Submission submit_once(Cluster& cluster, const JobSpec& spec, std::uint32_t uid, bool is_again) {
  if (is_again) {
    const auto before = job_with_comment(cluster, spec.comment, uid, true);
    if (!before) return Unsure{before.error()};
    if (*before != 0) return Submitted{*before, ""};
  }
  auto submitted = cluster.submit(spec);
  if (submitted) return std::move(*submitted);
  // Cluster::submit cancels a job that Slurm took and would never start: that one failed.
  const auto after = job_with_comment(cluster, spec.comment, uid, false);
  if (!after) return Unsure{submitted.error()};
  if (*after != 0) return Submitted{*after, ""};
  return NotSubmitted{submitted.error()};
}

}  // namespace scheduler
