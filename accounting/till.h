// SPDX-License-Identifier: GPL-3.0-or-later
// accounting/till.h
//
// Where hours are bought: prices by date, quotes that are kept, receipts, and the log of what admins
// did. Money in a currency is an integer of minor units (cents) and exists here alone; what it buys
// is a grant in the ledger, in the same transaction as its receipt. Nothing here is ever edited or
// deleted. One thread at a time.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "accounting/ledger.h"

namespace accounting {

struct Price {
  UtcSeconds from = 0;
  std::string currency;         // "EUR"; the same for ever.
  std::int64_t minor = 0;       // Of one GPU-hour of the reference GPU. > 0
  std::string actor;
};

// What an amount costs, rounded up to a whole minor unit; nothing where it does not fit.
[[nodiscard]] std::optional<std::int64_t> cost_minor(Amount amount, std::int64_t price_minor);
// What money buys, down to a whole milli-GPU-second; nothing where it does not fit.
[[nodiscard]] std::optional<Amount> hours_for(std::int64_t minor, std::int64_t price_minor);
// "20.00 EUR"; "2000 smallest units of JPY" where has_hundredths says no.
[[nodiscard]] std::string format_money(std::int64_t minor, const std::string& currency);
// "20", "20.5", "20.50" -> 2000, 2050, 2050. Nothing where finer than a cent or not above zero.
[[nodiscard]] std::optional<std::int64_t> parse_money(std::string_view text);

// Are a hundred minor units one of the currency? Amounts of others cannot be written here.
[[nodiscard]] bool has_hundredths(std::string_view currency);

// The price of one run, kept until it expires: weight and price are those of the day it was made.
struct Quote {
  std::string id;
  std::string user, fund;
  std::string type;             // Instance type.
  std::int64_t gpus = 0;
  std::int64_t weight_milli = 0;
  Amount hold;                  // The most that the run can cost.
  Amount expected;
  std::string currency;         // Empty: the site has no price.
  std::int64_t price_minor = 0;
  UtcSeconds made = 0, expires = 0;
  std::string run;              // That used it; empty: none yet.
  std::string content = {};     // Hash of what was asked for; empty: made by an older version.
};

struct Payment {
  std::string provider;         // "webhook"
  std::string reference;        // The provider's name of it: counts once.
  std::string fund;
  std::string currency;
  std::int64_t minor = 0;
  std::string quote;            // That it pays; see Till::pay.
  std::string actor;
};

struct Receipt {
  std::int64_t number = 0;      // 1, 2, 3, ... without a gap.
  UtcSeconds when = 0;
  Payment payment;
  std::int64_t price_minor = 0;  // Of the first part, where two prices counted.
  Amount amount;
  std::string grant_id;
};
// What the first `minor` of a payment bought; all of it bought receipt.amount.
[[nodiscard]] Amount hours_of_part(const Receipt& receipt, std::int64_t minor);

enum class PayStatus {
  kPaid = 0, kAlreadyPaid = 1, kExistsWithDifferentContent = 2, kInvalid = 3, kNoPrice = 4,
  kOtherCurrency = 5
};
struct PayOutcome {
  PayStatus status = PayStatus::kInvalid;
  Receipt receipt;              // Of kPaid and kAlreadyPaid.
};

// Money that went back to who paid it: by a refund that the site gave, or by a chargeback that his
// bank made.
struct Reversal {
  std::string provider = {};
  std::string reversal = {};         // The provider's name of it: counts once.
  std::string kind = {};             // "refund", "chargeback"
  std::string reference = {};        // Of the payment; it may be told of later.
  std::string currency = {};
  std::int64_t minor = 0;       // Of this reversal alone. > 0
  std::string actor = {};
};
enum class ReverseStatus {
  kReversed = 0, kAlreadyReversed = 1, kExistsWithDifferentContent = 2, kInvalid = 3,
  kOtherCurrency = 4,
  kWaits = 5                    // Written down: it counts when its payment is told of.
};
struct ReverseOutcome {
  ReverseStatus status = ReverseStatus::kInvalid;
  Receipt receipt = {};              // Of the payment, where it is known.
  std::int64_t minor = 0;       // Of kReversed: what of the money counted ...
  std::int64_t beyond_minor = 0;  // ... and what did not, as the receipt has no more. A finding.
  Amount amount = {};                // The hours that went back ...
  Amount due = {};                   // ... of which the fund did not have these: its debt.
};

// What an admin did that is no transfer.
struct AdminAct {
  UtcSeconds when = 0;
  std::string actor, act, detail;
  std::int64_t number = 0;      // 1, 2, 3, ...; given by record().
};

class Till {
 public:
  // Makes its tables. Both outlive the till.
  [[nodiscard]] static Expected<Till> open(Database& db, Ledger& ledger);
  // Of books whose tables `open` has made. Asks the database nothing.
  Till(Database& db, Ledger& ledger) : db_(&db), ledger_(&ledger) {}

  // An Error where the currency is not the one of the prices before or has no hundredths, and where
  // the price would never count because one of a later day counts already.
  [[nodiscard]] Expected<void> set_price(const Price& price, UtcSeconds now);
  [[nodiscard]] Expected<std::optional<Price>> price_at(UtcSeconds when) const;
  [[nodiscard]] Expected<std::vector<Price>> prices() const;  // In the order they were set.

  // The same id again is the same quote; with other content an Error. All of it is kept or nothing.
  [[nodiscard]] Expected<void> keep_quote(const Quote& quote);
  [[nodiscard]] Expected<std::optional<Quote>> quote(const std::string& id) const;
  // A quote is for one run. False: it is another run's.
  [[nodiscard]] Expected<bool> use_quote(const std::string& id, const std::string& run);

  // Receipt and grant in one transaction. A payment that is told again changes nothing. The first
  // payment of a quote, of the quote's own fund, while it is valid and no run has used it, is counted
  // by the quote's price up to what the quote costs; all else by today's.
  [[nodiscard]] Expected<PayOutcome> pay(const Payment& payment, UtcSeconds now);
  [[nodiscard]] Expected<std::vector<Receipt>> receipts(const std::string& fund) const;  // "": all.

  // What the payments of a quote by its own fund bought, less what went back.
  [[nodiscard]] Expected<Amount> paid_for(const Quote& quote) const;
  // Has the provider given its hours of that name already (payment_provider.h)?
  [[nodiscard]] Expected<bool> was_given(const std::string& provider,
                                         const std::string& reference) const;

  // reversal.cpp. The hours go back in the same transaction. A reversal that is told again changes
  // nothing; all of one payment together never exceed it.
  [[nodiscard]] Expected<ReverseOutcome> reverse(const Reversal& reversal, UtcSeconds now);
  [[nodiscard]] Expected<std::optional<Receipt>> receipt_of_payment(
      const std::string& provider, const std::string& reference) const;
  [[nodiscard]] Expected<std::int64_t> reversed_minor(const Receipt& receipt) const;
  [[nodiscard]] Expected<bool> knows_reversal(const std::string& provider,
                                              const std::string& reversal) const;

  [[nodiscard]] Expected<void> record(const AdminAct& act);
  // The newest `count` of those with a number below `before` (0: of all), oldest first.
  [[nodiscard]] Expected<std::vector<AdminAct>> acts(std::int64_t count = 1'000,
                                                     std::int64_t before = 0) const;

 private:
  [[nodiscard]] Expected<bool> is_guaranteed(const Payment& payment,
                                             const std::optional<Quote>& quote,
                                             UtcSeconds now) const;
  [[nodiscard]] Expected<void> reverse_waiting(const Receipt& receipt, UtcSeconds now);
  Database* db_;
  Ledger* ledger_;
};

}  // namespace accounting
