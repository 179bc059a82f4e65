// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/allowance.h"

#include <fmt/format.h>

#include <chrono>
#include <utility>

#include "accounting/tariff.h"
#include "scheduler/tiers.h"

namespace scheduler {
namespace {

using accounting::UtcSeconds;

// "2026-11" and the instant at which the month after it begins.
std::pair<std::string, UtcSeconds> month_of(UtcSeconds now) {
  const std::chrono::sys_days day{
      std::chrono::floor<std::chrono::days>(std::chrono::sys_seconds{std::chrono::seconds{now}})};
  const std::chrono::year_month_day date{day};
  const std::chrono::year_month next = date.year() / date.month() + std::chrono::months{1};
  const std::chrono::sys_days first{next / std::chrono::day{1}};
  return {accounting::format_utc(now).substr(0, 7), first.time_since_epoch().count() * 86'400};
}

}  // namespace

Expected<void> give_allowance(accounting::Ledger& ledger, const Site& site,
                              const std::string& user, UtcSeconds now) {
  const std::string fund = "user:" + user;
  const auto name = ledger.setting(fund, "tier");
  if (!name) return tl::unexpected(Error{name.error().message});
  const Tier* tier = find_tier(site, name->value_or(""));
  if (tier == nullptr || tier->monthly_grant <= accounting::Amount{0}) return {};
  const auto [month, end] = month_of(now);
  const std::string id = fmt::format("allowance/{}/{}", user, month);
  const auto granted = ledger.grant({.id = id,
                                     .fund = fund,
                                     .amount = tier->monthly_grant,
                                     .actor = "trainyardd",
                                     .note = fmt::format("tier {}, {}", tier->name, month),
                                     .from = 0,
                                     .expires = end},
                                    now);
  if (!granted) return tl::unexpected(Error{granted.error().message});
  if (*granted == accounting::GrantStatus::kGranted ||
      *granted == accounting::GrantStatus::kAlreadyGranted) {
    return {};
  }
  // Who changed his tier in the middle of the month has the hours of the tier before.
  const auto given = ledger.granted_fund(id);
  if (!given) return tl::unexpected(Error{given.error().message});
  if (*given == fund) return {};
  const auto noted = ledger.record_finding(
      {now, id,
       fmt::format("fund {} did not get its {} of tier {}: {}. Give them: trainyard admin grant",
                   fund, accounting::to_gpu_hours(tier->monthly_grant), tier->name,
                   *granted == accounting::GrantStatus::kInvalid
                       ? "the ledger takes no such grant"
                       : "another transfer has the id of the grant")});
  if (!noted) return tl::unexpected(Error{noted.error().message});
  return {};
}

}  // namespace scheduler
