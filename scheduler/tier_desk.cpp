// SPDX-License-Identifier: GPL-3.0-or-later
//
// Tiers as users see them: which there are, which one is theirs, and taking another one where the
// site lets them.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "accounting/take.h"
#include "scheduler/answers.h"
#include "scheduler/books_desk.h"
#include "scheduler/request_id.h"
#include "scheduler/tiers.h"

namespace scheduler {
namespace {

using accounting::Amount;
using accounting::to_gpu_hours;
using nlohmann::json;

// How a transaction is left that refused, so that all of it is rolled back.
constexpr const char* kRefused = "refused";

json answer_tiers(Dispatcher& dispatcher, const Site& site, const Caller& caller,
                  const json& request) {
  const std::string user = request.value("user", caller.user);
  if (!may_see_fund(caller, "user:" + user)) return refused({"user " + user + " is not yours to see"});
  const auto name = dispatcher.ledger().setting("user:" + user, "tier");
  if (!name) return failed(name.error().message);
  const Tier* own = find_tier(site, name->value_or(""));
  json tiers = json::array();
  for (const Tier& tier : site.tiers) {
    tiers.push_back(tier_to_json(tier));
    tiers.back()["is_own"] = &tier == own;
  }
  return good({{"user", user}, {"tier", own == nullptr ? json(nullptr) : json(own->name)},
               {"tiers", std::move(tiers)}});
}

std::string words_of(accounting::TakeStatus status, const Tier& tier, const std::string& fund,
                     Amount had) {
  if (status == accounting::TakeStatus::kExceedsUndated ||
      status == accounting::TakeStatus::kUnknownFund) {
    return fmt::format("tier {} costs {}, and {} has {} that do not expire. Top up first: trainyard "
                       "wallet topup",
                       tier.name, to_gpu_hours(tier.price), fund, to_gpu_hours(had));
  }
  return fmt::format("the ledger takes no {} of {}", to_gpu_hours(tier.price), fund);
}

// The price and the setting in one transaction; the request's id makes a retry safe.
json take_tier(Dispatcher& dispatcher, const Caller& caller, const Tier& tier, const std::string& id,
               UtcSeconds now) {
  const std::string fund = "user:" + caller.user;
  std::string refusal;
  bool was_known = false;
  const auto done = dispatcher.database().transact([&]() -> accounting::Expected<void> {
    const auto set = dispatcher.ledger().set({.id = id, .fund = fund, .name = "tier",
                                              .value = tier.name, .since = 0, .actor = caller.user,
                                              .note = "self-service"}, now);
    if (!set) return tl::unexpected(set.error());
    was_known = *set == accounting::SetStatus::kAlreadySet;
    if (*set != accounting::SetStatus::kSet && !was_known) {
      refusal = fmt::format("request {} exists with other content", id);
      return tl::unexpected(accounting::Error{kRefused});
    }
    if (was_known || tier.price <= Amount{0}) return {};
    const auto taken = accounting::take(
        dispatcher.database(), {.id = id + "/price", .fund = fund, .amount = tier.price,
                                .ref = "tier/" + tier.name, .actor = caller.user,
                                .note = "tier " + tier.name}, now);
    if (!taken) return tl::unexpected(taken.error());
    if (taken->status == accounting::TakeStatus::kTaken) return {};
    refusal = words_of(taken->status, tier, fund, taken->taken);
    return tl::unexpected(accounting::Error{kRefused});
  });
  if (!refusal.empty()) return refused({refusal});
  if (!done) return failed(done.error().message);
  json out = {{"tier", tier_to_json(tier)}, {"was_known", was_known}};
  const auto balance = dispatcher.ledger().balance(fund);
  if (!balance) return failed(balance.error().message);
  out["available"] = *balance ? (*balance)->available.milli_gpu_s : 0;
  return good(std::move(out));
}

json answer_tier_upgrade(Dispatcher& dispatcher, const Site& site, const Caller& caller,
                         const json& request, UtcSeconds now) {
  const std::string wanted = request.at("tier");
  const Tier* tier = wanted.empty() ? nullptr : find_tier(site, wanted);
  if (tier == nullptr) {
    std::vector<std::string> names;
    for (const Tier& each : site.tiers) names.push_back(each.name);
    return refused({fmt::format("there is no tier \"{}\". Tiers: {}", wanted,
                                names.empty() ? "none" : fmt::format("{}", fmt::join(names, ", ")))});
  }
  if (!tier->is_self_service) {
    return refused({fmt::format("tier {} is given by an admin: trainyard admin set user:{} tier {}",
                                tier->name, caller.user, tier->name)});
  }
  const auto name = dispatcher.ledger().setting("user:" + caller.user, "tier");
  if (!name) return failed(name.error().message);
  const std::string asked_id = request.at("id");
  if (const std::string why = why_no_id(asked_id); !why.empty()) return bad_request(why);
  const auto id = id_of_user(dispatcher.database(), caller.uid, caller.user, asked_id);
  if (!id) return failed(id.error().message);
  bool is_retry = false;
  const auto read = dispatcher.database().query(
      "SELECT 1 FROM transfer WHERE id = ?1", {*id}, [&](const accounting::Row&) { is_retry = true; });
  if (!read) return failed(read.error().message);
  if (find_tier(site, name->value_or("")) == tier && !is_retry) {
    return refused({fmt::format("{} has tier {} already", caller.user, tier->name)});
  }
  return take_tier(dispatcher, caller, *tier, *id, now);
}

}  // namespace

json tier_to_json(const Tier& tier) {
  json out = {{"name", tier.name},
              {"types", tier.types},
              {"monthly_grant", tier.monthly_grant.milli_gpu_s},
              {"self_service", tier.is_self_service},
              {"price", tier.price.milli_gpu_s}};
  if (tier.max_gpus) out["max_gpus"] = *tier.max_gpus;
  if (tier.max_nodes) out["max_nodes"] = *tier.max_nodes;
  if (tier.max_runs) out["max_runs"] = *tier.max_runs;
  if (tier.max_time_s) out["max_time_s"] = *tier.max_time_s;
  return out;
}

std::optional<json> answer_tier_desk(Dispatcher& dispatcher, const Site& site, const Caller& caller,
                                     const json& request, UtcSeconds now) {
  const std::string verb = request.at("verb");
  if (verb == "tiers") return answer_tiers(dispatcher, site, caller, request);
  if (verb == "tier_upgrade") return answer_tier_upgrade(dispatcher, site, caller, request, now);
  return std::nullopt;
}

}  // namespace scheduler
