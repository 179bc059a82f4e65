// SPDX-License-Identifier: Apache-2.0
// trainer/bench_collectives.h
//
// How fast the ranks exchange messages of growing size, and whether they do it right: the values
// are small integers, so that sums in floats are exact. Bandwidths are those of nccl-tests:
// algorithm bandwidth is the size by the time; bus bandwidth is that times 2 (n - 1) / n for sums,
// times 1 for broadcasts, and can be compared with the speed of the links for any n.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "trainer/communicator.h"

namespace trainer {

struct CollectiveBenchOptions {
  std::size_t bytes_min = 8, bytes_max = std::size_t{32} << 20;  // Each time four times as many.
  int times_max = 50;       // Of a size; fewer where they would take longer than `seconds_max`.
  double seconds_max = 1.0;
};

struct CollectiveRow {
  std::string name;  // "gradient_sum": in the background as in training; "all_reduce": blocking. Where the
                     // ranks add up on GPUs also "device_sum" and "device_bf16", of values that lie in
                     // their memory.
  std::size_t bytes = 0;
  int times = 0;
  double time_us = 0;  // The slowest rank's mean.
  double algorithm_gb_s = 0, bus_gb_s = 0;  // 10^9 bytes.
  std::int64_t wrong = 0;  // Values on all ranks that are not what they have to be.
};

struct CollectiveReport {
  int ranks = 1;
  std::string hosts;
  std::vector<CollectiveRow> rows;
};

// A collective. `now` gives seconds.
[[nodiscard]] CollectiveReport bench_collectives(const CollectiveBenchOptions& options,
                                                 Communicator& communicator,
                                                 const std::function<double()>& now);

// What rank `rank` of `ranks` sends at place `i`, and what all of them make together there: the sums
// repeat after as many places as are given. Integers whose sums are exact in bfloat16 too, in whatever
// order they are made.
[[nodiscard]] float bench_value(int rank, std::size_t i, int ranks);
[[nodiscard]] std::vector<float> bench_sums(int ranks);

// Every rank's host once, in the order of the ranks: "n1 (2), n2 (2)". A collective.
[[nodiscard]] std::string hosts_of(Communicator& communicator);

[[nodiscard]] std::string to_table(const CollectiveReport& report);
[[nodiscard]] std::string to_json_text(const CollectiveReport& report);

}  // namespace trainer
