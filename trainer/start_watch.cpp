// SPDX-License-Identifier: Apache-2.0
#include "trainer/start_watch.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <climits>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

namespace trainer {

namespace {

namespace fs = std::filesystem;

// What a launcher calls the job, and the rank in it.
struct Names {
  const char* job;
  const char* step;  // May be null.
  const char* rank;
};
constexpr std::array<Names, 2> kLaunchers = {
    {{"PMIX_NAMESPACE", nullptr, "PMIX_RANK"}, {"SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_PROCID"}}};

using Environment = std::map<std::string, std::string, std::less<>>;

// Of a process of this user; empty where it cannot be read.
Environment environment_of(const std::string& process) {
  std::ifstream file("/proc/" + process + "/environ", std::ios::binary);
  Environment environment;
  for (std::string entry; std::getline(file, entry, '\0');) {
    if (const std::size_t equals = entry.find('='); equals != std::string::npos) {
      environment.emplace(entry.substr(0, equals), entry.substr(equals + 1));
    }
  }
  return environment;
}

std::string value_of(const Environment& environment, const char* name) {
  const auto found = name == nullptr ? environment.end() : environment.find(std::string_view(name));
  return found == environment.end() ? std::string() : found->second;
}

std::optional<int> rank_of(const Environment& environment, const Names& names) {
  const std::string text = value_of(environment, names.rank);
  int rank = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), rank);
  if (text.empty() || error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return rank;
}

// The kernel's letter: R, S, D, T (stopped), Z ...
char state_of(const std::string& process) {
  std::ifstream file("/proc/" + process + "/stat");
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const std::size_t name_end = text.rfind(')');  // The name may hold anything.
  return name_end == std::string::npos || name_end + 2 >= text.size() ? '?' : text[name_end + 2];
}

// The ranks of this job that have a process on this host.
struct Neighbours {
  std::optional<int> own;
  std::map<int, std::string> stopped;  // With the process.
  int lowest_awake = INT_MAX;
};

Neighbours look_around() {
  Neighbours found;
  const Environment own = environment_of("self");
  const auto names = std::find_if(kLaunchers.begin(), kLaunchers.end(), [&](const Names& each) {
    return !value_of(own, each.job).empty() && rank_of(own, each).has_value();
  });
  if (names == kLaunchers.end()) return found;
  found.own = rank_of(own, *names);
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator("/proc", ignored)) {
    const std::string process = entry.path().filename();
    if (process.find_first_not_of("0123456789") != std::string::npos) continue;
    const Environment environment = environment_of(process);
    const std::optional<int> rank = rank_of(environment, *names);
    if (!rank || value_of(environment, names->job) != value_of(own, names->job) ||
        value_of(environment, names->step) != value_of(own, names->step)) {
      continue;
    }
    if (state_of(process) == 'T') {
      found.stopped.emplace(*rank, process);
    } else {
      found.lowest_awake = std::min(found.lowest_awake, *rank);
    }
  }
  return found;
}

std::string host_name() {
  std::array<char, HOST_NAME_MAX + 1> name{};
  return gethostname(name.data(), HOST_NAME_MAX) == 0 ? name.data() : "localhost";
}

double seconds_now() {
  using Seconds = std::chrono::duration<double>;
  return Seconds(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

StartWatch::StartWatch(Options options) : options_(std::move(options)) {
  if (options_.limit_s > 0) thread_ = std::thread([this] { watch(); });
}

StartWatch::~StartWatch() {
  {
    const std::lock_guard lock(mutex_);
    has_met_ = true;
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
}

bool StartWatch::has_met(double seconds) {
  std::unique_lock lock(mutex_);
  return wake_.wait_for(lock, std::chrono::duration<double>(seconds), [this] { return has_met_; });
}

void StartWatch::watch() {
  constexpr double kLooksInLimit = 20;
  const double period = std::clamp(options_.limit_s / kLooksInLimit, 0.02, 1.0);
  double waited = 0;
  for (double before = seconds_now(); waited < options_.limit_s;) {
    if (has_met(period)) return;
    const double now = seconds_now();
    waited += std::min(now - before, 2 * period);  // More: this process was stopped, or slow.
    before = now;
  }
  end();
}

// The lowest rank of a host that sees stopped ones speaks at once; rank 0 where none does. Returns
// where the ranks have met after all.
void StartWatch::end() {
  constexpr double kTurnSeconds = 1, kLastSeconds = 10;
  const Neighbours around = look_around();
  const int own = around.own.value_or(0);
  std::vector<std::string> missing;
  for (const auto& [rank, process] : around.stopped) {
    missing.push_back(
        fmt::format("rank {} ({}, process {}) is stopped", rank, host_name(), process));
  }
  const bool speaks = missing.empty() ? own == 0 : own == around.lowest_awake;
  if ((missing.empty() || !speaks) && has_met(speaks ? kTurnSeconds : kLastSeconds)) return;
  if (speaks && options_.last_words) {
    const std::string message = fmt::format(
        "watchdog: {}. Rank {} ({}) has waited {} s {} (limit {} s).",
        missing.empty() ? "a rank has not come, and none of this host is stopped"
                        : fmt::format("{}", fmt::join(missing, "; ")),
        own, host_name(), options_.limit_s, options_.what, options_.limit_s);
    options_.last_words({.message = message, .exit_code = options_.exit_code});
    // Those who look around later still see who speaks.
    std::this_thread::sleep_for(std::chrono::duration<double>(kTurnSeconds));
  }
  std::_Exit(options_.exit_code);
}

}  // namespace trainer
