// SPDX-License-Identifier: GPL-3.0-or-later
// tests/scheduler/fake_cluster.h
//
// A pretended Slurm with a virtual clock and scripted faults, for what a real one cannot be made to
// do at a given line. It keeps the controller's table and slurmdbd's records apart, as Slurm does.
#pragma once

#include <algorithm>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "scheduler/cluster.h"

namespace scheduler {

class FakeCluster final : public Cluster {
 public:
  ClusterFacts about{.name = "fake", .kill_wait_s = 30, .over_time_limit_s = 0};
  std::int64_t now = 1'000'000;
  std::uint32_t uid = 1000;          // Of whoever submits.
  bool controller_is_up = true;
  bool database_is_up = true;
  bool submit_loses_its_reply = false;
  bool would_never_start = false;    // What is submitted: it is taken, and cancelled at once.
  bool set_time_limit_is_refused = false;
  bool service_dies_at_cancel = false;  // Before anything came of it; it throws.
  std::string partition = "gpu";
  std::map<JobId, JobSnapshot> jobs;                     // The controller's table.
  std::map<JobId, std::vector<AllocationRecord>> records;
  std::map<std::string, std::int64_t> drained;           // Nodes on which a Prolog failed, and when.
  std::vector<JobId> asked_to_stop, cancelled;
  int looks = 0;
  int questions = 0;                                     // To slurmdbd, about jobs.

  Expected<ClusterFacts> facts() override {
    if (!controller_is_up) return tl::unexpected(Error{"controller is down"});
    return about;
  }
  bool is_reachable() override { return controller_is_up; }

  Expected<std::vector<JobSnapshot>> load_jobs() override {
    ++looks;
    if (!controller_is_up) return tl::unexpected(Error{"controller is down"});
    std::vector<JobSnapshot> out;
    for (const auto& [id, job] : jobs) out.push_back(job);
    return out;
  }

  Expected<std::vector<AllocationRecord>> load_records(std::span<const JobId> ids,
                                                       std::int64_t since) override {
    ++questions;
    if (!database_is_up) return tl::unexpected(Error{"slurmdbd is down"});
    std::vector<AllocationRecord> out;
    for (const JobId id : ids) {
      for (const AllocationRecord& record : records[id]) {
        if (record.submit >= since) out.push_back(record);
      }
    }
    return out;
  }

  Expected<std::vector<AllocationRecord>> find_records(const std::string& name,
                                                       std::int64_t since) override {
    if (!database_is_up) return tl::unexpected(Error{"slurmdbd is down"});
    std::vector<AllocationRecord> out;
    for (const auto& [id, attempts] : records) {
      for (const AllocationRecord& record : attempts) {
        if ((name.empty() || record.name == name) && record.submit >= since) out.push_back(record);
      }
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
    for (const auto& [id, attempts] : records) {
      for (const AllocationRecord& record : attempts) {
        if (is_of(record) && record.submit >= since) out.push_back(record);
      }
    }
    return out;
  }

  Expected<std::vector<std::int64_t>> failed_prologs(const std::string& node) override {
    if (!controller_is_up) return tl::unexpected(Error{"controller is down"});
    std::vector<std::int64_t> times;
    if (const auto found = drained.find(node); found != drained.end()) times.push_back(found->second);
    return times;
  }

  Expected<Submitted> submit(const JobSpec& spec) override {
    JobSnapshot job;
    job.id = next_id_++;
    job.uid = uid;
    job.state = JobState::kPending;
    job.reason = "Resources";
    job.comment = spec.comment;
    job.name = spec.name;
    job.partition = spec.partition.empty() ? partition : spec.partition;
    job.submit = now;
    job.time_limit_s = spec.time_limit_s;
    job.gpus = gpus_of(spec);
    if (const auto types = gpu_types_in(spec.tres_per_node); !types.empty()) job.gpu_type = types.front();
    if (job.partition == "metered") {
      job.admin_comment = "trainyard-job:" + stamp_digits(++stamps_) + ":";
      job.is_held = true;
    }
    jobs[job.id] = job;
    add_record(job);
    if (would_never_start) {
      end(job.id, JobState::kCancelled, 0);
      return tl::unexpected(Error{"Slurm would never start the job"});
    }
    if (submit_loses_its_reply) return tl::unexpected(Error{"the reply was lost"});
    return Submitted{job.id, ""};
  }
  // As sbatch by `uid` on a managed partition: stamped and held by the submit plug-in.
  JobId submit_plain(int gpus, std::int64_t time_limit_s, const std::vector<int>& array_tasks = {}) {
    JobSnapshot job;
    job.id = next_id_++;
    job.uid = uid;
    job.state = JobState::kPending;
    job.reason = "JobHeldUser";
    job.admin_comment = "trainyard-job:" + stamp_digits(++stamps_) + ":";
    job.name = "wrap";
    job.partition = "metered";
    job.submit = now;
    job.time_limit_s = time_limit_s;
    job.gpus = gpus;
    job.node_count = 1;
    job.is_held = true;
    job.array_tasks = array_tasks;
    jobs[job.id] = job;
    if (array_tasks.empty()) add_record(job);
    return job.id;
  }
  // sbatch with ":" between components, each with so many GPUs: jobs of consecutive numbers.
  std::vector<JobId> submit_het(const std::vector<int>& gpus, std::int64_t time_limit_s) {
    std::vector<JobId> ids;
    for (const int each : gpus) ids.push_back(submit_plain(each, time_limit_s));
    for (const JobId id : ids) jobs.at(id).het_job = ids.front();
    return ids;
  }
  // A task of an array leaves it and becomes a job of its own.
  JobId split_task(JobId array) {
    JobSnapshot& meta = jobs.at(array);
    JobSnapshot task = meta;
    task.id = next_id_++;
    task.array_task = meta.array_tasks.front();
    task.array_job = array;
    task.array_tasks.clear();
    meta.array_tasks.erase(meta.array_tasks.begin());
    if (meta.array_tasks.empty()) jobs.erase(array);
    jobs[task.id] = task;
    add_record(task);
    return task.id;
  }
  Expected<StartEstimate> estimate_start(const JobSpec&) override { return StartEstimate{now, "n1"}; }
  Expected<void> ask_to_stop(JobId job) override {
    asked_to_stop.push_back(job);
    return {};
  }
  Expected<void> cancel(JobId job) override {
    if (service_dies_at_cancel) throw std::runtime_error("the service died");
    cancelled.push_back(job);
    const auto found = jobs.find(job);
    if (found == jobs.end()) return {};
    const JobId het_job = found->second.het_job;
    if (het_job != 0 && het_job != job && found->second.state == JobState::kPending) {
      return tl::unexpected(Error{"only the whole of a heterogeneous job can be cancelled"});
    }
    for (const auto& [id, each] : jobs) {
      const bool is_part = id == job || (het_job == job && each.het_job == job);
      if (is_part && !is_ended(each.state)) end(id, JobState::kCancelled, 0);
    }
    return {};
  }
  Expected<void> set_time_limit(JobId job, std::int64_t seconds) override {
    if (set_time_limit_is_refused) return tl::unexpected(Error{"Access denied"});
    jobs.at(job).time_limit_s = seconds;
    return {};
  }

  Expected<void> hold(JobId id, const std::string& comment) override {
    JobSnapshot& job = jobs.at(id);
    if (job.state != JobState::kPending) return tl::unexpected(Error{"the job runs"});
    job.is_held = job.is_held_by_admin = true;
    job.comment = comment;
    return {};
  }
  Expected<void> release(JobId id, const std::string& comment) override {
    JobSnapshot& job = jobs.at(id);
    job.is_held = job.is_held_by_admin = false;
    job.comment = comment;
    return {};
  }

  // --- What Slurm does by itself ---------------------------------------------------------------

  void start(JobId id) {
    JobSnapshot& job = jobs.at(id);
    job.state = JobState::kRunning;
    job.start = now;
    job.nodes = "n1";
    job.reason.clear();
    AllocationRecord& record = records[id].back();
    record.start = now;
    record.gpus = job.gpus;
    record.nodes = job.nodes;
    record.state = JobState::kRunning;
  }
  void end(JobId id, JobState state, int exit_code) {
    JobSnapshot& job = jobs.at(id);
    job.state = state;
    job.end = now;
    job.exit_code = exit_code;
    close_record(id, state, exit_code);
  }
  // A requeue: the old attempt is closed, the same job waits again under a new submit time.
  void requeue(JobId id) {
    close_record(id, JobState::kRequeued, 0);
    JobSnapshot& job = jobs.at(id);
    ++job.attempt;
    job.state = JobState::kPending;
    job.submit = now;
    job.start = job.end = 0;
    job.nodes.clear();
    add_record(job);
  }
  // Slurm drains the node and puts the job back, held.
  void fail_prolog(JobId id) {
    drained[jobs.at(id).nodes] = now;
    requeue(id);
    JobSnapshot& job = jobs.at(id);
    job.is_held = job.is_held_by_admin = true;
    job.reason = "launch failed requeued held";
  }
  void purge(JobId id) { jobs.erase(id); }  // MinJobAge.

 private:
  static std::string stamp_digits(int number) {
    std::string digits = std::to_string(number);
    return std::string(16 - digits.size(), '0') + digits;
  }
  static int gpus_of(const JobSpec& spec) {
    return spec.nodes * std::stoi(spec.tres_per_node.substr(spec.tres_per_node.rfind(':') + 1));
  }
  void add_record(const JobSnapshot& job) {
    AllocationRecord record;
    record.id = job.id;
    record.uid = job.uid;
    record.state = JobState::kPending;
    record.name = job.name;
    record.partition = job.partition;
    record.submit = job.submit;
    record.array_job = job.array_job;
    record.array_task = job.array_task;
    records[job.id].push_back(record);
  }
  void close_record(JobId id, JobState state, int exit_code) {
    if (records[id].empty()) return;  // An array of which no task has started.
    AllocationRecord& record = records[id].back();
    record.state = state;
    record.end = now;
    record.exit_code = exit_code;
  }
  int stamps_ = 0;
  JobId next_id_ = 11;
};

}  // namespace scheduler
