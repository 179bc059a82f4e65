// SPDX-License-Identifier: GPL-3.0-or-later
//
// ranks_leave RANK LIMIT_S [WAY]: under mpirun; sums and leaves, but the rank named keeps the others
// waiting. They are to end, or not to, by WAY:
//
//   end    (default) it stops itself where MPI ends, which waits for all ranks
//   works  it works for two and a half limits before its last sum, and says so
//   idles  the same without a word
//   alone  it stops itself before its last sum, and no rank can reach rank 0 but by MPI
#include <fmt/format.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>

#include "tests/trainer/ranks_alone.h"
#include "trainer/communicator.h"
#include "trainer/watchdog.h"

namespace {
bool stops_at_end = false;

void work(trainer::Communicator& ranks, double seconds, bool says_so) {
  const auto until = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (std::chrono::steady_clock::now() < until) {
    if (says_so) ranks.tick();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}
}  // namespace

// The program's own is called before MPI's, which has this second name for that.
extern "C" int PMPI_Finalize();
extern "C" int MPI_Finalize() {
  if (stops_at_end) std::raise(SIGSTOP);
  return PMPI_Finalize();
}

int main(int argc, char** argv) {
  if (argc < 3) return 1;
  constexpr int kStalled = 31;
  constexpr double kLimitsOfWork = 2.5;
  const int stopping = std::stoi(argv[1]);
  const double limit_s = std::stod(argv[2]);
  const std::string way = argc > 3 ? argv[3] : "end";
  std::unique_ptr<trainer::Communicator> mpi = trainer::make_mpi_communicator(&argc, &argv);
  if (way == "alone") mpi = std::make_unique<CutOffRanks>(std::move(mpi));
  std::string note;
  auto ranks = trainer::watched(std::move(mpi),
                                {.limit_s = limit_s,
                                 .exit_code = kStalled,
                                 .last_words = [](const trainer::LastWords& words) {
                                   fmt::print(stderr, "{}{}\n", words.message,
                                              words.is_over ? " It is over." : "");
                                 }},
                                &note);
  if (note.empty() == (way == "alone")) return 1;
  if (!note.empty() && ranks->rank() == 0) fmt::print(stderr, "{}\n", note);
  double value = 1;
  ranks->all_reduce_sum(std::span<double>(&value, 1));
  const bool is_it = ranks->rank() == stopping;
  if (is_it && way == "alone") std::raise(SIGSTOP);
  if (is_it && (way == "works" || way == "idles")) {
    work(*ranks, kLimitsOfWork * limit_s, way == "works");
  }
  ranks->all_reduce_sum(std::span<double>(&value, 1));
  stops_at_end = is_it && way == "end";
  ranks.reset();
  return 0;
}
