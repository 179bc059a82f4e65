// SPDX-License-Identifier: GPL-3.0-or-later
#include "trainer/contract/preflight.h"

#include <gtest/gtest.h>

#include <stdexcept>

namespace contract {
namespace {

// Two hosts with two ranks each, all well.
PreflightReport four_ranks() {
  PreflightReport report{.sum_bytes = 1 << 20, .sum_s = 0.01};
  for (int rank = 0; rank < 4; ++rank) {
    report.ranks.push_back({.rank = rank,
                            .local_rank = rank % 2,
                            .host = rank < 2 ? "n1" : "n2",
                            .device = "cuda:" + std::to_string(rank % 2),
                            .versions = "trainyard 0.1.0, libtorch 2.6.0",
                            .memory_available_b = std::int64_t{64} << 30,
                            .disk_available_b = std::int64_t{900} << 30});
  }
  return report;
}

std::string faults_of(PreflightReport report) {
  judge(report, {});
  return describe_faults(report);
}

TEST(Preflight, HasNothingAgainstGoodNodes) {
  EXPECT_EQ(faults_of(four_ranks()), "");
}

TEST(Preflight, NamesTheNodeAndBothNumbers) {
  PreflightReport report = four_ranks();
  report.ranks[2].disk_available_b = report.ranks[3].disk_available_b = std::int64_t{12} << 20;
  report.ranks[1].wrong_sums = 5;

  EXPECT_EQ(faults_of(report),
            "bad node n1 (rank 1): the sum over the ranks is wrong in 5 places.\n"
            "bad node n2 (rank 2): disk of the run's folder: 12 MiB free, 512 MiB needed.");
}

TEST(Preflight, NamesTheOneThatAddsUpWronglyAndNotThoseThatGotItsSums) {
  PreflightReport report = four_ranks();
  for (RankReport& each : report.ranks) each.wrong_sums = 5;
  EXPECT_EQ(bad_nodes(report), std::vector<std::string>());
  report.ranks[2].own_wrong_sums = 7;
  report = parse_preflight(to_json_text(report));

  EXPECT_EQ(faults_of(report), "bad node n2 (rank 2): it adds up wrongly by itself in 7 places.");
  judge(report, {});
  EXPECT_EQ(bad_nodes(report), std::vector<std::string>{"n2"});
}

TEST(Preflight, KnowsTheGpusAndReadsReportsOfBeforeTheyWereTold) {
  PreflightReport report = four_ranks();
  for (RankReport& each : report.ranks) {
    each.gpu = "H100";
    each.gpu_memory_b = std::int64_t{80} << 30;
    each.gpu_versions = "NCCL 2.28.9, CUDA 12.4, driver for CUDA 12.8";
  }
  report.device_sum_s = 0.002;
  const PreflightReport read = parse_preflight(to_json_text(report));
  EXPECT_EQ(read.ranks[3].gpu, "H100");
  EXPECT_EQ(read.ranks[3].gpu_memory_b, std::int64_t{80} << 30);
  EXPECT_DOUBLE_EQ(read.device_sum_s, 0.002);
  EXPECT_NE(describe(report).find("(on the GPUs 2.00 ms)"), std::string::npos) << describe(report);
  EXPECT_EQ(faults_of(report), "");

  report.ranks[2].gpu_versions = "NCCL 2.20.5, CUDA 12.4, driver for CUDA 12.8";
  EXPECT_EQ(faults_of(report),
            "bad node n2 (rank 2): GPU libraries: NCCL 2.20.5, CUDA 12.4, driver for CUDA 12.8, most "
            "ranks have NCCL 2.28.9, CUDA 12.4, driver for CUDA 12.8.");

  const RankReport before = parse_rank_report(
      R"({"rank": 1, "local_rank": 0, "host": "n1", "device": "cpu", "versions": "v",
          "memory_available_b": 5, "disk_available_b": 6, "can_write": true, "wrong_sums": 0})");
  EXPECT_EQ(before.gpu, "");
  EXPECT_EQ(before.disk_available_b, 6);
}

TEST(Preflight, GoesWithMostRanks) {
  PreflightReport report = four_ranks();
  report.ranks[0].versions = "trainyard 0.0.9, libtorch 2.6.0";
  report.ranks[3].device = "cpu";

  EXPECT_EQ(faults_of(report),
            "bad node n1 (rank 0): versions: trainyard 0.0.9, libtorch 2.6.0, most ranks have "
            "trainyard 0.1.0, libtorch 2.6.0.\n"
            "bad node n2 (rank 3): device: cpu, most ranks have cuda.");
}

TEST(Preflight, FindsLittleMemoryAndAFolderThatCannotBeWritten) {
  PreflightReport report = four_ranks();
  report.ranks[3].memory_available_b = std::int64_t{100} << 20;
  report.ranks[2].can_write = false;

  EXPECT_EQ(faults_of(report),
            "bad node n2 (rank 2): the run's folder cannot be written.\n"
            "bad node n2 (rank 3): memory: 100 MiB free, 256 MiB needed.");
}

TEST(Preflight, LeavesOutTheNodesThatAreWorseThanOthers) {
  PreflightReport report = four_ranks();
  EXPECT_EQ(bad_nodes(report), std::vector<std::string>());

  report.ranks[2].can_write = report.ranks[3].can_write = false;
  judge(report, {});
  EXPECT_EQ(bad_nodes(report), std::vector<std::string>{"n2"});

  // Where no node can write, no other would help.
  report.ranks[0].can_write = false;
  judge(report, {});
  EXPECT_EQ(bad_nodes(report), std::vector<std::string>());

  report.ranks.resize(2);
  judge(report, {});
  EXPECT_EQ(bad_nodes(report), std::vector<std::string>{"n1"});
}

TEST(Preflight, HasAFileAnAttemptAndSaysWhetherItEnded) {
  EXPECT_EQ(preflight_file(2, 13), "preflight-2-13.json");
  PreflightReport report = four_ranks();
  report.segment = 2;
  report.attempt = 13;
  EXPECT_EQ(to_json_text(report).find("unfinished"), std::string::npos);

  report.unfinished = "watchdog: rank 1 is missing.";
  const PreflightReport read = parse_preflight(to_json_text(report));
  EXPECT_EQ(read.segment, 2);
  EXPECT_EQ(read.attempt, 13);
  EXPECT_EQ(read.unfinished, report.unfinished);

  // As it was before a report said whose it is.
  const PreflightReport before = parse_preflight(
      R"({"ranks": [], "sum_bytes": 8, "sum_s": 0.5, "device_sum_s": 0, "faults": []})");
  EXPECT_EQ(before.attempt, 0);
  EXPECT_EQ(before.unfinished, "");
}

TEST(Preflight, SurvivesJsonAndSaysItsSpeed) {
  PreflightReport report = four_ranks();
  report.ranks[2].can_write = false;
  report.duration_s = 0.25;
  judge(report, {});

  const PreflightReport read = parse_preflight(to_json_text(report));

  EXPECT_EQ(to_json_text(read), to_json_text(report));
  EXPECT_DOUBLE_EQ(read.duration_s, 0.25);
  EXPECT_DOUBLE_EQ(bus_bytes_per_s(read), 1.5 * (1 << 20) / 0.01);
  EXPECT_EQ(
      describe(report),
      "preflight: 4 ranks on 2 hosts; least free: 65536 MiB of memory, 921600 MiB of disk; sum "
      "of 1024 KiB in 10.00 ms, bus 150 MiB/s; 1 faults");
  EXPECT_THROW(static_cast<void>(parse_preflight("{}")), std::invalid_argument);
}

}  // namespace
}  // namespace contract
