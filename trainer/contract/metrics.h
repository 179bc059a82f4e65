// SPDX-License-Identifier: Apache-2.0
// trainer/contract/metrics.h
//
// One line of RUN/metrics.jsonl (docs/formats/metrics.md). Kinds: "start" (once an attempt),
// "step" (at most one a second), "epoch", "checkpoint", "end".
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

namespace contract {

struct MetricsRecord {
  std::string kind;
  double time = 0;            // UTC seconds.
  int epoch = 0;              // Counted from 1, as people and results.csv do.
  int epochs = 0;             // As planned now (a timed run refits it).
  std::int64_t step = 0;      // Optimiser-visible batches since the run began.
  std::int64_t steps_per_epoch = 0;
  double train_seconds = 0;   // Over all attempts and segments.
  std::map<std::string, double> values;  // "train/box_loss", "metrics/mAP50-95(B)", "lr/pg0", "images_per_s", ...
  std::string text;           // Of "start": hosts and ranks; of "end": the reason.
};

[[nodiscard]] std::string to_json_line(const MetricsRecord& record);  // No newline.
// Nothing where the line is torn or of another version: readers skip it.
[[nodiscard]] std::optional<MetricsRecord> parse_metrics_line(std::string_view line);

}  // namespace contract
