// SPDX-License-Identifier: GPL-3.0-or-later
// accounting/webhook.h
//
// What a payment service tells by a signed message: a payment came in, or went back
// (docs/formats/payment.md). Pure: that a payment counts once is the till's business.
#pragma once

#include <string>
#include <string_view>
#include <variant>

#include "accounting/payment_provider.h"

namespace accounting {

enum class WebhookFault {
  kMalformedHeader,
  kOutsideWindow,  // Signed too long ago, or in the future: a replay, or a clock that is off.
  kForged,
  kMalformedBody
};

// HMAC-SHA256 over "<timestamp>.<body>", in a header "t=<timestamp>,v1=<hex>[,v1=<hex>]": several
// signatures while a key is changed. Whatever it is given, it never throws.
[[nodiscard]] std::variant<PaymentEvent, WebhookFault> read_webhook(const Claim& message,
                                                                    std::string_view key,
                                                                    std::int64_t window_s,
                                                                    UtcSeconds now);

// Messages of the one payment service that has the key.
class SignedWebhook final : public PaymentProvider {
 public:
  SignedWebhook(std::string key, std::int64_t window_s) : key_(std::move(key)), window_s_(window_s) {}
  [[nodiscard]] std::string name() const override { return "webhook"; }
  [[nodiscard]] Told read(const Claim& claim, UtcSeconds now) const override;

 private:
  std::string key_;
  std::int64_t window_s_;
};

// The header for a body: what a provider, or a test, sends.
[[nodiscard]] std::string sign_webhook(std::string_view key, std::string_view body, UtcSeconds now);

}  // namespace accounting
