// SPDX-License-Identifier: Apache-2.0
#include "trainer/contract/metrics.h"

#include <limits>
#include <nlohmann/json.hpp>

#include "trainer/contract/json_text.h"

namespace contract {

namespace {

constexpr int kVersion = 1;

// JSON has no NaN: it is written as null, and null is read as NaN.
double number_or_nan(const nlohmann::json& json) {
  return json.is_null() ? std::numeric_limits<double>::quiet_NaN() : json.get<double>();
}

}  // namespace

std::string to_json_line(const MetricsRecord& record) {
  nlohmann::ordered_json json;
  json["v"] = kVersion;
  json["kind"] = record.kind;
  json["time"] = record.time;
  json["epoch"] = record.epoch;
  json["epochs"] = record.epochs;
  json["step"] = record.step;
  json["steps_per_epoch"] = record.steps_per_epoch;
  json["train_seconds"] = record.train_seconds;
  json["values"] = record.values;
  json["text"] = record.text;
  return json_text(json);
}

std::optional<MetricsRecord> parse_metrics_line(std::string_view line) {
  // A reader sees lines while they are written: whatever does not parse is skipped, not reported.
  try {
    const nlohmann::json json = nlohmann::json::parse(line);
    if (json.at("v").get<int>() != kVersion) return std::nullopt;
    MetricsRecord record;
    record.kind = json.at("kind").get<std::string>();
    record.time = number_or_nan(json.at("time"));
    record.epoch = json.at("epoch").get<int>();
    record.epochs = json.at("epochs").get<int>();
    record.step = json.at("step").get<std::int64_t>();
    record.steps_per_epoch = json.at("steps_per_epoch").get<std::int64_t>();
    record.train_seconds = number_or_nan(json.at("train_seconds"));
    for (const auto& [name, value] : json.at("values").items()) {
      record.values[name] = number_or_nan(value);
    }
    record.text = json.value("text", "");
    return record;
  } catch (const nlohmann::json::exception&) {
    return std::nullopt;
  }
}

}  // namespace contract
