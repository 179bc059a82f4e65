// SPDX-License-Identifier: Apache-2.0
// trainer/launch.h
//
// How the program was started, from its environment: alone, under mpirun or under srun; with how
// many CPUs; until when. Read once, by the main.
#pragma once

#include <cstdint>
#include <string>

namespace trainer {

struct Launch {
  bool has_ranks = false;          // Started by mpirun, or by srun with PMIx or PMI.
  int cpus = 1;                    // Of this process.
  double allocation_start = 0;     // TRAINYARD_ALLOCATION_START, UTC seconds; 0: not given.
  double deadline = 0;             // TRAINYARD_DEADLINE; 0: none.
  double seconds_used_before = 0;  // TRAINYARD_SECONDS_USED
  double watchdog_s = 600;         // TRAINYARD_WATCHDOG_S; 0: off.
  bool is_traced = false;          // TRAINYARD_TRACE=1: train.h, is_traced
  std::int64_t stop_at_step = 0;   // TRAINYARD_STOP_AT_STEP: train.h, stop_at_step
  int attempt = 0;                 // TRAINYARD_ATTEMPT, else SLURM_RESTART_COUNT
};
// Throws std::invalid_argument where a variable is no number.
[[nodiscard]] Launch read_launch();

// Starts the program again with one OpenMP and BLAS thread a CPU and waiting threads asleep: the
// libraries read that once, when they are loaded. Returns where the environment is so already, or
// the program cannot be started again.
void settle_thread_environment(const Launch& launch, char** argv);

}  // namespace trainer
