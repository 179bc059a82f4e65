// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/slurm_limits.h
//
// Slurm's own limits as a second fence behind the holds, and what in Slurm's configuration weakens
// either (site.toml, [slurm]). The fence is GrpTRESMins=gres/gpu of associations that are bound to a
// managed partition: what Slurm has counted there, and what the user's funds have left. It is written
// and never read back for the books. All of it is done aside by another process, so that nobody waits
// for slurmdbd.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "accounting/ledger.h"
#include "scheduler/error.h"
#include "scheduler/side_command.h"
#include "scheduler/site.h"

namespace scheduler {

struct SlurmPolicy {
  struct Qos {
    std::string name;
    bool has_gpu_minutes = false;   // GrpTRESMins or MaxTRESMins of gres/gpu.
    double usage_factor = 1;
  };
  bool enforces_limits = false, is_safe = false;  // AccountingStorageEnforce
  bool has_submit_plugin = false;                 // JobSubmitPlugins names lua.
  bool has_start_gate = false;                    // PrologSlurmctld
  bool is_over_time_unlimited = false;            // OverTimeLimit
  std::vector<std::string> unlimited_partitions;  // OverTimeLimit=UNLIMITED of their own.
  bool suspends_to_preempt = false;               // PreemptMode
  std::int64_t min_job_age_s = 0;
  std::vector<Qos> qos;
};

// One sentence for each thing that weakens the holds or the fence; empty: none.
[[nodiscard]] std::vector<std::string> weaknesses(const SlurmPolicy& policy, const Site& site);

struct Association {
  std::string account, user, partition;
  std::int64_t used_gpu_s = 0;                    // As Slurm has counted and decayed it.
  std::optional<std::int64_t> gpu_minutes_max;    // GrpTRESMins=gres/gpu
};

struct Fence {
  std::string account, user, partition;
  std::int64_t gpu_minutes = 0;
};

// What a fund has available, with its credit, and what is set aside of it.
using Spendable = std::map<std::string, accounting::Amount>;

// The groups of a user, whose funds he may spend; empty where he is not known.
using GroupsOf = std::vector<std::string> (*)(const std::string& user);
[[nodiscard]] std::vector<std::string> groups_of(const std::string& user);

// The fences that are not as they should be. Each lets through all that the funds of its user can
// pay: a job that is funded is never kept from its start. Users without a fund get what they have used.
[[nodiscard]] std::vector<Fence> fences_to_write(const std::vector<Association>& associations,
                                                 const Spendable& spendable, const Site& site,
                                                 GroupsOf groups = groups_of);

// slurm_policy.cpp: by libslurm. Errors: slurmctld or slurmdbd does not answer, or refuses.
[[nodiscard]] Expected<SlurmPolicy> load_slurm_policy();
[[nodiscard]] Expected<std::vector<Association>> load_associations();
// An Error leaves those before it written.
[[nodiscard]] Expected<void> write_fences(const std::vector<Fence>& fences);

// One round, in the process aside: `path` is the file with what funds can spend. Prints nothing.
struct FenceRound {
  std::vector<std::string> weaknesses;
  std::int64_t written = 0;
};
[[nodiscard]] Expected<FenceRound> fence_once(const Site& site, const std::string& path);
void to_json(nlohmann::json& json, const FenceRound& round);
void from_json(const nlohmann::json& json, FenceRound& round);  // Throws std::exception.

// Runs the rounds, by `command` and the file behind it, from the service. Does nothing where [slurm]
// asks for neither the fence nor the look at Slurm's configuration.
class FenceKeeper {
 public:
  // Both outlive it. `command`: as which fence_once runs (trainyardd --limits FILE).
  FenceKeeper(const Site& site, accounting::Ledger& ledger, std::vector<std::string> command)
      : site_(&site), ledger_(&ledger), command_(std::move(command)) {}

  // Starts a round where it is time, or where funds have more than the last one knew; takes what the
  // last one said. Never waits. What weakens Slurm becomes a finding, once. Lines for the log.
  [[nodiscard]] std::vector<std::string> pump(accounting::UtcSeconds now, SteadyTime steady);
  [[nodiscard]] bool is_busy() const { return commands_.running() > 0; }

 private:
  [[nodiscard]] Expected<void> start(SteadyTime steady);
  [[nodiscard]] Expected<void> note(const std::vector<std::string>& found,
                                    accounting::UtcSeconds now);

  const Site* site_;
  accounting::Ledger* ledger_;
  std::vector<std::string> command_;
  SideCommands commands_;
  std::optional<SteadyTime> last_try_;
  Spendable last_;
  bool is_failing_ = false;
};

}  // namespace scheduler
