// SPDX-License-Identifier: GPL-3.0-or-later
//
// Payments whose money went back: a refund or a chargeback of the payment service. The hours that it
// bought go back as well, never more than were bought.
#include <fmt/format.h>

#include <algorithm>

#include "accounting/posting.h"
#include "accounting/take.h"
#include "accounting/till.h"

namespace accounting {
namespace {

struct Reversed {
  std::int64_t minor = 0;
  Amount amount;
};

Expected<Reversed> reversed_of(Database& db, const std::string& grant_id) {
  Reversed sum;
  auto read = db.query(
      "SELECT coalesce(sum(minor), 0), coalesce(sum(amount), 0) FROM payment_reversed "
      "WHERE grant_id = ?1",
      {grant_id}, [&sum](const Row& row) { sum = {row.integer(0), {row.integer(1)}}; });
  if (!read) return tl::unexpected(read.error());
  return sum;
}

bool is_valid(const Reversal& r) {
  return is_name(r.provider) && is_id(r.reference) && is_id(r.reversal) && r.minor > 0 &&
         is_actor(r.actor) && (r.kind == "refund" || r.kind == "chargeback");
}

// Takes back what the receipt has left of it.
Expected<ReverseOutcome> take_back(Database& db, const Receipt& receipt, const Reversal& reversal,
                                   UtcSeconds now) {
  const auto before = reversed_of(db, receipt.grant_id);
  if (!before) return tl::unexpected(before.error());
  ReverseOutcome outcome{.status = ReverseStatus::kReversed, .receipt = receipt};
  outcome.minor = std::min(reversal.minor, receipt.payment.minor - before->minor);
  outcome.beyond_minor = reversal.minor - outcome.minor;
  const std::int64_t total = before->minor + outcome.minor;
  const Amount until = hours_of_part(receipt, total);
  outcome.amount = {until.milli_gpu_s - before->amount.milli_gpu_s};
  if (outcome.amount > Amount{0}) {
    const auto taken = take(
        db,
        {.id = fmt::format("reversal/{}/{}", reversal.provider, reversal.reversal),
         .fund = receipt.payment.fund,
         .amount = outcome.amount,
         .ref = receipt.grant_id,
         .actor = reversal.actor,
         .note = fmt::format("{} of {} of receipt {}", reversal.kind,
                             format_money(outcome.minor, reversal.currency), receipt.number),
         .shortfall = Shortfall::kFundOwes},
        now);
    if (!taken) return tl::unexpected(taken.error());
    if (taken->status != TakeStatus::kTaken) {
      return tl::unexpected(Error{fmt::format("the ledger takes nothing back (status {})",
                                              static_cast<int>(taken->status))});
    }
    outcome.due = taken->due;
  }
  auto written = db.run(
      "INSERT INTO payment_reversed (provider, reversal, grant_id, minor, amount, due, at_s) "
      "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
      {reversal.provider, reversal.reversal, receipt.grant_id, outcome.minor,
       outcome.amount.milli_gpu_s, outcome.due.milli_gpu_s, now});
  if (!written) return tl::unexpected(written.error());
  if (outcome.beyond_minor > 0) {
    const auto found = keep_finding(
        db, {now, receipt.grant_id,
             fmt::format("{} {} of {}: {} are more than the receipt has left, and took nothing.",
                         reversal.kind, reversal.reversal,
                         format_money(reversal.minor, reversal.currency),
                         format_money(outcome.beyond_minor, reversal.currency))});
    if (!found) return tl::unexpected(found.error());
  }
  return outcome;
}

}  // namespace

Expected<ReverseOutcome> Till::reverse(const Reversal& reversal, UtcSeconds now) {
  Database& db = *db_;
  return answer_of<ReverseOutcome>(
      db, reversal.kind, reversal.reversal, [&]() -> Expected<ReverseOutcome> {
        if (!is_valid(reversal)) return ReverseOutcome{};
        std::optional<Reversal> known;
        auto read = db.query(
            "SELECT kind, reference, currency, minor FROM payment_reversal "
            "WHERE provider = ?1 AND reversal = ?2",
            {reversal.provider, reversal.reversal}, [&known](const Row& row) {
              known = Reversal{.kind = row.text(0), .reference = row.text(1),
                               .currency = row.text(2), .minor = row.integer(3)};
            });
        if (!read) return tl::unexpected(read.error());
        const auto receipt = receipt_of_payment(reversal.provider, reversal.reference);
        if (!receipt) return tl::unexpected(receipt.error());
        if (known) {
          const bool is_same = known->kind == reversal.kind &&
                               known->reference == reversal.reference &&
                               known->currency == reversal.currency &&
                               known->minor == reversal.minor;
          return ReverseOutcome{.status = is_same ? ReverseStatus::kAlreadyReversed
                                                  : ReverseStatus::kExistsWithDifferentContent,
                                .receipt = receipt->value_or(Receipt{})};
        }
        if (*receipt && (*receipt)->payment.currency != reversal.currency) {
          return ReverseOutcome{.status = ReverseStatus::kOtherCurrency, .receipt = **receipt};
        }
        auto told = db.run(
            "INSERT INTO payment_reversal (provider, reversal, kind, reference, currency, minor, "
            "actor, at_s) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            {reversal.provider, reversal.reversal, reversal.kind, reversal.reference,
             reversal.currency, reversal.minor, reversal.actor, now});
        if (!told) return tl::unexpected(told.error());
        if (!*receipt) return ReverseOutcome{.status = ReverseStatus::kWaits, .receipt = {}};
        return take_back(db, **receipt, reversal, now);
      });
}

Expected<void> Till::reverse_waiting(const Receipt& receipt, UtcSeconds now) {
  std::vector<Reversal> waiting;
  auto read = db_->query(
      "SELECT provider, reversal, kind, reference, currency, minor, actor FROM payment_reversal r "
      "WHERE provider = ?1 AND reference = ?2 AND NOT EXISTS (SELECT 1 FROM payment_reversed d "
      "WHERE d.provider = r.provider AND d.reversal = r.reversal) ORDER BY at_s, reversal",
      {receipt.payment.provider, receipt.payment.reference}, [&waiting](const Row& row) {
        waiting.push_back({.provider = row.text(0), .reversal = row.text(1), .kind = row.text(2),
                           .reference = row.text(3), .currency = row.text(4),
                           .minor = row.integer(5), .actor = row.text(6)});
      });
  if (!read) return read;
  for (const Reversal& reversal : waiting) {
    if (reversal.currency != receipt.payment.currency) {
      const auto found = keep_finding(
          *db_, {now, receipt.grant_id,
                 fmt::format("{} {} is in {}, its payment in {}: it took nothing.", reversal.kind,
                             reversal.reversal, reversal.currency, receipt.payment.currency)});
      if (!found) return found;
      continue;
    }
    const auto done = take_back(*db_, receipt, reversal, now);
    if (!done) return tl::unexpected(done.error());
  }
  return {};
}

Expected<bool> Till::knows_reversal(const std::string& provider,
                                    const std::string& reversal) const {
  bool is_known = false;
  auto read = db_->query("SELECT 1 FROM payment_reversal WHERE provider = ?1 AND reversal = ?2",
                         {provider, reversal}, [&is_known](const Row&) { is_known = true; });
  if (!read) return tl::unexpected(read.error());
  return is_known;
}

Expected<std::int64_t> Till::reversed_minor(const Receipt& receipt) const {
  const auto sum = reversed_of(*db_, receipt.grant_id);
  if (!sum) return tl::unexpected(sum.error());
  return sum->minor;
}

}  // namespace accounting
