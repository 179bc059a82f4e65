// SPDX-License-Identifier: GPL-3.0-or-later
#include "accounting/ledger.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "accounting/lots.h"
#include "accounting/member_limits.h"
#include "accounting/posting.h"
#include "accounting/schema.h"
#include "accounting/tariff.h"

namespace accounting {
namespace {

constexpr std::int64_t kSchemaVersion = kMigrations.size();
constexpr std::int64_t kExpiryMax_s = std::int64_t{10} * 366 * 86'400;

bool is_valid(const Hold& hold) {
  return is_id(hold.id) && is_fund(hold.fund) && is_run(hold.run) && is_actor(hold.actor) &&
         is_run(hold.quote) && hold.amount > Amount{0} && hold.gpus >= 0 &&
         hold.expires_after_s >= 0 && hold.expires_after_s <= kExpiryMax_s;
}

// Hours that are kept for a quote are no run yet.
bool is_of_run(const Hold& hold) { return !hold.run.empty() || hold.gpus > 0; }

// The first rule of the fund that a new hold would break.
Expected<std::optional<HoldStatus>> why_not(Database& db, const Hold& hold) {
  const auto reserve = may_reserve(db, hold.fund, hold.actor, hold.amount);
  if (!reserve) return tl::unexpected(reserve.error());
  switch (*reserve) {
    case Reserve::kUnknownFund:
      return HoldStatus::kUnknownFund;
    case Reserve::kClosed:
      return HoldStatus::kFundClosed;
    case Reserve::kInDebt:
      return HoldStatus::kInDebt;
    case Reserve::kExceedsMemberCap:
      return HoldStatus::kExceedsMemberCap;
    case Reserve::kExceedsAvailable:
      return HoldStatus::kExceedsAvailable;
    case Reserve::kAllowed:
      break;
  }
  if (!is_of_run(hold)) return std::optional<HoldStatus>{};
  const auto gpus_max = number_setting(db, hold.fund, "gpus_max");
  if (!gpus_max) return tl::unexpected(gpus_max.error());
  const auto runs_max = number_setting(db, hold.fund, "runs_max");
  if (!runs_max) return tl::unexpected(runs_max.error());
  if (*gpus_max || *runs_max) {
    const auto open = open_use_of(db, hold.fund, "");
    if (!open) return tl::unexpected(open.error());
    if (*gpus_max && hold.gpus > **gpus_max - open->gpus) return HoldStatus::kExceedsGpus;
    if (*runs_max && open->runs >= **runs_max) return HoldStatus::kExceedsRuns;
  }
  return beyond_member_limits(db, hold);
}

ChargeOutcome refusal(ChargeStatus status) {
  return {.status = status, .charged = {}, .excess = {}};
}

std::string excess_text(const Charge& charge, Amount usage, const ChargeOutcome& outcome) {
  return fmt::format(
      "charge {}: {} GPU x {} s x {} = {} mGPUs exceeds the {} mGPUs left of hold {}; the {} "
      "{} mGPUs ({}).",
      charge.id, charge.gpus, charge.seconds, format_weight(charge.weight_milli), usage.milli_gpu_s,
      outcome.charged.milli_gpu_s, charge.hold_id,
      charge.excess == Excess::kFundOwes ? "fund owes" : "site bears", outcome.excess.milli_gpu_s,
      to_gpu_hours(outcome.excess));
}

// What a usage exceeds its hold by, as a debt of the fund.
Expected<void> post_debt(Database& db, const Transfer& charge, const std::string& fund,
                         Amount excess, UtcSeconds now) {
  Transfer transfer;
  transfer.id = debt_id(charge.id);
  transfer.kind = "debt";
  transfer.debit = debt_account(fund);
  transfer.credit = charge.credit;
  transfer.amount = excess;
  transfer.run = charge.run;
  transfer.ref = charge.id;
  transfer.content_hash = own_content_hash(transfer.kind, transfer.id);
  auto done = db.run(
      "INSERT INTO account (name, kind) VALUES (?1, 'debt') ON CONFLICT (name) DO NOTHING",
      {transfer.debit});
  if (!done) return tl::unexpected(done.error());
  if (auto posted = post(db, transfer, now); !posted) return posted;
  return repay(db, fund, transfer.id, now);
}

// The transfer of a release; what it gives back may have to go on from the fund (settle_fund).
Expected<void> post_release(Database& db, const std::string& hold_id, const OpenHold& hold,
                            const std::string& reason, UtcSeconds now) {
  Transfer transfer;
  transfer.id = release_id(hold_id);
  transfer.kind = "release";
  transfer.debit = held_account(hold.fund);
  transfer.credit = fund_account(hold.fund);
  transfer.amount = hold.remaining;
  transfer.hold_id = hold_id;
  transfer.run = hold.run;
  transfer.note = printable_note(reason);
  transfer.content_hash = release_content_hash(hold_id);
  auto done = post(db, transfer, now);
  if (done) done = return_draws(db, hold_id, hold.remaining, transfer.amount);
  return done;
}

Expected<std::int64_t> schema_version(Database& db) {
  std::int64_t version = 0;
  bool has_meta = false;
  auto done = db.query("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'ledger_meta'",
                       {}, [&has_meta](const Row&) { has_meta = true; });
  if (done && has_meta) {
    done = db.query("SELECT CAST(value AS INTEGER) FROM ledger_meta WHERE key = 'schema_version'",
                    {}, [&version](const Row& row) { version = row.integer(0); });
  }
  if (!done) return tl::unexpected(done.error());
  if (version > kSchemaVersion) {
    return tl::unexpected(Error{fmt::format(
        "schema version {} is newer than the {} that this program knows. Use the newer program.",
        version, kSchemaVersion)});
  }
  return version;
}

Expected<void> migrate(Database& db) {
  return db.transact([&db]() -> Expected<void> {
    const auto version = schema_version(db);  // Again: another process may have been faster.
    if (!version) return tl::unexpected(version.error());
    for (std::int64_t next = *version; next < kSchemaVersion; ++next) {
      if (auto done = db.execute_script(kMigrations[static_cast<std::size_t>(next)]); !done) {
        return done;
      }
    }
    return {};
  });
}

}  // namespace

Expected<Ledger> Ledger::open(Database& db) {
  const auto version = schema_version(db);
  if (!version) return with_noun<Ledger>(tl::unexpected(version.error()), "ledger", "schema");
  if (*version < kSchemaVersion) {
    if (auto done = migrate(db); !done) {
      return with_noun<Ledger>(tl::unexpected(done.error()), "ledger", "schema");
    }
  }
  return Ledger(db);
}

Expected<bool> Ledger::is_current(Database& db) {
  const auto version = schema_version(db);
  if (!version) return tl::unexpected(version.error());
  return *version == kSchemaVersion;
}

Expected<GrantStatus> Ledger::grant(const Grant& request, UtcSeconds now) {
  Database& db = *db_;
  return answer_of<GrantStatus>(db, "grant", request.id, [&]() -> Expected<GrantStatus> {
    Grant grant = request;
    grant.note = printable_note(request.note);
    const std::string content = content_hash(grant);
    const auto known = find_transfer(db, grant.id);
    if (!known) return tl::unexpected(known.error());
    if (*known) {
      return (*known)->content_hash == content ? GrantStatus::kAlreadyGranted
                                               : GrantStatus::kExistsWithDifferentContent;
    }
    if (!is_id(grant.id) || !is_fund(grant.fund) || !is_actor(grant.actor) ||
        grant.amount <= Amount{0}) {
      return GrantStatus::kInvalid;
    }
    const auto time = ledger_time(db, now);
    if (!time) return tl::unexpected(time.error());
    const bool is_later = grant.from > *time;
    if (grant.from < 0 || grant.from > kYear9999End || grant.expires > kYear9999End ||
        (grant.expires != 0 && grant.expires <= std::max(grant.from, *time))) {
      return GrantStatus::kInvalid;
    }
    // Whatever is anywhere came from the treasury: where all that was ever granted fits, no other
    // balance or sum overflows. (-INT64_MIN does not fit.)
    const auto treasury = account_balance(db, std::string(kTreasury));
    if (!treasury) return tl::unexpected(treasury.error());
    const auto granted_before = checked_sub(Amount{0}, treasury->value_or(Amount{0}));
    if (!granted_before || !checked_add(*granted_before, grant.amount)) {
      return GrantStatus::kInvalid;
    }

    Transfer transfer;
    transfer.id = grant.id;
    transfer.kind = "grant";
    transfer.debit = kTreasury;
    transfer.credit = is_later ? later_account(grant.fund) : fund_account(grant.fund);
    transfer.amount = grant.amount;
    transfer.start = grant.from;
    transfer.end = grant.expires;
    transfer.actor = grant.actor;
    transfer.note = grant.note;
    transfer.content_hash = content;
    auto done = open_fund(db, grant.fund);
    if (done && is_later) done = open_account(db, transfer.credit, "later", nullptr);
    if (done) done = post(db, transfer, now);
    if (done && (is_later || grant.expires != 0)) done = open_lot(db, transfer, grant.fund);
    if (done) done = repay(db, grant.fund, grant.id, now);
    if (!done) return tl::unexpected(done.error());
    return GrantStatus::kGranted;
  });
}

Expected<HoldStatus> Ledger::hold(const Hold& hold, UtcSeconds now) {
  return hold_from("", "", hold, now);
}

Expected<HoldStatus> Ledger::hold_from(const std::string& kept, const std::string& reason,
                                       const Hold& hold, UtcSeconds now) {
  Database& db = *db_;
  return answer_of<HoldStatus>(db, "hold", hold.id, [&]() -> Expected<HoldStatus> {
    const std::string content = content_hash(hold);
    const auto known = find_transfer(db, hold.id);
    if (!known) return tl::unexpected(known.error());
    if (*known) {
      return (*known)->content_hash == content ? HoldStatus::kAlreadyHeld
                                               : HoldStatus::kExistsWithDifferentContent;
    }
    if (!is_valid(hold)) return HoldStatus::kInvalid;
    Transfer transfer;
    transfer.id = hold.id;
    transfer.kind = "hold";
    transfer.debit = fund_account(hold.fund);
    transfer.credit = held_account(hold.fund);
    transfer.amount = hold.amount;
    transfer.run = hold.run;
    transfer.actor = hold.actor;
    transfer.content_hash = content;
    transfer.gpus = hold.gpus;
    if (hold.expires_after_s > 0) {
      transfer.start = within_calendar(now);
      transfer.end = transfer.start + hold.expires_after_s;
    }
    if (!hold.quote.empty()) transfer.ref = hold.quote;
    if (const auto turned = turn_lots(db, hold.fund, now); !turned) {
      return tl::unexpected(turned.error());
    }
    if (!kept.empty()) {
      const auto open = find_hold(db, kept);
      if (!open) return tl::unexpected(open.error());
      if (!*open || !(*open)->is_open || (*open)->fund != hold.fund) return HoldStatus::kInvalid;
      const auto released = post_release(db, kept, **open, reason, now);
      if (!released) return tl::unexpected(released.error());
    }
    const auto refused = why_not(db, hold);
    if (!refused) return tl::unexpected(refused.error());
    if (*refused) return **refused;

    auto done = post(db, transfer, now);
    if (done) done = draw_from_lots(db, hold.fund, hold.id, hold.amount);
    if (done && !kept.empty()) done = settle_fund(db, hold.fund, release_id(kept), now);
    if (!done) return tl::unexpected(done.error());
    return HoldStatus::kHeld;
  });
}

Expected<ChargeOutcome> Ledger::charge(const Charge& charge, UtcSeconds now) {
  Database& db = *db_;
  return answer_of<ChargeOutcome>(db, "charge", charge.id, [&]() -> Expected<ChargeOutcome> {
    const std::string content = content_hash(charge);
    const auto usage = usage_amount(charge.gpus, charge.seconds, charge.weight_milli);
    const auto known = find_transfer(db, charge.id);
    if (!known) return tl::unexpected(known.error());
    if (*known) {
      if ((*known)->content_hash != content || !usage) {
        return refusal(ChargeStatus::kExistsWithDifferentContent);
      }
      const Amount charged = (*known)->amount;
      return ChargeOutcome{.status = ChargeStatus::kAlreadyCharged,
                           .charged = charged,
                           .excess = checked_sub(*usage, charged).value_or(Amount{0})};
    }
    if (!usage || !is_id(charge.id) || !is_name(charge.cluster)) {
      return refusal(ChargeStatus::kInvalid);
    }
    const auto hold = find_hold(db, charge.hold_id);
    if (!hold) return tl::unexpected(hold.error());
    if (!*hold) return refusal(ChargeStatus::kUnknownHold);
    if (!(*hold)->is_open) return refusal(ChargeStatus::kHoldClosed);

    const Amount charged = std::min(*usage, (*hold)->remaining);
    const ChargeOutcome outcome{.status = ChargeStatus::kCharged,
                                .charged = charged,
                                .excess = {usage->milli_gpu_s - charged.milli_gpu_s}};
    Transfer transfer;
    transfer.id = charge.id;
    transfer.kind = "charge";
    transfer.debit = held_account((*hold)->fund);
    transfer.credit = usage_account(charge.cluster);
    transfer.amount = outcome.charged;
    transfer.hold_id = charge.hold_id;
    transfer.run = (*hold)->run;
    transfer.gpus = charge.gpus;
    transfer.seconds = charge.seconds;
    transfer.weight_milli = charge.weight_milli;
    transfer.start = charge.start;
    transfer.end = charge.end;
    transfer.note = printable_note(charge.note);
    transfer.content_hash = content;
    auto done = open_account(db, transfer.credit, "usage", nullptr);
    if (done) done = post(db, transfer, now);
    if (done) done = use_up_draws(db, charge.hold_id, outcome.charged);
    if (done && outcome.excess > Amount{0}) {
      done = keep_finding(db, {now, charge.id, excess_text(charge, *usage, outcome)});
      if (done && charge.excess == Excess::kFundOwes) {
        done = post_debt(db, transfer, (*hold)->fund, outcome.excess, now);
      }
    }
    if (!done) return tl::unexpected(done.error());
    return outcome;
  });
}

Expected<ReleaseStatus> Ledger::release(const std::string& hold_id, const std::string& reason,
                                        UtcSeconds now) {
  Database& db = *db_;
  return answer_of<ReleaseStatus>(db, "release of", hold_id, [&]() -> Expected<ReleaseStatus> {
    const auto hold = find_hold(db, hold_id);
    if (!hold) return tl::unexpected(hold.error());
    if (!*hold) return ReleaseStatus::kUnknownHold;
    if (!(*hold)->is_open) return ReleaseStatus::kAlreadyReleased;

    auto done = post_release(db, hold_id, **hold, reason, now);
    if (done) done = settle_fund(db, (*hold)->fund, release_id(hold_id), now);
    if (!done) return tl::unexpected(done.error());
    return ReleaseStatus::kReleased;
  });
}

Expected<std::int64_t> Ledger::turn(UtcSeconds now) {
  Database& db = *db_;
  return answer_of<std::int64_t>(db, "dated", "grants",
                                 [&]() { return turn_lots(db, "", now); });
}

}  // namespace accounting
