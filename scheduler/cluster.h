// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/cluster.h
//
// The wall before Slurm. Everything that Trainyard asks of a cluster, and nothing of libslurm's own
// types. slurm_cluster.cpp speaks to the real one, tests/scheduler/fake_cluster to a pretended one
// with a virtual clock and scripted faults. One thread at a time.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "scheduler/error.h"
#include "scheduler/plan.h"

namespace scheduler {

using JobId = std::uint32_t;

struct JobSpec {
  std::string name, comment, partition, account, qos;
  std::string work_dir, std_out, script;
  std::vector<std::string> environment;  // "NAME=value"
  std::string tres_per_node;             // "gres:gpu:h100:2"
  int nodes = 1, ranks = 1, ranks_per_node = 1, cpus_per_rank = 1;
  std::int64_t memory_per_node_mb = 0;
  std::int64_t time_limit_s = 60;
  std::map<std::string, std::string> slurm;  // passable_slurm_keys
};

// Stored by name in events. Slurm's own base states.
enum class JobState {
  kPending, kRunning, kSuspended, kCompleted, kCancelled, kFailed, kTimeout, kNodeFail, kPreempted,
  kBootFail, kDeadline, kOutOfMemory, kRequeued, kUnknown
};
[[nodiscard]] std::string to_name(JobState state);           // "NODE_FAIL"
[[nodiscard]] JobState job_state_from_name(const std::string& name);
[[nodiscard]] bool is_ended(JobState state);

// A job as the controller shows it now.
struct JobSnapshot {
  JobId id = 0;
  std::uint32_t uid = 0;
  JobState state = JobState::kUnknown;
  bool is_completing = false;
  bool is_powering_up = false;     // Runs by its state, but its nodes boot: Slurm sets `start` anew then.
  std::string reason;              // Of waiting: "Resources", "Priority".
  std::string comment, admin_comment, name, partition, nodes;
  std::int64_t submit = 0, start = 0, end = 0;  // UTC seconds; start of a pending job is expected.
  std::int64_t time_limit_s = 0;
  int attempt = 0;                 // Slurm's restart count.
  int gpus = 0;                    // Allocated, or asked for while pending.
  int node_count = 0;
  bool may_spread = false;         // Slurm may start it on more nodes than it needs; counted are the most.
  std::string account, gpu_type;   // "h100"; empty where nobody named a type.
  bool has_several_gpu_types = false;  // "gpu:a100:1,gpu:h100:1": gpu_type is empty then.
  bool is_exclusive = false;       // Gets, or may get, every GPU of its nodes, whatever it asked for.
  bool is_held = false;            // Priority 0: waits until somebody releases it.
  bool is_held_by_admin = false;   // Its owner cannot release it.
  JobId het_job = 0;               // The first component of a heterogeneous job; 0: it is none.
  JobId array_job = 0;             // 0: of no array.
  int array_task = -1;             // -1: of no array, or several tasks in one (array_tasks).
  std::vector<int> array_tasks;    // The waiting tasks of an array, which Slurm keeps as one job.
  int exit_code = 0, exit_signal = 0;
  std::string excluded_nodes;      // "n1,n3": left out of its next attempt.
};

// The types of GPU that Slurm's text names ("gres/gpu:h100=2", "gpu:h100:2,gpu:a100:1"), each once.
[[nodiscard]] std::vector<std::string> gpu_types_in(const std::string& tres);

// "cpu=2,gres/gpu=4" or, with numeric keys, "1=2,1001=4": the count under `key`, 0 where absent.
[[nodiscard]] int tres_count(const std::string& tres, const std::string& key);

// What a waiting job asks Slurm for.
struct Asked {
  std::string tres = {};           // Slurm's sum, for the fewest nodes: "cpu=3,node=1,gres/gpu=1".
  // "gres:gpu:2", as --gpus, --gpus-per-node and so on say.
  std::string per_job = {}, per_node = {}, per_socket = {};
  int nodes = 0;                   // That it needs, by Slurm's own estimate.
  int nodes_max = 0;               // 0: nobody said.
  int tasks = 0;                   // 0: not known, or of no weight.
  int partition_nodes = 0;         // All that there are; 0: not known.
};
// The most that Slurm may start it with. `fills_nodes`: every GPU of the nodes.
struct MostAllocated {
  int nodes = 1, gpus = 0;
  bool fills_nodes = false;
};
[[nodiscard]] MostAllocated most_allocated(const Asked& asked);

// What is to be cancelled to end this job: a heterogeneous one is ended whole.
[[nodiscard]] inline JobId whole_of(const JobSnapshot& job) {
  return job.het_job != 0 ? job.het_job : job.id;
}

// One allocation as slurmdbd recorded it. seconds = end - start: suspended time is included.
struct AllocationRecord {
  JobId id = 0;
  std::uint32_t uid = 0;
  JobState state = JobState::kUnknown;
  std::string name, nodes, partition;
  std::int64_t submit = 0, start = 0, end = 0;  // end 0: still running; start 0: never started.
  int gpus = 0;
  int exit_code = 0, exit_signal = 0;
  std::uint32_t killed_by_uid = 0; // Of a cancelled job.
  JobId array_job = 0;             // 0: of no array.
  int array_task = -1;
};

struct StartEstimate {
  std::int64_t start = 0;          // UTC seconds.
  std::string nodes;
};

struct SlurmRights;  // scheduler/slurm_rights.h

struct Submitted {
  JobId id = 0;
  std::string message;             // What the site's submit plug-in told the user.
};

class Cluster {
 public:
  virtual ~Cluster() = default;
  [[nodiscard]] virtual Expected<ClusterFacts> facts() = 0;
  // Quick: is the controller there?
  [[nodiscard]] virtual bool is_reachable() = 0;
  // The whole table; the caller computes differences.
  [[nodiscard]] virtual Expected<std::vector<JobSnapshot>> load_jobs() = 0;
  // All attempts of the given jobs submitted at or after `since`, ordered by (id, submit); of an
  // array's number those of all its tasks.
  [[nodiscard]] virtual Expected<std::vector<AllocationRecord>> load_records(
      std::span<const JobId> jobs, std::int64_t since) = 0;
  // The same of the jobs of this name; of all jobs where it is empty.
  [[nodiscard]] virtual Expected<std::vector<AllocationRecord>> find_records(
      const std::string& name, std::int64_t since) = 0;
  // The same of all jobs of these partitions.
  [[nodiscard]] virtual Expected<std::vector<AllocationRecord>> partition_records(
      std::span<const std::string> partitions, std::int64_t since) = 0;
  // When Slurm drained one of these nodes ("n1,n[3-4]") because its Prolog failed there: UTC seconds, one
  // for each that stands drained for it.
  [[nodiscard]] virtual Expected<std::vector<std::int64_t>> failed_prologs(const std::string& nodes) = 0;
  // As the invoking user. An Error leaves no job behind that could start, as far as Slurm told.
  [[nodiscard]] virtual Expected<Submitted> submit(const JobSpec& spec) = 0;
  [[nodiscard]] virtual Expected<StartEstimate> estimate_start(const JobSpec& spec) = 0;
  // SIGUSR1 to the batch shell, which makes the trainer save and leave.
  [[nodiscard]] virtual Expected<void> ask_to_stop(JobId job) = 0;
  // A job that is gone already counts as cancelled.
  [[nodiscard]] virtual Expected<void> cancel(JobId job) = 0;
  [[nodiscard]] virtual Expected<void> set_time_limit(JobId job, std::int64_t seconds) = 0;
  // Holds a waiting job so that its owner cannot release it, or releases it whoever held it, and
  // sets its comment.
  [[nodiscard]] virtual Expected<void> hold(JobId job, const std::string& comment) = 0;
  [[nodiscard]] virtual Expected<void> release(JobId job, const std::string& comment) = 0;
  // Slurm's operators and coordinators, as slurmdbd has them; nobody where a cluster has none.
  [[nodiscard]] virtual Expected<SlurmRights> load_rights();
};

// Reads SLURM_CONF or Slurm's default; an Error where there is no configuration.
[[nodiscard]] Expected<std::unique_ptr<Cluster>> open_slurm_cluster();

}  // namespace scheduler
