// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/people_commands.h"

#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "scheduler/console.h"

namespace scheduler {
namespace {

using nlohmann::json;

std::string number_or_dash(const json& object, const char* key) {
  return object.contains(key) ? std::to_string(object.at(key).get<std::int64_t>()) : "-";
}

void print_tiers(const json& result) {
  if (result.at("tiers").empty()) fmt::print("this site has no tiers\n");
  if (result.at("tiers").empty()) return;
  fmt::print("{:<2}{:<12} {:>5} {:>6} {:>5} {:>8} {:>16} {:>16}  {}\n", "", "TIER", "GPUS", "NODES",
             "RUNS", "HOURS", "A MONTH", "PRICE", "TYPES");
  for (const json& tier : result.at("tiers")) {
    const std::string hours =
        tier.contains("max_time_s")
            ? fmt::format("{:.1f}", tier.at("max_time_s").get<double>() / 3'600)
            : "-";
    const std::string price = !tier.at("self_service").get<bool>() ? "ask an admin"
                              : tier.at("price") == 0              ? "free"
                                                                   : hours_of(tier, "price");
    const auto types = tier.at("types").get<std::vector<std::string>>();
    fmt::print("{:<2}{:<12} {:>5} {:>6} {:>5} {:>8} {:>16} {:>16}  {}\n",
               tier.at("is_own").get<bool>() ? "*" : "", tier.at("name").get<std::string>(),
               number_or_dash(tier, "max_gpus"), number_or_dash(tier, "max_nodes"),
               number_or_dash(tier, "max_runs"), hours, hours_of(tier, "monthly_grant"), price,
               types.empty() ? "all" : fmt::format("{}", fmt::join(types, ", ")));
  }
  fmt::print("* yours. Another one is for new runs: trainyard tier upgrade NAME\n");
}

}  // namespace

PeopleCommands::PeopleCommands(CLI::App& app) {
  add_estimates(app);
  add_tiers(app);
}

std::optional<ExitStatus> PeopleCommands::run(const Client& client) const {
  for (const Verb& verb : verbs_) {
    if (verb.app->parsed()) return verb.run(client);
  }
  return std::nullopt;
}

void PeopleCommands::add_estimates(CLI::App& app) {
  CLI::App* estimates =
      app.add_subcommand("estimates", "how long images take here, from runs that have finished");
  auto csv = std::make_shared<bool>(false);
  estimates->add_flag("--csv", *csv, "as CSV");
  verbs_.push_back({estimates, [=](const Client& client) {
    return show(client,
                {{"verb", "estimates"}, {"format", client.json ? "json" : *csv ? "csv" : "text"}},
                print_body);
  }});
}

void PeopleCommands::add_tiers(CLI::App& app) {
  CLI::App* tier = app.add_subcommand("tier", "your tier and the others; `tier upgrade` takes one");
  tier->require_subcommand(0, 1);
  CLI::App* upgrade = tier->add_subcommand("upgrade", "take another tier, where the site lets you");
  auto name = std::make_shared<std::string>();
  auto voucher = std::make_shared<std::string>();
  auto id = std::make_shared<std::string>();
  upgrade->add_option("tier", *name, "its name")->required();
  upgrade->add_option("--voucher", *voucher, "redeem this first; its hours pay the price");
  upgrade->add_option("--id", *id, "your own id, so that a script's retry is safe");
  verbs_.push_back({upgrade, [=](const Client& client) {
    if (!voucher->empty()) {
      const auto used = ask(client, {{"verb", "voucher_use"}, {"code", *voucher},
                                     {"fund", "user:" + client.user}});
      if (const auto* status = std::get_if<ExitStatus>(&used)) return *status;
    }
    return show(client,
                {{"verb", "tier_upgrade"}, {"tier", *name},
                 {"id", id->empty() ? "tier/" + random_id(16) : *id}},
                [](const json& result) {
                  fmt::print("you have tier {}; new runs follow it. {} available\n",
                             result.at("tier").at("name").get<std::string>(),
                             hours_of(result, "available"));
                });
  }});
  verbs_.push_back({tier, [](const Client& client) {
    return show(client, {{"verb", "tiers"}}, print_tiers);
  }});
}

}  // namespace scheduler
