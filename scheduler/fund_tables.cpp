// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/fund_tables.h"

#include <nlohmann/json.hpp>
#include <string_view>
#include <vector>

#include "accounting/statement.h"
#include "accounting/tariff.h"

namespace scheduler {
namespace {

using nlohmann::json;

struct Column {
  std::string title;
  const char* key;  // Of the answer.
  bool is_time = false;
};

std::string cell(const json& value, bool is_time) {
  if (value.is_null()) return "";
  if (is_time) return accounting::format_utc(value.get<std::int64_t>());
  return value.is_string() ? accounting::csv_field(value.get<std::string>()) : value.dump();
}

std::string to_csv(const json& rows, const std::vector<Column>& columns) {
  std::string csv;
  for (const Column& column : columns) csv += (csv.empty() ? "" : ",") + column.title;
  csv += "\n";
  for (const json& row : rows) {
    std::string line;
    for (const Column& column : columns) {
      line += cell(row.at(column.key), column.is_time) + ",";
    }
    line.back() = '\n';
    csv += line;
  }
  return csv;
}

}  // namespace

std::string funds_csv(const json& result) {
  return to_csv(result.at("funds"), {{"fund", "fund"},
                                     {"available_mgpus", "available"},
                                     {"held_mgpus", "held"},
                                     {"charged_mgpus", "charged"},
                                     {"granted_mgpus", "granted"},
                                     {"later_mgpus", "later"},
                                     {"expired_mgpus", "expired"},
                                     {"owed_mgpus", "owed"},
                                     {"credit_limit_mgpus", "credit_limit"}});
}

std::string burn_down_csv(const json& result) {
  return to_csv(result.at("funds"), {{"fund", "fund"},
                                     {"available_mgpus", "available"},
                                     {"used_mgpus", "used"},
                                     {"days", "days"},
                                     {"days_left", "days_left"},
                                     {"next_expiry", "next_expiry", true}});
}

std::string receipts_csv(const json& result) {
  return to_csv(result.at("receipts"), {{"receipt", "receipt"},
                                        {"time", "time", true},
                                        {"fund", "fund"},
                                        {"paid_minor", "minor"},
                                        {"reversed_minor", "reversed_minor"},
                                        {"currency", "currency"},
                                        {"price_minor", "price_minor"},
                                        {"amount_mgpus", "amount"},
                                        {"provider", "provider"},
                                        {"reference", "reference"},
                                        {"quote", "quote"},
                                        {"grant", "grant"}});
}

}  // namespace scheduler
