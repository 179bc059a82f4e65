// SPDX-License-Identifier: Apache-2.0
// trainer/launch.h
//
// How the program was started, from its environment: alone, under mpirun or under srun; with how
// many CPUs; until when. Read once, by the main.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace trainer {

// What a rank knows about its CPUs, and what follows from it.
struct CpuFacts {
  int wanted = 0;            // OMP_NUM_THREADS; 0: not set.
  int per_task = 0;          // SLURM_CPUS_PER_TASK; 0: not set.
  std::vector<int> allowed;  // The affinity mask, ascending.
  int machine = 1;           // CPUs of the host.
  int local_ranks = 1;       // Of this host, where the launcher says it.
  int local_rank = 0;
};
struct CpuShare {
  int threads = 1;
  std::string reason;        // "SLURM_CPUS_PER_TASK", "4 CPUs shared by 2 ranks"
};
// A person's word, else Slurm's as far as the mask reaches, else the mask, which ranks share that are
// not bound.
[[nodiscard]] CpuShare share_cpus(const CpuFacts& facts);
// The CPUs that this rank is to keep to. Where Slurm gave the ranks of a host the job's CPUs in common
// (fewer than the host has, and enough for all of them), each takes its own, side by side by
// `neighbours` (all CPUs of the host by package and core); else `allowed`: they are bound already,
// or nobody knows which CPUs are the job's.
[[nodiscard]] std::vector<int> own_cpus(const CpuFacts& facts, const std::vector<int>& neighbours);
// "0-3,6"
[[nodiscard]] std::string to_ranges(const std::vector<int>& cpus);

struct Launch {
  bool has_ranks = false;          // Started by mpirun, or by srun with PMIx or PMI.
  int rank = 0, size = 1, local_rank = 0;  // As the launcher says; MPI may know better.
  int cpus = 1;                    // Threads of this process.
  std::vector<int> own_cpus;       // To be bound to; empty: as it is.
  std::string cpu_report;          // "2 threads (SLURM_CPUS_PER_TASK) on CPUs 0-1"
  double allocation_start = 0;     // TRAINYARD_ALLOCATION_START, UTC seconds; 0: not given.
  double deadline = 0;             // TRAINYARD_DEADLINE; 0: none.
  std::string deadline_file;       // TRAINYARD_DEADLINE_FILE; empty: none. train.h
  std::optional<bool> is_last;     // TRAINYARD_LAST_ATTEMPT; none: not given.
  double seconds_used_before = 0;  // TRAINYARD_SECONDS_USED
  double watchdog_s = 600;         // TRAINYARD_WATCHDOG_S; 0: off.
  bool is_traced = false;          // TRAINYARD_TRACE=1: train.h, is_traced
  std::int64_t stop_at_step = 0;   // TRAINYARD_STOP_AT_STEP: train.h, stop_at_step
  bool has_preflight = false;      // TRAINYARD_PREFLIGHT=1
  double preflight_s = 120;        // TRAINYARD_PREFLIGHT_S: as long as it may take; train.h
  int segment = 0;                 // TRAINYARD_SEGMENT
  int attempt = 0;                 // TRAINYARD_ATTEMPT, else SLURM_RESTART_COUNT
  std::string job;                 // SLURM_JOB_ID; empty: no Slurm job.
};
// How long this process has lived: loading libraries and starting itself again counted, for exec
// does not begin it anew. 0 where /proc does not say, and above ten minutes: that was no start-up,
// but a shell with other work before it became this program.
[[nodiscard]] double process_age_s();
// Of a line of /proc/PID/stat, so many seconds after the start of the host.
[[nodiscard]] double process_age_s(std::string_view stat, double uptime_s, double ticks_per_s);

// Throws std::invalid_argument where a variable is no number.
[[nodiscard]] Launch read_launch();

// Binds the process to `own_cpus` and starts the program again with one OpenMP and BLAS thread a CPU
// and waiting threads asleep: the libraries read that once, when they are loaded. Returns where the
// environment is so already, or the program cannot be started again.
void settle_thread_environment(const Launch& launch, char** argv);

}  // namespace trainer
