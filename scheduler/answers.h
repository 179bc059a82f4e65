// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/answers.h
//
// The forms of an answer of the service (docs/formats/protocol.md), and who may see what.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "scheduler/caller.h"

namespace scheduler {

inline constexpr std::string_view kAdminsOnly =
    "only an admin of Trainyard does this (admin_users and admin_groups of site.toml)";

[[nodiscard]] inline nlohmann::json refused(const std::vector<std::string>& reasons) {
  return {{"ok", false}, {"kind", "refused"}, {"messages", reasons}};
}
[[nodiscard]] inline nlohmann::json bad_request(const std::string& message) {
  return {{"ok", false}, {"kind", "bad_request"}, {"messages", {message}}};
}
[[nodiscard]] inline std::string no_period(const std::string& text) {
  return "period = \"" + text + "\" is none. Write 2026, 2026-Q4, 2026-11, 2026-11-24, " +
         "2026-11-01..2026-11-15, or month, quarter, year, last-month, last-quarter, last-year";
}
[[nodiscard]] inline nlohmann::json failed(const std::string& message) {
  return {{"ok", false}, {"kind", "error"}, {"messages", {message}}};
}
[[nodiscard]] inline nlohmann::json good(nlohmann::json result) {
  return {{"ok", true}, {"result", std::move(result)}};
}

// A user sees his own books and those of his Unix groups, a coordinator those he leads, an admin all.
[[nodiscard]] inline bool may_see_fund(const Caller& caller, const std::string& fund) {
  return caller.is_admin || may_spend(caller, fund) || leads_fund(caller, fund);
}

}  // namespace scheduler
