// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "trainer/bench.h"
#include "trainer/contract/json_text.h"

namespace trainer {

std::string to_table(const BenchReport& report) {
  std::string table = fmt::format(
      "{} {} px, batch {} on {} x {} ({} thread{}); {} batches, a step every {}\n", report.model,
      report.imgsz, report.batch, report.ranks, report.device, report.threads,
      report.threads == 1 ? "" : "s", report.batches, report.accumulate);
  table += fmt::format("{:<10} {:>7} {:>11} {:>11} {:>7}\n", "stage", "times", "median ms",
                       "ms a batch", "share");
  for (const StageTime& stage : report.stages) {
    table += fmt::format("{:<10} {:>7} {:>11.2f} {:>11.2f} {:>6.1f}%\n", stage.name, stage.times,
                         stage.median_ms, stage.batch_ms,
                         report.batch_ms > 0 ? 100 * stage.batch_ms / report.batch_ms : 0);
  }
  table +=
      fmt::format("{:<10} {:>7} {:>11} {:>11.2f}\n", "all", report.batches, "", report.batch_ms);
  if (report.gradient_mb > 0) {
    const double hidden_ms = std::max(0.0, report.under_way_ms - report.exposed_ms);
    table += fmt::format(
        "gradients: {:.1f} MiB a step, {:.2f} ms under way, {:.2f} ms of them hidden behind the "
        "backward pass; the step waited {:.2f} ms\n",
        report.gradient_mb, report.under_way_ms, hidden_ms, report.exposed_ms);
  }
  return table + fmt::format("{:.1f} images/s, {:.0f} MB resident at most\n", report.images_per_s,
                             report.memory_mb);
}

std::string to_json_text(const BenchReport& report) {
  nlohmann::ordered_json json;
  json["model"] = report.model;
  json["imgsz"] = report.imgsz;
  json["batch"] = report.batch;
  json["ranks"] = report.ranks;
  json["device"] = report.device;
  json["threads"] = report.threads;
  json["batches"] = report.batches;
  json["accumulate"] = report.accumulate;
  json["images_per_s"] = report.images_per_s;
  json["batch_ms"] = report.batch_ms;
  json["gradient_mb"] = report.gradient_mb;
  json["under_way_ms"] = report.under_way_ms;
  json["exposed_ms"] = report.exposed_ms;
  json["memory_mb"] = report.memory_mb;
  json["stages"] = nlohmann::ordered_json::array();
  for (const StageTime& stage : report.stages) {
    json["stages"].push_back({{"name", stage.name},
                              {"times", stage.times},
                              {"median_ms", stage.median_ms},
                              {"batch_ms", stage.batch_ms}});
  }
  return contract::json_text(json, 2);
}

}  // namespace trainer
