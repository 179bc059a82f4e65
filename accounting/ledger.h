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
//   later:user:ada      grants that begin later
//   expired:user:ada    what expired
//   debt:user:ada       minus what the fund owes for usage beyond its holds
// available = fund account, held = held account, balance = the sum of the two.
//
// Every operation has an id made by its caller. The same id with the same content answers
// kAlready... and changes nothing; with other content kExistsWithDifferentContent. Every status but
// the first of each enum leaves the ledger unchanged, apart from dated grants whose time has come. All of it runs inside Database::transact, the
// caller's where there is one. One thread at a time.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "accounting/amount.h"
#include "accounting/database.h"
#include "accounting/period.h"

namespace accounting {

struct Grant {
  std::string id;
  std::string fund;  // "user:ada" or "group:vision"
  Amount amount;     // > 0
  std::string actor; // Who did it: a user name.
  std::string note;
  UtcSeconds from = 0;     // 0: at once. Until then it is not available.
  UtcSeconds expires = 0;  // 0: never. What is left then is taken back; what a hold has stays with it.
};

struct Hold {
  std::string id;    // "<run>/<segment>"
  std::string fund;
  Amount amount;     // > 0
  std::string run;
  std::string actor;            // Whose cap it counts against.
  std::int64_t gpus = 0;        // In use while the hold is open; counted against gpus_max.
  std::int64_t expires_after_s = 0;  // An interval. 0: never. See Ledger::expired_holds.
  std::string quote = {};       // The quote it was made by, for statements.
};

// More for a hold that is open: the run needs longer.
struct Extension {
  std::string id;
  std::string hold_id;
  Amount amount;       // > 0
  std::string actor;
  std::string note;    // Not part of the content.
};

// A part of an open hold back to its fund: the run needs less.
struct Reduction {
  std::string id;
  std::string hold_id;
  Amount amount;       // > 0
  std::string actor;
  std::string note;    // Not part of the content.
};

// A part of a charge back to its fund. All refunds of a charge together never exceed it.
struct Refund {
  std::string id;      // Made of the charge's id and the reason, so that it is given once.
  std::string charge_id;
  Amount amount;       // > 0
  std::string actor;
  std::string note;
};

// What an admin set for a fund. The names: credit_limit, gpus_max, runs_max, member_gpus_max,
// member_runs_max, cap/MEMBER, gpus/MEMBER, runs/MEMBER (whole numbers; credit_limit and cap in
// milli-GPU-seconds), closed ("1"), tier, default_fund (words).
struct Setting {
  std::string id;
  std::string fund;
  std::string name;
  std::optional<std::string> value;  // Nothing: taken back.
  UtcSeconds since = 0;              // Of a cap: only what was held since then counts.
  std::string actor;
  std::string note;
};

// Who bears a usage beyond its hold. The fund: it becomes a debt, which is paid from what the fund
// has available, now and at each later grant; until then the fund gets no new hold.
enum class Excess { kSiteBears, kFundOwes };

// One Slurm allocation (an attempt of a segment), as Slurm recorded it.
struct Charge {
  std::string id;       // "<cluster>/<run>/<segment>/<number of the charge>"
  std::string hold_id;
  std::string cluster;
  std::int64_t gpus = 0;
  std::int64_t seconds = 0;
  std::int64_t weight_milli = 0;
  std::int64_t start = 0;  // UTC seconds, for statements.
  std::int64_t end = 0;
  std::string note;        // Instance type, state, for statements.
  Excess excess = Excess::kSiteBears;  // Not part of the content.
};

// Stored. Never renumber or reuse. Ordered by precedence.
enum class GrantStatus { kGranted = 0, kAlreadyGranted = 1, kExistsWithDifferentContent = 2, kInvalid = 3 };
enum class HoldStatus {
  kHeld = 0, kAlreadyHeld = 1, kExistsWithDifferentContent = 2, kInvalid = 3, kUnknownFund = 4,
  kExceedsAvailable = 5, kFundClosed = 6, kInDebt = 7, kExceedsMemberCap = 8, kExceedsGpus = 9,
  kExceedsRuns = 10, kExceedsMemberGpus = 11, kExceedsMemberRuns = 12
};
enum class ExtendStatus {
  kExtended = 0, kAlreadyExtended = 1, kExistsWithDifferentContent = 2, kInvalid = 3,
  kUnknownHold = 4, kHoldClosed = 5, kFundClosed = 6, kInDebt = 7, kExceedsMemberCap = 8,
  kExceedsAvailable = 9
};
enum class ReduceStatus {
  kReduced = 0, kAlreadyReduced = 1, kExistsWithDifferentContent = 2, kInvalid = 3,
  kUnknownHold = 4, kHoldClosed = 5, kExceedsRemaining = 6
};
enum class RefundStatus {
  kRefunded = 0, kAlreadyRefunded = 1, kExistsWithDifferentContent = 2, kInvalid = 3,
  kUnknownCharge = 4, kExceedsCharge = 5
};
enum class SetStatus {
  kSet = 0, kAlreadySet = 1, kExistsWithDifferentContent = 2, kInvalid = 3, kBelowUse = 4
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
  Amount excess;   // usage - charged: the site's loss or the fund's debt; recorded as a finding.
};

struct FundBalance {
  std::string fund;
  Amount available;     // Below zero: the fund uses its credit.
  Amount held;
  Amount granted;       // All grants ever, less what was taken back (accounting/take.h).
  Amount charged;       // All charges ever, less refunds; debts are among them.
  Amount later;         // Of granted: not yet begun.
  Amount expired;       // Of granted: taken back at its end.
  Amount owed;          // Not yet repaid. Above zero: no new hold.
  Amount credit_limit;  // available may go down to minus this.
};

struct DatedGrant {
  std::string id;
  std::string fund;
  UtcSeconds from = 0, expires = 0;
  bool has_begun = false;
  Amount remaining;  // Not held and not charged.
};

struct HoldState {
  Hold hold;
  Amount charged;
  Amount released;      // By reductions and by the release.
  Amount extended;      // hold.amount is what was first held.
  bool is_open = true;  // Not released yet.
  UtcSeconds expires = 0;  // 0: never.
  [[nodiscard]] Amount remaining() const {
    return {hold.amount.milli_gpu_s + extended.milli_gpu_s - charged.milli_gpu_s -
            released.milli_gpu_s};
  }
};

// What open holds have at once. Hours that are kept for a quote are no run.
struct OpenUse {
  std::int64_t runs = 0;
  std::int64_t gpus = 0;
};

struct StatementLine {
  std::int64_t seq = 0;
  UtcSeconds when = 0;
  std::string kind;     // grant, hold, extend, charge, reduce, release, refund, debt, repay,
                        // begin, expire, set, take, due
  std::string fund;
  std::string run;      // Empty for a grant.
  std::string id;
  Amount amount;
  std::int64_t gpus = 0, seconds = 0, weight_milli = 0;  // Of a charge: the arithmetic.
  UtcSeconds start = 0, end = 0;
  std::string actor, note;
  std::string ref;      // The charge refunded or exceeded, the setting set, the quote held by.
  std::string value;    // Of a setting.
  Amount available_after;
  Amount balance_after;
  std::string currency = {};  // Where hours have a price; see add_costs().
  std::optional<std::int64_t> cost_minor = {};  // Of a charge or debt; below zero of a refund.
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
  // Whether open() would find the schema of this program and bring nothing forward.
  [[nodiscard]] static Expected<bool> is_current(Database& db);

  [[nodiscard]] Expected<GrantStatus> grant(const Grant& grant, UtcSeconds now);
  [[nodiscard]] Expected<HoldStatus> hold(const Hold& hold, UtcSeconds now);
  // A hold in the place of another of its fund (a quote's, by its run): that one is released for
  // `reason`, and the new one gets its hours before what is over of them expires, for they were set
  // aside in time. What it leaves goes where a release puts it. Inside the caller's transaction,
  // which is to be rolled back where the status is not kHeld.
  [[nodiscard]] Expected<HoldStatus> hold_from(const std::string& kept, const std::string& reason,
                                               const Hold& hold, UtcSeconds now);
  // Charges usage_amount(gpus, seconds, weight) against the hold. Seconds may be 0.
  [[nodiscard]] Expected<ChargeOutcome> charge(const Charge& charge, UtcSeconds now);
  // Returns what is left of the hold to its fund and closes it.
  [[nodiscard]] Expected<ReleaseStatus> release(const std::string& hold_id, const std::string& reason,
                                                UtcSeconds now);

  // Adds to an open hold. The fund's rules are those of a new hold, but for the number of GPUs and
  // runs, which stay as they are.
  [[nodiscard]] Expected<ExtendStatus> extend(const Extension& extension, UtcSeconds now);
  // Returns a part of an open hold, which stays open.
  [[nodiscard]] Expected<ReduceStatus> reduce(const Reduction& reduction, UtcSeconds now);
  // kExceedsCharge: ask refundable() for what is left to refund.
  [[nodiscard]] Expected<RefundStatus> refund(const Refund& refund, UtcSeconds now);
  [[nodiscard]] Expected<SetStatus> set(const Setting& setting, UtcSeconds now);

  // Posts the beginnings and ends of dated grants that are due; holds do it for their own fund. The
  // number of transfers made.
  [[nodiscard]] Expected<std::int64_t> turn(UtcSeconds now);
  // Dated grants of which something is left, by expiry; those that never expire at the end.
  [[nodiscard]] Expected<std::vector<DatedGrant>> dated_grants(const std::string& fund) const;

  // Whom the grant of this id gave hours; nothing where there is no such grant.
  [[nodiscard]] Expected<std::optional<std::string>> granted_fund(const std::string& grant_id) const;
  // What the refunds of a charge have left of it; nothing where there is no such charge.
  [[nodiscard]] Expected<std::optional<Amount>> refundable(const std::string& charge_id) const;
  [[nodiscard]] Expected<std::optional<std::string>> setting(const std::string& fund,
                                                             const std::string& name) const;
  [[nodiscard]] Expected<std::vector<Setting>> settings(const std::string& fund) const;
  // What the member has in holds and charges of the fund, less what came back, since the day that
  // his cap counts from.
  [[nodiscard]] Expected<Amount> member_use(const std::string& fund,
                                            const std::string& member) const;
  // What the open holds of the fund have, as its limits count it; of one member where `member` is
  // not empty. Nothing of a fund that there is not.
  [[nodiscard]] Expected<OpenUse> open_use(const std::string& fund,
                                           const std::string& member = {}) const;
  // Open holds whose time is over, oldest first. The ledger does not release them by itself: a job
  // may live on them, which only the caller knows.
  [[nodiscard]] Expected<std::vector<HoldState>> expired_holds(UtcSeconds now) const;

  [[nodiscard]] Expected<std::optional<FundBalance>> balance(const std::string& fund) const;
  [[nodiscard]] Expected<std::vector<FundBalance>> balances() const;
  [[nodiscard]] Expected<std::optional<HoldState>> hold_state(const std::string& hold_id) const;
  // Those of the period, oldest first. Empty fund or run: all. The running balances are of each
  // line's own fund, whatever is left out.
  [[nodiscard]] Expected<std::vector<StatementLine>> lines(const std::string& fund,
                                                           const std::string& run,
                                                           const Period& period = {}) const;

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
