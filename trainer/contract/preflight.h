// SPDX-License-Identifier: Apache-2.0
// trainer/contract/preflight.h
//
// What the ranks report of themselves before a training, and the verdict: a pure function of the
// reports. RUN/preflight.json and one file an attempt (docs/formats/run_folder.md); the scheduler may
// read them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace contract {

// Names inside the run folder: the newest report, and the one of an attempt, "preflight-0-1.json".
inline constexpr std::string_view kPreflightFile = "preflight.json";
[[nodiscard]] std::string preflight_file(int segment, int attempt);

struct RankReport {
  int rank = 0, local_rank = 0;
  std::string host;                     // Slurm's name of the node, where Slurm gives one.
  std::string device;                   // "cpu", "cuda:0".
  std::string versions;                 // Trainer and libtorch; all ranks alike.
  std::int64_t memory_available_b = 0;  // Of the host.
  std::int64_t disk_available_b = 0;    // Where the run's folder lies, as this rank sees it.
  bool can_write = true;                // A file in the run's folder.
  std::int64_t wrong_sums = 0;          // Elements of the test sums that were not exact here.
  std::int64_t own_wrong_sums = 0;      // Of the same sums as the rank alone makes them.
  std::string gpu = {};                 // "NVIDIA H100 80GB HBM3"; empty: none that NCCL could use.
  std::int64_t gpu_memory_b = 0;
  std::string gpu_versions = {};        // NCCL, CUDA, driver.
};

struct PreflightReport {
  std::vector<RankReport> ranks = {};  // In their order.
  std::int64_t sum_bytes = 0;
  double sum_s = 0;  // Of the slowest rank, the best of some tries.
  double device_sum_s = 0;  // The same in the memory of the GPUs; 0: not tried.
  double duration_s = 0;    // Of the preflight, of the slowest rank.
  struct Fault {
    int rank = 0;
    std::string host;
    std::string problem;  // "disk of the run's folder: 12 MiB free, 1024 MiB needed"
  };
  std::vector<Fault> faults = {};  // Empty: go ahead.
  int segment = 0, attempt = 0;    // Of the run: whose report this is.
  // Why it did not end, in the watchdog's words; then `ranks` is empty and `faults` are the ranks that
  // are missing, or one of rank -1 where nobody knows whose it is. Empty: it did end.
  std::string unfinished = {};
};

struct PreflightLimits {
  std::int64_t memory_min_b = std::int64_t{256} << 20;
  std::int64_t disk_min_b = std::int64_t{512} << 20;
};

// Fills in `faults`: too little memory or disk, a folder that cannot be written, wrong sums;
// versions or a kind of device that differ from those of most ranks.
void judge(PreflightReport& report, const PreflightLimits& limits);

// "bad node n2 (rank 3): ...", one a line, a node's faults of the same words once. Empty: none.
[[nodiscard]] std::string describe_faults(const PreflightReport& report);

// The nodes to leave out when the run is placed again, each once. None where all of several nodes have
// faults: then it is not the nodes that are bad.
[[nodiscard]] std::vector<std::string> bad_nodes(const PreflightReport& report);

// "preflight: 4 ranks on 2 hosts; ...": one line.
[[nodiscard]] std::string describe(const PreflightReport& report);

// Of the sum: bytes that a rank sends and receives, 2 (n - 1) / n of them, by the time.
[[nodiscard]] double bus_bytes_per_s(const PreflightReport& report);

[[nodiscard]] std::string to_json_text(const PreflightReport& report);
[[nodiscard]] std::string to_json_text(const RankReport& report);
// Throw std::invalid_argument.
[[nodiscard]] RankReport parse_rank_report(const std::string& json_text);
[[nodiscard]] PreflightReport parse_preflight(const std::string& json_text);

}  // namespace contract
