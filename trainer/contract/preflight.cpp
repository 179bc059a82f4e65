// SPDX-License-Identifier: Apache-2.0
#include "trainer/contract/preflight.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>

#include "trainer/contract/json_text.h"

namespace contract {

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(PreflightReport::Fault, rank, host, problem)

// By hand: what came later is missing in reports of before.
void to_json(nlohmann::json& json, const RankReport& report) {
  json = {{"rank", report.rank},
          {"local_rank", report.local_rank},
          {"host", report.host},
          {"device", report.device},
          {"versions", report.versions},
          {"memory_available_b", report.memory_available_b},
          {"disk_available_b", report.disk_available_b},
          {"can_write", report.can_write},
          {"wrong_sums", report.wrong_sums},
          {"own_wrong_sums", report.own_wrong_sums},
          {"gpu", report.gpu},
          {"gpu_memory_b", report.gpu_memory_b},
          {"gpu_versions", report.gpu_versions}};
}

void from_json(const nlohmann::json& json, RankReport& report) {
  json.at("rank").get_to(report.rank);
  json.at("local_rank").get_to(report.local_rank);
  json.at("host").get_to(report.host);
  json.at("device").get_to(report.device);
  json.at("versions").get_to(report.versions);
  json.at("memory_available_b").get_to(report.memory_available_b);
  json.at("disk_available_b").get_to(report.disk_available_b);
  json.at("can_write").get_to(report.can_write);
  json.at("wrong_sums").get_to(report.wrong_sums);
  report.own_wrong_sums = json.value("own_wrong_sums", report.own_wrong_sums);
  report.gpu = json.value("gpu", report.gpu);
  report.gpu_memory_b = json.value("gpu_memory_b", report.gpu_memory_b);
  report.gpu_versions = json.value("gpu_versions", report.gpu_versions);
}

void to_json(nlohmann::json& json, const PreflightReport& report) {
  json = {{"ranks", report.ranks},
          {"sum_bytes", report.sum_bytes},
          {"sum_s", report.sum_s},
          {"device_sum_s", report.device_sum_s},
          {"duration_s", report.duration_s},
          {"faults", report.faults},
          {"segment", report.segment},
          {"attempt", report.attempt}};
  if (!report.unfinished.empty()) json["unfinished"] = report.unfinished;
}

void from_json(const nlohmann::json& json, PreflightReport& report) {
  json.at("ranks").get_to(report.ranks);
  json.at("sum_bytes").get_to(report.sum_bytes);
  json.at("sum_s").get_to(report.sum_s);
  report.device_sum_s = json.value("device_sum_s", report.device_sum_s);
  report.duration_s = json.value("duration_s", report.duration_s);
  json.at("faults").get_to(report.faults);
  report.segment = json.value("segment", report.segment);
  report.attempt = json.value("attempt", report.attempt);
  report.unfinished = json.value("unfinished", report.unfinished);
}

namespace {

std::int64_t mebibytes(std::int64_t bytes) {
  return bytes >> 20;
}

// "cuda" of "cuda:1".
std::string kind_of(const RankReport& rank) {
  return rank.device.substr(0, rank.device.find(':'));
}

// What most say; of equally many the first in the ranks' order.
template <typename Of>
std::string usual(const std::vector<RankReport>& ranks, Of of) {
  std::map<std::string, int> counts;
  for (const RankReport& each : ranks) ++counts[of(each)];
  std::string best;
  for (const RankReport& each : ranks) {
    if (best.empty() || counts[of(each)] > counts[best]) best = of(each);
  }
  return best;
}

template <typename Type>
Type parse(const std::string& text) {
  try {
    return nlohmann::json::parse(text).get<Type>();
  } catch (const nlohmann::json::exception& error) {
    throw std::invalid_argument(fmt::format("preflight: {}", error.what()));
  }
}

}  // namespace

std::string preflight_file(int segment, int attempt) {
  return fmt::format("preflight-{}-{}.json", segment, attempt);
}

void judge(PreflightReport& report, const PreflightLimits& limits) {
  report.faults.clear();
  const auto versions_of = [](const RankReport& each) { return each.versions; };
  const std::string versions = usual(report.ranks, versions_of);
  const std::string kind = usual(report.ranks, kind_of);
  const auto gpu_versions_of = [](const RankReport& each) { return each.gpu_versions; };
  const std::string gpu_versions = usual(report.ranks, gpu_versions_of);
  // One that adds up wrongly spoils the sums of all.
  const bool is_adder_known = std::any_of(report.ranks.begin(), report.ranks.end(),
                                          [](const RankReport& each) { return each.own_wrong_sums > 0; });
  for (const RankReport& each : report.ranks) {
    const auto fault = [&](std::string problem) {
      report.faults.push_back({each.rank, each.host, std::move(problem)});
    };
    if (each.memory_available_b < limits.memory_min_b) {
      fault(fmt::format("memory: {} MiB free, {} MiB needed", mebibytes(each.memory_available_b),
                        mebibytes(limits.memory_min_b)));
    }
    if (each.disk_available_b < limits.disk_min_b) {
      fault(fmt::format("disk of the run's folder: {} MiB free, {} MiB needed",
                        mebibytes(each.disk_available_b), mebibytes(limits.disk_min_b)));
    }
    if (!each.can_write) fault("the run's folder cannot be written");
    if (each.versions != versions) {
      fault(fmt::format("versions: {}, most ranks have {}", each.versions, versions));
    }
    if (!each.gpu.empty() && each.gpu_versions != gpu_versions) {
      fault(fmt::format("GPU libraries: {}, most ranks have {}", each.gpu_versions,
                        gpu_versions.empty() ? "none" : gpu_versions));
    }
    if (kind_of(each) != kind) {
      fault(fmt::format("device: {}, most ranks have {}", each.device, kind));
    }
    if (each.own_wrong_sums > 0) {
      fault(fmt::format("it adds up wrongly by itself in {} places", each.own_wrong_sums));
    } else if (each.wrong_sums > 0 && !is_adder_known) {
      fault(fmt::format("the sum over the ranks is wrong in {} places", each.wrong_sums));
    }
  }
}

std::string describe_faults(const PreflightReport& report) {
  std::string text;
  std::vector<std::pair<std::string, std::string>> told;
  for (const PreflightReport::Fault& fault : report.faults) {
    const std::pair<std::string, std::string> key(fault.host, fault.problem);
    if (std::find(told.begin(), told.end(), key) != told.end()) continue;
    told.push_back(key);
    text += fmt::format("{}bad node {} (rank {}): {}.", text.empty() ? "" : "\n", fault.host,
                        fault.rank, fault.problem);
  }
  return text;
}

std::vector<std::string> bad_nodes(const PreflightReport& report) {
  std::set<std::string> hosts, bad;
  for (const RankReport& each : report.ranks) hosts.insert(each.host);
  for (const PreflightReport::Fault& fault : report.faults) bad.insert(fault.host);
  if (hosts.size() > 1 && bad == hosts) return {};
  return {bad.begin(), bad.end()};
}

std::string describe(const PreflightReport& report) {
  std::set<std::string> hosts;
  std::int64_t memory = 0, disk = 0;
  for (const RankReport& each : report.ranks) {
    const bool is_first = hosts.empty();
    hosts.insert(each.host);
    memory = is_first ? each.memory_available_b : std::min(memory, each.memory_available_b);
    disk = is_first ? each.disk_available_b : std::min(disk, each.disk_available_b);
  }
  constexpr double kMebibyte = 1 << 20;
  const std::string on_devices =
      report.device_sum_s > 0 ? fmt::format(" (on the GPUs {:.2f} ms)", 1e3 * report.device_sum_s) : "";
  return fmt::format(
      "preflight: {} rank{} on {} host{}; least free: {} MiB of memory, {} MiB of disk; sum of {} "
      "KiB in {:.2f} ms{}, bus {:.0f} MiB/s; {}",
      report.ranks.size(), report.ranks.size() == 1 ? "" : "s", hosts.size(),
      hosts.size() == 1 ? "" : "s", mebibytes(memory), mebibytes(disk), report.sum_bytes >> 10,
      1e3 * report.sum_s, on_devices, bus_bytes_per_s(report) / kMebibyte,
      report.faults.empty() ? "no faults" : fmt::format("{} faults", report.faults.size()));
}

double bus_bytes_per_s(const PreflightReport& report) {
  const auto ranks = static_cast<double>(report.ranks.size());
  if (report.ranks.empty() || report.sum_s <= 0) return 0;
  return 2 * (ranks - 1) / ranks * static_cast<double>(report.sum_bytes) / report.sum_s;
}

std::string to_json_text(const PreflightReport& report) {
  nlohmann::ordered_json json = nlohmann::json(report);
  json["bus_bytes_per_s"] = bus_bytes_per_s(report);
  return json_text(json, 2) + "\n";
}

std::string to_json_text(const RankReport& report) {
  return json_text(nlohmann::json(report));
}

RankReport parse_rank_report(const std::string& json_text) {
  return parse<RankReport>(json_text);
}

PreflightReport parse_preflight(const std::string& json_text) {
  return parse<PreflightReport>(json_text);
}

}  // namespace contract
