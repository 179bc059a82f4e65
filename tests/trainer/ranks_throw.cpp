// SPDX-License-Identifier: GPL-3.0-or-later
//
// ranks_throw RANK...: under mpirun; sums a hundred times, then the ranks named fail at once and
// the others go on for ever. What the trainer's main does with an exception, without a training.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "trainer/communicator.h"
#include "trainer/watchdog.h"

int main(int argc, char** argv) {
  constexpr int kSteps = 100, kCode = 30, kStalled = 31;
  constexpr double kLimitSeconds = 120;
  const std::vector<std::string> failing(argv + 1, argv + argc);
  std::string note;
  const auto ranks = trainer::watched(
      trainer::make_mpi_communicator(&argc, &argv),
      {.limit_s = kLimitSeconds,
       .exit_code = kStalled,
       .last_words = [](const trainer::LastWords& words) {
         fmt::print(stderr, "{}\n", words.message);
       }},
      &note);
  if (!note.empty()) return 1;
  try {
    for (int step = 0;; ++step) {
      double value = 1;
      ranks->all_reduce_sum(std::span<double>(&value, 1));
      const bool fails =
          std::find(failing.begin(), failing.end(), std::to_string(ranks->rank())) != failing.end();
      if (step == kSteps && fails) throw std::runtime_error("a fault");
    }
  } catch (const std::exception& error) {
    ranks->take_last_word();
    fmt::print(stderr, "rank {} fails: {}\n", ranks->rank(), error.what());
    std::fflush(stderr);
    ranks->abort(kCode);
  }
}
