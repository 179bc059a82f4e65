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

std::vector<std::string> beyond_tier(const Tier& tier, const Plan& plan, int open_runs,
                                     const std::string& user, const std::string& site_path) {
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
  if (tier.max_time_s && plan.time_limit_s > *tier.max_time_s) {
    reasons.push_back(fmt::format("a time limit of {} min exceeds the {} min of {}.",
                                  plan.time_limit_s / 60, *tier.max_time_s / 60, where));
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
