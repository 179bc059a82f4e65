// SPDX-License-Identifier: GPL-3.0-or-later
#include "accounting/period.h"

#include <chrono>

#include "accounting/tariff.h"

namespace accounting {
namespace {

using std::chrono::months;
using std::chrono::year_month;

constexpr std::int64_t kDay_s = 86'400;

UtcSeconds begin_of(year_month month) {
  const std::chrono::sys_days first{month / std::chrono::day{1}};
  return first.time_since_epoch().count() * kDay_s;
}

Period months_from(year_month first, int count) {
  return {begin_of(first), begin_of(first + months{count})};
}

bool is_digits(std::string_view text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
}

// A year, quarter, month or day.
std::optional<Period> parse_unit(std::string_view text) {
  if (text.size() < 4 || !is_digits(text.substr(0, 4))) return std::nullopt;
  const int number = std::stoi(std::string(text.substr(0, 4)));
  if (number < 1970 || number > 9998) return std::nullopt;
  const std::chrono::year year{number};
  const std::string_view rest = text.substr(4);
  if (rest.empty()) return months_from(year / 1, 12);
  if (rest.size() == 3 && rest.starts_with("-Q") && rest[2] >= '1' && rest[2] <= '4') {
    return months_from(year / std::chrono::month{static_cast<unsigned>(3 * (rest[2] - '1') + 1)}, 3);
  }
  if (rest.size() == 3 && rest[0] == '-' && is_digits(rest.substr(1))) {
    const unsigned month = static_cast<unsigned>(std::stoi(std::string(rest.substr(1))));
    if (month < 1 || month > 12) return std::nullopt;
    return months_from(year / std::chrono::month{month}, 1);
  }
  if (rest.size() != 6) return std::nullopt;
  const auto day = parse_utc(text);
  if (!day) return std::nullopt;
  return Period{*day, *day + kDay_s};
}

std::optional<Period> parse_word(std::string_view text, UtcSeconds now) {
  const bool is_last = text.starts_with("last-");
  const std::string_view unit = is_last ? text.substr(5) : text;
  const std::chrono::sys_days today{
      std::chrono::floor<std::chrono::days>(std::chrono::sys_seconds{std::chrono::seconds{now}})};
  const std::chrono::year_month_day date{today};
  const year_month month = date.year() / date.month();
  const unsigned number = static_cast<unsigned>(date.month());
  if (unit == "day") {
    const UtcSeconds begin = (today.time_since_epoch().count() - (is_last ? 1 : 0)) * kDay_s;
    return Period{begin, begin + kDay_s};
  }
  if (unit == "month") return months_from(month - months{is_last ? 1 : 0}, 1);
  if (unit == "quarter") {
    return months_from(month - months{static_cast<int>((number - 1) % 3) + (is_last ? 3 : 0)}, 3);
  }
  if (unit == "year") {
    return months_from(month - months{static_cast<int>(number - 1) + (is_last ? 12 : 0)}, 12);
  }
  return std::nullopt;
}

std::optional<Period> parse_range(std::string_view from, std::string_view to) {
  Period period;
  if (!from.empty()) {
    const auto unit = parse_unit(from);
    const auto instant = unit ? std::optional(unit->from) : parse_utc(from);
    if (!instant) return std::nullopt;
    period.from = *instant;
  }
  if (!to.empty()) {
    const auto unit = parse_unit(to);
    const auto instant = unit ? std::optional(unit->to) : parse_utc(to);
    if (!instant) return std::nullopt;
    period.to = *instant;
  }
  const bool is_empty = from.empty() && to.empty();
  if (is_empty || (period.to != 0 && period.to <= period.from)) return std::nullopt;
  return period;
}

}  // namespace

std::optional<Period> parse_period(std::string_view text, UtcSeconds now) {
  const std::size_t dots = text.find("..");
  if (dots != std::string_view::npos) return parse_range(text.substr(0, dots), text.substr(dots + 2));
  if (const auto word = parse_word(text, now)) return word;
  return parse_unit(text);
}

}  // namespace accounting
