// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/site.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <cmath>

#include "scheduler/cluster.h"
#include "scheduler/remote.h"
#include "scheduler/table_reader.h"
#include "scheduler/text_file.h"

namespace scheduler {
namespace {

constexpr std::int64_t kWeightMax_milli = 1'000'000;
constexpr std::int64_t kHour_s = 3'600;
constexpr std::int64_t kDay_s = 24 * kHour_s;

void check_absolute(TableReader& reader, std::string_view key, const std::string& path) {
  if (path.starts_with('/')) return;
  reader.fault(key, fmt::format("{} = \"{}\" is not an absolute path.", key, path));
}

void read_service(TableReader& reader, Site& site) {
  constexpr std::size_t kSocketPathMax = 107;  // sun_path less its end.
  reader.read("socket", site.socket);
  check_absolute(reader, "socket", site.socket);
  if (site.socket.size() > kSocketPathMax) {
    reader.fault("socket", fmt::format("socket has {} bytes; a socket's path has at most {}.",
                                       site.socket.size(), kSocketPathMax));
  }
  reader.read("database", site.database);
  check_absolute(reader, "database", site.database);
  reader.read("user", site.service_user);
  if (site.service_user.empty()) reader.fault("user", "service.user is empty.");
  reader.read_float("poll_interval_s", site.poll_interval_s, 0.1, 3'600);
  reader.read("admin_users", site.admin_users);
  reader.read("admin_groups", site.admin_groups);
  reader.read_integer("unclaimed_hold_s", site.unclaimed_hold_s, 1, 30 * kDay_s);
  reader.read_integer("extend_lead_s", site.extend_lead_s, 60, 7 * kDay_s);
  reader.read_integer("record_wait_s", site.record_wait_s, 1, 30 * kDay_s);
}

void read_paths(TableReader& reader, Site& site) {
  reader.read("trainer", site.trainer);
  if (site.trainer.empty() ||
      (site.trainer.find('/') != std::string::npos && !site.trainer.starts_with('/'))) {
    reader.fault("trainer", fmt::format("trainer = \"{}\" is neither an absolute path nor a bare "
                                        "name.",
                                        site.trainer));
  }
  reader.read("runs", site.runs);
  if (!site.runs.starts_with('/') && !site.runs.starts_with("~/")) {
    reader.fault("runs",
                 fmt::format("runs = \"{}\" begins with neither \"/\" nor \"~/\".", site.runs));
  }
}

void read_limits(TableReader& reader, Limits& limits) {
  constexpr std::int64_t kMany = 1'000'000;
  constexpr double kHoursMax = 366 * 24;
  limits.line = reader.line();
  reader.read_integer("max_gpus", limits.max_gpus, 1, kMany);
  reader.read_integer("max_nodes", limits.max_nodes, 1, kMany);
  reader.read_integer("max_runs_per_user", limits.max_runs_per_user, 1, kMany);
  double hours = 0;
  reader.read_float("max_hours", hours, 0.1, kHoursMax);
  // Slurm counts in minutes.
  if (hours > 0) limits.max_time_s = std::llround(std::floor(hours * 60 + 1e-6)) * 60;
}

void read_managed(TableReader& reader, Managed& managed) {
  reader.read("partitions", managed.partitions);
  reader.read("slurm_user", managed.slurm_user);
  reader.read("accounts", managed.accounts);
  for (const auto& [account, fund] : managed.accounts) {
    if (fund.starts_with("user:") || fund.starts_with("group:")) continue;
    reader.fault("accounts", fmt::format("accounts.{} = \"{}\" is neither user:NAME nor group:NAME.",
                                         account, fund));
  }
}

void read_refunds(TableReader& reader, RefundPolicy& refunds) {
  reader.read("states", refunds.states);
  for (const std::string& state : refunds.states) {
    const bool is_own_word = state == RefundPolicy::kBadNode || state == RefundPolicy::kStartRefused ||
                             state == RefundPolicy::kLaunchFailed;
    if (is_ended(job_state_from_name(state)) || is_own_word) continue;
    reader.fault("states", fmt::format("refunds.states: \"{}\" is no end of a Slurm job. Write "
                                       "NODE_FAIL, BOOT_FAIL, PREEMPTED or the like, BAD_NODE, "
                                       "START_REFUSED or LAUNCH_FAILED.", state));
  }
  std::string cap;
  reader.read("cap", cap);
  if (cap.empty()) return;
  const auto amount = accounting::parse_gpu_hours(cap);
  if (amount) {
    refunds.cap = *amount;
  } else {
    reader.fault("cap", fmt::format("refunds.cap = \"{}\" is no number of GPU-hours, such as "
                                    "\"6h\".", cap));
  }
}

// Jobs of a managed partition have a price only where a type says which GPUs stand there.
void check_managed(TableReader& reader, const Site& site) {
  for (const std::string& partition : site.managed.partitions) {
    const bool is_known =
        std::any_of(site.types.begin(), site.types.end(),
                    [&](const InstanceType& type) { return type.partition == partition; });
    if (is_known) continue;
    reader.fault_at(reader.line_of("managed"),
                    fmt::format("managed.partitions: no instance_type has the partition \"{}\".",
                                partition));
  }
}

void read_books(TableReader& reader, Site& site) {
  reader.read_integer("quote_valid_s", site.quote_valid_s, 60, 30 * kDay_s);
  reader.read_integer("webhook_window_s", site.webhook_window_s, 10, kDay_s);
  reader.read_integer("least_free_mb", site.least_free_mb, 0, 1'000'000'000);
  std::string excess = "site";
  reader.read("excess", excess);
  site.fund_owes_excess = excess == "fund";
  if (excess != "site" && excess != "fund") {
    reader.fault("excess", fmt::format("books.excess = \"{}\" is none of \"site\", \"fund\".", excess));
  }
  std::string command;
  reader.read("message_command", command);
  if (command.empty()) return;
  check_absolute(reader, "message_command", command);
  site.alerts.command = {command, "{text}"};
}

void read_rights(TableReader& reader, Rights& rights) {
  reader.read("slurm_operators", rights.slurm_operators);
  reader.read("slurm_coordinators", rights.slurm_coordinators);
  reader.read_integer("refresh_s", rights.refresh_s, 10, kDay_s);
}

void read_slurm(TableReader& reader, SlurmLimits& slurm) {
  reader.read("limits", slurm.limits);
  reader.read("check", slurm.check);
  reader.read_integer("refresh_s", slurm.refresh_s, 5, kDay_s);
}

// What the libraries that carry messages read. Nothing else of the environment is the site's here.
constexpr std::array<std::string_view, 7> kLaunchPrefixes = {
    "NCCL_", "UCX_", "OMPI_MCA_", "PMIX_MCA_", "FI_", "PSM3_", "HCOLL_"};

void check_environment(TableReader& reader, const std::map<std::string, std::string>& environment) {
  for (const auto& [name, value] : environment) {
    const bool is_known = std::any_of(
        kLaunchPrefixes.begin(), kLaunchPrefixes.end(), [&each = name](std::string_view prefix) {
          return each.size() > prefix.size() && each.starts_with(prefix);
        });
    const bool is_name = std::all_of(name.begin(), name.end(), [](char c) {
      return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
    });
    if (!is_known || !is_name) {
      reader.fault("environment",
                   fmt::format("launch.environment: {} is not set here. Names begin with {}.", name,
                               fmt::join(kLaunchPrefixes, ", ")));
    }
    if (has_control_character(value)) {
      reader.fault("environment", fmt::format("launch.environment.{} has a control character in it.",
                                              name));
    }
  }
}

void read_launch(TableReader& reader, LaunchWays& launch) {
  constexpr std::array<std::string_view, 5> kBinds = {"none", "threads", "cores", "sockets", "ldoms"};
  reader.read("preflight", launch.preflight);
  reader.read_integer("preflight_limit_s", launch.preflight_s, 5, 3'600);
  reader.read_integer("watchdog_limit_s", launch.watchdog_s, 0, kDay_s);
  reader.read("cpu_bind", launch.cpu_bind);
  if (std::find(kBinds.begin(), kBinds.end(), launch.cpu_bind) == kBinds.end()) {
    reader.fault("cpu_bind", fmt::format("launch.cpu_bind = \"{}\" is not known. Known: {}.",
                                         launch.cpu_bind, fmt::join(kBinds, ", ")));
  }
  reader.read("mpi", launch.mpi);
  if (launch.mpi != "pmix" && launch.mpi != "none") {
    reader.fault("mpi", fmt::format("launch.mpi = \"{}\" is not known. Known: pmix, none.", launch.mpi));
  }
  reader.read("environment", launch.environment);
  check_environment(reader, launch.environment);
}

void read_remote(TableReader& reader, Remote& remote) {
  for (const auto& [key, value] : {std::pair{"listen", &remote.listen},
                                   std::pair{"address", &remote.address}}) {
    reader.read(key, *value);
    if (value->empty() || parse_host_port(*value)) continue;
    reader.fault(key, fmt::format("remote.{} = \"{}\" is no HOST:PORT, such as \"ctl1:6838\" or "
                                  "\"[::]:6838\".", key, *value));
  }
  reader.read("munge_socket", remote.munge_socket);
  if (!remote.munge_socket.empty()) check_absolute(reader, "munge_socket", remote.munge_socket);
}

void read_alerts(TableReader& reader, AlertWays& alerts) {
  reader.read("command", alerts.command);
  reader.read("webhook", alerts.webhook);
  reader.read_integer("timeout_s", alerts.timeout_s, 1, 600);
  if (!alerts.command.empty() && alerts.command.front().empty()) {
    reader.fault("command", "alerts.command begins with an empty text; write the program first.");
  }
  const std::string& url = alerts.webhook;
  if (!url.empty() && !url.starts_with("https://") && !url.starts_with("http://")) {
    reader.fault("webhook", fmt::format("alerts.webhook = \"{}\" begins with neither \"https://\" nor "
                                        "\"http://\".", url));
  }
}

Tier read_tier(TableReader& reader) {
  constexpr std::int64_t kMany = 1'000'000;
  Tier tier;
  tier.line = reader.line();
  reader.require("name");
  reader.read("name", tier.name);
  reader.read_integer("max_gpus", tier.max_gpus, 1, kMany);
  reader.read_integer("max_nodes", tier.max_nodes, 1, kMany);
  reader.read_integer("max_runs", tier.max_runs, 1, kMany);
  double hours = 0;
  reader.read_float("max_hours", hours, 0.1, 366 * 24);
  if (hours > 0) tier.max_time_s = std::llround(std::floor(hours * 60 + 1e-6)) * 60;
  reader.read("types", tier.types);
  reader.read_hours("monthly_grant", tier.monthly_grant);
  reader.read("self_service", tier.is_self_service);
  reader.read_hours("price", tier.price);
  if (tier.price > accounting::Amount{0} && !tier.is_self_service) {
    reader.fault("price", "tier.price is for users who take the tier themselves: self_service = true.");
  }
  return tier;
}

// Tiers have names of their own, name types that exist, and the first is everybody's.
void read_tiers(TableReader& reader, Site& site) {
  if (reader.find("tier") == nullptr) return;
  reader.read_tables("tier", [&site](TableReader& each) {
    Tier tier = read_tier(each);
    tier.is_default = site.tiers.empty();
    for (const Tier& other : site.tiers) {
      if (other.name != tier.name) continue;
      each.fault("name", fmt::format("tier.name = \"{}\" stands in line {} already.", tier.name,
                                     other.line));
    }
    for (const std::string& type : tier.types) {
      if (site.find_type(type) != nullptr) continue;
      each.fault("types", fmt::format("tier.types names \"{}\", which is no instance_type.", type));
    }
    site.tiers.push_back(std::move(tier));
  });
}

void read_defaults(TableReader& reader, Site& site) {
  reader.read("type", site.default_type);
  reader.read_integer("gpus", site.default_gpus, 1, 1'000'000);
  reader.read("account", site.default_account);
  reader.read("qos", site.default_qos);
}

std::optional<accounting::UtcSeconds> read_instant(TableReader& reader, std::string_view key) {
  const toml::node* node = reader.find(key);
  if (node == nullptr) {
    reader.require(key);
    return std::nullopt;
  }
  std::string text;
  if (const toml::value<toml::date>* date = node->as_date()) {
    text = fmt::format("{:04}-{:02}-{:02}", date->get().year, date->get().month, date->get().day);
  } else if (const toml::value<std::string>* string = node->as_string()) {
    text = string->get();
  } else {
    reader.wrong_type(key, "a date such as \"2026-01-31\"", *node);
    return std::nullopt;
  }
  const auto instant = accounting::parse_utc(text);
  if (!instant) {
    reader.fault(key, fmt::format("from = \"{}\" is not a date. Write \"2026-01-31\" or "
                                  "\"2026-01-31T08:00:00Z\".",
                                  text));
  }
  return instant;
}

std::optional<std::int64_t> read_weight(TableReader& reader, std::string_view key) {
  const toml::node* node = reader.find(key);
  std::optional<std::int64_t> weight_milli;
  if (node == nullptr) {
    reader.require(key);
    return std::nullopt;
  }
  if (const toml::value<std::int64_t>* number = node->as_integer()) {
    weight_milli = accounting::parse_weight(std::to_string(number->get()));
  } else if (const toml::value<std::string>* text = node->as_string()) {
    weight_milli = accounting::parse_weight(text->get());
  } else if (const toml::value<double>* inexact = node->as_floating_point()) {
    reader.fault(key, fmt::format("weight = {} is a float, which is not exact. Write it as a "
                                  "string, such as \"{:.3f}\".",
                                  inexact->get(), inexact->get()));
    return std::nullopt;
  } else {
    reader.wrong_type(key, "a string such as \"1.000\"", *node);
    return std::nullopt;
  }
  if (!weight_milli) {
    reader.fault(key, "weight is no number of thousandths. Write 0.001 or more, such as \"0.125\".");
  } else if (*weight_milli == 0) {
    // A hold of nothing is none, and without a hold nothing is admitted.
    reader.fault(key, "weight = 0.000 is below the smallest allowed value 0.001.");
    return std::nullopt;
  } else if (*weight_milli > kWeightMax_milli) {
    reader.fault(key, fmt::format("weight = {} is above the largest allowed value {}.",
                                  accounting::format_weight(*weight_milli),
                                  accounting::format_weight(kWeightMax_milli)));
    return std::nullopt;
  }
  return weight_milli;
}

void read_weights(TableReader& reader, std::vector<accounting::WeightPeriod>& weights) {
  reader.read_tables("weights", [&weights](TableReader& period) {
    const auto from = read_instant(period, "from");
    const auto weight_milli = read_weight(period, "weight");
    if (!from || !weight_milli) return;
    if (!weights.empty() && *from <= weights.back().from) {
      period.fault("from", fmt::format("from = {} {} the one before it. Weights stand in "
                                       "ascending order of their dates.",
                                       accounting::format_utc(*from),
                                       *from == weights.back().from ? "repeats" : "lies before"));
      return;
    }
    weights.push_back({.from = *from, .weight_milli = *weight_milli});
  });
}

bool is_gres(std::string_view text) {
  if (!text.starts_with("gpu")) return false;
  text.remove_prefix(3);
  if (text.empty()) return true;
  return text.size() > 1 && text.front() == ':' &&
         std::all_of(text.begin() + 1, text.end(), [](char c) {
           return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
                  c == '_' || c == '-' || c == '.';
         });
}

InstanceType read_instance_type(TableReader& reader) {
  constexpr std::int64_t kMemoryMax_mb = 1'000'000'000;
  InstanceType type;
  type.line = reader.line();
  for (const std::string_view key :
       {"name", "partition", "gres", "nodes", "gpus_per_node", "images_per_s"}) {
    reader.require(key);
  }
  reader.read("name", type.name);
  reader.read("partition", type.partition);
  reader.read("gres", type.gres);
  if (!type.gres.empty() && !is_gres(type.gres)) {
    reader.fault("gres",
                 fmt::format("gres = \"{}\" is neither \"gpu\" nor \"gpu:TYPE\".", type.gres));
  }
  reader.read_integer("nodes", type.nodes, 1, 100'000);
  reader.read_integer("gpus_per_node", type.gpus_per_node, 1, 1'024);
  reader.read_integer("cpus_per_gpu", type.cpus_per_gpu, 1, 1'024);
  reader.read_integer("memory_per_gpu_mb", type.memory_per_gpu_mb, 0, kMemoryMax_mb);
  reader.read_float("images_per_s", type.images_per_s, 0.001, 1e9);
  reader.read_integer("startup_s", type.startup_s, 0, kDay_s);
  read_weights(reader, type.weights);
  return type;
}

void read_types(TableReader& reader, Site& site) {
  reader.read_tables("instance_type", [&site](TableReader& each) {
    InstanceType type = read_instance_type(each);
    for (const std::string_view key : {"name", "partition"}) {
      const std::string& value = key == "name" ? type.name : type.partition;
      const bool has_space = value.find_first_of(" ,") != std::string::npos;
      if (each.line_of(key) != each.line() && (value.empty() || has_space)) {
        each.fault(key, fmt::format("{} = \"{}\" is not one word.", key, value));
      }
    }
    if (const InstanceType* twin = site.find_type(type.name)) {
      each.fault("name",
                 fmt::format("name = \"{}\" stands at line {} already.", type.name, twin->line));
      return;
    }
    site.types.push_back(std::move(type));
  });
}

void check_defaults(TableReader& reader, Site& site) {
  const int line = reader.line_of("defaults");
  if (site.default_type.empty() && site.types.size() == 1) site.default_type = site.types[0].name;
  if (site.types.empty()) return;
  if (site.default_type.empty()) {
    reader.fault_at(line, "defaults.type is missing.");
  } else if (site.find_type(site.default_type) == nullptr) {
    std::vector<std::string> known;
    for (const InstanceType& type : site.types) known.push_back(type.name);
    reader.fault_at(line, fmt::format("defaults.type = \"{}\" is no instance_type. Known types: "
                                      "{}.",
                                      site.default_type, fmt::join(known, ", ")));
  }
  if (site.limits.max_gpus && site.default_gpus > *site.limits.max_gpus) {
    reader.fault_at(line, fmt::format("defaults.gpus = {} exceeds limits.max_gpus = {}.",
                                      site.default_gpus, *site.limits.max_gpus));
  }
}

std::vector<LineFault> read_all(const toml::table& table, Site& site) {
  std::vector<LineFault> faults;
  TableReader reader(table, "", faults);
  reader.read("cluster", site.cluster);
  reader.read_table("service", [&site](TableReader& each) { read_service(each, site); });
  reader.read_table("paths", [&site](TableReader& each) { read_paths(each, site); });
  reader.read_table("limits", [&site](TableReader& each) { read_limits(each, site.limits); });
  reader.read_table("defaults", [&site](TableReader& each) { read_defaults(each, site); });
  reader.read_table("books", [&site](TableReader& each) { read_books(each, site); });
  reader.read_table("alerts", [&site](TableReader& each) { read_alerts(each, site.alerts); });
  reader.read_table("slurm", [&site](TableReader& each) { read_slurm(each, site.slurm); });
  reader.read_table("rights", [&site](TableReader& each) { read_rights(each, site.rights); });
  reader.read_table("launch", [&site](TableReader& each) { read_launch(each, site.launch); });
  reader.read_table("remote", [&site](TableReader& each) { read_remote(each, site.remote); });
  reader.read_table("managed", [&site](TableReader& each) { read_managed(each, site.managed); });
  reader.read_table("refunds", [&site](TableReader& each) { read_refunds(each, site.refunds); });
  read_types(reader, site);
  check_managed(reader, site);
  read_tiers(reader, site);
  check_defaults(reader, site);
  reader.finish();
  std::stable_sort(faults.begin(), faults.end(),
                   [](const LineFault& a, const LineFault& b) { return a.line < b.line; });
  return faults;
}

}  // namespace

bool Managed::has(const std::string& partition) const {
  return std::find(partitions.begin(), partitions.end(), partition) != partitions.end();
}

const InstanceType* Site::find_type(const std::string& name) const {
  for (const InstanceType& type : types) {
    if (type.name == name) return &type;
  }
  return nullptr;
}

const InstanceType* Site::find_type_at(const std::string& partition,
                                       const std::string& gres) const {
  for (const InstanceType& type : types) {
    if (type.partition == partition && (type.gres == gres || type.gres == "gpu")) return &type;
  }
  return nullptr;
}

SiteOutcome read_site(const std::string& path) {
  SiteOutcome outcome;
  outcome.site.path = path;
  const Expected<std::string> text = read_text_file(path);
  if (!text) {
    outcome.faults.push_back({path, text.error().message});
    return outcome;
  }
  try {
    for (LineFault& fault : read_all(toml::parse(*text, path), outcome.site)) {
      outcome.faults.push_back({fmt::format("{}:{}", path, fault.line), one_line(fault.message)});
    }
  } catch (const toml::parse_error& error) {
    const toml::source_position at = error.source().begin;
    outcome.faults.push_back(syntax_fault(path, at.line, at.column, error.description()));
  }
  return outcome;
}

}  // namespace scheduler
