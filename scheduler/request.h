// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/request.h
//
// What the user wrote: a request file (docs/formats/request.md), settings on the command line, or
// both; the command line wins. Parsing touches no cluster and no data set and reports all faults.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "scheduler/error.h"
#include "trainer/contract/train_args.h"

namespace scheduler {

struct Resources {
  std::optional<int> gpus;       // In all. Default: the site's. Of a range ("2-4") the most.
  std::optional<int> gpus_min;   // Of a range the least: each segment gets what there is.
  std::optional<int> nodes;      // Default: as few as hold the GPUs.
  std::string type;              // Instance type; empty: the site's default.
  std::string fund;              // "user:ada", "group:vision"; empty: the user's own.
  std::string account, partition, qos;     // Slurm's; empty: type's and site's defaults.
  std::optional<std::int64_t> time_limit_s;  // Of an epochs run; empty: from the estimate.
  std::string name;              // For people; empty: made from model and data.
  bool auto_resume = false;      // A run that was interrupted or unpaid goes on by itself.
  std::string runs;              // Folder for the run's own folder; empty: the site's.
  std::map<std::string, std::string> slurm;  // Passed through: "constraint" -> "nvlink".
};

struct TrainingRequest {
  contract::TrainArgs args;
  Resources resources;
};

// One "key=value" of the command line and where it stood ("--gpus", "epochs=").
struct Setting {
  std::string where, key, value;
};

struct RequestOutcome {
  TrainingRequest request;
  std::vector<Fault> faults;  // Empty: the request is sound in itself.
};

// `toml_path` empty: no file. Keys of `settings`: the train arguments; gpus ("4", "2-4"), nodes, type, fund,
// account, partition, qos, time_limit ("90m", "1:30:00", "2h"), name, runs, auto_resume; "slurm.KEY".
// Relative paths of data and pretrained are made absolute: from the file against the file's folder,
// from the command line against `work_dir`.
[[nodiscard]] RequestOutcome read_request(const std::string& toml_path,
                                          const std::vector<Setting>& settings,
                                          const std::string& work_dir);

// Slurm options that may be passed through, and those that Trainyard sets itself (a fault).
[[nodiscard]] const std::vector<std::string>& passable_slurm_keys();
[[nodiscard]] const std::vector<std::string>& reserved_slurm_keys();

// "90", "90s", "15m", "2h", "1-12:00:00", "1:30:00" (hours), "30:00" (minutes) -> seconds.
[[nodiscard]] std::optional<std::int64_t> parse_duration_s(std::string_view text);

void to_json(nlohmann::json& json, const TrainingRequest& request);
void from_json(const nlohmann::json& json, TrainingRequest& request);  // Throws std::exception.
// The effective request as a request file, which read_request takes.
[[nodiscard]] std::string to_toml(const TrainingRequest& request);

}  // namespace scheduler
