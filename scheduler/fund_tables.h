// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/fund_tables.h
//
// The service's answers about funds as tables; as CSV a line of column names, then a line each
// (docs/formats/reports.md). Amounts are in milli-GPU-seconds, money in minor units, times in UTC.
// Each throws nlohmann::json::exception where a key of the answer is missing.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace scheduler {

[[nodiscard]] std::string funds_csv(const nlohmann::json& result);      // Of the verb "funds".
[[nodiscard]] std::string burn_down_csv(const nlohmann::json& result);  // Of "burn_down".
// For people; with money where the service says some.
[[nodiscard]] std::string burn_down_text(const nlohmann::json& result);
[[nodiscard]] std::string receipts_csv(const nlohmann::json& result);   // Of "receipts".

}  // namespace scheduler
