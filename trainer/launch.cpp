// SPDX-License-Identifier: Apache-2.0
#include "trainer/launch.h"

#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <optional>
#include <stdexcept>
#include <string_view>
#include <thread>

namespace trainer {

namespace {

std::optional<double> number(const char* variable) {
  const char* text = std::getenv(variable);
  if (text == nullptr || *text == '\0') return std::nullopt;
  const std::string_view view(text);
  double value = 0;
  const auto [end, error] = std::from_chars(view.data(), view.data() + view.size(), value);
  if (error != std::errc{} || end != view.data() + view.size()) {
    throw std::invalid_argument(fmt::format("{} = \"{}\" is not a number.", variable, text));
  }
  return value;
}

bool is_set(const char* variable) {
  return std::getenv(variable) != nullptr;
}

// srun sets these for every step; only with several tasks, or with a PMI server, is it MPI.
bool has_ranks() {
  if (is_set("OMPI_COMM_WORLD_SIZE") || is_set("PMIX_RANK") || is_set("PMI_RANK")) return true;
  return is_set("SLURM_PROCID") && is_set("SLURM_STEP_ID") &&
         number("SLURM_STEP_NUM_TASKS").value_or(1) > 1;
}

int own_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  return std::max(1, CPU_COUNT(&set));
}

// What a person or Slurm says; else the CPUs that this process may use, shared with the other
// ranks of the host where they may use the same ones.
int find_cpus() {
  for (const char* variable : {"OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK"}) {
    if (const auto count = number(variable); count && *count >= 1) return static_cast<int>(*count);
  }
  const int own = own_cpus();
  const auto local_ranks = static_cast<int>(number("OMPI_COMM_WORLD_LOCAL_SIZE").value_or(1));
  const auto machine = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  return own < machine ? own : std::max(1, own / std::max(1, local_ranks));
}

}  // namespace

Launch read_launch() {
  Launch launch;
  launch.has_ranks = has_ranks();
  launch.cpus = find_cpus();
  launch.allocation_start = number("TRAINYARD_ALLOCATION_START").value_or(0);
  launch.deadline = number("TRAINYARD_DEADLINE").value_or(0);
  launch.seconds_used_before = number("TRAINYARD_SECONDS_USED").value_or(0);
  launch.watchdog_s = number("TRAINYARD_WATCHDOG_S").value_or(launch.watchdog_s);
  launch.is_traced = number("TRAINYARD_TRACE").value_or(0) != 0;
  launch.stop_at_step =
      static_cast<std::int64_t>(number("TRAINYARD_STOP_AT_STEP").value_or(0));
  launch.attempt = static_cast<int>(
      number("TRAINYARD_ATTEMPT").value_or(number("SLURM_RESTART_COUNT").value_or(0)));
  return launch;
}

void settle_thread_environment(const Launch& launch, char** argv) {
  constexpr const char* kDone = "TRAINYARD_THREADS_SETTLED";
  if (is_set(kDone)) return;
  setenv(kDone, "1", 1);
  const std::string cpus = std::to_string(launch.cpus);
  setenv("OMP_NUM_THREADS", cpus.c_str(), 0);
  setenv("OPENBLAS_NUM_THREADS", cpus.c_str(), 0);
  // A thread that spins takes the core from a loader thread or another rank.
  setenv("OMP_WAIT_POLICY", "passive", 0);
  execv("/proc/self/exe", argv);
}

}  // namespace trainer
