// SPDX-License-Identifier: GPL-3.0-or-later
// accounting/take.h
//
// Hours that leave a fund without having been used: the money that bought them went back, or they
// paid for a tier. Only hours that never expire are taken; what is wanted beyond them is refused, or
// becomes the fund's debt, which the ledger pays from what else the fund has, now and at each later
// grant. Runs inside Database::transact, the caller's where there is one. One thread at a time.
#pragma once

#include <string>

#include "accounting/ledger.h"

namespace accounting {

enum class Shortfall { kRefuse, kFundOwes };

struct Take {
  std::string id;
  std::string fund;
  Amount amount;      // > 0
  std::string ref;    // What for: the grant of a payment, or "tier/NAME". Never a charge.
  std::string actor;
  std::string note;   // Not part of the content.
  Shortfall shortfall = Shortfall::kRefuse;  // Not part of the content.
};

// Ordered by precedence.
enum class TakeStatus {
  kTaken = 0, kAlreadyTaken = 1, kExistsWithDifferentContent = 2, kInvalid = 3, kUnknownFund = 4,
  kExceedsUndated = 5
};
struct TakeOutcome {
  TakeStatus status = TakeStatus::kInvalid;
  Amount taken;   // From what the fund had.
  Amount due;     // What became debt; a part of it may be repaid already.
};

[[nodiscard]] Expected<TakeOutcome> take(Database& db, const Take& take, UtcSeconds now);

// What take() may take without a debt: available, less dated grants.
[[nodiscard]] Expected<Amount> takeable(Database& db, const std::string& fund);

}  // namespace accounting
