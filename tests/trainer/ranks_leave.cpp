// SPDX-License-Identifier: GPL-3.0-or-later
//
// ranks_leave RANK LIMIT_S: under mpirun; sums once and leaves, but the rank named stops itself where
// MPI ends, which waits for all ranks. The others are to end all the same.
#include <fmt/format.h>

#include <csignal>
#include <cstdio>
#include <span>
#include <stdexcept>
#include <string>

#include "trainer/communicator.h"
#include "trainer/watchdog.h"

namespace {
bool stops_at_end = false;
}  // namespace

// The program's own is called before MPI's, which has this second name for that.
extern "C" int PMPI_Finalize();
extern "C" int MPI_Finalize() {
  if (stops_at_end) std::raise(SIGSTOP);
  return PMPI_Finalize();
}

int main(int argc, char** argv) {
  if (argc != 3) return 1;
  constexpr int kStalled = 31;
  const int stopping = std::stoi(argv[1]);
  const double limit_s = std::stod(argv[2]);
  std::string note;
  auto ranks = trainer::watched(trainer::make_mpi_communicator(&argc, &argv),
                                {.limit_s = limit_s,
                                 .exit_code = kStalled,
                                 .last_words = [](const trainer::LastWords& words) {
                                   fmt::print(stderr, "{}{}\n", words.message,
                                              words.is_over ? " It is over." : "");
                                 }},
                                &note);
  if (!note.empty()) return 1;
  double value = 1;
  ranks->all_reduce_sum(std::span<double>(&value, 1));
  stops_at_end = ranks->rank() == stopping;
  ranks.reset();
  return 0;
}
