// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/slurm_rights.h
//
// What Slurm itself trusts people with: its operators, and the coordinators of accounts. The site
// chooses whether that counts here too (site.toml, [rights]). Learnt aside by another process, so that
// neither the look at Slurm nor an answer ever waits for slurmdbd; kept until the next time.
#pragma once

#include <map>
#include <nlohmann/json_fwd.hpp>
#include <set>
#include <string>

#include "scheduler/caller.h"
#include "scheduler/side_command.h"

namespace scheduler {

struct SlurmRights {
  std::set<std::string> operators;                            // Users: AdminLevel Operator or above.
  std::map<std::string, std::set<std::string>> coordinators;  // Account -> users.
};

void to_json(nlohmann::json& json, const SlurmRights& rights);
void from_json(const nlohmann::json& json, SlurmRights& rights);  // Throws std::exception.

// An operator becomes an admin; a coordinator leads his accounts and the funds that pay their jobs
// ([managed.accounts]).
void give_rights(Caller& caller, const Site& site, const SlurmRights& rights);

class RightsCache {
 public:
  // `site` outlives it. `command`: prints the rights as JSON (trainyardd --rights).
  RightsCache(const Site& site, std::vector<std::string> command)
      : site_(&site), command_(std::move(command)) {}

  // Starts the command when it is time, takes what it printed. Never waits. A line for the log where
  // the rights could not be learnt; empty otherwise. What is older than a day counts no more.
  [[nodiscard]] std::string pump(SteadyTime now);
  [[nodiscard]] bool is_busy() const { return commands_.running() > 0; }
  [[nodiscard]] const SlurmRights& rights() const { return rights_; }

 private:
  const Site* site_;
  std::vector<std::string> command_;
  SideCommands commands_;
  SlurmRights rights_;
  std::optional<SteadyTime> last_try_, learnt_;
};

}  // namespace scheduler
