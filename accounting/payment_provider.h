// SPDX-License-Identifier: GPL-3.0-or-later
// accounting/payment_provider.h
//
// Where hours come from besides an admin's grant: a code that a person hands in (voucher.h), a
// message that a payment service sends (webhook.h). A provider is whoever can tell a true one from a
// forged one. The till and `trainyard wallet topup` know providers by this alone;
// scheduler/payment_providers.cpp lists them. Pure: that something counts once is the business of
// the ledger and the till (docs/formats/payment.md).
#pragma once

#include <string>
#include <string_view>
#include <variant>

#include "accounting/amount.h"

namespace accounting {

// What was handed in, as it came. Valid for the call alone.
struct Claim {
  std::string_view body;       // The code or the message.
  std::string_view signature;  // What stood in the message's signature header; a code has none.
};

// Hours that the provider itself is good for.
struct GivenHours {
  std::string reference;  // The provider's name of them, at most 64 characters: counts once.
  Amount amount;          // > 0
  std::string fund;       // Whom they are for; empty: whoever hands them in.
};

// Money that was paid, or that went back.
struct PaymentEvent {
  std::string id;         // Of the message. The same payment may be told of by several.
  std::string type;       // "payment.succeeded", "payment.refunded", "payment.charged_back" count;
                          // others are taken and change nothing.
  std::string payment;    // The provider's name of the payment: what makes it count once.
  std::string reversal;   // The provider's name of a refund or chargeback; empty: a payment.
  std::string fund;       // Whose hours it buys; empty in a reversal.
  std::string currency;   // "EUR"
  std::int64_t minor = 0; // Cents. > 0
  std::string quote;      // The run it is for; empty: a top-up.
};

struct NotTaken {
  enum class Why {
    kNotMine,    // Not of this provider's form: another one may know it.
    kRefused,    // Forged, too old, expired.
    kUnreadable  // True, and it says nothing that can be booked: an admin is told by a finding.
  };
  Why why = Why::kNotMine;
  std::string text;       // For who handed it in.
};

using Told = std::variant<GivenHours, PaymentEvent, NotTaken>;

class PaymentProvider {
 public:
  virtual ~PaymentProvider() = default;
  // A word that no other provider has, and no other id begins with. It stands in receipts and in the
  // ids of grants.
  [[nodiscard]] virtual std::string name() const = 0;
  // Never throws for what it is given.
  [[nodiscard]] virtual Told read(const Claim& claim, UtcSeconds now) const = 0;
};

}  // namespace accounting
