// SPDX-License-Identifier: GPL-3.0-or-later
#include "accounting/amount.h"

#include <fmt/format.h>

#include <limits>

namespace accounting {
namespace {

constexpr bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

// How many milli-GPU-seconds one of the unit at the end of `text` is; takes the unit off.
std::int64_t take_unit(std::string_view& text) {
  if (text.empty()) return kGpuHour.milli_gpu_s;
  const char unit = text.back();
  if (is_digit(unit)) return kGpuHour.milli_gpu_s;
  text.remove_suffix(1);
  switch (unit) {
    case 'h':
      return kGpuHour.milli_gpu_s;
    case 'm':
      return 60'000;
    case 's':
      return 1'000;
    default:
      return 0;
  }
}

}  // namespace

std::optional<Amount> usage_amount(std::int64_t gpus, std::int64_t seconds,
                                   std::int64_t weight_milli) {
  if (gpus < 0 || seconds < 0 || weight_milli < 0) return std::nullopt;
  if (gpus == 0 || seconds == 0 || weight_milli == 0) return Amount{0};  // However large the rest.
  std::int64_t gpu_s = 0;
  std::int64_t milli_gpu_s = 0;
  if (__builtin_mul_overflow(gpus, seconds, &gpu_s) ||
      __builtin_mul_overflow(gpu_s, weight_milli, &milli_gpu_s)) {
    return std::nullopt;
  }
  return Amount{milli_gpu_s};
}

std::optional<Amount> checked_add(Amount a, Amount b) {
  Amount sum;
  if (__builtin_add_overflow(a.milli_gpu_s, b.milli_gpu_s, &sum.milli_gpu_s)) return std::nullopt;
  return sum;
}

std::optional<Amount> checked_sub(Amount a, Amount b) {
  Amount rest;
  if (__builtin_sub_overflow(a.milli_gpu_s, b.milli_gpu_s, &rest.milli_gpu_s)) return std::nullopt;
  return rest;
}

std::string to_gpu_hours(Amount amount) {
  const bool is_negative = amount.milli_gpu_s < 0;
  const auto bits = static_cast<std::uint64_t>(amount.milli_gpu_s);
  const std::uint64_t magnitude = is_negative ? 0 - bits : bits;
  const std::uint64_t thousandths = (magnitude + 1'800) / 3'600;
  return fmt::format("{}{}.{:03} GPU-h", is_negative && thousandths != 0 ? "-" : "",
                     thousandths / 1'000, thousandths % 1'000);
}

std::optional<Amount> parse_gpu_hours(std::string_view text) {
  const std::int64_t unit_milli_gpu_s = take_unit(text);
  if (unit_milli_gpu_s == 0) return std::nullopt;

  const std::size_t point = text.find('.');
  std::string_view whole = text.substr(0, point);
  std::string_view fraction;
  if (point != std::string_view::npos) {
    fraction = text.substr(point + 1);
    if (fraction.empty()) return std::nullopt;
  }
  if (whole.empty()) return std::nullopt;
  for (const std::string_view part : {whole, fraction}) {
    for (const char c : part) {
      if (!is_digit(c)) return std::nullopt;
    }
  }
  while (whole.size() > 1 && whole.front() == '0') whole.remove_prefix(1);
  while (!fraction.empty() && fraction.back() == '0') fraction.remove_suffix(1);
  // 3 600 000 = 2^7 x 3^2 x 5^5, so an eighth decimal is never a whole milli-GPU-second; and
  // 26 digits times the unit fit in 128 bits.
  if (whole.size() > 19 || fraction.size() > 7) return std::nullopt;

  __extension__ using Wide = unsigned __int128;
  Wide number = 0;
  Wide scale = 1;
  for (const char c : whole) number = number * 10 + static_cast<unsigned>(c - '0');
  for (const char c : fraction) {
    number = number * 10 + static_cast<unsigned>(c - '0');
    scale *= 10;
  }
  number *= static_cast<std::uint64_t>(unit_milli_gpu_s);
  if (number == 0 || number % scale != 0) return std::nullopt;
  number /= scale;
  if (number > static_cast<Wide>(std::numeric_limits<std::int64_t>::max())) return std::nullopt;
  return Amount{static_cast<std::int64_t>(number)};
}

}  // namespace accounting
