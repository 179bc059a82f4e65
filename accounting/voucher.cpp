// SPDX-License-Identifier: GPL-3.0-or-later
#include "accounting/voucher.h"

#include <algorithm>
#include <charconv>
#include <vector>

#include "accounting/digest.h"
#include "accounting/posting.h"

namespace accounting {
namespace {

constexpr std::string_view kMark = "TYV1";
constexpr std::size_t kCodeLengthMax = 512;

// What is signed differs from everything else that the same key might sign.
std::string signature_of(std::string_view body, std::string_view key) {
  return hmac_sha256_hex(key, "trainyard voucher\n" + std::string(body));
}

// A name may have dots, and so may the parts only be split from both ends; so ids have none.
bool is_voucher_id(std::string_view id) {
  return is_name(id) && id.find('.') == std::string_view::npos;
}

std::optional<std::int64_t> number_in(std::string_view text) {
  std::int64_t number = 0;
  const char* end = text.data() + text.size();
  const auto [stop, fault] = std::from_chars(text.data(), end, number);
  // One way to write each number, so that one voucher has one code.
  if (fault != std::errc{} || stop != end || std::to_string(number) != text) return std::nullopt;
  return number;
}

bool is_sound(const Voucher& voucher) {
  return is_voucher_id(voucher.id) && voucher.amount > Amount{0} && voucher.expires >= 0 &&
         voucher.expires <= kYear9999End && (voucher.fund.empty() || is_fund(voucher.fund));
}

std::string body_of(const Voucher& voucher) {
  std::string fund = voucher.fund;
  std::replace(fund.begin(), fund.end(), ':', '~');
  return std::string(kMark) + "." + voucher.id + "." + std::to_string(voucher.amount.milli_gpu_s) +
         "." + std::to_string(voucher.expires) + "." + fund;
}

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kBlanks = " \t\r\n";
  const std::size_t first = text.find_first_not_of(kBlanks);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kBlanks) - first + 1);
}

}  // namespace

std::optional<std::string> write_voucher(const Voucher& voucher, std::string_view key) {
  if (!is_sound(voucher) || key.empty()) return std::nullopt;
  const std::string body = body_of(voucher);
  return body + "." + signature_of(body, key);
}

std::variant<Voucher, VoucherFault> read_voucher(std::string_view code, std::string_view key,
                                                 UtcSeconds now) {
  code = trimmed(code);
  const std::size_t last = code.rfind('.');
  if (code.size() > kCodeLengthMax || last == std::string_view::npos || key.empty()) {
    return VoucherFault::kMalformed;
  }
  const std::string_view body = code.substr(0, last);
  std::vector<std::string_view> parts;
  std::string_view rest = body;
  while (parts.size() < 4) {
    const std::size_t dot = rest.find('.');
    if (dot == std::string_view::npos) return VoucherFault::kMalformed;
    parts.push_back(rest.substr(0, dot));
    rest.remove_prefix(dot + 1);
  }
  const auto amount = number_in(parts[2]);
  const auto expires = number_in(parts[3]);
  if (parts[0] != kMark || !amount || !expires) return VoucherFault::kMalformed;
  Voucher voucher{.id = std::string(parts[1]),
                  .amount = {*amount},
                  .expires = *expires,
                  .fund = std::string(rest)};
  std::replace(voucher.fund.begin(), voucher.fund.end(), '~', ':');
  if (!is_sound(voucher) || body_of(voucher) != body) return VoucherFault::kMalformed;
  if (!equal_in_constant_time(code.substr(last + 1), signature_of(body, key))) {
    return VoucherFault::kForged;
  }
  if (voucher.expires != 0 && voucher.expires <= now) return VoucherFault::kExpired;
  return voucher;
}

Told Vouchers::read(const Claim& claim, UtcSeconds now) const {
  auto read = read_voucher(claim.body, key_, now);
  if (auto* voucher = std::get_if<Voucher>(&read)) {
    return GivenHours{std::move(voucher->id), voucher->amount, std::move(voucher->fund)};
  }
  using Why = NotTaken::Why;
  switch (std::get<VoucherFault>(read)) {
    case VoucherFault::kForged:
      return NotTaken{Why::kRefused,
                      "this voucher was not made here, or it was changed. Copy all of it."};
    case VoucherFault::kExpired:
      return NotTaken{Why::kRefused, "this voucher has expired. Ask an admin for another."};
    case VoucherFault::kMalformed:
      break;
  }
  return NotTaken{Why::kNotMine,
                  "this is no voucher. A voucher begins with TYV1 and is one long word."};
}

}  // namespace accounting
