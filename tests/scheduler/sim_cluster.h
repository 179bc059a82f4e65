// SPDX-License-Identifier: GPL-3.0-or-later
// tests/scheduler/sim_cluster.h
//
// A pretended Slurm that lives by itself, second by second: it starts, ends, requeues and purges jobs,
// saves its state every few seconds, crashes and forgets what came after, and tells slurmdbd late or
// never. Beside what it shows it keeps the truth: every second in which GPUs were allocated.
#pragma once

#include <algorithm>
#include <deque>
#include <functional>
#include <map>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "scheduler/cluster.h"
#include "scheduler/job_script.h"
#include "scheduler/plain_job.h"
#include "scheduler/run.h"

namespace scheduler {

// Thrown out of a call of the cluster: the service died there.
struct ServiceDied : std::runtime_error {
  ServiceDied() : std::runtime_error("the service died") {}
};

class Dice {
 public:
  explicit Dice(std::uint64_t seed) : generator_(seed) {}
  std::int64_t between(std::int64_t low, std::int64_t high) {
    return low + static_cast<std::int64_t>(generator_() % static_cast<std::uint64_t>(high - low + 1));
  }
  bool one_in(std::int64_t n) { return between(1, n) == 1; }

 private:
  std::mt19937_64 generator_;  // Its distributions differ between libraries; its numbers do not.
};

// GPUs that Slurm allocated, as it was.
struct TrueAllocation {
  std::string owner;           // The run that the job stands for.
  JobId id = 0;
  UtcSeconds submit = 0, start = 0;
  UtcSeconds end = 0;          // 0: still.
  int gpus = 0;
  std::string partition;
  bool is_disturbed = false;   // Slurm's own records cannot be trusted to say the same.
  bool was_visible = false;    // The service had a chance to see it.
  bool was_job_visible = false;  // The same of its job, be it later, when it waited again.
  bool was_kept_out = false;   // The service said no to its start.
  bool has_failed_at_launch = false;  // Its Prolog failed; its node stands drained for ever.
};

inline constexpr std::int64_t kShortPartition_s = 600;  // MaxTime of "short".

class SimCluster final : public Cluster {
 public:
  explicit SimCluster(Dice& dice) : dice_(dice) {}

  std::int64_t now = 1'000'000;
  bool controller_is_up = true, database_is_up = true;
  int calls_until_death = -1;      // -1: never.
  bool has_faults = true;          // Lost replies, refusals, lateness.
  // Whether a job of "metered" that was allocated may begin (PrologSlurmctld). Unset: there is no gate.
  std::function<bool(JobId)> gate;
  std::vector<TrueAllocation> truth;
  std::map<std::pair<JobId, UtcSeconds>, AllocationRecord> records;
  // All that a record has ever said.
  std::map<std::pair<JobId, UtcSeconds>, std::vector<AllocationRecord>> recorded;
  std::vector<std::string> history;
  // Every job that clients submitted, by its comment: of two, one has no hold.
  std::map<std::string, std::vector<JobId>> submitted;

  struct Job {
    JobSnapshot shown;
    std::string owner;             // Of an array: the stamp.
    UtcSeconds begin = 0;          // Not eligible before.
    std::int64_t lasts_s = 0;      // The present attempt, if nothing comes between.
    std::int64_t sweep_s = 0;      // How late its limit is enforced.
    JobState ends_as = JobState::kCompleted;
    int exit_code = 0;
    UtcSeconds ghost_until = 0;    // A crash forgot that it ended.
    bool is_plain = false;         // It never heard of Trainyard.
    bool goes_on = false;          // A run with auto_resume: its script requeues it, held.
    bool is_unfinished = false;    // The present attempt of such a run ends with more to do.
    UtcSeconds purge = 0;
    UtcSeconds gate_at = 0;        // The start gate is asked then; 0: it let the attempt through.
    UtcSeconds root_releases = 0;  // What a failed launch left held; 0: nothing to release.

    std::string owner_of_task() const {
      return shown.array_task < 0 ? owner : fmt::format("{}t{}", owner, shown.array_task);
    }
  };

  void note(const std::string& text) { history.push_back(fmt::format("{:>7} {}", now, text)); }
  std::vector<JobId> ids(bool live_only) const {
    std::vector<JobId> found;
    for (const auto& [id, job] : state_.jobs) {
      if (!live_only || !is_ended(job.shown.state)) found.push_back(id);
    }
    return found;
  }
  Job& at(JobId id) { return state_.jobs.at(id); }

  // --- What the service and clients ask --------------------------------------------------------

  Expected<ClusterFacts> facts() override {
    if (!controller_is_up) return tl::unexpected(Error{"controller is down"});
    return ClusterFacts{.name = "sim", .kill_wait_s = 30, .over_time_limit_s = 0,
                        .partition_max_s = {{"short", kShortPartition_s}}};
  }
  bool is_reachable() override { return controller_is_up; }

  Expected<std::vector<JobSnapshot>> load_jobs() override {
    may_die();
    if (!controller_is_up) return tl::unexpected(Error{"controller is down"});
    std::vector<JobSnapshot> out;
    for (const auto& [id, job] : state_.jobs) {
      out.push_back(job.shown);
      shown_jobs_.push_back({id, job.owner_of_task()});
      if (job.shown.state != JobState::kPending) shown_.push_back({id, job.shown.start});
    }
    return out;
  }

  Expected<std::vector<AllocationRecord>> load_records(std::span<const JobId> asked,
                                                       std::int64_t since) override {
    may_die();
    if (!database_is_up) return tl::unexpected(Error{"slurmdbd is down"});
    std::vector<AllocationRecord> out;
    for (const auto& [key, record] : records) {
      const bool is_asked = std::any_of(asked.begin(), asked.end(), [&record](JobId id) {
        return id == record.id || id == record.array_job;
      });
      if (!is_asked) continue;
      if (record.submit < since) continue;
      out.push_back(record);
      if (record.end != 0) shown_.push_back({record.id, record.start});
    }
    return out;
  }

  Expected<std::vector<AllocationRecord>> find_records(const std::string& name,
                                                       std::int64_t since) override {
    may_die();
    if (!database_is_up) return tl::unexpected(Error{"slurmdbd is down"});
    std::vector<AllocationRecord> out;
    for (const auto& [key, record] : records) {
      if ((!name.empty() && record.name != name) || record.submit < since) continue;
      out.push_back(record);
      if (record.end != 0) shown_.push_back({record.id, record.start});
    }
    return out;
  }

  Expected<std::vector<AllocationRecord>> partition_records(std::span<const std::string> partitions,
                                                            std::int64_t since) override {
    if (!database_is_up) return tl::unexpected(Error{"slurmdbd is down"});
    const auto is_of = [&](const AllocationRecord& record) {
      return std::find(partitions.begin(), partitions.end(), record.partition) != partitions.end();
    };
    std::vector<AllocationRecord> out;
    may_die();
    for (const auto& [key, record] : records) {
      if (is_of(record) && record.submit >= since) out.push_back(record);
    }
    return out;
  }

  Expected<std::vector<std::int64_t>> failed_prologs(const std::string& node) override {
    may_die();
    if (!controller_is_up) return tl::unexpected(Error{"controller is down"});
    std::vector<std::int64_t> times;
    if (const auto found = drained_.find(node); found != drained_.end()) times.push_back(found->second);
    return times;
  }

  Expected<Submitted> submit(const JobSpec& spec) override {
    if (!controller_is_up) return tl::unexpected(Error{"controller is down"});
    const auto name = parse_comment(spec.comment);
    Job job;
    job.shown.comment = spec.comment;
    job.shown.name = spec.name;
    job.shown.partition = spec.partition;
    job.shown.time_limit_s = spec.time_limit_s;
    const std::string& gres = spec.tres_per_node;
    job.shown.gpus = spec.nodes * std::stoi(gres.substr(gres.rfind(':') + 1));
    if (const auto types = gpu_types_in(gres); !types.empty()) job.shown.gpu_type = types.front();
    job.owner = name ? name->run_id : "";
    job.goes_on = spec.script.find("scontrol requeuehold") != std::string::npos;
    const JobId id = add(job);
    submitted[spec.comment].push_back(id);
    if (has_faults && dice_.one_in(3)) {
      note(fmt::format("the client is not told that it submitted job {}", id));
      return tl::unexpected(Error{"the reply was lost"});
    }
    return Submitted{id, ""};
  }
  // sbatch on the managed partition: stamped and held by the submit plug-in.
  JobId submit_plain(int gpus, std::int64_t limit_s, const std::vector<int>& tasks) {
    Job job;
    job.is_plain = true;
    job.shown.name = "wrap";
    job.shown.partition = "metered";
    job.shown.time_limit_s = limit_s;
    job.shown.gpus = gpus;
    job.shown.array_tasks = tasks;
    return add(job);
  }

  Expected<StartEstimate> estimate_start(const JobSpec&) override { return StartEstimate{now, "n1"}; }
  Expected<void> ask_to_stop(JobId id) override {
    return act(id, [&](Job& job) {
      if (job.shown.state != JobState::kRunning) return;
      job.lasts_s = std::min(job.lasts_s, now - job.shown.start + dice_.between(1, 30));
      job.ends_as = JobState::kFailed;
      job.exit_code = 10;
      job.is_unfinished = job.goes_on;
    });
  }
  Expected<void> cancel(JobId id) override {
    return act(id, [&](Job& job) {
      if (!is_ended(job.shown.state)) end(job, JobState::kCancelled, 0);
    });
  }
  Expected<void> set_time_limit(JobId id, std::int64_t seconds) override {
    return act(id, [&](Job& job) { job.shown.time_limit_s = seconds; });
  }
  Expected<void> hold(JobId id, const std::string& comment) override {
    return act(id, [&](Job& job) {
      if (job.shown.state != JobState::kPending) return;
      job.shown.is_held = job.shown.is_held_by_admin = true;
      job.shown.comment = comment;
    });
  }
  Expected<void> release(JobId id, const std::string& comment) override {
    return act(id, [&](Job& job) {
      job.shown.is_held = job.shown.is_held_by_admin = false;
      job.shown.comment = comment;
    });
  }

  // --- What happens ----------------------------------------------------------------------------

  void advance(std::int64_t seconds) {
    for (; seconds > 0; --seconds) {
      ++now;
      deliver();
      if (!controller_is_up) continue;  // What ends while it is away ends when it is back.
      for (const JobId id : ids(false)) live(id);
      if (now % 5 == 0) saved_ = state_;
    }
  }

  void user_cancels(JobId id) {
    Job& job = at(id);
    if (!is_ended(job.shown.state)) end(job, JobState::kCancelled, 0);
  }

  // By its owner, a node failure or a preemption: the old attempt is closed under `state`.
  void requeue(JobId id, JobState state) {
    Job& job = at(id);
    JobSnapshot& shown = job.shown;
    note(fmt::format("requeue {} {}", id, to_name(state)));
    if (is_ended(shown.state)) {
      // slurmctld 22.05 closes the old record once more, with the time of the requeue.
      if (TrueAllocation* each = allocation(id, shown.start)) each->is_disturbed = true;
    }
    if (shown.state != JobState::kPending) close(job, state, 0);
    ++shown.attempt;
    shown.state = JobState::kPending;
    shown.submit = now + dice_.between(0, 2) * dice_.between(0, 10);
    job.begin = std::max(now + dice_.between(0, 121), shown.submit);
    shown.start = dice_.one_in(2) ? 0 : job.begin;  // Of a pending job: expected.
    shown.end = 0;
    shown.nodes.clear();
    job.ghost_until = job.purge = job.gate_at = 0;
    plan_attempt(job);
    if (dice_.one_in(2)) tell(job, JobState::kPending, 0);
  }

  // Slurm drains the node and puts the job back, held, or cancels what cannot be put back; an srun that
  // hears of it first ends its job itself.
  void fail_prolog(JobId id) {
    Job& job = at(id);
    note(fmt::format("the Prolog of {} fails", id));
    drained_[job.shown.nodes] = now + dice_.between(0, 1);
    if (TrueAllocation* each = present(id)) each->has_failed_at_launch = true;
    if (dice_.one_in(4)) {
      const bool is_sruns = job.is_plain && now - job.shown.start <= 600 && dice_.one_in(2);
      return end(job, is_sruns ? JobState::kFailed : JobState::kCancelled, 0);
    }
    requeue(id, JobState::kRequeued);
    job.shown.is_held = job.shown.is_held_by_admin = true;
    job.root_releases = now + dice_.between(1, 900);
  }

  // kill -9: what was not saved yet is forgotten, and started again with what was.
  void crash() {
    note("slurmctld crashes");
    state_ = saved_;
    for (TrueAllocation& each : truth) {
      const auto job = state_.jobs.find(each.id);
      const bool is_restored = job != state_.jobs.end() && job->second.owner_of_task() == each.owner &&
                               job->second.shown.start == each.start &&
                               job->second.shown.state == JobState::kRunning;
      if (each.end == 0 && !is_restored) {
        each.end = now;  // The node has a job that its controller does not know: killed.
        each.is_disturbed = true;
      } else if (is_restored && each.end != 0) {
        each.is_disturbed = true;
        job->second.ghost_until = now + dice_.between(1, 40);
      } else if (each.end != 0 && job != state_.jobs.end() && job->second.shown.submit == each.submit &&
                 job->second.shown.state == JobState::kPending) {
        each.is_disturbed = true;  // Its record will be written over.
      }
    }
    for (auto& [id, job] : state_.jobs) {
      if (job.purge != 0) job.purge = now + 60;
    }
    if (dice_.one_in(2)) {
      for (const Message& message : queue_) disturb(message.record.id, message.record.submit);
      queue_.clear();
    }
    saved_ = state_;
    ++now;  // It is back in another second: a number that it gives again is not of the same submission.
  }

  // An admin repairs runaway records, a disk loses one, a bug writes another.
  void twist_a_record() {
    if (records.empty()) return;
    auto place = records.begin();
    std::advance(place, dice_.between(0, static_cast<std::int64_t>(records.size()) - 1));
    AllocationRecord& record = place->second;
    if (record.end == 0 || record.start == 0) return;
    disturb(record.id, record.submit);
    note(fmt::format("the record of job {} is changed", record.id));
    switch (dice_.between(0, 2)) {
      case 0: record.end = record.start; break;
      case 1: record.end += dice_.between(1, 500); break;
      default: records.erase(place); return;
    }
    recorded[place->first].push_back(record);
  }

  // What was shown to a service that then died is as if nobody had seen it.
  void begin_look() {
    shown_.clear();
    shown_jobs_.clear();
  }
  void end_look() {
    for (const auto& [id, start] : shown_) {
      if (TrueAllocation* each = allocation(id, start)) each->was_visible = true;
    }
    for (const auto& [id, owner] : shown_jobs_) {
      for (TrueAllocation& each : truth) each.was_job_visible |= each.id == id && each.owner == owner;
    }
  }

  // The attempt that `id` has now.
  TrueAllocation* present(JobId id) { return allocation(id, at(id).shown.start); }
  bool has_messages() const { return !queue_.empty(); }
  void settle_down() {  // Everything late arrives.
    has_faults = false;
    controller_is_up = database_is_up = true;
    calls_until_death = -1;
  }

 private:
  struct Controller {
    std::map<JobId, Job> jobs;
    JobId next_id = 11;
  };
  struct Message {
    UtcSeconds due = 0;
    AllocationRecord record;
  };

  void may_die() {
    if (calls_until_death > 0 && --calls_until_death == 0) {
      calls_until_death = -1;
      throw ServiceDied();
    }
  }

  template <typename Effect>
  Expected<void> act(JobId id, Effect effect) {
    if (!controller_is_up) return tl::unexpected(Error{"controller is down"});
    const bool dies_first = dice_.one_in(2);
    if (dies_first) may_die();
    if (has_faults && dice_.one_in(20)) return tl::unexpected(Error{"refused"});
    const auto job = state_.jobs.find(id);
    if (job == state_.jobs.end()) return tl::unexpected(Error{"no such job"});
    effect(job->second);
    if (!dies_first) may_die();
    if (has_faults && dice_.one_in(20)) return tl::unexpected(Error{"the reply was lost"});
    return {};
  }

  JobId add(Job job) {
    JobSnapshot& shown = job.shown;
    shown.id = state_.next_id++;
    shown.uid = 1000;
    shown.state = JobState::kPending;
    shown.submit = now;
    shown.node_count = 1;
    if (shown.partition == "metered") {
      shown.admin_comment = fmt::format("trainyard-job:{:016}:", ++stamps_);
      shown.is_held = true;
      if (job.owner.empty()) {
        const auto stamp = parse_stamp(shown.admin_comment);
        job.owner = plain_run_id(*stamp, -1);
      }
    }
    plan_attempt(job);
    state_.jobs[shown.id] = job;
    if (shown.array_tasks.empty()) tell(job, JobState::kPending, 0);
    note(fmt::format("job {} of {}: {} GPUs, {} s, {} tasks", shown.id, job.owner, shown.gpus,
                     shown.time_limit_s, shown.array_tasks.size()));
    return shown.id;
  }

  void plan_attempt(Job& job) {
    job.lasts_s = dice_.one_in(4) ? dice_.between(0, 6) : dice_.between(1, job.shown.time_limit_s + 200);
    job.sweep_s = dice_.between(0, 30);
    static constexpr JobState kEnds[] = {JobState::kCompleted, JobState::kFailed,
                                         JobState::kOutOfMemory, JobState::kNodeFail};
    job.ends_as = kEnds[dice_.between(0, 3)];
    job.exit_code = job.ends_as == JobState::kFailed ? (dice_.one_in(2) ? 1 : 11) : 0;
    job.is_unfinished = job.goes_on && dice_.one_in(2);
  }

  TrueAllocation* allocation(JobId id, UtcSeconds start) {
    const auto place = std::find_if(truth.rbegin(), truth.rend(), [&](const TrueAllocation& each) {
      return each.id == id && each.start == start;
    });
    return place == truth.rend() ? nullptr : &*place;
  }
  void disturb(JobId id, UtcSeconds submit) {
    for (TrueAllocation& each : truth) {
      if (each.id == id && each.submit == submit) each.is_disturbed = true;
    }
  }

  void live(JobId id) {
    Job& job = at(id);
    JobSnapshot& shown = job.shown;
    if (job.ghost_until != 0) {
      if (now < job.ghost_until) return;
      job.ghost_until = 0;
      if (dice_.one_in(2)) {
        requeue(id, JobState::kNodeFail);
      } else {
        end(job, JobState::kNodeFail, 0);
      }
      return;
    }
    if (is_ended(shown.state)) {
      if (now >= job.purge) state_.jobs.erase(id);
      return;
    }
    if (shown.state == JobState::kPending) {
      if (job.root_releases != 0 && now >= job.root_releases) {
        shown.is_held = shown.is_held_by_admin = false;
        job.root_releases = 0;
      }
      if (!shown.is_held && now >= job.begin && dice_.one_in(10)) start(id);
      return;
    }
    if (job.gate_at != 0) {
      if (now < job.gate_at) return;
      job.gate_at = 0;
      const bool may_start = gate(id);  // The service looks, and may change the job.
      if (!may_start && job.shown.state == JobState::kRunning) requeue(id, JobState::kRequeued);
      return;
    }
    // The script of a run that goes on leaves before the limit.
    if (job.is_unfinished && now + 5 >= shown.start + std::min(job.lasts_s, shown.time_limit_s)) {
      requeue(id, JobState::kRequeued);
      at(id).shown.is_held = true;  // Its user's hold: scontrol requeuehold.
      at(id).shown.is_held_by_admin = false;
    } else if (now >= shown.start + job.lasts_s) {
      end(job, job.ends_as, job.exit_code);
    } else if (now >= shown.start + shown.time_limit_s + job.sweep_s) {
      end(job, JobState::kTimeout, 0);
    }
  }

  void start(JobId id) {
    Job job = at(id);
    JobSnapshot& shown = job.shown;
    if (!shown.array_tasks.empty()) {
      // A task leaves the array and becomes a job of its own; the last one keeps the array's number.
      Job& rest = at(id);
      shown.array_task = shown.array_tasks.front();
      shown.array_job = id;
      shown.array_tasks.clear();
      rest.shown.array_tasks.erase(rest.shown.array_tasks.begin());
      if (!rest.shown.array_tasks.empty()) shown.id = state_.next_id++;
      plan_attempt(job);
    }
    shown.state = JobState::kRunning;
    shown.start = now;
    shown.nodes = fmt::format("n{}a{}", shown.id, shown.attempt);
    if (gate && shown.partition == "metered") job.gate_at = now + dice_.between(0, 4);
    state_.jobs[shown.id] = job;
    truth.push_back({job.owner_of_task(), shown.id, shown.submit, now, 0, shown.gpus,
                     shown.partition});
    note(fmt::format("job {} of {} starts, attempt {}", shown.id, job.owner_of_task(), shown.attempt));
    // A crash ran it before under the same submit time: one record for both.
    for (TrueAllocation& each : truth) {
      const bool is_same = each.id == shown.id && each.submit == shown.submit && each.start < now;
      if (is_same) each.is_disturbed = truth.back().is_disturbed = true;
    }
    tell(job, JobState::kRunning, 0);
  }

  void close(Job& job, JobState state, int exit_code) {
    if (TrueAllocation* each = allocation(job.shown.id, job.shown.start)) {
      if (each->end == 0) {
        each->end = now;
      } else if (each->end != now) {
        each->is_disturbed = true;
      }
    }
    tell(job, state, now, exit_code);
  }
  void end(Job& job, JobState state, int exit_code) {
    note(fmt::format("job {} of {} ends {} {}", job.shown.id, job.owner_of_task(), to_name(state), exit_code));
    if (job.shown.state == JobState::kPending) {
      job.shown.start = 0;
      if (job.shown.array_tasks.empty()) tell(job, state, now, exit_code);
    } else {
      close(job, state, exit_code);
    }
    job.shown.state = state;
    job.shown.end = now;
    job.shown.exit_code = exit_code;
    job.purge = now + dice_.between(20, 300);
  }

  void tell(const Job& job, JobState state, UtcSeconds end, int exit_code = 0) {
    AllocationRecord record;
    record.id = job.shown.id;
    record.uid = job.shown.uid;
    record.name = job.shown.name;
    record.partition = job.shown.partition;
    record.array_job = job.shown.array_job;
    record.array_task = job.shown.array_task;
    record.submit = job.shown.submit;
    record.state = state;
    record.start = job.shown.state == JobState::kPending ? 0 : job.shown.start;
    record.end = end;
    record.gpus = record.start > 0 ? job.shown.gpus : 0;
    record.nodes = job.shown.nodes;
    record.exit_code = exit_code;
    const UtcSeconds due = now + (has_faults && dice_.one_in(5) ? dice_.between(0, 60) : 0);
    queue_.push_back({due, record});
    deliver();
  }
  void deliver() {
    while (database_is_up && !queue_.empty() && queue_.front().due <= now) {
      const AllocationRecord& record = queue_.front().record;
      records[{record.id, record.submit}] = record;
      recorded[{record.id, record.submit}].push_back(record);
      queue_.pop_front();
    }
  }

  Dice& dice_;
  Controller state_, saved_;
  std::map<std::string, UtcSeconds> drained_;
  std::deque<Message> queue_;   // On its way to slurmdbd, in order.
  std::vector<std::pair<JobId, UtcSeconds>> shown_;  // In the look that is under way.
  std::vector<std::pair<JobId, std::string>> shown_jobs_;
  int stamps_ = 0;
};

}  // namespace scheduler
