// SPDX-License-Identifier: GPL-3.0-or-later
#include "accounting/tariff.h"

#include <fmt/format.h>

#include <chrono>

namespace accounting {
namespace {

constexpr UtcSeconds kDay = 86'400;

// Reads exactly `digits` digits from the front of `text`.
std::optional<int> take_number(std::string_view& text, std::size_t digits) {
  if (text.size() < digits) return std::nullopt;
  int number = 0;
  for (const char c : text.substr(0, digits)) {
    if (c < '0' || c > '9') return std::nullopt;
    number = number * 10 + (c - '0');
  }
  text.remove_prefix(digits);
  return number;
}

bool take_char(std::string_view& text, char c) {
  if (text.empty() || text.front() != c) return false;
  text.remove_prefix(1);
  return true;
}

}  // namespace

std::optional<std::int64_t> weight_at(const std::vector<WeightPeriod>& periods, UtcSeconds when) {
  std::optional<std::int64_t> weight_milli;
  for (const WeightPeriod& period : periods) {
    if (period.from > when) break;
    weight_milli = period.weight_milli;
  }
  return weight_milli;
}

std::optional<std::int64_t> parse_weight(std::string_view text) {
  const std::size_t point = text.find('.');
  const std::string_view whole = text.substr(0, point);
  std::string_view fraction;
  if (point != std::string_view::npos) {
    fraction = text.substr(point + 1);
    if (fraction.empty()) return std::nullopt;
  }
  if (whole.empty()) return std::nullopt;
  while (!fraction.empty() && fraction.back() == '0') fraction.remove_suffix(1);
  if (fraction.size() > 3) return std::nullopt;

  std::int64_t weight_milli = 0;
  const auto append = [&weight_milli](char c) {
    return c >= '0' && c <= '9' && !__builtin_mul_overflow(weight_milli, 10, &weight_milli) &&
           !__builtin_add_overflow(weight_milli, c - '0', &weight_milli);
  };
  for (const char c : whole) {
    if (!append(c)) return std::nullopt;
  }
  for (std::size_t i = 0; i < 3; ++i) {
    if (!append(i < fraction.size() ? fraction[i] : '0')) return std::nullopt;
  }
  return weight_milli;
}

std::string format_weight(std::int64_t weight_milli) {
  const auto bits = static_cast<std::uint64_t>(weight_milli);
  const std::uint64_t magnitude = weight_milli < 0 ? 0 - bits : bits;
  return fmt::format("{}{}.{:03}", weight_milli < 0 ? "-" : "", magnitude / 1'000,
                     magnitude % 1'000);
}

std::optional<UtcSeconds> parse_utc(std::string_view text) {
  const auto year = take_number(text, 4);
  if (!year || !take_char(text, '-')) return std::nullopt;
  const auto month = take_number(text, 2);
  if (!month || !take_char(text, '-')) return std::nullopt;
  const auto day = take_number(text, 2);
  if (!day) return std::nullopt;
  const std::chrono::year_month_day date{std::chrono::year{*year},
                                         std::chrono::month{static_cast<unsigned>(*month)},
                                         std::chrono::day{static_cast<unsigned>(*day)}};
  if (!date.ok()) return std::nullopt;
  const UtcSeconds midnight = std::chrono::sys_days{date}.time_since_epoch().count() * kDay;
  if (text.empty()) return midnight;

  if (!take_char(text, 'T')) return std::nullopt;
  const auto hour = take_number(text, 2);
  if (!hour || *hour > 23 || !take_char(text, ':')) return std::nullopt;
  const auto minute = take_number(text, 2);
  if (!minute || *minute > 59 || !take_char(text, ':')) return std::nullopt;
  const auto second = take_number(text, 2);
  if (!second || *second > 59 || text != "Z") return std::nullopt;
  return midnight + UtcSeconds{*hour} * 3'600 + UtcSeconds{*minute} * 60 + *second;
}

std::string format_utc(UtcSeconds when) {
  constexpr UtcSeconds kYear0000 = -62'167'219'200;
  constexpr UtcSeconds kYear9999End = 253'402'300'799;
  if (when < kYear0000 || when > kYear9999End) return fmt::format("@{}", when);

  const std::chrono::sys_seconds instant{std::chrono::seconds{when}};
  const auto midnight = std::chrono::floor<std::chrono::days>(instant);
  const std::chrono::year_month_day date{midnight};
  const std::int64_t second_of_day = (instant - midnight).count();
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z", static_cast<int>(date.year()),
                     static_cast<unsigned>(date.month()), static_cast<unsigned>(date.day()),
                     second_of_day / 3'600, second_of_day / 60 % 60, second_of_day % 60);
}

}  // namespace accounting
