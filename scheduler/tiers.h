// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/tiers.h
//
// Tiers: what a user may ask for, by the site's own classes ("free", "pro"). A user's tier is a
// setting of his wallet, and the site's default where there is none. It binds new runs only.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "accounting/ledger.h"

namespace scheduler {

struct Plan;
struct Site;

struct Tier {
  std::string name;
  bool is_default = false;
  std::optional<int> max_gpus, max_nodes;          // Of one run.
  std::optional<int> max_runs;                     // Open runs of the user.
  std::optional<std::int64_t> max_time_s;          // Of one run, all its jobs together.
  std::vector<std::string> types;                  // Instance types; empty: all.
  accounting::Amount monthly_grant;                // To the user's wallet; expires with the month.
  bool is_self_service = false;                    // A user may take it himself ...
  accounting::Amount price = {};                   // ... for so many hours of his wallet, once.
  int line = 0;                                    // In site.toml.
};

// The tier called `name`, or the default where it is empty; nothing where there is none.
[[nodiscard]] const Tier* find_tier(const Site& site, const std::string& name);

// How long the run can last by its plan, behind what its earlier segments were allocated.
[[nodiscard]] std::int64_t run_s(const Plan& plan, std::int64_t allocated_s);

// Everything of the plan that the tier does not allow, each with both numbers. Empty: allowed.
// `allocated_s`: of the run's earlier segments.
[[nodiscard]] std::vector<std::string> beyond_tier(const Tier& tier, const Plan& plan,
                                                   std::int64_t allocated_s, int open_runs,
                                                   const std::string& user,
                                                   const std::string& site_path);

}  // namespace scheduler
