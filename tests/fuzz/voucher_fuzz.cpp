// SPDX-License-Identifier: GPL-3.0-or-later
//
// The input as a code, and as what somebody with the key signed. A code that is read is the one code
// of its voucher.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "accounting/digest.h"
#include "accounting/voucher.h"

// NOLINTNEXTLINE(readability-identifier-naming)
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  constexpr std::string_view kKey = "0123456789abcdef0123456789abcdef";
  const std::string text(reinterpret_cast<const char*>(data), size);
  if (std::holds_alternative<accounting::Voucher>(accounting::read_voucher(text, kKey, 0))) {
    std::abort();  // Nobody guesses a signature.
  }
  const std::string body = text.substr(0, text.rfind('.'));
  const std::string code =
      body + "." + accounting::hmac_sha256_hex(kKey, "trainyard voucher\n" + body);
  const auto read = accounting::read_voucher(code, kKey, 0);
  if (const auto* voucher = std::get_if<accounting::Voucher>(&read)) {
    const auto again = accounting::write_voucher(*voucher, kKey);
    const bool is_sound = voucher->amount > accounting::Amount{0} && !voucher->id.empty();
    if (!is_sound || !again || code.find(*again) == std::string::npos) std::abort();
  }
  return 0;
}
