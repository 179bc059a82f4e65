// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/plan.h
//
// Request -> plan: what will run and what it may cost. Pure: no clock, no I/O, nothing that can
// fail but the answer. The service makes the same plan again and believes only its own.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "accounting/amount.h"
#include "accounting/measured.h"
#include "scheduler/error.h"
#include "scheduler/request.h"
#include "scheduler/site.h"

namespace scheduler {

// What Slurm says of itself.
struct ClusterFacts {
  std::string name;
  std::int64_t kill_wait_s = 30;
  std::int64_t over_time_limit_s = 0;  // Of slurm.conf; kNoEnd_s: UNLIMITED.
  // False: AccountingStorageTRES lacks gres/gpu. What Slurm allocates then says nothing of GPUs.
  bool counts_gpus = true;
  std::map<std::string, std::int64_t> partition_max_s = {};  // MaxTime, of those that have one.
  // OverTimeLimit, of those that have one of their own: it takes the place of slurm.conf's.
  std::map<std::string, std::int64_t> partition_over_time_s = {};

  static constexpr std::int64_t kNoEnd_s = INT32_MAX;
  [[nodiscard]] std::int64_t over_time_s(const std::string& partition) const {
    const auto own = partition_over_time_s.find(partition);
    return own == partition_over_time_s.end() ? over_time_limit_s : own->second;
  }
  // False: no limit ends a job there, and no hold covers it.
  [[nodiscard]] bool ends_jobs(const std::string& partition) const {
    return over_time_s(partition) < kNoEnd_s;
  }
  // A job may outlive its limit by this: OverTimeLimit + KillWait + two sweeps of the controller.
  [[nodiscard]] std::int64_t margin_s(const std::string& partition) const {
    return over_time_s(partition) + kill_wait_s + 60;
  }
};

// What the client counted in the data set.
struct DataFacts {
  std::int64_t train_images = 0, val_images = 0;
};

// What earlier segments of the run did.
struct Progress {
  int epochs_done = 0;
  std::int64_t allocated_s = 0;
};

struct Quote {
  std::int64_t weight_milli = 0;  // Frozen for the segment.
  std::int64_t expected_s = 0;
  accounting::Amount expected;    // gpus x expected_s x weight.
  accounting::Amount hold;        // gpus x (time limit + margin) x weight: it never costs more.
  std::string basis;              // "hours asked for", "prior: 11 images/s a GPU ...".
  std::int64_t low_s = 0, high_s = 0;  // The error band of expected_s; both 0: exact, or no estimate.
  // Of a GPU-hour of the reference GPU, frozen when the run was admitted: the quote's that it used, or
  // that day's. 0: the site sells no hours.
  std::int64_t price_minor = 0;
  std::string currency = {};
};

struct Plan {
  std::string type, partition, account, qos, fund;
  std::string name;               // Of the Slurm job, without the run id.
  std::string tres_per_node;      // "gres:gpu:h100:2"
  int nodes = 1, gpus = 1, gpus_per_node = 1, ranks = 1, ranks_per_node = 1;
  int batch_per_rank = 16;  // 0: found by trial when the run starts.
  int cpus_per_rank = 1;
  std::int64_t memory_per_node_mb = 0;  // 0: Slurm's default.
  std::int64_t time_limit_s = 0;        // Whole minutes.
  bool is_timed = false;
  std::int64_t image_tenths = 0;        // Of an epochs run's rest: 10 a training image, 4 a validation one.
  std::int64_t epoch_tenths = 0;        // The same of one epoch, of a timed run too; 0: nothing was counted.
  std::string tier;                     // That it was admitted under; empty: none.
  std::int64_t tier_max_s = 0;          // What that tier allows a run in all; 0: any.
  bool auto_resume = false;             // Its job requeues itself, see docs/runs.md.
  // Of a timed run with auto_resume: what each of its jobs gets but the last, which gets less (0: one
  // job), and what a job needs beside the margin.
  std::int64_t job_limit_s = 0, job_shortest_s = 0;
  std::map<std::string, std::string> slurm;
  Quote quote;
};

// Why nothing runs where ClusterFacts::ends_jobs says no.
inline constexpr std::string_view kNothingEndsJobs =
    "OverTimeLimit is UNLIMITED there in Slurm: no limit ends a job, and no hold covers it.";

using PlanOutcome = std::variant<Plan, Refusal>;

// `user` pays where the request names no fund. `now` chooses the weight in force.
//
// A timed run: quote and hold are gpus x hours x weight exactly; the limit is the largest whole
// minute that leaves the margin inside the hours, so Slurm itself ends the job before the hours are
// over. An epochs run: the estimate is by `rates` of earlier runs, or by the site's prior; the limit
// is --time-limit, or start-up + the estimate + its error band, rounded up.
// One with auto_resume is continued in further jobs: its limit is at most the site's longest. So is a
// timed one, whose hours are held whole before the first of them.
// The limit of a job is within MaxTime of its partition, too. Refused, all reasons at once: an
// unknown type, more GPUs or nodes than there are, a batch that the ranks do not divide, GPUs that
// the nodes do not divide, hours beyond the limits or shorter than margin + start-up + a minute.
// Of a request with a range of GPUs: the plan with the most of them that is sound, or what speaks
// against the fewest.
[[nodiscard]] PlanOutcome make_plan(const TrainingRequest& request, const Site& site,
                                    const ClusterFacts& facts, const DataFacts& data,
                                    const Progress& progress, const std::string& user,
                                    accounting::UtcSeconds now,
                                    const accounting::RateLookup& rates = {});

// The request once for each number of GPUs that it allows, most first.
[[nodiscard]] std::vector<TrainingRequest> by_gpus(const TrainingRequest& request);

// Is the speed of this model measured? Not that of a description of the user's own: it may be
// another one tomorrow.
[[nodiscard]] bool is_known_model(const std::string& model);

// The longest time limit whose hold fits into `available`; 0: not even a minute.
[[nodiscard]] std::int64_t limit_that_fits_s(accounting::Amount available, int gpus,
                                             std::int64_t weight_milli, std::int64_t margin_s);

void to_json(nlohmann::json& json, const Plan& plan);
void from_json(const nlohmann::json& json, Plan& plan);  // Throws std::exception.

}  // namespace scheduler
