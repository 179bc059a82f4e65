// SPDX-License-Identifier: GPL-3.0-or-later
// accounting/webhook.h
//
// What a payment service tells: a payment came in. A provider is whoever can tell a true message
// from a forged one; SignedWebhook is the usual kind (docs/formats/payment.md). Pure: that a payment
// counts once is the till's business.
#pragma once

#include <string>
#include <string_view>
#include <variant>

#include "accounting/amount.h"

namespace accounting {

struct PaymentEvent {
  std::string id;         // Of the message. The same payment may be told of by several.
  std::string type;       // "payment.succeeded", "payment.refunded" and "payment.charged_back" count;
                          // others are taken and change nothing.
  std::string payment;    // The provider's name of the payment: what makes it count once.
  std::string reversal;   // The provider's name of a refund or chargeback; empty: a payment.
  std::string fund;       // Whose hours it buys; empty in a reversal.
  std::string currency;   // "EUR"
  std::int64_t minor = 0; // Cents. > 0
  std::string quote;      // The run it is for; empty: a top-up.
};

enum class WebhookFault {
  kMalformedHeader,
  kOutsideWindow,  // Signed too long ago, or in the future: a replay, or a clock that is off.
  kForged,
  kMalformedBody
};

class PaymentProvider {
 public:
  virtual ~PaymentProvider() = default;
  [[nodiscard]] virtual std::string name() const = 0;
  // `signature`: what stood in the message's signature header. Never throws for what it is given.
  [[nodiscard]] virtual std::variant<PaymentEvent, WebhookFault> read(std::string_view signature,
                                                                      std::string_view body,
                                                                      UtcSeconds now) const = 0;
};

// HMAC-SHA256 over "<timestamp>.<body>", in a header "t=<timestamp>,v1=<hex>[,v1=<hex>]": several
// signatures while a key is changed.
class SignedWebhook final : public PaymentProvider {
 public:
  SignedWebhook(std::string key, std::int64_t window_s) : key_(std::move(key)), window_s_(window_s) {}
  [[nodiscard]] std::string name() const override { return "webhook"; }
  [[nodiscard]] std::variant<PaymentEvent, WebhookFault> read(std::string_view signature,
                                                              std::string_view body,
                                                              UtcSeconds now) const override;

 private:
  std::string key_;
  std::int64_t window_s_;
};

// The header for a body: what a provider, or a test, sends.
[[nodiscard]] std::string sign_webhook(std::string_view key, std::string_view body, UtcSeconds now);

}  // namespace accounting
