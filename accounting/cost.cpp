// SPDX-License-Identifier: GPL-3.0-or-later
#include "accounting/cost.h"

#include "accounting/till.h"

namespace accounting {

Expected<Costs> Costs::open(Database& db) {
  Costs costs(db);
  bool has_till = false;
  auto done = db.query("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'price'", {},
                       [&has_till](const Row&) { has_till = true; });
  if (done && has_till) {
    done = db.query("SELECT at_s, from_s, currency, minor FROM price ORDER BY from_s, seq", {},
                    [&costs](const Row& row) {
                      costs.prices_.push_back(
                          {row.integer(0), row.integer(1), row.text(2), row.integer(3)});
                    });
  }
  if (!done) return tl::unexpected(done.error());
  return costs;
}

// A price that was set later changes no bill.
Costs::KnownPrice Costs::known_at(UtcSeconds when) const {
  KnownPrice price;
  for (const KnownPrice& each : prices_) {
    if (each.from <= when && each.set_at <= when) price = each;
  }
  return price;
}

Expected<Costs::KnownPrice> Costs::price_of(const Holding& holding) const {
  if (holding.quote.empty()) return known_at(holding.held_at);
  KnownPrice price;
  auto done = db_->query("SELECT currency, price_minor FROM quote WHERE id = ?1", {holding.quote},
                         [&price](const Row& row) {
                           price.currency = row.text(0);
                           price.minor = row.integer(1);
                         });
  if (!done) return tl::unexpected(done.error());
  return price;
}

Expected<std::optional<Cost>> Costs::of(Amount amount, const Holding& holding) const {
  if (!has_prices()) return std::nullopt;
  const auto price = price_of(holding);
  if (!price) return tl::unexpected(price.error());
  if (price->minor <= 0) return std::nullopt;
  const auto minor = cost_minor(amount, price->minor);
  if (!minor) return std::nullopt;
  return Cost{*minor, price->currency};
}

Expected<std::optional<Cost>> Costs::added_by(std::string_view kind, const std::string& charge,
                                              Amount amount, std::int64_t seq) const {
  const bool is_refund = kind == "refund";
  if (!has_prices() || (kind != "charge" && kind != "debt" && !is_refund)) return std::nullopt;
  Holding holding;
  Amount before;
  auto done = db_->query(
      "SELECT h.ts_us / 1000000, coalesce(h.ref, ''), iif(c.seq < ?2, c.amount, 0) + "
      "(SELECT coalesce(sum(iif(u.kind = 'refund', -u.amount, u.amount)), 0) FROM transfer u "
      "WHERE u.ref = ?1 AND u.kind IN ('debt', 'refund') AND u.seq < ?2) "
      "FROM transfer c JOIN transfer h ON h.id = c.hold_id WHERE c.id = ?1",
      {charge, seq}, [&](const Row& row) {
        holding = {row.integer(0), row.text(1)};
        before = {row.integer(2)};
      });
  if (!done) return tl::unexpected(done.error());
  const auto after = is_refund ? checked_sub(before, amount) : checked_add(before, amount);
  if (!after) return std::nullopt;
  const auto cost_before = of(before, holding);
  if (!cost_before) return tl::unexpected(cost_before.error());
  const auto cost_after = of(*after, holding);
  if (!cost_after) return tl::unexpected(cost_after.error());
  if (!*cost_before || !*cost_after) return std::nullopt;
  return Cost{(*cost_after)->minor - (*cost_before)->minor, (*cost_after)->currency};
}

std::optional<Cost> Costs::at(Amount amount, UtcSeconds when) const {
  const KnownPrice price = known_at(when);
  const auto size = amount < Amount{0} ? checked_sub(Amount{0}, amount) : amount;
  if (price.minor <= 0 || !size) return std::nullopt;
  const auto minor = cost_minor(*size, price.minor);
  if (!minor) return std::nullopt;
  return Cost{amount < Amount{0} ? -*minor : *minor, price.currency};
}

}  // namespace accounting
