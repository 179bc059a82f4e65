// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/slurm_rights.h"

#include <nlohmann/json.hpp>

namespace scheduler {
namespace {

constexpr std::chrono::seconds kLimit{60};
constexpr std::chrono::hours kOldest{24};

}  // namespace

void to_json(nlohmann::json& json, const SlurmRights& rights) {
  json = {{"operators", rights.operators}, {"coordinators", rights.coordinators}};
}

void from_json(const nlohmann::json& json, SlurmRights& rights) {
  json.at("operators").get_to(rights.operators);
  json.at("coordinators").get_to(rights.coordinators);
}

void give_rights(Caller& caller, const Site& site, const SlurmRights& rights) {
  if (site.rights.slurm_operators && rights.operators.contains(caller.user)) caller.is_admin = true;
  if (!site.rights.slurm_coordinators) return;
  for (const auto& [account, users] : rights.coordinators) {
    if (!users.contains(caller.user)) continue;
    caller.led_accounts.push_back(account);
    const auto fund = site.managed.accounts.find(account);
    if (fund != site.managed.accounts.end()) caller.led_funds.push_back(fund->second);
  }
}

std::string RightsCache::pump(SteadyTime now) {
  if (!site_->rights.slurm_operators && !site_->rights.slurm_coordinators) return "";
  std::string trouble;
  for (const SideEnd& ended : commands_.take(now)) {
    trouble = ended.trouble;
    if (!ended.is_good) continue;
    try {
      rights_ = nlohmann::json::parse(ended.output).get<SlurmRights>();
      learnt_ = now;
    } catch (const std::exception& error) {
      trouble = error.what();
    }
  }
  if (learnt_ && now - *learnt_ > kOldest) {
    rights_ = {};
    learnt_.reset();
  }
  const bool is_due = !last_try_ || now - *last_try_ >= std::chrono::seconds(site_->rights.refresh_s);
  if (is_due && commands_.running() == 0) {
    last_try_ = now;
    const auto started = commands_.start(1, command_, "", kLimit, now);
    if (!started) trouble = started.error().message;
  }
  return trouble.empty() ? "" : "the rights of Slurm's coordinators and operators: " + trouble;
}

}  // namespace scheduler
