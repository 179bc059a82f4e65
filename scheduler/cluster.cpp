// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/cluster.h"

#include "scheduler/slurm_rights.h"

#include <algorithm>
#include <array>
#include <string_view>

namespace scheduler {
namespace {

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

}  // namespace scheduler
