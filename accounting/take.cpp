// SPDX-License-Identifier: GPL-3.0-or-later
#include "accounting/take.h"

#include <algorithm>

#include "accounting/lots.h"
#include "accounting/posting.h"

namespace accounting {
namespace {

bool is_valid(const Take& take) {
  return is_id(take.id) && !is_reserved_id(take.id) && is_fund(take.fund) && is_id(take.ref) &&
         is_actor(take.actor) && take.amount > Amount{0};
}

Expected<void> post_due(Database& db, const Take& take, Amount amount, UtcSeconds now) {
  Transfer transfer;
  transfer.id = due_id(take.id);
  transfer.kind = "due";
  transfer.debit = debt_account(take.fund);
  transfer.credit = kTreasury;
  transfer.amount = amount;
  transfer.actor = take.actor;
  transfer.note = printable_note(take.note);
  transfer.ref = take.ref;
  transfer.content_hash = own_content_hash(transfer.kind, transfer.id);
  auto opened = db.run(
      "INSERT INTO account (name, kind) VALUES (?1, 'debt') ON CONFLICT (name) DO NOTHING",
      {transfer.debit});
  if (!opened) return tl::unexpected(opened.error());
  if (auto posted = post(db, transfer, now); !posted) return posted;
  return repay(db, take.fund, transfer.id, now);
}

}  // namespace

Expected<Amount> takeable(Database& db, const std::string& fund) {
  const auto undated = undated_of(db, fund);
  if (!undated) return tl::unexpected(undated.error());
  const auto available = account_balance(db, fund_account(fund));
  if (!available) return tl::unexpected(available.error());
  return std::max(Amount{0}, std::min(*undated, available->value_or(Amount{0})));
}

Expected<TakeOutcome> take(Database& db, const Take& take, UtcSeconds now) {
  return answer_of<TakeOutcome>(db, "taking", take.id, [&]() -> Expected<TakeOutcome> {
    const std::string content = take_content_hash(take.id, take.fund, take.ref, take.actor);
    const auto known = find_transfer(db, take.id);
    if (!known) return tl::unexpected(known.error());
    if (*known) {
      const auto due = find_transfer(db, due_id(take.id));
      if (!due) return tl::unexpected(due.error());
      TakeOutcome outcome{TakeStatus::kAlreadyTaken, (*known)->amount,
                          *due ? (*due)->amount : Amount{}};
      const bool is_same = (*known)->content_hash == content &&
                           outcome.taken.milli_gpu_s + outcome.due.milli_gpu_s ==
                               take.amount.milli_gpu_s;
      if (!is_same) outcome.status = TakeStatus::kExistsWithDifferentContent;
      return outcome;
    }
    if (!is_valid(take)) return TakeOutcome{TakeStatus::kInvalid, {}, {}};
    const auto available = account_balance(db, fund_account(take.fund));
    if (!available) return tl::unexpected(available.error());
    if (!*available) return TakeOutcome{TakeStatus::kUnknownFund, {}, {}};
    if (const auto turned = turn_lots(db, take.fund, now); !turned) {
      return tl::unexpected(turned.error());
    }
    const auto free = takeable(db, take.fund);
    if (!free) return tl::unexpected(free.error());
    const Amount taken = std::min(*free, take.amount);
    const Amount due{take.amount.milli_gpu_s - taken.milli_gpu_s};
    if (due > Amount{0} && take.shortfall == Shortfall::kRefuse) {
      return TakeOutcome{TakeStatus::kExceedsUndated, *free, due};
    }
    Transfer transfer;
    transfer.id = take.id;
    transfer.kind = "take";
    transfer.debit = fund_account(take.fund);
    transfer.credit = kTreasury;
    transfer.amount = taken;
    transfer.actor = take.actor;
    transfer.note = printable_note(take.note);
    transfer.ref = take.ref;
    transfer.content_hash = content;
    auto done = post(db, transfer, now);
    if (done && due > Amount{0}) done = post_due(db, take, due, now);
    if (!done) return tl::unexpected(done.error());
    return TakeOutcome{TakeStatus::kTaken, taken, due};
  });
}

}  // namespace accounting
