// SPDX-License-Identifier: Apache-2.0
// trainer/contract/json_text.h
//
// JSON as it is written. Names of files and folders may be any bytes on Linux, JSON is UTF-8: what
// is not becomes U+FFFD, where the library's own dump() throws.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace contract {

// `indent` below 0: on one line.
[[nodiscard]] std::string json_text(const nlohmann::json& json, int indent = -1);
[[nodiscard]] std::string json_text(const nlohmann::ordered_json& json, int indent = -1);

// The text as one reads it back that was written so.
[[nodiscard]] std::string as_read_back(const std::string& text);

}  // namespace contract
