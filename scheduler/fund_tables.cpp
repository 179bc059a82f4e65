// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/fund_tables.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string_view>
#include <vector>

#include "accounting/statement.h"
#include "accounting/tariff.h"
#include "accounting/till.h"
#include "scheduler/console.h"

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
      line += (row.contains(column.key) ? cell(row.at(column.key), column.is_time) : "") + ",";
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
                                     {"next_expiry", "next_expiry", true},
                                     {"available_minor", "available_minor"},
                                     {"used_cost_minor", "used_cost_minor"},
                                     {"currency", "currency"}});
}

std::string burn_down_text(const json& result) {
  const json& funds = result.at("funds");
  const bool has_money = std::any_of(funds.begin(), funds.end(), [](const json& each) {
    return each.contains("currency");
  });
  const auto money = [](const json& each, const char* key) {
    return each.contains(key) ? accounting::format_money(each.at(key), each.at("currency")) : "";
  };
  const auto columns = [has_money](const std::string& worth, const std::string& cost) {
    return has_money ? fmt::format(" {:>16} {:>16}", worth, cost) : "";
  };
  std::string text = fmt::format("{:<24} {:>18} {:>18}{} {:>10}  {}\n", "FUND", "AVAILABLE", "USED",
                                 columns("WORTH NOW", "USED COST"), "DAYS LEFT", "NEXT EXPIRY");
  for (const json& each : funds) {
    const json& left = each.at("days_left");
    const json& expiry = each.at("next_expiry");
    text += fmt::format(
        "{:<24} {:>18} {:>18}{} {:>10}  {}\n", each.at("fund").get<std::string>(),
        hours_of(each, "available"), hours_of(each, "used"),
        columns(money(each, "available_minor"), money(each, "used_cost_minor")),
        left.is_null() ? "-" : left.dump(),
        expiry.is_null() ? "-" : accounting::format_utc(expiry.get<std::int64_t>()));
  }
  return text;
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
