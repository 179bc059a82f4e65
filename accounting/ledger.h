// SPDX-License-Identifier: GPL-3.0-or-later
// accounting/ledger.h
//
// A double-entry ledger of GPU work. Every transfer moves an Amount from one account to another, so
// the sum over all accounts is always zero. Transfers are never edited or deleted (triggers of the
// database refuse it) and each carries the hash of the one before; a mistake is corrected by
// another transfer (docs/formats/ledger.md).
//
// Accounts are named by text paths:
//   treasury            where grants come from; the only account without a floor
//   fund:user:ada       what a fund has free
//   held:user:ada       what is set aside for its runs
//   usage:CLUSTER       what was charged
// available = fund account, held = held account, balance = the sum of the two.
//
// Every operation has an id made by its caller. The same id with the same content answers
// kAlready... and changes nothing; with other content kExistsWithDifferentContent. Every status but
// the first of each enum leaves the ledger unchanged. All of it runs inside Database::transact, the
// caller's where there is one. One thread at a time.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "accounting/amount.h"
#include "accounting/database.h"

namespace accounting {

struct Grant {
  std::string id;
  std::string fund;  // "user:ada" or "group:vision"
  Amount amount;     // > 0
  std::string actor; // Who did it: a user name.
  std::string note;
};

struct Hold {
  std::string id;    // "<run>/<segment>"
  std::string fund;
  Amount amount;     // > 0
  std::string run;
  std::string actor;
};

// One Slurm allocation (an attempt of a segment), as Slurm recorded it.
struct Charge {
  std::string id;       // "<cluster>/<job id>/<attempt>"
  std::string hold_id;
  std::string cluster;
  std::int64_t gpus = 0;
  std::int64_t seconds = 0;
  std::int64_t weight_milli = 0;
  std::int64_t start = 0;  // UTC seconds, for statements.
  std::int64_t end = 0;
  std::string note;        // Instance type, state, for statements.
};

// Stored. Never renumber or reuse. Ordered by precedence.
enum class GrantStatus { kGranted = 0, kAlreadyGranted = 1, kExistsWithDifferentContent = 2, kInvalid = 3 };
enum class HoldStatus {
  kHeld = 0, kAlreadyHeld = 1, kExistsWithDifferentContent = 2, kInvalid = 3, kUnknownFund = 4,
  kExceedsAvailable = 5
};
enum class ChargeStatus {
  kCharged = 0,
  kAlreadyCharged = 1,
  kExistsWithDifferentContent = 2,
  kInvalid = 3,
  kUnknownHold = 4,
  kHoldClosed = 5
};
enum class ReleaseStatus { kReleased = 0, kAlreadyReleased = 1, kUnknownHold = 2 };

struct ChargeOutcome {
  ChargeStatus status = ChargeStatus::kInvalid;
  Amount charged;  // What was posted: usage, but never more than was left of the hold.
  Amount excess;   // usage - charged: the site's loss, recorded as a finding.
};

struct FundBalance {
  std::string fund;
  Amount available;
  Amount held;
  Amount granted;  // All grants ever.
  Amount charged;  // All charges ever.
};

struct HoldState {
  Hold hold;
  Amount charged;
  Amount released;
  bool is_open = true;  // Not released yet.
  [[nodiscard]] Amount remaining() const {
    return {hold.amount.milli_gpu_s - charged.milli_gpu_s - released.milli_gpu_s};
  }
};

struct StatementLine {
  std::int64_t seq = 0;
  UtcSeconds when = 0;
  std::string kind;     // grant, hold, charge, release
  std::string fund;
  std::string run;      // Empty for a grant.
  std::string id;
  Amount amount;
  std::int64_t gpus = 0, seconds = 0, weight_milli = 0;  // Of a charge: the arithmetic.
  UtcSeconds start = 0, end = 0;
  std::string actor, note;
  Amount available_after;
  Amount balance_after;
};

struct Finding {
  UtcSeconds when = 0;
  std::string subject;  // A run, charge or account.
  std::string text;
};

struct Head {
  std::int64_t seq = 0;  // 0: no transfer yet.
  std::string hash;      // Of that transfer; 64 zeros where there is none.
};

class Ledger {
 public:
  // Makes or migrates the tables. `db` outlives the ledger.
  [[nodiscard]] static Expected<Ledger> open(Database& db);

  [[nodiscard]] Expected<GrantStatus> grant(const Grant& grant, UtcSeconds now);
  [[nodiscard]] Expected<HoldStatus> hold(const Hold& hold, UtcSeconds now);
  // Charges usage_amount(gpus, seconds, weight) against the hold. Seconds may be 0.
  [[nodiscard]] Expected<ChargeOutcome> charge(const Charge& charge, UtcSeconds now);
  // Returns what is left of the hold to its fund and closes it.
  [[nodiscard]] Expected<ReleaseStatus> release(const std::string& hold_id, const std::string& reason,
                                                UtcSeconds now);

  [[nodiscard]] Expected<std::optional<FundBalance>> balance(const std::string& fund) const;
  [[nodiscard]] Expected<std::vector<FundBalance>> balances() const;
  [[nodiscard]] Expected<std::optional<HoldState>> hold_state(const std::string& hold_id) const;
  // Oldest first. Empty fund or run: all. The running balances are of each line's own fund.
  [[nodiscard]] Expected<std::vector<StatementLine>> lines(const std::string& fund,
                                                           const std::string& run) const;

  // An observation for the audit; never changes a balance. The same text twice is kept once.
  [[nodiscard]] Expected<void> record_finding(const Finding& finding);
  [[nodiscard]] Expected<std::vector<Finding>> findings() const;

  // The end of the hash chain, to be published: who knows it can tell that the newest transfers
  // were cut off, which no look at the file alone can.
  [[nodiscard]] Expected<Head> head() const;

  // Recomputes everything from the transfers: sums are zero, no fund is below its floor, every held
  // account equals its open holds, charges equal their arithmetic, the hash chain is unbroken.
  // One sentence a fault; empty: the books are right.
  [[nodiscard]] Expected<std::vector<std::string>> verify() const;

 private:
  explicit Ledger(Database& db) : db_(&db) {}
  [[nodiscard]] Expected<std::vector<FundBalance>> funds_matching(const std::string& fund) const;
  Database* db_;
};

}  // namespace accounting
