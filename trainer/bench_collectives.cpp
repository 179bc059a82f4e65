// SPDX-License-Identifier: Apache-2.0
#include "trainer/bench_collectives.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <utility>

#include "trainer/bfloat16.h"
#include "trainer/contract/json_text.h"
#include "trainer/nccl_communicator.h"

namespace trainer {

namespace {

// What a measurement does each time, and how its result comes into the values.
struct Trial {
  std::function<void()> run;
  std::function<void()> fetch = [] {};
};

// In memory of the GPU, which is there before the time runs; as bfloat16: half the bytes.
Trial sum_on_device(Communicator& ranks, std::span<float> values, Wire wire) {
  const auto sum = [&ranks, wire, count = values.size()](const DeviceArray& memory) {
    ranks.wait(ranks.start_device_sum({.values = memory.get(), .count = count, .type = wire}));
  };
  if (wire == Wire::kFloat32) {
    const auto memory = std::make_shared<DeviceArray>(values.size_bytes());
    memory->write(std::as_bytes(values));
    return {[sum, memory] { sum(*memory); },
            [memory, values] { memory->read(std::as_writable_bytes(values)); }};
  }
  std::vector<std::uint16_t> halves(values.size());
  std::transform(values.begin(), values.end(), halves.begin(), to_bfloat16);
  const auto memory = std::make_shared<DeviceArray>(halves.size() * sizeof(std::uint16_t));
  memory->write(std::as_bytes(std::span(halves)));
  return {[sum, memory] { sum(*memory); },
          [memory, values] {
            std::vector<std::uint16_t> sums(values.size());
            memory->read(std::as_writable_bytes(std::span(sums)));
            std::transform(sums.begin(), sums.end(), values.begin(), from_bfloat16);
          }};
}

struct Collective {
  const char* name;
  double bus_factor;
  std::function<Trial(std::span<float>)> prepare;
  std::function<float(std::size_t)> expected;
};

std::vector<Collective> collectives_of(Communicator& ranks) {
  const int size = ranks.size();
  const double sum_factor = 2.0 * (size - 1) / size;
  const auto sum = [sums = bench_sums(size)](std::size_t i) { return sums[i % sums.size()]; };
  std::vector<Collective> all = {
      {"gradient_sum", sum_factor,
       [&ranks](std::span<float> values) {
         return Trial{[&ranks, values] { ranks.wait(ranks.start_sum({.values = values})); }};
       },
       sum},
      {"all_reduce", sum_factor,
       [&ranks](std::span<float> values) {
         return Trial{[&ranks, values] { ranks.all_reduce_sum(values); }};
       },
       sum},
      {"broadcast", 1.0,
       [&ranks](std::span<float> values) {
         return Trial{[&ranks, values] {
           ranks.broadcast(std::as_writable_bytes(values), /*root=*/0);
         }};
       },
       [size](std::size_t i) { return bench_value(0, i, size); }}};
  if (!ranks.sums_on_device()) return all;
  for (const auto& [name, wire] : {std::pair("device_sum", Wire::kFloat32),
                                   std::pair("device_bf16", Wire::kBfloat16)}) {
    all.push_back({name, sum_factor,
                   [&ranks, wire = wire](std::span<float> values) {
                     return sum_on_device(ranks, values, wire);
                   },
                   sum});
  }
  return all;
}

double largest(Communicator& ranks, double seconds) {
  constexpr double kNanoseconds = 1e9;
  auto all = static_cast<std::int64_t>(seconds * kNanoseconds);
  ranks.all_reduce_max(std::span<std::int64_t>(&all, 1));
  return static_cast<double>(all) / kNanoseconds;
}

void fill(std::span<float> values, const Communicator& ranks) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = bench_value(ranks.rank(), i, ranks.size());
  }
}

CollectiveRow measure(const Collective& collective, std::size_t bytes,
                      const CollectiveBenchOptions& options, Communicator& ranks,
                      const std::function<double()>& now) {
  std::vector<float> values(std::max<std::size_t>(1, bytes / sizeof(float)));
  fill(values, ranks);
  const Trial checked = collective.prepare(values);
  ranks.barrier();
  const double before = now();
  checked.run();
  const double once = largest(ranks, now() - before);
  checked.fetch();
  double wrong = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (values[i] != collective.expected(i)) ++wrong;
  }
  ranks.all_reduce_sum(std::span<double>(&wrong, 1));

  CollectiveRow row{.name = collective.name, .bytes = values.size() * sizeof(float)};
  row.wrong = static_cast<std::int64_t>(wrong);
  row.times = std::clamp(static_cast<int>(options.seconds_max / std::max(once, 1e-9)), 1,
                         options.times_max);
  std::fill(values.begin(), values.end(), 0.0F);  // Sums of sums would grow beyond all bounds.
  const Trial timed = collective.prepare(values);
  ranks.barrier();
  const double started = now();
  for (int i = 0; i < row.times; ++i) timed.run();
  const double seconds = largest(ranks, now() - started) / row.times;
  row.time_us = 1e6 * seconds;
  row.algorithm_gb_s = 1e-9 * static_cast<double>(row.bytes) / std::max(seconds, 1e-12);
  row.bus_gb_s = row.algorithm_gb_s * collective.bus_factor;
  return row;
}

constexpr std::size_t kValues = 7;  // 0 to 6.

}  // namespace

// At any place 80 ranks at most send anything, so that no part of a sum exceeds 252: bfloat16 has every
// integer up to 256.
float bench_value(int rank, std::size_t i, int ranks) {
  constexpr std::size_t kSendersMax = 80;
  const std::size_t turn = i + static_cast<std::size_t>(rank);
  return turn % static_cast<std::size_t>(ranks) < kSendersMax ? static_cast<float>(turn % kValues) : 0;
}

std::vector<float> bench_sums(int ranks) {
  std::vector<float> sums(kValues * static_cast<std::size_t>(ranks), 0.0F);
  for (std::size_t i = 0; i < sums.size(); ++i) {
    for (int rank = 0; rank < ranks; ++rank) sums[i] += bench_value(rank, i, ranks);
  }
  return sums;
}

CollectiveReport bench_collectives(const CollectiveBenchOptions& options,
                                   Communicator& communicator,
                                   const std::function<double()>& now) {
  constexpr std::size_t kGrowth = 4;
  CollectiveReport report;
  report.ranks = communicator.size();
  report.hosts = hosts_of(communicator);
  for (const Collective& collective : collectives_of(communicator)) {
    for (std::size_t bytes = options.bytes_min; bytes <= options.bytes_max; bytes *= kGrowth) {
      report.rows.push_back(measure(collective, bytes, options, communicator, now));
    }
  }
  return report;
}

std::string hosts_of(Communicator& communicator) {
  const std::string own = communicator.host();
  std::vector<std::pair<std::string, int>> hosts;
  for (const auto& bytes : communicator.all_gather(std::as_bytes(std::span(own)))) {
    std::string host(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    if (hosts.empty() || hosts.back().first != host) hosts.emplace_back(std::move(host), 0);
    ++hosts.back().second;
  }
  std::string text;
  for (const auto& [host, count] : hosts) {
    text += fmt::format("{}{} ({})", text.empty() ? "" : ", ", host, count);
  }
  return text;
}

std::string to_table(const CollectiveReport& report) {
  std::string table =
      fmt::format("{} rank{} on {}\n{:<14} {:>10} {:>6} {:>12} {:>11} {:>11} {:>6}\n", report.ranks,
                  report.ranks == 1 ? "" : "s", report.hosts, "collective", "bytes", "times",
                  "time us", "alg GB/s", "bus GB/s", "wrong");
  for (const CollectiveRow& row : report.rows) {
    table += fmt::format("{:<14} {:>10} {:>6} {:>12.1f} {:>11.3f} {:>11.3f} {:>6}\n", row.name,
                         row.bytes, row.times, row.time_us, row.algorithm_gb_s, row.bus_gb_s,
                         row.wrong);
  }
  return table;
}

std::string to_json_text(const CollectiveReport& report) {
  nlohmann::ordered_json json;
  json["ranks"] = report.ranks;
  json["hosts"] = report.hosts;
  json["rows"] = nlohmann::ordered_json::array();
  for (const CollectiveRow& row : report.rows) {
    json["rows"].push_back({{"name", row.name},
                            {"bytes", row.bytes},
                            {"times", row.times},
                            {"time_us", row.time_us},
                            {"algorithm_gb_s", row.algorithm_gb_s},
                            {"bus_gb_s", row.bus_gb_s},
                            {"wrong", row.wrong}});
  }
  return contract::json_text(json, 2);
}

}  // namespace trainer
