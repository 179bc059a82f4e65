// SPDX-License-Identifier: Apache-2.0
#include "trainer/contract/train_spec.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <stdexcept>

namespace contract {

namespace {

constexpr int kVersion = 1;

const nlohmann::json& member(const nlohmann::json& json, const char* key) {
  const auto found = json.find(key);
  if (found == json.end()) {
    throw std::invalid_argument(fmt::format("train spec: the key \"{}\" is missing.", key));
  }
  return *found;
}

std::string text_member(const nlohmann::json& json, const char* key) {
  const nlohmann::json& value = member(json, key);
  if (!value.is_string() || value.get_ref<const std::string&>().empty()) {
    throw std::invalid_argument(
        fmt::format("train spec: {} = {} is not a text.", key, value.dump()));
  }
  return value.get<std::string>();
}

}  // namespace

std::string to_json_text(const TrainSpec& spec) {
  nlohmann::ordered_json json;
  json["version"] = spec.version;
  json["run_id"] = spec.run_id;
  json["run_dir"] = spec.run_dir;
  json["args"] = nlohmann::json(spec.args);
  return json.dump(2) + "\n";
}

TrainSpec parse_train_spec(std::string_view json_text) {
  nlohmann::json json;
  try {
    json = nlohmann::json::parse(json_text);
  } catch (const nlohmann::json::parse_error& error) {
    throw std::invalid_argument(fmt::format("train spec: byte {}: this is not JSON.", error.byte));
  }
  if (!json.is_object()) throw std::invalid_argument("train spec: this is not a JSON object.");

  TrainSpec spec;
  const nlohmann::json& version = member(json, "version");
  if (!version.is_number_integer() || version.get<std::int64_t>() != kVersion) {
    throw std::invalid_argument(
        fmt::format("train spec: version = {} is not known to this trainer, which reads version "
                    "{}. Use the same release on login and compute nodes.",
                    version.dump(), kVersion));
  }
  spec.run_id = text_member(json, "run_id");
  spec.run_dir = text_member(json, "run_dir");
  if (!spec.run_dir.starts_with('/')) {
    throw std::invalid_argument(
        fmt::format("train spec: run_dir = \"{}\" is not an absolute path.", spec.run_dir));
  }
  try {
    member(json, "args").get_to(spec.args);
  } catch (const std::invalid_argument& error) {
    throw std::invalid_argument(fmt::format("train spec: args: {}", error.what()));
  }
  return spec;
}

}  // namespace contract
