// SPDX-License-Identifier: GPL-3.0-or-later
//
// What libslurm alone takes for the table of so many live jobs, and slurmdbd for their records:
// slurm_load_bench JOBS ROUNDS. Held jobs of one task are submitted, as whoever runs this, until the
// controller has JOBS of them; they stay. tests/slurm/libslurm_bench starts and compares it.
#include <slurm/slurm.h>
#include <slurm/slurm_errno.h>
#include <slurm/slurmdb.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

namespace {

[[noreturn]] void give_up(const char* what, int code) {
  std::fprintf(stderr, "slurm_load_bench: %s: %s\n", what, slurm_strerror(code));
  std::exit(3);
}

std::vector<std::uint32_t> load_jobs() {
  job_info_msg_t* answer = nullptr;
  if (slurm_load_jobs(0, &answer, SHOW_ALL | SHOW_LOCAL) != SLURM_SUCCESS) give_up("jobs", errno);
  std::vector<std::uint32_t> ids;
  for (std::uint32_t i = 0; i < answer->record_count; ++i) {
    ids.push_back(answer->job_array[i].job_id);
  }
  slurm_free_job_info_msg(answer);
  return ids;
}

void submit_held() {
  std::string name = "bench", folder = "/tmp", nowhere = "/dev/null";
  std::string script = "#!/bin/sh\nsleep 1\n", path = "PATH=/usr/bin:/bin";
  char* environment[] = {path.data(), nullptr};
  job_desc_msg_t message;
  slurm_init_job_desc_msg(&message);
  message.name = name.data();
  message.work_dir = folder.data();
  message.std_out = nowhere.data();
  message.script = script.data();
  message.environment = environment;
  message.env_size = 1;
  message.user_id = getuid();
  message.group_id = getgid();
  message.min_nodes = 1;
  message.num_tasks = 1;
  message.time_limit = 1;
  message.priority = 0;  // Held.
  submit_response_msg_t* answer = nullptr;
  if (slurm_submit_batch_job(&message, &answer) != SLURM_SUCCESS) give_up("submitting", errno);
  slurm_free_submit_response_response_msg(answer);
}

// The number of records, to see that all came.
int load_records(const std::vector<std::uint32_t>& ids, char* cluster) {
  std::uint16_t flags = 0;
  void* connection = slurmdb_connection_get(&flags);
  if (connection == nullptr) give_up("slurmdbd", errno);
  std::vector<slurm_selected_step_t> steps(ids.size());
  slurmdb_job_cond_t condition{};
  condition.flags = JOBCOND_FLAG_DUP | JOBCOND_FLAG_NO_TRUNC | JOBCOND_FLAG_NO_STEP |
                    JOBCOND_FLAG_NO_DEFAULT_USAGE;
  condition.db_flags = SLURMDB_JOB_FLAG_NOTSET;
  condition.cluster_list = slurm_list_create(nullptr);
  slurm_list_append(condition.cluster_list, cluster);
  condition.step_list = slurm_list_create(nullptr);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    steps[i].array_task_id = NO_VAL;
    steps[i].het_job_offset = NO_VAL;
    steps[i].step_id.job_id = ids[i];
    steps[i].step_id.step_het_comp = NO_VAL;
    steps[i].step_id.step_id = NO_VAL;
    slurm_list_append(condition.step_list, &steps[i]);
  }
  List records = slurmdb_jobs_get(connection, &condition);
  if (records == nullptr) give_up("records", errno);
  const int count = slurm_list_count(records);
  slurm_list_destroy(records);
  slurm_list_destroy(condition.step_list);
  slurm_list_destroy(condition.cluster_list);
  slurmdb_connection_close(&connection);
  return count;
}

void time_it(const char* what, std::size_t count, int rounds, const std::function<void()>& act) {
  std::vector<double> taken_ms;
  for (int round = 0; round < rounds; ++round) {
    const auto began = std::chrono::steady_clock::now();
    act();
    taken_ms.push_back(std::chrono::duration<double, std::milli>(
                           std::chrono::steady_clock::now() - began)
                           .count());
  }
  std::sort(taken_ms.begin(), taken_ms.end());
  std::printf("%s of %zu jobs: median %.2f ms (min %.2f, max %.2f)\n", what, count,
              taken_ms[taken_ms.size() / 2], taken_ms.front(), taken_ms.back());
}

}  // namespace

int main(int argc, char** argv) {
  const int wanted = argc == 3 ? std::atoi(argv[1]) : 0;
  const int rounds = argc == 3 ? std::atoi(argv[2]) : 0;
  if (wanted < 1 || rounds < 1) {
    std::fprintf(stderr, "usage: slurm_load_bench JOBS ROUNDS\n");
    return 2;
  }
  slurm_init(nullptr);
  slurm_conf_t* conf = nullptr;
  if (slurm_load_ctl_conf(0, &conf) != SLURM_SUCCESS) give_up("configuration", errno);
  std::string cluster = conf->cluster_name;
  slurm_free_ctl_conf(conf);
  for (int live = static_cast<int>(load_jobs().size()); live < wanted; ++live) submit_held();
  const std::vector<std::uint32_t> ids = load_jobs();
  // The controller tells slurmdbd of them by and by.
  for (int tries = 0; load_records(ids, cluster.data()) < static_cast<int>(ids.size()); ++tries) {
    if (tries == 300) give_up("slurmdbd does not know all jobs", ETIMEDOUT);
    sleep(1);
  }
  time_it("slurm_load_jobs ", ids.size(), rounds, [] { (void)load_jobs(); });
  time_it("slurmdb_jobs_get", ids.size(), (rounds + 3) / 4,
          [&] { (void)load_records(ids, cluster.data()); });
  return 0;
}
