// SPDX-License-Identifier: GPL-3.0-or-later
//
// Knows libslurm, as slurm_policy.cpp does and nothing else. Strings inside libslurm's answers die with
// them and are copied; every answer is freed by the function that belongs to it.
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <utility>

#include <fmt/format.h>

#include "scheduler/cluster.h"
#include "scheduler/request.h"
#include "scheduler/slurm_calls.h"
#include "scheduler/slurm_rights.h"

// Exported by libslurm 22.05 but declared in none of its installed headers.
extern "C" {
extern void slurm_free_will_run_response_msg(will_run_response_msg_t* message);
extern char* slurm_job_reason_string(enum job_state_reason reason);
}

namespace scheduler {
namespace {

// Answers of libslurm are 0, -1 with errno, or (some calls) the positive error number itself.
int error_of(int returned) { return returned > 0 ? returned : errno; }

JobState from_slurm_state(std::uint32_t state) {
  switch (state & JOB_STATE_BASE) {
    case JOB_PENDING: return JobState::kPending;
    case JOB_RUNNING: return JobState::kRunning;
    case JOB_SUSPENDED: return JobState::kSuspended;
    case JOB_COMPLETE: return JobState::kCompleted;
    case JOB_CANCELLED: return JobState::kCancelled;
    case JOB_FAILED: return JobState::kFailed;
    case JOB_TIMEOUT: return JobState::kTimeout;
    case JOB_NODE_FAIL: return JobState::kNodeFail;
    case JOB_PREEMPTED: return JobState::kPreempted;
    case JOB_BOOT_FAIL: return JobState::kBootFail;
    case JOB_DEADLINE: return JobState::kDeadline;
    case JOB_OOM: return JobState::kOutOfMemory;
    default: return JobState::kUnknown;
  }
}

std::int64_t limit_seconds(std::uint32_t minutes) {
  return minutes == INFINITE || minutes == NO_VAL ? INT64_MAX / 1'000'000 : std::int64_t{minutes} * 60;
}

// Of an OverTimeLimit. With "UNLIMITED" limits do not bind at all, which no hold can cover.
std::int64_t over_time_seconds(std::uint16_t minutes) {
  return minutes == INFINITE16 ? ClusterFacts::kNoEnd_s : std::int64_t{minutes} * 60;
}

// Whether an AccountingStorageTRES has GPUs of every type: "gres/gpu:h100" alone counts no others.
bool counts_gpus(const std::string& tres) {
  return ("," + tres + ",").find(",gres/gpu,") != std::string::npos;
}

// "0-2,7%4" -> 0, 1, 2, 7. Slurm may print a step: "0-8:4".
std::vector<int> tasks_of(const std::string& text) {
  std::vector<int> tasks;
  const char* at = text.data();
  const char* const end = text.data() + std::min(text.size(), text.find('%'));
  const auto number = [&](int& out) {
    const auto [stop, error] = std::from_chars(at, end, out);
    at = stop;
    return error == std::errc();
  };
  while (at < end) {
    int first = 0, last = 0, step = 1;
    if (!number(first)) return {};
    last = first;
    if (at < end && *at == '-' && (++at, !number(last))) return {};
    if (at < end && *at == ':' && (++at, !number(step))) return {};
    for (int task = first; task <= last && step > 0; task += step) tasks.push_back(task);
    if (at < end && *at++ != ',') return {};
  }
  return tasks;
}

// What Slurm allocated, or else what the job asks for.
std::vector<std::string> gpu_types_of(const slurm_job_info_t& job) {
  for (const char* each : {job.tres_alloc_str, job.gres_total, job.tres_per_job, job.tres_per_node,
                           job.tres_per_task, job.tres_per_socket}) {
    auto types = gpu_types_in(copy(each));
    if (!types.empty()) return types;
  }
  return {};
}

template <typename Job>
void set_exit(Job& out, std::uint32_t slurms) {
  const int status = static_cast<int>(slurms);
  if (WIFSIGNALED(status)) out.exit_signal = WTERMSIG(status);
  if (WIFEXITED(status)) out.exit_code = WEXITSTATUS(status);
}

int known_count(std::uint32_t count) {
  return count < INFINITE16 ? static_cast<int>(count) : 0;
}

// More tasks than there are nodes anywhere are as many as one likes.
int known_tasks(std::uint32_t count) {
  return count < NO_VAL ? static_cast<int>(std::min<std::uint32_t>(count, INFINITE16)) : 0;
}

// The GPUs of a job that waits: what its hold must pay for, on however many nodes it starts.
void set_most_allocated(JobSnapshot& out, const slurm_job_info_t& job, int partition_nodes) {
  // Slurm shows no most nodes of a job that it has put back, and may have been told some.
  const int tasks = job.restart_cnt == 0 ? known_tasks(job.num_tasks) : 0;
  const MostAllocated most = most_allocated(
      {.tres = copy(job.tres_req_str), .per_job = copy(job.tres_per_job),
       .per_node = copy(job.tres_per_node), .per_socket = copy(job.tres_per_socket),
       .nodes = known_count(job.num_nodes), .nodes_max = known_count(job.max_nodes),
       .tasks = tasks, .partition_nodes = partition_nodes});
  out.may_spread = job.max_nodes == 0 && most.nodes > static_cast<int>(job.num_nodes);
  out.node_count = most.nodes;
  out.gpus = most.gpus;
  out.is_exclusive |= most.fills_nodes;
}

JobSnapshot to_snapshot(const slurm_job_info_t& job, int partition_nodes) {
  JobSnapshot out;
  out.id = job.job_id;
  out.uid = job.user_id;
  out.state = from_slurm_state(job.job_state);
  out.is_completing = (job.job_state & JOB_COMPLETING) != 0;
  out.is_powering_up = (job.job_state & JOB_POWER_UP_NODE) != 0;
  if (out.state == JobState::kPending || job.state_reason != 0) {
    // Slurm's own words where it has some, as squeue shows: "launch failed requeued held".
    out.reason = copy(job.state_desc);
    if (out.reason.empty()) {
      out.reason = copy(slurm_job_reason_string(static_cast<enum job_state_reason>(job.state_reason)));
    }
  }
  out.comment = copy(job.comment);
  out.admin_comment = copy(job.admin_comment);
  out.name = copy(job.name);
  out.partition = copy(job.partition);
  out.nodes = copy(job.nodes);
  out.excluded_nodes = copy(job.exc_nodes);
  out.submit = job.submit_time;
  out.start = job.start_time;
  out.end = job.end_time;
  out.time_limit_s = limit_seconds(job.time_limit);
  out.attempt = job.restart_cnt;
  out.gpus = tres_count(copy(job.tres_alloc_str), "gres/gpu");
  if (out.gpus == 0) out.gpus = tres_count(copy(job.tres_req_str), "gres/gpu");
  out.node_count = static_cast<int>(job.num_nodes);
  out.account = copy(job.account);
  const auto gpu_types = gpu_types_of(job);
  if (gpu_types.size() == 1) out.gpu_type = gpu_types.front();
  out.has_several_gpu_types = gpu_types.size() > 1;
  out.is_exclusive = job.shared == 0;
  if (out.state == JobState::kPending) set_most_allocated(out, job, partition_nodes);
  out.is_held = out.state == JobState::kPending && job.priority == 0;
  out.is_held_by_admin = out.is_held && job.state_reason == WAIT_HELD;
  out.het_job = job.het_job_id;
  out.array_job = job.array_job_id;
  if (job.array_task_id != NO_VAL) {
    out.array_task = static_cast<int>(job.array_task_id);
  } else if (job.array_task_str != nullptr) {
    out.array_tasks = tasks_of(job.array_task_str);
  }
  set_exit(out, job.exit_code);
  return out;
}

// The text that Slurm's own clients take for a TRES of a node.
std::string tres_text(const std::string& tres) {
#if SLURM_VERSION_NUMBER >= SLURM_VERSION_NUM(23, 11, 0)
  if (tres.rfind("gres:", 0) == 0) return "gres/" + tres.substr(5);
#endif
  return tres;
}

// Owns what a job_desc_msg_t points to: libslurm only reads it during the call.
struct Description {
  job_desc_msg_t message{};
  std::vector<std::string> texts;
  std::vector<char*> environment;

  char* keep(const std::string& text) {
    if (text.empty()) return nullptr;
    texts.push_back(text);
    return texts.back().data();
  }
};

Expected<void> set_passed_through(Description& description, const std::string& key,
                                  const std::string& value) {
  job_desc_msg_t& message = description.message;
  if (key == "constraint") {
    message.features = description.keep(value);
  } else if (key == "exclude") {
    message.exc_nodes = description.keep(value);
  } else if (key == "nodelist") {
    message.req_nodes = description.keep(value);
  } else if (key == "reservation") {
    message.reservation = description.keep(value);
  } else if (key == "dependency") {
    message.dependency = description.keep(value);
  } else if (key == "licenses") {
    message.licenses = description.keep(value);
  } else if (key == "wckey") {
    message.wckey = description.keep(value);
  } else if (key == "mail-user") {
    message.mail_user = description.keep(value);
  } else if (key == "exclusive") {
    if (value != "true" && value != "false") {
      return tl::unexpected(Error{fmt::format("slurm.exclusive = {} is neither true nor false", value)});
    }
    if (value == "true") message.shared = 0;
  } else if (key == "mail-type") {
    static const std::map<std::string, std::uint16_t> kTypes{
        {"BEGIN", MAIL_JOB_BEGIN}, {"END", MAIL_JOB_END},       {"FAIL", MAIL_JOB_FAIL},
        {"ALL", MAIL_JOB_BEGIN | MAIL_JOB_END | MAIL_JOB_FAIL}, {"NONE", 0}};
    const auto found = kTypes.find(value);
    if (found == kTypes.end()) {
      return tl::unexpected(
          Error{fmt::format("slurm.mail-type = {} is none of BEGIN, END, FAIL, ALL, NONE", value)});
    }
    message.mail_type = found->second;
  } else if (key == "nice" || key == "begin") {
    std::int64_t number = 0;
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
    if (error != std::errc() || end != value.data() + value.size()) {
      return tl::unexpected(Error{fmt::format("slurm.{} = {} is not a whole number", key, value)});
    }
    if (key == "begin") {
      message.begin_time = number;
    } else {
      message.nice = static_cast<std::uint32_t>(NICE_OFFSET + number);
    }
  } else {
    return tl::unexpected(Error{fmt::format("slurm.{} cannot be passed to this Slurm", key)});
  }
  return {};
}

Expected<std::unique_ptr<Description>> describe(const JobSpec& spec) {
  auto description = std::make_unique<Description>();
  description->texts.reserve(32 + spec.environment.size() + spec.slurm.size());
  job_desc_msg_t& message = description->message;
  slurm_init_job_desc_msg(&message);
  message.name = description->keep(spec.name);
  message.comment = description->keep(spec.comment);
  message.partition = description->keep(spec.partition);
  message.account = description->keep(spec.account);
  message.qos = description->keep(spec.qos);
  message.work_dir = description->keep(spec.work_dir);
  message.std_out = description->keep(spec.std_out);
  message.script = description->keep(spec.script);
  message.tres_per_node = description->keep(tres_text(spec.tres_per_node));
  message.user_id = getuid();
  message.group_id = getgid();
  // An exact node count: 22.05 rejects some ranges together with ntasks_per_node.
  message.min_nodes = static_cast<std::uint32_t>(spec.nodes);
  message.max_nodes = static_cast<std::uint32_t>(spec.nodes);
  message.num_tasks = static_cast<std::uint32_t>(spec.ranks);
  message.ntasks_per_node = static_cast<std::uint16_t>(spec.ranks_per_node);
  message.cpus_per_task = static_cast<std::uint16_t>(spec.cpus_per_rank);
  message.min_cpus = static_cast<std::uint32_t>(spec.ranks * spec.cpus_per_rank);
  if (spec.memory_per_node_mb > 0) {
    message.pn_min_memory = static_cast<std::uint64_t>(spec.memory_per_node_mb);
  }
  message.time_limit = static_cast<std::uint32_t>(spec.time_limit_s / 60);
  message.open_mode = OPEN_MODE_APPEND;
  message.requeue = 1;
  for (const std::string& entry : spec.environment) {
    description->environment.push_back(description->keep(entry));
  }
  message.environment = description->environment.data();
  message.env_size = static_cast<std::uint32_t>(description->environment.size());
  for (const auto& [key, value] : spec.slurm) {
    const auto set = set_passed_through(*description, key, value);
    if (!set) return tl::unexpected(set.error());
  }
  return description;
}

class SlurmCluster final : public Cluster {
 public:
  Expected<ClusterFacts> facts() override {
    slurm_conf_t* conf = nullptr;
    if (const int rc = slurm_load_ctl_conf(0, &conf); rc != SLURM_SUCCESS) {
      return tl::unexpected(slurm_error("reading Slurm's configuration", error_of(rc)));
    }
    ClusterFacts facts;
    facts.name = copy(conf->cluster_name);
    facts.kill_wait_s = conf->kill_wait;
    facts.counts_gpus = counts_gpus(copy(conf->accounting_storage_tres));
    controllers_ = static_cast<int>(conf->control_cnt);
    facts.over_time_limit_s = over_time_seconds(conf->over_time_limit);
    slurm_free_ctl_conf(conf);
    partition_info_msg_t* partitions = nullptr;
    if (const int rc = slurm_load_partitions(0, &partitions, SHOW_ALL); rc != SLURM_SUCCESS) {
      return tl::unexpected(slurm_error("reading Slurm's partitions", error_of(rc)));
    }
    for (std::uint32_t i = 0; i < partitions->record_count; ++i) {
      const partition_info_t& partition = partitions->partition_array[i];
      partition_nodes_[copy(partition.name)] = known_count(partition.total_nodes);
      if (partition.over_time_limit != NO_VAL16) {
        facts.partition_over_time_s[copy(partition.name)] = over_time_seconds(partition.over_time_limit);
      }
      if (partition.max_time == INFINITE || partition.max_time == NO_VAL) continue;
      facts.partition_max_s[copy(partition.name)] = std::int64_t{partition.max_time} * 60;
    }
    slurm_free_partition_info_msg(partitions);
    cluster_name_ = facts.name;
    return facts;
  }

  // The first controller, or one that has taken over. One that stands by answers as well: what is
  // asked next then fails.
  bool is_reachable() override {
    for (int controller = 0; controller < std::max(controllers_, 1); ++controller) {
      if (slurm_ping(controller) == SLURM_SUCCESS) return true;
    }
    // Whether there is another is not known yet; asking takes seconds where none answers.
    return controllers_ == 0 && facts().has_value();
  }

  Expected<std::vector<JobSnapshot>> load_jobs() override {
    job_info_msg_t* answer = nullptr;
    // SHOW_LOCAL spares a question to a federation; time 0 asks for the whole table.
    const int rc = slurm_load_jobs(0, &answer, SHOW_ALL | SHOW_LOCAL);
    if (rc != SLURM_SUCCESS) return tl::unexpected(slurm_error("loading jobs", error_of(rc)));
    std::vector<JobSnapshot> jobs;
    jobs.reserve(answer->record_count);
    for (std::uint32_t i = 0; i < answer->record_count; ++i) {
      const slurm_job_info_t& job = answer->job_array[i];
      const auto nodes = partition_nodes_.find(copy(job.partition));
      jobs.push_back(to_snapshot(job, nodes == partition_nodes_.end() ? 0 : nodes->second));
    }
    slurm_free_job_info_msg(answer);
    return jobs;
  }

  Expected<std::vector<AllocationRecord>> load_records(std::span<const JobId> jobs,
                                                       std::int64_t since) override {
    std::vector<AllocationRecord> records;
    if (jobs.empty()) return records;
    std::vector<slurm_selected_step_t> steps(jobs.size());
    slurmdb_job_cond_t condition{};
    condition.step_list = slurm_list_create(nullptr);
    for (std::size_t i = 0; i < jobs.size(); ++i) {
      steps[i].array_task_id = NO_VAL;
      steps[i].het_job_offset = NO_VAL;
      steps[i].step_id.job_id = jobs[i];
      steps[i].step_id.step_het_comp = NO_VAL;
      steps[i].step_id.step_id = NO_VAL;
      slurm_list_append(condition.step_list, &steps[i]);
    }
    auto answer = records_where(condition, since);
    slurm_list_destroy(condition.step_list);
    return answer;
  }

  Expected<std::vector<AllocationRecord>> find_records(const std::string& name,
                                                       std::int64_t since) override {
    std::string text = name;
    slurmdb_job_cond_t condition{};
    condition.usage_start = since;
    if (!name.empty()) {
      condition.jobname_list = slurm_list_create(nullptr);
      slurm_list_append(condition.jobname_list, text.data());
    }
    auto answer = records_where(condition, since);
    if (!name.empty()) slurm_list_destroy(condition.jobname_list);
    return answer;
  }

  Expected<std::vector<AllocationRecord>> partition_records(std::span<const std::string> partitions,
                                                            std::int64_t since) override {
    if (partitions.empty()) return std::vector<AllocationRecord>{};
    std::vector<std::string> names(partitions.begin(), partitions.end());
    slurmdb_job_cond_t condition{};
    condition.usage_start = since;
    condition.partition_list = slurm_list_create(nullptr);
    for (std::string& each : names) slurm_list_append(condition.partition_list, each.data());
    auto answer = records_where(condition, since);
    slurm_list_destroy(condition.partition_list);
    return answer;
  }

  // Asks slurmdbd about `condition`, whose lists stay the caller's.
  Expected<std::vector<AllocationRecord>> records_where(slurmdb_job_cond_t& condition,
                                                        std::int64_t since) {
    std::vector<AllocationRecord> records;
    if (cluster_name_.empty()) {
      if (const auto known = facts(); !known) return tl::unexpected(known.error());
    }
    const DatabaseConnection database;
    void* connection = database.get();
    if (connection == nullptr) return tl::unexpected(slurm_error("connecting to slurmdbd", errno));
    if (gpu_tres_.empty()) {
      const auto found = find_gpu_tres(connection);
      if (!found) return tl::unexpected(found.error());
      gpu_tres_ = *found;
    }

    // All attempts of a requeued job, with their true times.
    condition.flags = JOBCOND_FLAG_DUP | JOBCOND_FLAG_NO_TRUNC | JOBCOND_FLAG_NO_STEP |
                      JOBCOND_FLAG_NO_DEFAULT_USAGE;
    condition.db_flags = SLURMDB_JOB_FLAG_NOTSET;
    condition.cluster_list = slurm_list_create(nullptr);
    slurm_list_append(condition.cluster_list, cluster_name_.data());
    errno = 0;
    List answer = slurmdb_jobs_get(connection, &condition);
    const int error = errno;
    slurm_list_destroy(condition.cluster_list);
    if (answer == nullptr) {
      return tl::unexpected(slurm_error("asking slurmdbd for job records", error));
    }
    ListIterator rows = slurm_list_iterator_create(answer);
    while (void* row = slurm_list_next(rows)) {
      const AllocationRecord record = to_record(*static_cast<slurmdb_job_rec_t*>(row));
      if (record.submit >= since) records.push_back(record);
    }
    slurm_list_iterator_destroy(rows);
    slurm_list_destroy(answer);
    std::sort(records.begin(), records.end(), [](const auto& a, const auto& b) {
      return std::tie(a.id, a.submit) < std::tie(b.id, b.submit);
    });
    return records;
  }

  Expected<std::vector<std::int64_t>> failed_prologs(const std::string& nodes) override {
    if (const auto read = read_failed_prologs(); !read) return tl::unexpected(read.error());
    std::vector<std::int64_t> times;
    if (failed_prologs_.empty()) return times;
    auto* wanted = slurm_hostlist_create(nodes.c_str());
    if (wanted == nullptr) return times;
    for (const auto& [node, time] : failed_prologs_) {
      if (slurm_hostlist_find(wanted, node.c_str()) >= 0) times.push_back(time);
    }
    slurm_hostlist_destroy(wanted);
    return times;
  }

  // slurmctld sends its nodes only where one has changed since.
  Expected<void> read_failed_prologs() {
    node_info_msg_t* answer = nullptr;
    const int rc = slurm_load_node(nodes_read_, &answer, SHOW_ALL);
    if (rc != SLURM_SUCCESS) {
      const int error = error_of(rc);
      if (error == SLURM_NO_CHANGE_IN_DATA) return {};
      return tl::unexpected(slurm_error("asking for the nodes", error));
    }
    nodes_read_ = answer->last_update;
    failed_prologs_.clear();
    for (std::uint32_t i = 0; i < answer->record_count; ++i) {
      const node_info_t& node = answer->node_array[i];
      // slurmctld's own words, which an admin may have added to.
      const bool has_failed = node.name != nullptr && copy(node.reason).starts_with("Prolog error");
      if (has_failed) failed_prologs_.emplace_back(node.name, node.reason_time);
    }
    slurm_free_node_info_msg(answer);
    return {};
  }

  Expected<Submitted> submit(const JobSpec& spec) override {
    auto description = describe(spec);
    if (!description) return tl::unexpected(description.error());
    submit_response_msg_t* answer = nullptr;
    const int rc = slurm_submit_batch_job(&(*description)->message, &answer);
    if (rc != SLURM_SUCCESS) {
      const int error = error_of(rc);
      std::string message = slurm_error("Slurm refused the job", error).message;
      if (answer != nullptr) {
        if (answer->job_submit_user_msg != nullptr) {
          message += fmt::format(". The site says: {}", answer->job_submit_user_msg);
        }
        slurm_free_submit_response_response_msg(answer);
      }
      return tl::unexpected(Error{message});
    }
    if (answer == nullptr) return tl::unexpected(Error{"Slurm accepted the job without a job id"});
    Submitted submitted{answer->job_id, copy(answer->job_submit_user_msg)};
    const std::uint32_t warning = answer->error_code;
    slurm_free_submit_response_response_msg(answer);
    // A managed partition holds every job until the service has seen it.
    if (warning != 0 && warning != ESLURM_JOB_HELD) {
      // Accepted, but it would wait for ever (a limit of the partition, say).
      slurm_kill_job(submitted.id, SIGKILL, 0);
      return tl::unexpected(slurm_error("Slurm would never start the job", static_cast<int>(warning)));
    }
    return submitted;
  }

  Expected<StartEstimate> estimate_start(const JobSpec& spec) override {
    auto description = describe(spec);
    if (!description) return tl::unexpected(description.error());
    will_run_response_msg_t* answer = nullptr;
    const int rc = slurm_job_will_run2(&(*description)->message, &answer);
    if (rc != SLURM_SUCCESS || answer == nullptr) {
      return tl::unexpected(slurm_error("asking Slurm when the job would start", error_of(rc)));
    }
    StartEstimate estimate{answer->start_time, copy(answer->node_list)};
    slurm_free_will_run_response_msg(answer);
    return estimate;
  }

  Expected<void> ask_to_stop(JobId job) override {
    return outcome(slurm_kill_job(job, SIGUSR1, KILL_JOB_BATCH),
                   fmt::format("signalling job {}", job));
  }

  Expected<void> cancel(JobId job) override {
    return outcome(slurm_kill_job(job, SIGKILL, 0), fmt::format("cancelling job {}", job));
  }

  Expected<void> set_time_limit(JobId job, std::int64_t seconds) override {
    job_desc_msg_t message;
    slurm_init_job_desc_msg(&message);
    message.job_id = job;
    message.time_limit = static_cast<std::uint32_t>(seconds / 60);
    return outcome(slurm_update_job(&message), fmt::format("setting the time limit of job {}", job));
  }

  Expected<void> hold(JobId job, const std::string& comment) override {
    job_desc_msg_t message;
    slurm_init_job_desc_msg(&message);
    message.priority = 0;
    message.alloc_sid = ALLOC_SID_ADMIN_HOLD;
    return update(job, message, comment, "holding");
  }

  Expected<void> release(JobId job, const std::string& comment) override {
    job_desc_msg_t message;
    slurm_init_job_desc_msg(&message);
    message.priority = INFINITE;
    return update(job, message, comment, "releasing");
  }

 private:
  static Expected<void> update(JobId job, job_desc_msg_t& message, std::string comment,
                               const char* what) {
    message.job_id = job;
    message.comment = comment.data();
    return outcome(slurm_update_job(&message), fmt::format("{} job {}", what, job));
  }

  static Expected<void> outcome(int rc, const std::string& what) {
    const int error = rc == SLURM_SUCCESS ? 0 : error_of(rc);
    if (error == 0) return {};
    // The job is over already: what was asked for holds.
    if (error == ESLURM_ALREADY_DONE || error == ESLURM_INVALID_JOB_ID) return {};
    return tl::unexpected(slurm_error(what, error));
  }

  Expected<SlurmRights> load_rights() override {
    DatabaseConnection connection;
    if (connection.get() == nullptr) return tl::unexpected(slurm_error("slurmdbd", errno));
    slurmdb_user_cond_t condition{};
    condition.with_coords = 1;
    errno = 0;
    List answer = slurmdb_users_get(connection.get(), &condition);
    if (answer == nullptr) return tl::unexpected(slurm_error("asking slurmdbd for its users", errno));
    SlurmRights rights;
    ListIterator rows = slurm_list_iterator_create(answer);
    while (void* row = slurm_list_next(rows)) {
      const auto& user = *static_cast<slurmdb_user_rec_t*>(row);
      if (user.admin_level >= SLURMDB_ADMIN_OPERATOR) rights.operators.insert(copy(user.name));
      if (user.coord_accts == nullptr) continue;
      ListIterator accounts = slurm_list_iterator_create(user.coord_accts);
      while (void* account = slurm_list_next(accounts)) {
        const auto& led = *static_cast<slurmdb_coord_rec_t*>(account);
        rights.coordinators[copy(led.name)].insert(copy(user.name));
      }
      slurm_list_iterator_destroy(accounts);
    }
    slurm_list_iterator_destroy(rows);
    slurm_list_destroy(answer);
    return rights;
  }

  AllocationRecord to_record(const slurmdb_job_rec_t& job) const {
    AllocationRecord out;
    out.id = job.jobid;
    out.uid = job.uid;
    out.state = (job.state & JOB_REQUEUE) != 0 ? JobState::kRequeued : from_slurm_state(job.state);
    out.name = copy(job.jobname);
    out.nodes = copy(job.nodes);
    out.partition = copy(job.partition);
    out.submit = job.submit;
    // Of some jobs that never started slurmdbd has "no value".
    out.start = job.start == NO_VAL ? 0 : job.start;
    out.end = job.end;
    out.gpus = tres_count(copy(job.tres_alloc_str), gpu_tres_);
    set_exit(out, job.exitcode);
    out.killed_by_uid = job.requid;
    if (job.array_task_id != NO_VAL) {
      out.array_job = job.array_job_id;
      out.array_task = static_cast<int>(job.array_task_id);
    }
    return out;
  }

  std::string cluster_name_;
  std::string gpu_tres_;
  std::vector<std::pair<std::string, std::int64_t>> failed_prologs_;  // Node and time, as of nodes_read_.
  std::time_t nodes_read_ = 0;
  std::map<std::string, int> partition_nodes_;  // By partition, when the facts were read.
  int controllers_ = 0;  // Of slurm.conf; 0: not read yet.
};

}  // namespace

Expected<std::unique_ptr<Cluster>> open_slurm_cluster() {
  // Without a configuration libslurm ends the process, after a minute of retries. Look first.
  const char* conf = std::getenv("SLURM_CONF");
  const std::string path = conf != nullptr ? conf : "/etc/slurm/slurm.conf";
  struct stat status{};
  const bool is_configless =
      conf == nullptr && (stat("/run/slurm/conf/slurm.conf", &status) == 0);
  if (!is_configless && stat(path.c_str(), &status) != 0) {
    return tl::unexpected(Error{fmt::format(
        "{}: {}. Is this a node of a Slurm cluster? Set SLURM_CONF to its slurm.conf.", path,
        std::strerror(errno))});
  }
  std::signal(SIGPIPE, SIG_IGN);
  // Without it libslurm cuts the list of an array's tasks after 64 characters.
  setenv("SLURM_BITSTR_LEN", "0", 0);
  slurm_init(nullptr);
  return std::make_unique<SlurmCluster>();
}

}  // namespace scheduler
