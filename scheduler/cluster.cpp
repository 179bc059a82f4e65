// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/cluster.h"

#include "scheduler/slurm_rights.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <string_view>

namespace scheduler {
namespace {

// More than any job can have: what says so is no count.
constexpr std::int64_t kGpusMax = 1'000'000;

struct StateName {
  JobState state;
  std::string_view name;
};

constexpr std::array kStateNames{
    StateName{JobState::kPending, "PENDING"},
    StateName{JobState::kRunning, "RUNNING"},
    StateName{JobState::kSuspended, "SUSPENDED"},
    StateName{JobState::kCompleted, "COMPLETED"},
    StateName{JobState::kCancelled, "CANCELLED"},
    StateName{JobState::kFailed, "FAILED"},
    StateName{JobState::kTimeout, "TIMEOUT"},
    StateName{JobState::kNodeFail, "NODE_FAIL"},
    StateName{JobState::kPreempted, "PREEMPTED"},
    StateName{JobState::kBootFail, "BOOT_FAIL"},
    StateName{JobState::kDeadline, "DEADLINE"},
    StateName{JobState::kOutOfMemory, "OUT_OF_MEMORY"},
    StateName{JobState::kRequeued, "REQUEUED"},
    StateName{JobState::kUnknown, "UNKNOWN"},
};

}  // namespace

std::string to_name(JobState state) {
  for (const StateName& each : kStateNames) {
    if (each.state == state) return std::string(each.name);
  }
  return "UNKNOWN";
}

JobState job_state_from_name(const std::string& name) {
  for (const StateName& each : kStateNames) {
    if (each.name == name) return each.state;
  }
  return JobState::kUnknown;
}

bool is_ended(JobState state) {
  switch (state) {
    case JobState::kCompleted:
    case JobState::kCancelled:
    case JobState::kFailed:
    case JobState::kTimeout:
    case JobState::kNodeFail:
    case JobState::kPreempted:
    case JobState::kBootFail:
    case JobState::kDeadline:
    case JobState::kOutOfMemory:
      return true;
    case JobState::kPending:
    case JobState::kRunning:
    case JobState::kSuspended:
    case JobState::kRequeued:  // The attempt is over, the job is not: it waits again.
    case JobState::kUnknown:
      return false;
  }
  return false;
}

Expected<SlurmRights> Cluster::load_rights() { return SlurmRights{}; }

std::vector<std::string> gpu_types_in(const std::string& tres) {
  constexpr std::string_view kKey = "gpu:";
  std::vector<std::string> types;
  for (std::size_t at = tres.find(kKey); at != std::string::npos; at = tres.find(kKey, at)) {
    at += kKey.size();
    const std::string word = tres.substr(at, tres.find_first_of(":=,(", at) - at);
    const bool is_count = word.find_first_not_of("0123456789") == std::string::npos;
    if (is_count || std::find(types.begin(), types.end(), word) != types.end()) continue;
    types.push_back(word);
  }
  return types;
}

int tres_count(const std::string& tres, const std::string& key) {
  std::size_t at = 0;
  while (at < tres.size()) {
    const std::size_t end = std::min(tres.find(',', at), tres.size());
    const std::size_t equals = tres.find('=', at);
    if (equals < end && tres.compare(at, equals - at, key) == 0) {
      std::int64_t count = 0;
      const auto [stop, error] = std::from_chars(tres.data() + equals + 1, tres.data() + end, count);
      if (error == std::errc() && count > 0 && count < kGpusMax) return static_cast<int>(count);
    }
    at = end + 1;
  }
  return 0;
}

MostAllocated most_allocated(const Asked& asked) {
  const auto has_gpus = [](const std::string& tres) { return tres.find("gpu") != std::string::npos; };
  MostAllocated most;
  // Where nobody said how many nodes, Slurm takes those that are free: at the most one for each task.
  // What is asked for as a sum stays that sum.
  const bool grows = has_gpus(asked.per_node) || has_gpus(asked.per_socket);
  const int unsaid = grows && !has_gpus(asked.per_job) ? asked.tasks : 0;
  most.nodes = std::max({1, asked.nodes, asked.nodes_max > 0 ? asked.nodes_max : unsaid});
  if (asked.partition_nodes > 0) {
    most.nodes = std::min(most.nodes, std::max(asked.nodes, asked.partition_nodes));
  }
  most.gpus = tres_count(asked.tres, "gres/gpu");
  if (has_gpus(asked.per_job)) return most;  // A sum, whatever the nodes.
  if (has_gpus(asked.per_node)) {
    const std::int64_t on_node = most.gpus / std::max(1, tres_count(asked.tres, "node"));
    most.gpus = static_cast<int>(std::min<std::int64_t>(on_node * most.nodes, kGpusMax));
  }
  // How many sockets of a node Slurm takes is not known before it does.
  most.fills_nodes = has_gpus(asked.per_socket);
  return most;
}

}  // namespace scheduler
