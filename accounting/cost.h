// SPDX-License-Identifier: GPL-3.0-or-later
// accounting/cost.h
//
// Private to the module: what a charge costs in money, by the price that was its own.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "accounting/database.h"
#include "accounting/transfer.h"

namespace accounting {

struct Cost {
  std::int64_t minor = 0;
  std::string currency;
};

// How the hours of a charge were held.
struct Holding {
  UtcSeconds held_at = 0;
  std::string quote;  // Empty: by none.
};

// The prices as they stood when it was made. Reads, writes nothing; an Error is the database's.
class Costs {
 public:
  // Books that have no till yet have no prices. `db` outlives the object.
  [[nodiscard]] static Expected<Costs> open(Database& db);

  [[nodiscard]] bool has_prices() const { return !prices_.empty(); }

  // Of hours that were held so: by the price of the quote, else by the one that was known and in
  // force then, rounded up to a whole minor unit. Nothing where there was none, or it does not fit.
  [[nodiscard]] Expected<std::optional<Cost>> of(Amount amount, const Holding& holding) const;
  // What a charge, a debt or a refund adds to the cost of what is left of its charge, so that they
  // add up to it; below zero of a refund. `charge` is the id of that charge, `seq` that of the
  // transfer. Nothing for other kinds.
  [[nodiscard]] Expected<std::optional<Cost>> added_by(std::string_view kind,
                                                       const std::string& charge, Amount amount,
                                                       std::int64_t seq) const;
  // What hours cost at the price in force at an instant; below zero of less than nothing.
  [[nodiscard]] std::optional<Cost> at(Amount amount, UtcSeconds when) const;

 private:
  struct KnownPrice {
    UtcSeconds set_at = 0, from = 0;
    std::string currency;
    std::int64_t minor = 0;
  };
  explicit Costs(Database& db) : db_(&db) {}
  [[nodiscard]] Expected<KnownPrice> price_of(const Holding& holding) const;
  [[nodiscard]] KnownPrice known_at(UtcSeconds when) const;
  Database* db_;
  std::vector<KnownPrice> prices_;  // By `from`, the later set behind.
};

}  // namespace accounting
