// SPDX-License-Identifier: GPL-3.0-or-later
#include "accounting/journal.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <map>
#include <vector>

#include "accounting/cost.h"
#include "accounting/journal_format.h"
#include "accounting/tariff.h"
#include "accounting/transfer.h"

namespace accounting {
namespace {

// Money that was paid for a grant, or went back.
struct Payout {
  std::string transfer;  // That it stands with; empty: it took no hours.
  UtcSeconds when = 0;
  std::string provider, fund, currency, reversal;
  std::int64_t minor = 0;  // Below zero: it went back.
};

struct Payouts {
  std::map<std::string, Payout> by_transfer;
  std::vector<Payout> alone;  // Oldest first.
};

// Books that have no till yet have none.
Expected<Payouts> read_payouts(Database& db) {
  Payouts payouts;
  bool has_till = false;
  auto done = db.query("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'receipt'", {},
                       [&has_till](const Row&) { has_till = true; });
  if (!done) return tl::unexpected(done.error());
  if (!has_till) return payouts;
  done = db.query(
      "SELECT grant_id, at_s, provider, fund, currency, minor, '' FROM receipt UNION ALL "
      "SELECT iif(d.amount > 0, 'reversal/' || d.provider || '/' || d.reversal, ''), d.at_s, "
      "d.provider, r.fund, r.currency, -d.minor, d.reversal FROM payment_reversed d "
      "JOIN receipt r ON r.grant_id = d.grant_id WHERE d.minor > 0 ORDER BY 2",
      {}, [&payouts](const Row& row) {
        Payout payout{.transfer = row.text(0), .when = row.integer(1), .provider = row.text(2),
                      .fund = row.text(3), .currency = row.text(4), .reversal = row.text(6),
                      .minor = row.integer(5)};
        if (payout.transfer.empty()) {
          payouts.alone.push_back(std::move(payout));
        } else {
          payouts.by_transfer.emplace(payout.transfer, std::move(payout));
        }
      });
  if (!done) return tl::unexpected(done.error());
  return payouts;
}

std::string description(const Transfer& t) {
  std::string text = t.kind;
  if (t.kind == "charge") {
    text += fmt::format(" {} GPU x {} s x {}", t.gpus, t.seconds, format_weight(t.weight_milli));
  }
  return text;
}

// The journal as it grows: what each account has.
class Fold {
 public:
  Fold(JournalFormat format, const Costs& costs, const Payouts& payouts)
      : writer_(format), costs_(&costs), payouts_(&payouts) {}

  Expected<void> add(const Transfer& t) {
    const UtcSeconds when = t.ts_us / 1'000'000;
    if (auto done = add_alone_until(when); !done) return done;
    last_ = std::max(last_, when);
    JournalEntry entry{.day = format_utc(last_).substr(0, 10),
                       .seq = t.seq,
                       .description = description(t),
                       .tags = {{"id", t.id},
                                {"run", t.run},
                                {"hold", t.hold_id},
                                {"ref", t.ref.value_or("")},
                                {"value", t.value.value_or("")},
                                {"actor", t.actor},
                                {"note", t.note},
                                {"hash", t.hash}},
                       .postings = {}};
    bool fits = move(entry, t.debit, t.credit, std::string(kGpuUnit), t.amount.milli_gpu_s);
    const auto cost =
        costs_->added_by(t.kind, t.kind == "charge" ? t.id : t.ref.value_or(""), t.amount, t.seq);
    if (!cost) return tl::unexpected(cost.error());
    if (*cost && (*cost)->minor != 0) {
      fits = move(entry, "tariff", "cost:" + fund_of(t), (*cost)->currency, (*cost)->minor) && fits;
    }
    if (const auto paid = payouts_->by_transfer.find(t.id); paid != payouts_->by_transfer.end()) {
      fits = move_money(entry, paid->second) && fits;
    }
    if (!fits) return tl::unexpected(overflow(fmt::format("transfer {}", t.seq)));
    writer_.add(entry);
    return {};
  }

  // Reversals that took no hours and so are no transfers.
  Expected<void> add_alone_until(UtcSeconds when) {
    for (; alone_ < payouts_->alone.size() && payouts_->alone[alone_].when <= when; ++alone_) {
      const Payout& payout = payouts_->alone[alone_];
      last_ = std::max(last_, payout.when);
      JournalEntry entry{.day = format_utc(last_).substr(0, 10),
                         .seq = 0,
                         .description = "reversal without hours",
                         .tags = {{"ref", payout.reversal}},
                         .postings = {}};
      if (!move_money(entry, payout)) {
        return tl::unexpected(overflow("reversal " + payout.reversal));
      }
      writer_.add(entry);
    }
    return {};
  }

  [[nodiscard]] std::string finish(const Head& head) { return writer_.finish(head); }

 private:
  static Error overflow(const std::string& what) {
    return Error{what + ": the running balance overflows. The file was changed: verify it."};
  }

  bool move_money(JournalEntry& entry, const Payout& payout) {
    return move(entry, "sales:" + payout.fund, "till:" + payout.provider, payout.currency,
                payout.minor);
  }

  // False where a balance does not fit.
  bool move(JournalEntry& entry, const std::string& debit, const std::string& credit,
            const std::string& unit, std::int64_t amount) {
    std::int64_t outgoing = 0;
    std::int64_t& of_debit = balances_[debit];
    std::int64_t& of_credit = balances_[credit];
    if (__builtin_sub_overflow(std::int64_t{0}, amount, &outgoing) ||
        __builtin_sub_overflow(of_debit, amount, &of_debit) ||
        __builtin_add_overflow(of_credit, amount, &of_credit)) {
      return false;
    }
    entry.postings.push_back({debit, unit, outgoing, of_debit});
    entry.postings.push_back({credit, unit, amount, of_credit});
    return true;
  }

  JournalWriter writer_;
  const Costs* costs_;
  const Payouts* payouts_;
  std::map<std::string, std::int64_t> balances_;
  std::size_t alone_ = 0;
  UtcSeconds last_ = 0;
};

Expected<std::string> write_journal(Database& db, JournalFormat format) {
  const auto costs = Costs::open(db);
  if (!costs) return tl::unexpected(costs.error());
  const auto payouts = read_payouts(db);
  if (!payouts) return tl::unexpected(payouts.error());
  Fold fold(format, *costs, *payouts);
  Head head{.seq = 0, .hash = first_prev_hash()};
  Expected<void> added;
  auto done = each_transfer(db, "", {}, [&](const Transfer& t) {
    head = {t.seq, t.hash};
    if (added) added = fold.add(t);
  });
  if (done) done = added;
  if (done) done = fold.add_alone_until(std::numeric_limits<UtcSeconds>::max());
  if (!done) return tl::unexpected(done.error());
  return fold.finish(head);
}

}  // namespace

std::optional<JournalFormat> parse_journal_format(std::string_view text) {
  if (text == "hledger") return JournalFormat::kHledger;
  if (text == "beancount") return JournalFormat::kBeancount;
  return std::nullopt;
}

Expected<std::string> export_journal(Database& db, JournalFormat format) {
  std::string journal;
  auto done = db.snapshot([&]() -> Expected<void> {
    auto written = write_journal(db, format);
    if (!written) return tl::unexpected(written.error());
    journal = std::move(*written);
    return {};
  });
  if (!done) return tl::unexpected(Error{"journal: " + done.error().message});
  return journal;
}

}  // namespace accounting
