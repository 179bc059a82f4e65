// SPDX-License-Identifier: GPL-3.0-or-later
//
// The part of libslurm that Slurm's own limits need; the rest is in slurm_cluster.cpp. Answers are freed
// by the function that belongs to them.
#include <charconv>
#include <memory>

#include "scheduler/slurm_calls.h"
#include "scheduler/slurm_limits.h"

namespace scheduler {
namespace {

// AccountingStorageEnforce; the bits are not in the installed headers.
constexpr std::uint16_t kEnforceLimits = 0x0002, kEnforceSafe = 0x0010;

struct FreeAssociations {
  void operator()(assoc_mgr_info_msg_t* answer) const { slurm_free_assoc_mgr_info_msg(answer); }
};
using AssociationTable = std::unique_ptr<assoc_mgr_info_msg_t, FreeAssociations>;

Expected<AssociationTable> load_table(std::uint32_t flags) {
  assoc_mgr_info_request_msg_t request{};
  request.flags = flags;
  assoc_mgr_info_msg_t* answer = nullptr;
  if (slurm_load_assoc_mgr_info(&request, &answer) != SLURM_SUCCESS) {
    return tl::unexpected(slurm_error("asking slurmctld for associations", errno));
  }
  return AssociationTable(answer);
}

// The place of gres/gpu in the arrays of this answer; -1: GPUs are not counted.
int gpu_place(const assoc_mgr_info_msg_t& table) {
  for (std::uint32_t i = 0; i < table.tres_cnt; ++i) {
    if (copy(table.tres_names[i]) == "gres/gpu") return static_cast<int>(i);
  }
  return -1;
}

// "1=5,1001=40": what stands behind the number of gres/gpu.
std::optional<std::int64_t> minutes_in(const char* limits, const std::string& gpu_tres) {
  const std::string text = "," + copy(limits);
  const std::size_t at = text.find("," + gpu_tres + "=");
  if (at == std::string::npos) return std::nullopt;
  const char* const begin = text.data() + at + gpu_tres.size() + 2;
  std::int64_t minutes = 0;
  const auto read = std::from_chars(begin, text.data() + text.size(), minutes);
  if (read.ec != std::errc{}) return std::nullopt;  // 18446744073709551615: none.
  return minutes;
}

Expected<std::string> gpu_tres() {
  const DatabaseConnection database;
  if (database.get() == nullptr) return tl::unexpected(slurm_error("connecting to slurmdbd", errno));
  return find_gpu_tres(database.get());
}

}  // namespace

Expected<SlurmPolicy> load_slurm_policy() {
  SlurmPolicy policy;
  slurm_conf_t* conf = nullptr;
  if (slurm_load_ctl_conf(0, &conf) != SLURM_SUCCESS) {
    return tl::unexpected(slurm_error("reading Slurm's configuration", errno));
  }
  policy.enforces_limits = (conf->accounting_storage_enforce & kEnforceLimits) != 0;
  policy.is_safe = (conf->accounting_storage_enforce & kEnforceSafe) != 0;
  policy.has_submit_plugin = copy(conf->job_submit_plugins).find("lua") != std::string::npos;
  policy.has_start_gate = !copy(conf->prolog_slurmctld).empty();
  policy.is_over_time_unlimited = conf->over_time_limit == INFINITE16;
  policy.suspends_to_preempt = (conf->preempt_mode & (PREEMPT_MODE_SUSPEND | PREEMPT_MODE_GANG)) != 0;
  policy.min_job_age_s = conf->min_job_age;
  slurm_free_ctl_conf(conf);
  partition_info_msg_t* partitions = nullptr;
  if (slurm_load_partitions(0, &partitions, SHOW_ALL) != SLURM_SUCCESS) {
    return tl::unexpected(slurm_error("reading Slurm's partitions", errno));
  }
  for (std::uint32_t i = 0; i < partitions->record_count; ++i) {
    const partition_info_t& partition = partitions->partition_array[i];
    if (partition.over_time_limit != INFINITE16) continue;
    policy.unlimited_partitions.push_back(copy(partition.name));
  }
  slurm_free_partition_info_msg(partitions);
  const auto gpu = gpu_tres();
  if (!gpu) return tl::unexpected(gpu.error());
  const auto table = load_table(ASSOC_MGR_INFO_FLAG_QOS);
  if (!table) return tl::unexpected(table.error());
  each_in((*table)->qos_list, [&](void* row) {
    const auto& qos = *static_cast<slurmdb_qos_rec_t*>(row);
    policy.qos.push_back({copy(qos.name),
                          minutes_in(qos.grp_tres_mins, *gpu).has_value() ||
                              minutes_in(qos.max_tres_mins_pj, *gpu).has_value(),
                          qos.usage_factor});
  });
  return policy;
}

Expected<std::vector<Association>> load_associations() {
  const auto gpu = gpu_tres();
  if (!gpu) return tl::unexpected(gpu.error());
  const auto table = load_table(ASSOC_MGR_INFO_FLAG_ASSOC);
  if (!table) return tl::unexpected(table.error());
  const int place = gpu_place(**table);
  std::vector<Association> associations;
  each_in((*table)->assoc_list, [&](void* row) {
    const auto& each = *static_cast<slurmdb_assoc_rec_t*>(row);
    Association found{copy(each.acct), copy(each.user), copy(each.partition), 0,
                      minutes_in(each.grp_tres_mins, *gpu)};
    if (place >= 0 && each.usage != nullptr && each.usage->usage_tres_raw != nullptr) {
      found.used_gpu_s = static_cast<std::int64_t>(each.usage->usage_tres_raw[place]);
    }
    associations.push_back(std::move(found));
  });
  return associations;
}

Expected<void> write_fences(const std::vector<Fence>& fences) {
  if (fences.empty()) return {};
  slurm_conf_t* conf = nullptr;
  if (slurm_load_ctl_conf(0, &conf) != SLURM_SUCCESS) {
    return tl::unexpected(slurm_error("reading Slurm's configuration", errno));
  }
  std::string cluster = copy(conf->cluster_name);
  slurm_free_ctl_conf(conf);
  const DatabaseConnection database;
  if (database.get() == nullptr) return tl::unexpected(slurm_error("connecting to slurmdbd", errno));
  const auto gpu = find_gpu_tres(database.get());
  if (!gpu) return tl::unexpected(gpu.error());
  for (Fence fence : fences) {
    slurmdb_assoc_cond_t condition{};
    const auto list_of = [](std::string& text) {
      List list = slurm_list_create(nullptr);
      slurm_list_append(list, text.data());
      return list;
    };
    condition.cluster_list = list_of(cluster);
    condition.acct_list = list_of(fence.account);
    condition.user_list = list_of(fence.user);
    condition.partition_list = list_of(fence.partition);
    slurmdb_assoc_rec_t change;
    slurmdb_init_assoc_rec(&change, false);
    std::string limit = fmt::format("{}={}", *gpu, fence.gpu_minutes);
    change.grp_tres_mins = limit.data();
    errno = 0;
    List changed = slurmdb_associations_modify(database.get(), &condition, &change);
    const int error = errno;
    for (List list : {condition.cluster_list, condition.acct_list, condition.user_list,
                      condition.partition_list}) {
      slurm_list_destroy(list);
    }
    if (changed == nullptr) {
      return tl::unexpected(slurm_error(
          fmt::format("setting GrpTRESMins of user {}, account {}, partition {}", fence.user,
                      fence.account, fence.partition), error));
    }
    slurm_list_destroy(changed);
    errno = 0;
    if (slurmdb_connection_commit(database.get(), true) != SLURM_SUCCESS) {
      return tl::unexpected(slurm_error("committing GrpTRESMins to slurmdbd", errno));
    }
  }
  return {};
}

}  // namespace scheduler
