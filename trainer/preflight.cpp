// SPDX-License-Identifier: Apache-2.0
#include "trainer/preflight.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <exception>
#include <fstream>
#include <span>
#include <system_error>
#include <vector>

#include "trainer/durable_file.h"
#include "trainer/nccl_communicator.h"
#include "trainer/run_folder.h"

namespace trainer {

namespace {

namespace fs = std::filesystem;

// 1 MiB: enough to tell a slow link, little enough for a busy one.
constexpr std::size_t kSumElements = (std::size_t{1} << 20) / sizeof(float);
constexpr int kTries = 3;

// MemAvailable of the host; 0 where the kernel does not say.
std::int64_t memory_available() {
  std::ifstream file("/proc/meminfo");
  for (std::string name; file >> name;) {
    std::int64_t kibibytes = 0;
    if (name == "MemAvailable:" && file >> kibibytes) return kibibytes << 10;
    file.ignore(1 << 10, '\n');
  }
  return 0;
}

std::int64_t disk_available(const std::string& folder) {
  std::error_code error;
  const fs::space_info space = fs::space(folder, error);
  return error ? 0 : static_cast<std::int64_t>(space.available);
}

bool can_write(const std::string& folder, int rank) {
  const std::string path = fmt::format("{}/.preflight-{}", folder, rank);
  std::ofstream file(path);
  file << rank << std::flush;
  const bool is_written = file.good();
  std::error_code ignored;
  fs::remove(path, ignored);
  return is_written;
}

float value_of(int rank, std::size_t i) {
  constexpr std::size_t kValues = 5;  // Small integers: sums are exact.
  return static_cast<float>((i + static_cast<std::size_t>(rank)) % kValues);
}

// In integers: a rank that adds up floats wrongly is to notice it.
float expected_sum(std::size_t k, int ranks) {
  std::int64_t sum = 0;
  for (int rank = 0; rank < ranks; ++rank) sum += static_cast<std::int64_t>(value_of(rank, k));
  return static_cast<float>(sum);
}

std::int64_t wrong_in(const std::vector<float>& sums, int ranks) {
  std::int64_t wrong = 0;
  for (std::size_t k = 0; k < sums.size(); ++k) {
    if (sums[k] != expected_sum(k, ranks)) ++wrong;
  }
  return wrong;
}

// What this rank alone makes of all ranks' values.
std::int64_t wrong_alone(int ranks) {
  std::vector<float> sums(kSumElements, 0.0F);
  for (int rank = 0; rank < ranks; ++rank) {
    for (std::size_t k = 0; k < sums.size(); ++k) sums[k] += value_of(rank, k);
  }
  return wrong_in(sums, ranks);
}

double slowest(Communicator& ranks, double seconds) {
  constexpr double kNanoseconds = 1e9;
  auto all = static_cast<std::int64_t>(seconds * kNanoseconds);
  ranks.all_reduce_max(std::span<std::int64_t>(&all, 1));
  return static_cast<double>(all) / kNanoseconds;
}

// The fastest of some sums, and how many elements were wrong in any.
double try_sums(Communicator& ranks, const std::function<double()>& now, std::int64_t& wrong) {
  double best = 0;
  for (int i = 0; i < kTries; ++i) {
    std::vector<float> values(kSumElements);
    for (std::size_t k = 0; k < values.size(); ++k) values[k] = value_of(ranks.rank(), k);
    ranks.barrier();
    const double before = now();
    ranks.all_reduce_sum(std::span<float>(values));
    const double seconds = now() - before;
    best = i == 0 ? seconds : std::min(best, seconds);
    wrong += wrong_in(values, ranks.size());
  }
  return best;
}

// The same in the memory of the GPUs; 0 where the ranks do not add up there.
double try_device_sums(Communicator& ranks, const std::function<double()>& now, std::int64_t& wrong) {
  if (!ranks.sums_on_device()) return 0;
  std::vector<float> values(kSumElements);
  DeviceArray memory(values.size() * sizeof(float));
  double best = 0;
  for (int i = 0; i < kTries; ++i) {
    for (std::size_t k = 0; k < values.size(); ++k) values[k] = value_of(ranks.rank(), k);
    memory.write(std::as_bytes(std::span(values)));
    ranks.barrier();
    const double before = now();
    ranks.wait(ranks.start_device_sum({.values = memory.get(), .count = values.size()}));
    const double seconds = now() - before;
    best = i == 0 ? seconds : std::min(best, seconds);
    memory.read(std::as_writable_bytes(std::span(values)));
    wrong += wrong_in(values, ranks.size());
  }
  return best;
}

// Its own file first: whoever sees the newest finds it there too. Ranks that give up write at once.
void write_report(const PreflightPlace& place, const contract::PreflightReport& report) {
  const std::string text = contract::to_json_text(report);
  for (const std::string& name : {contract::preflight_file(place.segment, place.attempt),
                                  std::string(contract::kPreflightFile)}) {
    write_durably(fmt::format("{}/{}", place.run_dir, name), text);
  }
}

std::vector<std::string> gather(Communicator& ranks, const std::string& own) {
  std::vector<std::string> all;
  for (const auto& bytes : ranks.all_gather(std::as_bytes(std::span(own)))) {
    all.emplace_back(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  return all;
}

}  // namespace

contract::PreflightReport preflight(const PreflightOptions& options, Communicator& communicator) {
  const std::string& run_dir = options.place.run_dir;
  if (communicator.rank() == 0) {
    std::error_code ignored;  // What cannot be removed is written over, or that fails.
    fs::remove(fmt::format("{}/{}", run_dir, contract::kPreflightFile), ignored);
  }
  const double began = options.now();
  const NcclDevice gpu = describe_nccl_device(communicator.local_rank());
  contract::RankReport own{.rank = communicator.rank(),
                           .local_rank = communicator.local_rank(),
                           .host = communicator.host(),
                           .device = options.device,
                           .versions = options.versions,
                           .memory_available_b = memory_available(),
                           .disk_available_b = disk_available(run_dir),
                           .can_write = can_write(run_dir, communicator.rank()),
                           .own_wrong_sums = wrong_alone(communicator.size()),
                           .gpu = gpu.name,
                           .gpu_memory_b = gpu.memory_b,
                           .gpu_versions = gpu.versions};
  const double seconds = try_sums(communicator, options.now, own.wrong_sums);
  const double device_seconds = try_device_sums(communicator, options.now, own.wrong_sums);

  contract::PreflightReport report{.sum_bytes = kSumElements * sizeof(float),
                                   .sum_s = slowest(communicator, seconds),
                                   .device_sum_s = slowest(communicator, device_seconds),
                                   .segment = options.place.segment,
                                   .attempt = options.place.attempt};
  for (const std::string& text : gather(communicator, contract::to_json_text(own))) {
    report.ranks.push_back(contract::parse_rank_report(text));
  }
  report.duration_s = slowest(communicator, options.now() - began);
  contract::judge(report, options.limits);
  if (communicator.rank() == 0) write_report(options.place, report);
  return report;
}

void leave_unfinished_preflight(const PreflightPlace& place, const LastWords& words) {
  contract::PreflightReport report{.segment = place.segment,
                                   .attempt = place.attempt,
                                   .unfinished = words.message};
  for (const LastWords::Missing& each : words.missing) {
    report.faults.push_back({each.rank, each.host, each.problem});
  }
  if (report.faults.empty()) report.faults.push_back({-1, {}, words.message});
  try {
    write_report(place, report);
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}: {}\n", contract::kPreflightFile, error.what());
  }
}

}  // namespace trainer
