// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/site.h"

#include <gtest/gtest.h>

#include "tests/scheduler/sites.h"

namespace scheduler {
namespace {

// Line 1 is "cluster", line 8 begins the instance type.
const std::string kSmall = R"(cluster = "demo"
[limits]
max_gpus = 4
max_hours = 24
[defaults]
type = "h100"
gpus = 1
)" + kInstanceType;

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

TEST(Site, SaysHowRanksAreStarted) {
  const SiteOutcome silent = read_site_text(kSmall);
  EXPECT_TRUE(silent.site.launch.preflight);
  EXPECT_EQ(silent.site.launch.cpu_bind, "cores");
  EXPECT_EQ(silent.site.launch.mpi, "pmix");

  const SiteOutcome outcome = read_site_text(kSmall + R"([launch]
preflight = false
preflight_limit_s = 60
watchdog_limit_s = 1200
cpu_bind = "threads"
mpi = "none"
[launch.environment]
NCCL_SOCKET_IFNAME = "ib0"
OMPI_MCA_btl_tcp_if_include = "10.1.0.0/16"
)");
  EXPECT_EQ(to_text(outcome.faults), "");
  EXPECT_FALSE(outcome.site.launch.preflight);
  EXPECT_EQ(outcome.site.launch.preflight_s, 60);
  EXPECT_EQ(outcome.site.launch.watchdog_s, 1'200);
  EXPECT_EQ(outcome.site.launch.cpu_bind, "threads");
  EXPECT_EQ(outcome.site.launch.mpi, "none");
  EXPECT_EQ(outcome.site.launch.environment.at("NCCL_SOCKET_IFNAME"), "ib0");
  EXPECT_EQ(outcome.site.launch.environment.size(), 2u);
}

TEST(Site, OnlyTheLibrariesThatCarryMessagesAreSetUp) {
  EXPECT_EQ(to_text(read_site_text(kSmall + R"([launch]
cpu_bind = "map_cpu:0"
environment = {LD_PRELOAD = "/x.so", NCCL_ = "1", "NCCL_X;id" = "1", UCX_TLS = "rc"}
)").faults),
            "site.toml:17: launch.cpu_bind = \"map_cpu:0\" is not known. Known: none, threads, cores, "
            "sockets, ldoms.\n"
            "site.toml:18: launch.environment: LD_PRELOAD is not set here. Names begin with NCCL_, "
            "UCX_, OMPI_MCA_, PMIX_MCA_, FI_, PSM3_, HCOLL_.\n"
            "site.toml:18: launch.environment: NCCL_ is not set here. Names begin with NCCL_, UCX_, "
            "OMPI_MCA_, PMIX_MCA_, FI_, PSM3_, HCOLL_.\n"
            "site.toml:18: launch.environment: NCCL_X;id is not set here. Names begin with NCCL_, "
            "UCX_, OMPI_MCA_, PMIX_MCA_, FI_, PSM3_, HCOLL_.\n");
}

TEST(Site, TheExampleOfItsPageIsReadInFull) {
  const auto blocks = test::blocks_of(test::kSource / "docs/formats/site.md", "toml");
  ASSERT_EQ(blocks.size(), 1u);

  const SiteOutcome outcome = read_site_text(blocks[0]);
  const Site& site = outcome.site;

  EXPECT_EQ(to_text(outcome.faults), "");
  EXPECT_EQ(site.cluster, "demo");
  EXPECT_EQ(site.socket, "/run/trainyard/socket");
  EXPECT_EQ(site.database, "/var/lib/trainyard/books.db");
  EXPECT_EQ(site.service_user, "trainyard");
  EXPECT_EQ(site.poll_interval_s, 1);
  EXPECT_EQ(site.admin_users, std::vector<std::string>{"trainyard"});
  EXPECT_TRUE(site.admin_groups.empty());
  EXPECT_EQ(site.unclaimed_hold_s, 60);
  EXPECT_EQ(site.record_wait_s, 120);
  EXPECT_EQ(site.trainer, "/opt/trainyard/bin/trainyard-trainer");
  EXPECT_EQ(site.runs, "~/trainyard/runs");
  EXPECT_EQ(site.limits.max_gpus, 4);
  EXPECT_EQ(site.limits.max_nodes, 2);
  EXPECT_EQ(site.limits.max_time_s, 86'400);
  EXPECT_EQ(site.limits.max_runs_per_user, 20);
  EXPECT_EQ(site.default_type, "h100");
  EXPECT_EQ(site.default_gpus, 1);
  EXPECT_EQ(site.default_account, "trainyard");
  EXPECT_EQ(site.default_qos, "");
  EXPECT_EQ(site.quote_valid_s, 86'400);
  EXPECT_EQ(site.alerts.command, (std::vector<std::string>{"mail", "-s", "{text}", "hpc@example.org"}));
  ASSERT_EQ(site.tiers.size(), 2u);
  EXPECT_TRUE(site.tiers[0].is_default);
  EXPECT_FALSE(site.tiers[1].is_default);
  EXPECT_EQ(site.tiers[0].max_runs, 1);
  EXPECT_EQ(site.tiers[1].types, std::vector<std::string>{"h100"});
  EXPECT_EQ(site.tiers[1].monthly_grant.milli_gpu_s, 100 * 3'600'000);
  ASSERT_EQ(site.types.size(), 1u);
  const InstanceType& type = site.types[0];
  EXPECT_EQ(type.name, "h100");
  EXPECT_EQ(type.partition, "gpu");
  EXPECT_EQ(type.gres, "gpu:h100");
  EXPECT_EQ(type.nodes, 2);
  EXPECT_EQ(type.gpus_per_node, 2);
  EXPECT_EQ(type.cpus_per_gpu, 1);
  EXPECT_EQ(type.memory_per_gpu_mb, 1'500);
  EXPECT_EQ(type.images_per_s, 3);
  EXPECT_EQ(type.startup_s, 30);
  ASSERT_EQ(type.weights.size(), 1u);
  EXPECT_EQ(type.weights[0].from, accounting::parse_utc("2026-01-01"));
  EXPECT_EQ(type.weights[0].weight_milli, 1'000);
}

TEST(Site, WhatIsLeftOutHasADefault) {
  const SiteOutcome outcome = read_site_text(kSmall);

  EXPECT_EQ(to_text(outcome.faults), "");
  EXPECT_EQ(outcome.site.socket, "/run/trainyard/socket");
  EXPECT_EQ(outcome.site.types[0].startup_s, 60);
  EXPECT_EQ(outcome.site.limits.max_nodes, std::nullopt);
  EXPECT_FALSE(outcome.site.fund_owes_excess);
  EXPECT_EQ(outcome.site.limits.line, 2);
  EXPECT_EQ(outcome.site.types[0].line, 8);
}

TEST(Site, AnExcessMayBeTheFunds) {
  const SiteOutcome outcome =
      read_site_text(replaced(kSmall, "[limits]", "[books]\nexcess = \"fund\"\n[limits]"));
  EXPECT_EQ(to_text(outcome.faults), "");
  EXPECT_TRUE(outcome.site.fund_owes_excess);
}

TEST(Site, TheOnlyTypeIsTheDefaultType) {
  const SiteOutcome outcome = read_site_text(replaced(kSmall, "type = \"h100\"\n", ""));

  EXPECT_EQ(to_text(outcome.faults), "");
  EXPECT_EQ(outcome.site.default_type, "h100");
}

TEST(Site, WeightsAreExact) {
  const SiteOutcome outcome = read_site_text(replaced(
      kSmall, R"({from = "2026-01-01", weight = "1.000"})",
      R"({from = 2026-01-01, weight = 2}, {from = "2026-02-01T08:00:00Z", weight = "0.125"})"));

  EXPECT_EQ(to_text(outcome.faults), "");
  ASSERT_EQ(outcome.site.types[0].weights.size(), 2u);
  EXPECT_EQ(outcome.site.types[0].weights[0].weight_milli, 2'000);
  EXPECT_EQ(outcome.site.types[0].weights[1].weight_milli, 125);
  EXPECT_EQ(outcome.site.types[0].weights[1].from, accounting::parse_utc("2026-02-01T08:00:00Z"));
}

TEST(Site, EveryFaultNamesItsLine) {
  struct Row {
    const char *from, *to, *faults;
  };
  const std::vector<Row> rows = {
      {"max_gpus", "max_gpu",
       "site.toml:3: limits.max_gpu is not known. Did you mean "
       "\"max_gpus\"?\n"},
      {"max_gpus = 4", "max_gpus = 0",
       "site.toml:3: limits.max_gpus = 0 is below the smallest allowed value 1.\n"},
      {"max_gpus = 4", "max_gpus = \"4\"",
       "site.toml:3: limits.max_gpus is a string. It takes a whole number.\n"},
      {"max_hours = 24", "max_hours = inf",
       "site.toml:4: limits.max_hours = inf is not a number.\n"},
      {"max_hours = 24", "max_hours = 9000",
       "site.toml:4: limits.max_hours = 9000 is above the largest allowed value 8784.\n"},
      {"gpus = 1", "gpus = 5", "site.toml:5: defaults.gpus = 5 exceeds limits.max_gpus = 4.\n"},
      {"type = \"h100\"", "type = \"a100\"",
       "site.toml:5: defaults.type = \"a100\" is no instance_type. Known types: h100.\n"},
      {"[limits]", "[limit]", "site.toml:2: limit is not known. Did you mean \"limits\"?\n"},
      {"[limits]", "[books]\nexcess = \"both\"\n[limits]",
       "site.toml:3: books.excess = \"both\" is none of \"site\", \"fund\".\n"},
      {"cluster = \"demo\"", "cluster = 3",
       "site.toml:1: cluster is a whole number. It takes a "
       "string.\n"},
      {"cluster = \"demo\"", "service = {socket = \"run/socket\"}",
       "site.toml:1: socket = \"run/socket\" is not an absolute path.\n"},
      {"cluster = \"demo\"", "service = {poll_interval_s = 0}",
       "site.toml:1: service.poll_interval_s = 0 is below the smallest allowed value 0.1.\n"},
      {"cluster = \"demo\"", "service = {admin_users = \"ada\"}",
       "site.toml:1: service.admin_users is a string. It takes an array of strings.\n"},
      {"cluster = \"demo\"", "paths = {trainer = \"bin/trainer\"}",
       "site.toml:1: trainer = \"bin/trainer\" is neither an absolute path nor a bare name.\n"},
      {"cluster = \"demo\"", "paths = {runs = \"runs\"}",
       "site.toml:1: runs = \"runs\" begins with neither \"/\" nor \"~/\".\n"},
      {"gres = \"gpu:h100\"\n", "", "site.toml:8: instance_type.gres is missing.\n"},
      {"gres = \"gpu:h100\"", "gres = \"gpu:h100:2\"",
       "site.toml:11: gres = \"gpu:h100:2\" is neither \"gpu\" nor \"gpu:TYPE\".\n"},
      {"partition = \"gpu\"", "partition = \"a,b\"",
       "site.toml:10: partition = \"a,b\" is not one word.\n"},
      {"nodes = 2", "nodes = 2.0",
       "site.toml:12: instance_type.nodes is a float. It takes a whole number.\n"},
      {"images_per_s = 3", "images_per_s = 0",
       "site.toml:14: instance_type.images_per_s = 0 is below the smallest allowed value 0.001.\n"},
      {"weight = \"1.000\"", "weight = 1.5",
       "site.toml:15: weight = 1.5 is a float, which is not exact. Write it as a string, such as "
       "\"1.500\".\n"},
      {"weight = \"1.000\"", "weight = 0",
       "site.toml:15: weight = 0.000 is below the smallest allowed value 0.001.\n"},
      {"weight = \"1.000\"", "weight = \"0.0001\"",
       "site.toml:15: weight is no number of thousandths. Write 0.001 or more, such as \"0.125\".\n"},
      {"weight = \"1.000\"", "weight = -1",
       "site.toml:15: weight is no number of thousandths. Write 0.001 or more, such as \"0.125\".\n"},
      {"weight = \"1.000\"", "weight = 9223372036854775807",
       "site.toml:15: weight is no number of thousandths. Write 0.001 or more, such as \"0.125\".\n"},
      {"weight = \"1.000\"", "weight = 1001",
       "site.toml:15: weight = 1001.000 is above the largest allowed value 1000.000.\n"},
      {"weight = \"1.000\"", "wait = 1",
       "site.toml:15: instance_type.weights.weight is missing.\n"
       "site.toml:15: instance_type.weights.wait is not known. Did you mean \"weight\"?\n"},
      {"from = \"2026-01-01\"", "from = \"2026-13-01\"",
       "site.toml:15: from = \"2026-13-01\" is not a date. Write \"2026-01-31\" or "
       "\"2026-01-31T08:00:00Z\".\n"},
      {"from = \"2026-01-01\"", "from = 2026",
       "site.toml:15: instance_type.weights.from is a whole number. It takes a date such as "
       "\"2026-01-31\".\n"},
      {"[{from = \"2026-01-01\", weight = \"1.000\"}]", "[]",
       "site.toml:15: instance_type.weights is missing. Give at least one.\n"},
      {"}]", "}, {from = \"2026-01-01\", weight = 2}]",
       "site.toml:15: from = 2026-01-01T00:00:00Z repeats the one before it. Weights stand in "
       "ascending order of their dates.\n"},
      {"}]", "}, {from = \"2025-01-01\", weight = 2}]",
       "site.toml:15: from = 2025-01-01T00:00:00Z lies before the one before it. Weights stand in "
       "ascending order of their dates.\n"},
      {"cluster = \"demo\"", "cluster = demo",
       "site.toml:1:11: not TOML: value: could not determine value type.\n"},
  };

  for (const Row& row : rows) {
    SCOPED_TRACE(row.to);
    EXPECT_EQ(to_text(read_site_text(replaced(kSmall, row.from, row.to)).faults), row.faults);
  }
}

TEST(Site, AllFaultsAreNamedAtOnceInTheOrderOfTheFile) {
  std::string text = replaced(kSmall, "max_gpus = 4", "max_gpus = -4");
  text = replaced(text, "gpus_per_node = 2", "gpus_per_nod = 2");

  EXPECT_EQ(to_text(read_site_text(text).faults),
            "site.toml:3: limits.max_gpus = -4 is below the smallest allowed value 1.\n"
            "site.toml:8: instance_type.gpus_per_node is missing.\n"
            "site.toml:13: instance_type.gpus_per_nod is not known. Did you mean "
            "\"gpus_per_node\"?\n");
}

TEST(Site, ATypeMayNotStandTwice) {
  const std::string type = kSmall.substr(kSmall.find("[[instance_type]]"));

  EXPECT_EQ(to_text(read_site_text(kSmall + type).faults),
            "site.toml:17: name = \"h100\" stands at line 8 already.\n");
}

TEST(Site, ASiteWithoutTypesIsAFault) {
  EXPECT_EQ(to_text(read_site_text("cluster = \"demo\"\n").faults),
            "site.toml:1: instance_type is missing. Give at least one.\n");
}

TEST(Site, AFileThatIsNotThereSaysSo) {
  EXPECT_EQ(to_text(read_site("/nowhere/site.toml").faults),
            "/nowhere/site.toml: cannot be read: No such file or directory.\n");
}

}  // namespace
}  // namespace scheduler
