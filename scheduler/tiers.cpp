// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/tiers.h"

#include <fmt/format.h>

#include <algorithm>

#include "scheduler/plan.h"
#include "scheduler/site.h"

namespace scheduler {

const Tier* find_tier(const Site& site, const std::string& name) {
  for (const Tier& tier : site.tiers) {
    if (name.empty() ? tier.is_default : tier.name == name) return &tier;
  }
  return nullptr;
}

std::int64_t run_s(const Plan& plan, std::int64_t allocated_s) {
  // The jobs of a timed run together last as long as its hours.
  return allocated_s +
         (plan.is_timed ? std::max(plan.quote.expected_s, plan.time_limit_s) : plan.time_limit_s);
}

std::vector<std::string> beyond_tier(const Tier& tier, const Plan& plan, std::int64_t allocated_s,
                                     int open_runs, const std::string& user,
                                     const std::string& site_path) {
  std::vector<std::string> reasons;
  const std::string where = fmt::format("tier {} ({}:{})", tier.name, site_path, tier.line);
  if (tier.max_gpus && plan.gpus > *tier.max_gpus) {
    reasons.push_back(fmt::format("gpus = {} exceeds the {} of {}. Ask for fewer, or an admin for "
                                  "another tier.",
                                  plan.gpus, *tier.max_gpus, where));
  }
  if (tier.max_nodes && plan.nodes > *tier.max_nodes) {
    reasons.push_back(
        fmt::format("nodes = {} exceeds the {} of {}.", plan.nodes, *tier.max_nodes, where));
  }
  const std::int64_t all_s = run_s(plan, allocated_s);
  if (tier.max_time_s && all_s > *tier.max_time_s) {
    reasons.push_back(
        all_s == plan.time_limit_s
            ? fmt::format("a time limit of {} min exceeds the {} min of {}.", all_s / 60,
                          *tier.max_time_s / 60, where)
            : fmt::format("{} min of the whole run{} exceed the {} min of {}.", (all_s + 59) / 60,
                          allocated_s > 0 ? fmt::format(", {} of them used,", allocated_s / 60) : "",
                          *tier.max_time_s / 60, where));
  }
  if (tier.max_runs && open_runs >= *tier.max_runs) {
    reasons.push_back(fmt::format("{} has {} open runs; {} allows {}. Wait for one to end, or stop "
                                  "one.",
                                  user, open_runs, where, *tier.max_runs));
  }
  if (!tier.types.empty() &&
      std::find(tier.types.begin(), tier.types.end(), plan.type) == tier.types.end()) {
    reasons.push_back(fmt::format("type = \"{}\" is not among those of {}: {}.", plan.type, where,
                                  fmt::join(tier.types, ", ")));
  }
  return reasons;
}

}  // namespace scheduler
