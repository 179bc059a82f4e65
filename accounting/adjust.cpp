// SPDX-License-Identifier: GPL-3.0-or-later
//
// Changes to what stands: an open hold grows or shrinks, a charge is refunded, an admin sets a rule
// of a fund.
#include <algorithm>
#include <array>
#include <charconv>

#include "accounting/ledger.h"
#include "accounting/lots.h"
#include "accounting/posting.h"

namespace accounting {
namespace {

ExtendStatus status_of(Reserve reserve) {
  switch (reserve) {
    case Reserve::kClosed:
      return ExtendStatus::kFundClosed;
    case Reserve::kInDebt:
      return ExtendStatus::kInDebt;
    case Reserve::kExceedsMemberCap:
      return ExtendStatus::kExceedsMemberCap;
    case Reserve::kUnknownFund:  // A hold's fund is known.
    case Reserve::kExceedsAvailable:
      return ExtendStatus::kExceedsAvailable;
    case Reserve::kAllowed:
      break;
  }
  return ExtendStatus::kExtended;
}

// A transfer that changes the hold `hold_id` by `amount`.
Transfer change_of_hold(std::string_view kind, const std::string& hold_id, const OpenHold& hold) {
  const bool grows = kind == "extend";
  Transfer transfer;
  transfer.kind = kind;
  transfer.debit = grows ? fund_account(hold.fund) : held_account(hold.fund);
  transfer.credit = grows ? held_account(hold.fund) : fund_account(hold.fund);
  transfer.hold_id = hold_id;
  transfer.run = hold.run;
  return transfer;
}

// 277 million GPU-hours: with it no sum of grants, credits and debts comes near an overflow.
constexpr std::int64_t kSettingMax = 1'000'000'000'000'000;

bool is_whole_number(const std::string& text) {
  std::int64_t number = 0;
  const char* end = text.data() + text.size();
  const auto [stop, fault] = std::from_chars(text.data(), end, number);
  return fault == std::errc{} && stop == end && number >= 0 && number <= kSettingMax;
}

bool is_valid(const Setting& setting) {
  constexpr std::array<std::string_view, 5> kNumbers{"credit_limit", "gpus_max", "runs_max",
                                                     "member_gpus_max", "member_runs_max"};
  constexpr std::array<std::string_view, 2> kWords{"tier", "default_fund"};
  constexpr std::array<std::string_view, 3> kOfMembers{"cap/", "gpus/", "runs/"};
  const auto is_one_of = [&setting](const auto& names) {
    return std::find(names.begin(), names.end(), setting.name) != names.end();
  };
  if (!is_id(setting.id) || !is_fund(setting.fund) || !is_actor(setting.actor)) return false;
  if (setting.since < 0) return false;
  const std::string value = setting.value.value_or("0");
  if (is_one_of(kNumbers)) return is_whole_number(value);
  if (is_one_of(kWords)) return !value.empty() && is_run(value);
  if (setting.name == "closed") return !setting.value || *setting.value == "1";
  return std::any_of(kOfMembers.begin(), kOfMembers.end(), [&](std::string_view prefix) {
    return setting.name.starts_with(prefix) && is_name(setting.name.substr(prefix.size())) &&
           is_whole_number(value);
  });
}

}  // namespace

Expected<std::optional<Amount>> refundable_of(Database& db, const std::string& charge_id) {
  std::optional<Amount> left;
  auto done = db.query(
      "SELECT amount + (SELECT coalesce(sum(amount), 0) FROM transfer "
      "                  WHERE ref = ?1 AND kind = 'debt') "
      "              - (SELECT coalesce(sum(amount), 0) FROM transfer "
      "                  WHERE ref = ?1 AND kind = 'refund') "
      "FROM transfer WHERE id = ?1 AND kind = 'charge'",
      {charge_id}, [&left](const Row& row) { left = Amount{row.integer(0)}; });
  if (!done) return tl::unexpected(done.error());
  return left;
}

Expected<ExtendStatus> Ledger::extend(const Extension& extension, UtcSeconds now) {
  Database& db = *db_;
  return answer_of<ExtendStatus>(db, "extension", extension.id, [&]() -> Expected<ExtendStatus> {
    const std::string content = content_hash(extension);
    const auto known = find_transfer(db, extension.id);
    if (!known) return tl::unexpected(known.error());
    if (*known) {
      return (*known)->content_hash == content ? ExtendStatus::kAlreadyExtended
                                               : ExtendStatus::kExistsWithDifferentContent;
    }
    if (!is_id(extension.id) || !is_actor(extension.actor) || extension.amount <= Amount{0}) {
      return ExtendStatus::kInvalid;
    }
    const auto hold = find_hold(db, extension.hold_id);
    if (!hold) return tl::unexpected(hold.error());
    if (!*hold) return ExtendStatus::kUnknownHold;
    if (!(*hold)->is_open) return ExtendStatus::kHoldClosed;
    if (const auto turned = turn_lots(db, (*hold)->fund, now); !turned) {
      return tl::unexpected(turned.error());
    }
    const auto reserve = may_reserve(db, (*hold)->fund, (*hold)->member, extension.amount);
    if (!reserve) return tl::unexpected(reserve.error());
    if (*reserve != Reserve::kAllowed) return status_of(*reserve);

    Transfer transfer = change_of_hold("extend", extension.hold_id, **hold);
    transfer.id = extension.id;
    transfer.amount = extension.amount;
    transfer.actor = extension.actor;
    transfer.note = printable_note(extension.note);
    transfer.content_hash = content;
    auto done = post(db, transfer, now);
    if (done) done = draw_from_lots(db, (*hold)->fund, extension.hold_id, extension.amount);
    if (!done) return tl::unexpected(done.error());
    return ExtendStatus::kExtended;
  });
}

Expected<ReduceStatus> Ledger::reduce(const Reduction& reduction, UtcSeconds now) {
  Database& db = *db_;
  return answer_of<ReduceStatus>(db, "reduction", reduction.id, [&]() -> Expected<ReduceStatus> {
    const std::string content = content_hash(reduction);
    const auto known = find_transfer(db, reduction.id);
    if (!known) return tl::unexpected(known.error());
    if (*known) {
      return (*known)->content_hash == content ? ReduceStatus::kAlreadyReduced
                                               : ReduceStatus::kExistsWithDifferentContent;
    }
    if (!is_id(reduction.id) || !is_actor(reduction.actor) || reduction.amount <= Amount{0}) {
      return ReduceStatus::kInvalid;
    }
    const auto hold = find_hold(db, reduction.hold_id);
    if (!hold) return tl::unexpected(hold.error());
    if (!*hold) return ReduceStatus::kUnknownHold;
    if (!(*hold)->is_open) return ReduceStatus::kHoldClosed;
    if (reduction.amount > (*hold)->remaining) return ReduceStatus::kExceedsRemaining;

    Transfer transfer = change_of_hold("reduce", reduction.hold_id, **hold);
    transfer.id = reduction.id;
    transfer.amount = reduction.amount;
    transfer.actor = reduction.actor;
    transfer.note = printable_note(reduction.note);
    transfer.content_hash = content;
    auto done = post(db, transfer, now);
    if (done) done = return_draws(db, reduction.hold_id, (*hold)->remaining, reduction.amount);
    if (done) done = settle_fund(db, (*hold)->fund, transfer.id, now);
    if (!done) return tl::unexpected(done.error());
    return ReduceStatus::kReduced;
  });
}

Expected<RefundStatus> Ledger::refund(const Refund& refund, UtcSeconds now) {
  Database& db = *db_;
  return answer_of<RefundStatus>(db, "refund", refund.id, [&]() -> Expected<RefundStatus> {
    const std::string content = content_hash(refund);
    const auto known = find_transfer(db, refund.id);
    if (!known) return tl::unexpected(known.error());
    if (*known) {
      return (*known)->content_hash == content ? RefundStatus::kAlreadyRefunded
                                               : RefundStatus::kExistsWithDifferentContent;
    }
    if (!is_id(refund.id) || !is_actor(refund.actor) || refund.amount <= Amount{0}) {
      return RefundStatus::kInvalid;
    }
    const auto charge = find_transfer(db, refund.charge_id);
    if (!charge) return tl::unexpected(charge.error());
    if (!*charge || (*charge)->kind != "charge") return RefundStatus::kUnknownCharge;
    const auto left = refundable_of(db, refund.charge_id);
    if (!left) return tl::unexpected(left.error());
    if (refund.amount > left->value_or(Amount{0})) return RefundStatus::kExceedsCharge;

    const std::string fund = fund_of(**charge);
    Transfer transfer;
    transfer.id = refund.id;
    transfer.kind = "refund";
    transfer.debit = (*charge)->credit;
    transfer.credit = fund_account(fund);
    transfer.amount = refund.amount;
    transfer.run = (*charge)->run;
    transfer.actor = refund.actor;
    transfer.note = printable_note(refund.note);
    transfer.ref = refund.charge_id;
    transfer.content_hash = content;
    auto done = post(db, transfer, now);
    if (done) done = repay(db, fund, transfer.id, now);
    if (!done) return tl::unexpected(done.error());
    return RefundStatus::kRefunded;
  });
}

Expected<SetStatus> Ledger::set(const Setting& setting, UtcSeconds now) {
  Database& db = *db_;
  return answer_of<SetStatus>(db, "setting", setting.id, [&]() -> Expected<SetStatus> {
    const std::string content = content_hash(setting);
    const auto known = find_transfer(db, setting.id);
    if (!known) return tl::unexpected(known.error());
    if (*known) {
      return (*known)->content_hash == content ? SetStatus::kAlreadySet
                                               : SetStatus::kExistsWithDifferentContent;
    }
    if (!is_valid(setting)) return SetStatus::kInvalid;
    if (setting.name == "credit_limit") {
      const auto undated = undated_of(db, setting.fund);
      if (!undated) return tl::unexpected(undated.error());
      const std::int64_t limit = std::stoll(setting.value.value_or("0"));
      if (*undated < Amount{-limit}) return SetStatus::kBelowUse;
    }

    Transfer transfer;
    transfer.id = setting.id;
    transfer.kind = "set";
    transfer.debit = kTreasury;
    transfer.credit = fund_account(setting.fund);
    transfer.start = setting.since;
    transfer.actor = setting.actor;
    transfer.note = printable_note(setting.note);
    transfer.ref = setting.name;
    transfer.value = setting.value;
    transfer.content_hash = content;
    auto done = open_fund(db, setting.fund);
    if (done) done = post(db, transfer, now);
    if (!done) return tl::unexpected(done.error());
    return SetStatus::kSet;
  });
}

}  // namespace accounting
