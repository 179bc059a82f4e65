// SPDX-License-Identifier: GPL-3.0-or-later
//
// The first line as a signature header and the rest as its body; and the rest as a body that the
// payment service signed.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "accounting/webhook.h"

// NOLINTNEXTLINE(readability-identifier-naming)
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  constexpr accounting::UtcSeconds kNow = 1'795'507'200;
  const std::string key = "0123456789abcdef0123456789abcdef";
  const std::string text(reinterpret_cast<const char*>(data), size);
  const std::size_t line = text.find('\n');
  const std::string header = text.substr(0, line);
  const std::string body = line == std::string::npos ? "" : text.substr(line + 1);
  if (std::holds_alternative<accounting::PaymentEvent>(
          accounting::read_webhook({body, header}, key, 300, kNow))) {
    std::abort();  // Nobody guesses a signature.
  }
  const auto read = accounting::read_webhook(
      {body, accounting::sign_webhook(key, body, kNow)}, key, 300, kNow);
  if (const auto* event = std::get_if<accounting::PaymentEvent>(&read)) {
    const bool is_payment = !event->payment.empty();
    if (event->id.empty() || (is_payment && (event->minor <= 0 || event->currency.size() != 3))) {
      std::abort();
    }
  }
  return 0;
}
