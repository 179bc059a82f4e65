// SPDX-License-Identifier: Apache-2.0
#include "trainer/export_metadata.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "trainer/contract/json_text.h"

namespace trainer {

namespace {

std::string description(const ExportMetadata& metadata) {
  return fmt::format("{} with {} classes, exported by Trainyard", metadata.model,
                     metadata.class_names.size());
}

// A text as Python writes it: the readers of these files evaluate it as such.
std::string python_text(std::string_view text) {
  std::string result = "'";
  for (const char c : text) {
    if (c == '\n') {
      result += "\\n";
      continue;
    }
    if (c == '\'' || c == '\\') result += '\\';
    result += c;
  }
  return result + "'";
}

}  // namespace

std::string to_json_text(const ExportMetadata& metadata) {
  nlohmann::ordered_json json;
  json["description"] = description(metadata);
  json["task"] = "detect";
  json["stride"] = metadata.stride;
  json["batch"] = metadata.batch;
  json["imgsz"] = {metadata.height, metadata.width};
  json["names"] = nlohmann::ordered_json::object();
  for (std::size_t i = 0; i < metadata.class_names.size(); ++i) {
    json["names"][std::to_string(i)] = metadata.class_names[i];
  }
  return contract::json_text(json);
}

std::map<std::string, std::string> to_properties(const ExportMetadata& metadata) {
  std::string names;
  for (std::size_t i = 0; i < metadata.class_names.size(); ++i) {
    names += fmt::format("{}{}: {}", i == 0 ? "" : ", ", i, python_text(metadata.class_names[i]));
  }
  return {{"description", description(metadata)},
          {"task", "detect"},
          {"stride", std::to_string(metadata.stride)},
          {"batch", std::to_string(metadata.batch)},
          {"imgsz", fmt::format("[{}, {}]", metadata.height, metadata.width)},
          {"names", "{" + names + "}"}};
}

}  // namespace trainer
