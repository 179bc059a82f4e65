// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/slurm_limits.h"

#include <fmt/format.h>
#include <pwd.h>

#include <algorithm>
#include <ctime>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "scheduler/caller.h"
#include "scheduler/text_file.h"

namespace scheduler {
namespace {

constexpr std::chrono::seconds kRoundLimit{300};
constexpr std::chrono::seconds kSoonest{5};  // Between two rounds, whatever funds got.

// The smallest weight of a type on a managed partition: no GPU-second costs less.
std::int64_t least_weight_milli(const Site& site, std::int64_t now) {
  std::int64_t least = 0;
  for (const InstanceType& type : site.types) {
    if (!site.managed.has(type.partition)) continue;
    const auto weight = accounting::weight_at(type.weights, now);
    if (weight && *weight > 0 && (least == 0 || *weight < least)) least = *weight;
  }
  return std::max<std::int64_t>(least, 1);
}

// Do trainings or paid plain jobs run there?
bool is_used(const Site& site, const std::string& partition) {
  return site.managed.has(partition) ||
         std::any_of(site.types.begin(), site.types.end(), [&partition](const InstanceType& type) {
           return type.partition == partition;
         });
}

Expected<Spendable> spendable_of(accounting::Ledger& ledger) {
  const auto balances = ledger.balances();
  if (!balances) return tl::unexpected(Error{"the books: " + balances.error().message});
  Spendable spendable;
  for (const accounting::FundBalance& balance : *balances) {
    const std::int64_t open = std::max<std::int64_t>(
        balance.available.milli_gpu_s + balance.credit_limit.milli_gpu_s, 0);
    spendable[balance.fund] = accounting::Amount{open + balance.held.milli_gpu_s};
  }
  return spendable;
}

bool has_grown(const Spendable& before, const Spendable& now) {
  return std::any_of(now.begin(), now.end(), [&before](const auto& each) {
    const auto found = before.find(each.first);
    return found == before.end() || each.second.milli_gpu_s > found->second.milli_gpu_s;
  });
}

}  // namespace

std::vector<std::string> groups_of(const std::string& user) {
  const passwd* entry = getpwnam(user.c_str());
  if (entry == nullptr) return {};
  const auto caller = look_up_caller(entry->pw_uid, Site{});
  return caller ? caller->groups : std::vector<std::string>{};
}

std::vector<std::string> weaknesses(const SlurmPolicy& policy, const Site& site) {
  std::vector<std::string> found;
  if (!site.managed.partitions.empty()) {
    if (!policy.has_submit_plugin) {
      found.push_back("JobSubmitPlugins of slurm.conf does not name lua: nothing holds a plain job of a "
                      "managed partition before trainyardd sees it");
    }
    if (!policy.has_start_gate) {
      found.push_back("PrologSlurmctld of slurm.conf is not set: with trainyardd dead, a job that its "
                      "owner requeues starts without hours");
    }
  }
  if (policy.is_over_time_unlimited) {
    found.push_back("OverTimeLimit of slurm.conf is UNLIMITED: no limit ends a job, and no hold covers it");
  }
  for (const std::string& partition : policy.unlimited_partitions) {
    if (!is_used(site, partition)) continue;
    found.push_back(fmt::format("OverTimeLimit of partition {} is UNLIMITED: no limit ends a job there, "
                                "and nothing is admitted to it", partition));
  }
  if (policy.suspends_to_preempt) {
    found.push_back("PreemptMode of slurm.conf suspends: a suspended job keeps its GPUs and is charged "
                    "for them");
  }
  if (policy.min_job_age_s > 0 &&
      static_cast<double>(policy.min_job_age_s) < 3 * site.poll_interval_s) {
    found.push_back(fmt::format("MinJobAge of slurm.conf is {} s: a job may be forgotten before "
                                "trainyardd has looked three times (poll_interval_s = {})",
                                policy.min_job_age_s, site.poll_interval_s));
  }
  if (!site.slurm.limits) return found;
  if (!policy.enforces_limits) {
    found.push_back("AccountingStorageEnforce of slurm.conf has no \"limits\": the limits that trainyardd "
                    "writes bind nobody");
  } else if (!policy.is_safe) {
    found.push_back("AccountingStorageEnforce of slurm.conf has no \"safe\": Slurm may end a job in the "
                    "middle that its limit no longer covers");
  }
  for (const SlurmPolicy::Qos& qos : policy.qos) {
    if (qos.has_gpu_minutes) {
      found.push_back(fmt::format("QOS {} has a limit of gres/gpu minutes of its own: for its jobs it "
                                  "takes the place of the limits that trainyardd writes", qos.name));
    }
    if (qos.usage_factor < 1) {
      found.push_back(fmt::format("QOS {} has UsageFactor {}: its jobs count for less in the limits that "
                                  "trainyardd writes", qos.name, qos.usage_factor));
    }
  }
  return found;
}

std::vector<Fence> fences_to_write(const std::vector<Association>& associations,
                                   const Spendable& spendable, const Site& site, GroupsOf groups) {
  const std::int64_t per_minute = 60 * least_weight_milli(site, std::time(nullptr));
  std::map<std::string, std::int64_t> minutes_of;  // By user: what all his funds can pay.
  std::vector<Fence> fences;
  for (const Association& each : associations) {
    if (each.user.empty() || !site.managed.has(each.partition)) continue;
    const auto [entry, is_new] = minutes_of.emplace(each.user, 0);
    if (is_new) {
      std::set<std::string> funds{"user:" + each.user};
      for (const std::string& group : groups(each.user)) funds.insert("group:" + group);
      for (const std::string& fund : funds) {
        const auto found = spendable.find(fund);
        if (found == spendable.end()) continue;
        // Rounded up, and below what Slurm can hold whatever was granted.
        constexpr std::int64_t kMinutesMax = INT64_C(1) << 40;
        entry->second = std::min(kMinutesMax, entry->second +
                                 std::min(kMinutesMax, found->second.milli_gpu_s / per_minute + 1));
      }
    }
    // Slurm compares whole minutes, and one that has begun counts as none.
    const std::int64_t wanted = each.used_gpu_s / 60 + entry->second;
    if (each.gpu_minutes_max == wanted) continue;
    fences.push_back({each.account, each.user, each.partition, wanted});
  }
  return fences;
}

Expected<FenceRound> fence_once(const Site& site, const std::string& path) {
  FenceRound round;
  const auto policy = load_slurm_policy();
  if (!policy) return tl::unexpected(policy.error());
  round.weaknesses = weaknesses(*policy, site);
  if (!site.slurm.limits) return round;
  const auto text = read_text_file(path);
  if (!text) return tl::unexpected(text.error());
  Spendable spendable;
  try {
    const nlohmann::json parsed = nlohmann::json::parse(*text);
    for (const auto& [fund, amount] : parsed.items()) {
      spendable[fund] = accounting::Amount{amount.get<std::int64_t>()};
    }
  } catch (const std::exception& error) {
    return tl::unexpected(Error{fmt::format("{}: {}", path, error.what())});
  }
  const auto associations = load_associations();
  if (!associations) return tl::unexpected(associations.error());
  const std::vector<Fence> fences = fences_to_write(*associations, spendable, site);
  if (const auto written = write_fences(fences); !written) return tl::unexpected(written.error());
  round.written = static_cast<std::int64_t>(fences.size());
  return round;
}

void to_json(nlohmann::json& json, const FenceRound& round) {
  json = {{"weaknesses", round.weaknesses}, {"written", round.written}};
}

void from_json(const nlohmann::json& json, FenceRound& round) {
  json.at("weaknesses").get_to(round.weaknesses);
  json.at("written").get_to(round.written);
}

Expected<void> FenceKeeper::start(SteadyTime steady) {
  const auto spendable = spendable_of(*ledger_);
  if (!spendable) return tl::unexpected(spendable.error());
  // Slurm's configuration alone does not change every minute.
  const std::int64_t every_s =
      site_->slurm.limits ? site_->slurm.refresh_s : std::max<std::int64_t>(site_->slurm.refresh_s, 600);
  const bool is_due = !last_try_ || steady - *last_try_ >= std::chrono::seconds(every_s);
  const bool is_soon = site_->slurm.limits && last_try_ && steady - *last_try_ >= kSoonest &&
                       has_grown(last_, *spendable);
  if (!is_due && !is_soon) return {};
  last_try_ = steady;
  nlohmann::json json = nlohmann::json::object();
  for (const auto& [fund, amount] : *spendable) json[fund] = amount.milli_gpu_s;
  const std::string path = site_->database + ".limits";
  std::ofstream file(path, std::ios::trunc);
  file << json.dump() << std::flush;
  if (!file) return tl::unexpected(Error{path + ": cannot be written. Is the disk full?"});
  last_ = *spendable;
  std::vector<std::string> command = command_;
  command.push_back(path);
  return commands_.start(1, command, "", kRoundLimit, steady);
}

Expected<void> FenceKeeper::note(const std::vector<std::string>& found, accounting::UtcSeconds now) {
  const auto known = ledger_->findings();
  if (!known) return tl::unexpected(Error{"the books: " + known.error().message});
  for (const std::string& text : found) {
    const bool is_known = std::any_of(known->begin(), known->end(), [&text](const auto& each) {
      return each.subject == "Slurm" && each.text == text;
    });
    if (is_known) continue;
    const auto noted = ledger_->record_finding({now, "Slurm", text});
    if (!noted) return tl::unexpected(Error{"the books: " + noted.error().message});
  }
  return {};
}

std::vector<std::string> FenceKeeper::pump(accounting::UtcSeconds now, SteadyTime steady) {
  std::vector<std::string> lines;
  if (!site_->slurm.limits && !site_->slurm.check) return lines;
  const auto fail = [&](const std::string& why) {
    if (!is_failing_) lines.push_back("Slurm's limits: " + why);
    is_failing_ = true;
  };
  for (const SideEnd& ended : commands_.take(steady)) {
    try {
      if (!ended.is_good) throw std::runtime_error(ended.trouble);
      const auto round = nlohmann::json::parse(ended.output).get<FenceRound>();
      if (const auto noted = note(round.weaknesses, now); !noted) fail(noted.error().message);
      if (is_failing_) lines.push_back("Slurm's limits are looked after again");
      is_failing_ = false;
    } catch (const std::exception& error) {
      fail(error.what());
    }
  }
  if (commands_.running() > 0) return lines;
  if (const auto started = start(steady); !started) fail(started.error().message);
  return lines;
}

}  // namespace scheduler
