// SPDX-License-Identifier: Apache-2.0
#include "trainer/launch.h"

#include <fmt/format.h>
#include <sched.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <fstream>
#include <initializer_list>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string_view>
#include <thread>

namespace trainer {

namespace {

constexpr const char* kCpuReason = "TRAINYARD_CPU_REASON";

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

int first_of(std::initializer_list<const char*> variables, int otherwise) {
  for (const char* variable : variables) {
    if (const auto value = number(variable)) return static_cast<int>(*value);
  }
  return otherwise;
}

std::vector<int> allowed_cpus() {
  std::vector<int> cpus;
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) return {0};
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
  }
  return cpus;
}

// All CPUs of the host, so that those of one core, then those of one package, stand side by side.
std::vector<int> cpus_by_place(int count) {
  const auto number_in = [](int cpu, const char* name) {
    std::ifstream file(fmt::format("/sys/devices/system/cpu/cpu{}/topology/{}", cpu, name));
    int number = 0;
    return file >> number ? number : 0;
  };
  std::vector<std::array<int, 3>> places;
  for (int cpu = 0; cpu < count; ++cpu) {
    places.push_back({number_in(cpu, "physical_package_id"), number_in(cpu, "core_id"), cpu});
  }
  std::sort(places.begin(), places.end());
  std::vector<int> cpus;
  for (const auto& place : places) cpus.push_back(place.back());
  return cpus;
}

}  // namespace

std::vector<int> own_cpus(const CpuFacts& facts, const std::vector<int>& neighbours) {
  const auto allowed = static_cast<int>(facts.allowed.size());
  const bool is_shared = facts.local_ranks > 1 && facts.per_task > 0 && allowed < facts.machine &&
                         allowed >= facts.local_ranks * facts.per_task &&
                         facts.local_rank < facts.local_ranks;
  if (!is_shared) return facts.allowed;
  std::vector<int> cpus;
  for (const int cpu : neighbours) {
    if (std::binary_search(facts.allowed.begin(), facts.allowed.end(), cpu)) cpus.push_back(cpu);
  }
  if (std::ssize(cpus) != allowed) cpus = facts.allowed;
  const auto first = cpus.begin() + facts.local_rank * facts.per_task;
  std::vector<int> own(first, first + facts.per_task);
  std::sort(own.begin(), own.end());
  return own;
}

CpuShare share_cpus(const CpuFacts& facts) {
  const auto allowed = std::max(1, static_cast<int>(facts.allowed.size()));
  if (facts.wanted > 0) return {facts.wanted, "OMP_NUM_THREADS"};
  if (facts.per_task > allowed) {
    return {allowed, fmt::format("SLURM_CPUS_PER_TASK = {}, but {} may be used", facts.per_task,
                                 allowed)};
  }
  if (facts.per_task > 0) return {facts.per_task, "SLURM_CPUS_PER_TASK"};
  if (allowed < facts.machine || facts.local_ranks <= 1) return {allowed, "the process's CPUs"};
  return {std::max(1, allowed / facts.local_ranks),
          fmt::format("{} CPUs shared by {} ranks", allowed, facts.local_ranks)};
}

std::string to_ranges(const std::vector<int>& cpus) {
  std::string text;
  for (std::size_t first = 0, next = 0; first < cpus.size(); first = next) {
    for (next = first + 1; next < cpus.size() && cpus[next] == cpus[next - 1] + 1;) ++next;
    text += fmt::format("{}{}", text.empty() ? "" : ",", cpus[first]);
    if (next - first > 1) text += fmt::format("-{}", cpus[next - 1]);
  }
  return text;
}

double process_age_s() {
  std::ifstream file("/proc/self/stat");
  std::string stat;
  std::getline(file, stat);
  timespec uptime{};
  clock_gettime(CLOCK_BOOTTIME, &uptime);
  return process_age_s(
      stat, static_cast<double>(uptime.tv_sec) + 1e-9 * static_cast<double>(uptime.tv_nsec),
      static_cast<double>(sysconf(_SC_CLK_TCK)));
}

double process_age_s(std::string_view stat, double uptime_s, double ticks_per_s) {
  constexpr double kStartUpMax = 600;
  // The second field is the program's name in brackets, which may hold anything.
  constexpr int kFirst = 3, kStartTime = 22;
  const std::size_t name_end = stat.rfind(')');
  if (name_end == std::string_view::npos) return 0;
  std::istringstream fields{std::string(stat.substr(name_end + 1))};
  std::string field;
  for (int i = kFirst; i < kStartTime; ++i) fields >> field;
  double start_ticks = 0;
  if (!(fields >> start_ticks) || start_ticks <= 0) return 0;
  const double age = uptime_s - start_ticks / ticks_per_s;
  return age >= 0 && age <= kStartUpMax ? age : 0;
}

Launch read_launch() {
  Launch launch;
  launch.has_ranks = has_ranks();
  launch.rank = first_of({"OMPI_COMM_WORLD_RANK", "SLURM_PROCID"}, 0);
  launch.size = first_of({"OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"}, 1);
  launch.local_rank = first_of({"OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID"}, 0);
  const CpuFacts facts{
      .wanted = first_of({"OMP_NUM_THREADS"}, 0),
      .per_task = first_of({"SLURM_CPUS_PER_TASK"}, 0),
      .allowed = allowed_cpus(),
      .machine = static_cast<int>(std::max(1U, std::thread::hardware_concurrency())),
      .local_ranks = first_of({"OMPI_COMM_WORLD_LOCAL_SIZE", "SLURM_NTASKS_PER_NODE"}, 1),
      .local_rank = launch.local_rank};
  launch.own_cpus = own_cpus(facts, cpus_by_place(facts.machine));
  CpuShare share = share_cpus(facts);
  // The program starts itself again with OMP_NUM_THREADS set: the reason is the first start's.
  if (const char* reason = std::getenv(kCpuReason)) share.reason = reason;
  setenv(kCpuReason, share.reason.c_str(), 1);
  launch.cpus = share.threads;
  launch.cpu_report = fmt::format("{} thread{} ({}) on CPUs {}", share.threads,
                                  share.threads == 1 ? "" : "s", share.reason,
                                  to_ranges(facts.allowed));
  launch.allocation_start = number("TRAINYARD_ALLOCATION_START").value_or(0);
  launch.deadline = number("TRAINYARD_DEADLINE").value_or(0);
  if (const char* path = std::getenv("TRAINYARD_DEADLINE_FILE")) launch.deadline_file = path;
  if (const auto is_last = number("TRAINYARD_LAST_ATTEMPT")) launch.is_last = *is_last != 0;
  launch.seconds_used_before = number("TRAINYARD_SECONDS_USED").value_or(0);
  launch.watchdog_s = number("TRAINYARD_WATCHDOG_S").value_or(launch.watchdog_s);
  launch.has_preflight = number("TRAINYARD_PREFLIGHT").value_or(0) != 0;
  launch.preflight_s = number("TRAINYARD_PREFLIGHT_S").value_or(launch.preflight_s);
  launch.is_traced = number("TRAINYARD_TRACE").value_or(0) != 0;
  launch.stop_at_step =
      static_cast<std::int64_t>(number("TRAINYARD_STOP_AT_STEP").value_or(0));
  launch.segment = static_cast<int>(number("TRAINYARD_SEGMENT").value_or(0));
  launch.attempt = static_cast<int>(
      number("TRAINYARD_ATTEMPT").value_or(number("SLURM_RESTART_COUNT").value_or(0)));
  if (const char* job = std::getenv("SLURM_JOB_ID")) launch.job = job;
  return launch;
}

void settle_thread_environment(const Launch& launch, char** argv) {
  constexpr const char* kDone = "TRAINYARD_THREADS_SETTLED";
  if (is_set(kDone)) return;
  setenv(kDone, "1", 1);
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int cpu : launch.own_cpus) CPU_SET(cpu, &set);
  // Where that is refused the threads go where the kernel puts them.
  if (!launch.own_cpus.empty()) static_cast<void>(sched_setaffinity(0, sizeof set, &set));
  const std::string cpus = std::to_string(launch.cpus);
  setenv("OMP_NUM_THREADS", cpus.c_str(), 0);
  setenv("OPENBLAS_NUM_THREADS", cpus.c_str(), 0);
  // A thread that spins takes the core from a loader thread or another rank.
  setenv("OMP_WAIT_POLICY", "passive", 0);
  execv("/proc/self/exe", argv);
}

}  // namespace trainer
