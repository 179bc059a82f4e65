// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/plain_job.h
//
// Jobs that their users submit themselves (sbatch, srun, salloc) to a managed partition: how the
// submit plug-in marks them (slurm/trainyard.lua), and what they cost. Pure.
#pragma once

#include <optional>
#include <string>

#include "scheduler/cluster.h"
#include "scheduler/plan.h"
#include "scheduler/run.h"
#include "scheduler/site.h"

namespace scheduler {

// The admin_comment "trainyard-job:ID:FUND", which users cannot write.
struct JobStamp {
  std::string id;
  std::string fund;  // What --fund asked for; empty: nothing.
};
[[nodiscard]] std::optional<JobStamp> parse_stamp(const std::string& admin_comment);

// The run that stands for the job, or for one task of an array (-1: of none).
[[nodiscard]] std::string plain_run_id(const JobStamp& stamp, int array_task);

// The ids that plain_run_id() makes: no training may have one.
[[nodiscard]] bool is_plain_run_id(const std::string& run_id);

// Is it a run of such jobs, and the job's owner's?
[[nodiscard]] bool is_plain_run_of(const Run& run, const JobSnapshot& job);

// Of an array or a heterogeneous job: no training is, for the hold of a training is of one job.
[[nodiscard]] bool is_one_of_several(const JobSnapshot& job);

// The task that such an id is of; -1: of none.
[[nodiscard]] int array_task_of(const std::string& run_id);

// Is it the plug-in or the service that keeps the job from starting, and not its user or an admin?
[[nodiscard]] bool is_our_hold(const JobSnapshot& job);

// "COMMENT [trainyard: why]", where squeue and sacct show it, and back.
[[nodiscard]] std::string with_reason(const std::string& comment, const std::string& why);
[[nodiscard]] std::string without_reason(const std::string& comment);

// --fund, else "fund=NAME" in the comment, else the fund of the Slurm account, else the user's own.
[[nodiscard]] std::string fund_of_job(const JobSnapshot& job, const JobStamp& stamp,
                                      const Site& site, const std::string& user);

// Allocated GPUs, or those that the job may get.
[[nodiscard]] int gpus_of_job(const JobSnapshot& job, const Site& site);

// The quote: GPUs x (time limit + margin) x weight. Refused without a limit, on several partitions,
// with several types of GPU, and where the type, and so the price, is not known.
[[nodiscard]] PlanOutcome plan_of_job(const JobSnapshot& job, const Site& site,
                                      const ClusterFacts& facts, const std::string& fund,
                                      accounting::UtcSeconds now);

}  // namespace scheduler
