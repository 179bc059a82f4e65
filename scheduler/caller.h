// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/caller.h
//
// Who asks, or whose job it is: a user of the machine with his Unix groups.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "scheduler/error.h"
#include "scheduler/site.h"

namespace scheduler {

struct Caller {
  std::uint32_t uid = 0;
  std::string user;
  std::vector<std::string> groups;  // Unix groups: a member may spend the fund "group:NAME".
  bool is_admin = false;
  // As a coordinator of Slurm accounts: those accounts, and the funds that pay their jobs.
  std::vector<std::string> led_accounts = {}, led_funds = {};
};

// By the machine's own user database. An Error where the uid has no name.
[[nodiscard]] Expected<Caller> look_up_caller(std::uint32_t uid, const Site& site);

[[nodiscard]] bool leads_fund(const Caller& caller, const std::string& fund);
// A run is led by the coordinators of its Slurm account and of the account that its fund pays for.
[[nodiscard]] bool leads_run(const Caller& caller, const std::string& account,
                             const std::string& fund);
[[nodiscard]] bool may_spend(const Caller& caller, const std::string& fund);

}  // namespace scheduler
