// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/job_script.h
//
// Plan -> the exact batch script and job of Slurm. Pure; the text is golden in the tests.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "scheduler/cluster.h"
#include "scheduler/plan.h"
#include "scheduler/site.h"

namespace scheduler {

struct SegmentName {
  std::string run_id;
  int segment = 0;
  std::int64_t used_s = 0;  // Of a timed run's hours, by earlier segments. Not in the comment.
};

// "trainyard:RUN:SEGMENT", the job's comment, and back.
[[nodiscard]] std::string to_comment(const SegmentName& name);
[[nodiscard]] std::optional<SegmentName> parse_comment(const std::string& comment);
// "NAME.RUN": the job's name, which slurmdbd always keeps.
[[nodiscard]] std::string job_name(const Plan& plan, const SegmentName& name);

[[nodiscard]] std::string render_job_script(const Plan& plan, const SegmentName& name,
                                            const std::string& run_dir, const Site& site);
// `environment`: what the job shall see of the user's, already filtered by the caller.
[[nodiscard]] JobSpec make_job_spec(const Plan& plan, const SegmentName& name,
                                    const std::string& run_dir, const Site& site,
                                    std::vector<std::string> environment);

}  // namespace scheduler
