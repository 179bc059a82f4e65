// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/plain_job.h"

#include <algorithm>
#include <charconv>
#include <string_view>
#include <vector>

#include <fmt/format.h>

namespace scheduler {
namespace {

constexpr std::string_view kStampPrefix = "trainyard-job:";
constexpr std::size_t kStampDigits = 16;
constexpr std::string_view kReasonBegin = "[trainyard: ";
constexpr std::int64_t kLimitMax_s = 366LL * 86'400;

bool is_hexadecimal(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
  });
}

std::string minutes(std::int64_t seconds) { return fmt::format("{} min", seconds / 60); }

PlanOutcome refuse(std::string reason) { return Refusal{{std::move(reason)}}; }

std::vector<const InstanceType*> types_of(const JobSnapshot& job, const Site& site) {
  std::vector<const InstanceType*> found;
  for (const InstanceType& type : site.types) {
    if (type.partition != job.partition) continue;
    if (job.gpu_type.empty() || type.gres == "gpu" || type.gres == "gpu:" + job.gpu_type) {
      found.push_back(&type);
    }
  }
  return found;
}

}  // namespace

std::optional<JobStamp> parse_stamp(const std::string& admin_comment) {
  if (!admin_comment.starts_with(kStampPrefix)) return std::nullopt;
  const std::string rest = admin_comment.substr(kStampPrefix.size());
  const std::size_t colon = rest.find(':');
  if (colon != kStampDigits || !is_hexadecimal(rest.substr(0, colon))) return std::nullopt;
  return JobStamp{rest.substr(0, colon), rest.substr(colon + 1)};
}

std::string plain_run_id(const JobStamp& stamp, int array_task) {
  return array_task < 0 ? stamp.id : fmt::format("{}t{}", stamp.id, array_task);
}

bool is_plain_run_id(const std::string& run_id) {
  if (run_id.size() < kStampDigits || !is_hexadecimal(run_id.substr(0, kStampDigits))) return false;
  const std::string_view task = std::string_view(run_id).substr(kStampDigits);
  return task.empty() || (task.size() > 1 && task[0] == 't' &&
                          task.find_first_not_of("0123456789", 1) == std::string_view::npos);
}

bool is_plain_run_of(const Run& run, const JobSnapshot& job) {
  return run.about.is_plain && run.about.uid == job.uid;
}

bool is_one_of_several(const JobSnapshot& job) {
  return job.array_job != 0 || job.array_task >= 0 || !job.array_tasks.empty() || job.het_job != 0;
}

int array_task_of(const std::string& run_id) {
  const std::size_t place = run_id.find('t');
  if (place == std::string::npos) return -1;
  int task = -1;
  const char* const end = run_id.data() + run_id.size();
  const auto read = std::from_chars(run_id.data() + place + 1, end, task);
  return read.ec == std::errc{} && read.ptr == end ? task : -1;
}

bool is_our_hold(const JobSnapshot& job) {
  if (!job.is_held || !parse_stamp(job.admin_comment)) return false;
  if (job.is_held_by_admin) return job.comment.find(kReasonBegin) != std::string::npos;
  // The plug-in holds a job once; a later hold is its user's (scontrol requeuehold).
  return job.attempt == 0;
}

std::string with_reason(const std::string& comment, const std::string& why) {
  const std::string own = without_reason(comment);
  return fmt::format("{}{}{}{}]", own, own.empty() ? "" : " ", kReasonBegin, why);
}

std::string without_reason(const std::string& comment) {
  std::string own = comment.substr(0, comment.find(kReasonBegin));
  while (!own.empty() && own.back() == ' ') own.pop_back();
  return own;
}

std::string fund_of_job(const JobSnapshot& job, const JobStamp& stamp, const Site& site,
                        const std::string& user) {
  if (!stamp.fund.empty()) return stamp.fund;
  constexpr std::string_view kKey = "fund=";
  const std::size_t at = job.comment.find(kKey);
  if (at != std::string::npos && (at == 0 || job.comment[at - 1] == ' ')) {
    const std::size_t begin = at + kKey.size();
    return job.comment.substr(begin, job.comment.find(' ', begin) - begin);
  }
  const auto mapped = site.managed.accounts.find(job.account);
  return mapped != site.managed.accounts.end() ? mapped->second : "user:" + user;
}

int gpus_of_job(const JobSnapshot& job, const Site& site) {
  if (!job.is_exclusive) return job.gpus;
  int per_node = 0;
  for (const InstanceType* type : types_of(job, site)) {
    per_node = std::max(per_node, type->gpus_per_node);
  }
  return std::max(job.gpus, job.node_count * per_node);
}

PlanOutcome plan_of_job(const JobSnapshot& job, const Site& site, const ClusterFacts& facts,
                        const std::string& fund, accounting::UtcSeconds now) {
  if (job.partition.find(',') != std::string::npos) {
    return refuse(fmt::format("the job names the partitions {}; name one, for each has its price",
                              job.partition));
  }
  if (job.time_limit_s > kLimitMax_s) {
    return refuse("the job has no time limit; give one with --time");
  }
  if (!facts.ends_jobs(job.partition)) {
    return refuse(fmt::format("partition {}: {}", job.partition, kNothingEndsJobs));
  }
  const auto longest = facts.partition_max_s.find(job.partition);
  if (longest != facts.partition_max_s.end() && job.time_limit_s > longest->second) {
    return refuse(fmt::format(
        "its limit of {} exceeds the {} of partition {} (MaxTime in Slurm), where it would never "
        "start: scontrol update job {} timelimit={}",
        minutes(job.time_limit_s), minutes(longest->second), job.partition, job.id,
        longest->second / 60));
  }
  if (job.has_several_gpu_types) {
    return refuse(fmt::format("the job asks for more than one type of GPU, and each has its price: name "
                              "one (--gpus=TYPE:N), or submit a component for each (sbatch ... : ...)"));
  }
  const auto types = types_of(job, site);
  if (types.size() != 1) {
    return refuse(fmt::format(
        "{} instance type of {} fits the job's GPUs ({}) in partition {}; name the type: "
        "--gpus=TYPE:N",
        types.empty() ? "no" : "more than one", site.path,
        job.gpu_type.empty() ? "no type named" : job.gpu_type, job.partition));
  }
  const InstanceType& type = *types.front();
  Plan plan;
  plan.type = type.name;
  plan.partition = job.partition;
  plan.account = job.account;
  plan.fund = fund;
  plan.name = job.name;
  plan.nodes = std::max(1, job.node_count);
  plan.gpus = gpus_of_job(job, site);
  plan.ranks = 0;
  plan.time_limit_s = job.time_limit_s;
  const auto weight = accounting::weight_at(type.weights, now);
  if (!weight) return refuse(fmt::format("type {} has no weight yet ({})", type.name, site.path));
  plan.quote.weight_milli = *weight;
  plan.quote.expected_s = job.time_limit_s;
  plan.quote.basis = "time limit of the job";
  const auto expected = accounting::usage_amount(plan.gpus, job.time_limit_s, *weight);
  const auto hold =
      accounting::usage_amount(plan.gpus, job.time_limit_s + facts.margin_s(job.partition), *weight);
  if (!expected || !hold) {
    return refuse(fmt::format("{} GPUs x {} is more than the books can hold", plan.gpus,
                              minutes(job.time_limit_s)));
  }
  plan.quote.expected = *expected;
  plan.quote.hold = *hold;
  return plan;
}

}  // namespace scheduler
