// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/books_desk.h
//
// What people and programs ask of the books beside runs: the rules of a fund, refunds, reports,
// prices, quotes, payments, vouchers, backups (docs/formats/protocol.md). And what the books do by
// themselves as time goes on.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "scheduler/dispatcher.h"

namespace accounting {
class Till;
}

namespace scheduler {

// Nothing where the verb is none of the books'. Throws std::exception for a malformed request.
[[nodiscard]] std::optional<nlohmann::json> answer_books(Dispatcher& dispatcher, const Site& site,
                                                         const Caller& caller,
                                                         const nlohmann::json& request,
                                                         UtcSeconds now);
// books_desk.cpp and till_desk.cpp; each knows its own verbs.
[[nodiscard]] std::optional<nlohmann::json> answer_funds_desk(Dispatcher& dispatcher,
                                                              const Site& site,
                                                              const Caller& caller,
                                                              const nlohmann::json& request,
                                                              UtcSeconds now);
[[nodiscard]] std::optional<nlohmann::json> answer_till(Dispatcher& dispatcher, const Site& site,
                                                        const Caller& caller,
                                                        const nlohmann::json& request,
                                                        UtcSeconds now);
// voucher_desk.cpp
[[nodiscard]] nlohmann::json answer_voucher_make(accounting::Till& till, const Site& site,
                                                 const Caller& caller,
                                                 const nlohmann::json& request, UtcSeconds now);

// tier_desk.cpp
[[nodiscard]] std::optional<nlohmann::json> answer_tier_desk(Dispatcher& dispatcher,
                                                             const Site& site, const Caller& caller,
                                                             const nlohmann::json& request,
                                                             UtcSeconds now);
[[nodiscard]] nlohmann::json tier_to_json(const Tier& tier);

// people_desk.cpp: estimates, and what tier_desk.cpp answers.
[[nodiscard]] std::optional<nlohmann::json> answer_people(Dispatcher& dispatcher, const Site& site,
                                                          const Caller& caller,
                                                          const nlohmann::json& request,
                                                          UtcSeconds now);

// Dated grants begin and end, the month's allowances of the tiers are given, quotes that were paid
// for and not used give their hours back. The messages of funds that are nearly spent.
[[nodiscard]] Expected<std::vector<std::string>> turn_books(Dispatcher& dispatcher,
                                                            const Site& site, UtcSeconds now);

// The holds that keep the hours of a quote that was paid for: one, or after a refund one more each
// time that it is paid anew.
struct QuoteHolds {
  std::string open;  // Empty: none is kept.
  std::string next;  // The id of one more.
};
[[nodiscard]] accounting::Expected<QuoteHolds> quote_holds(const accounting::Ledger& ledger,
                                                           const std::string& quote);
// Gives the hours that are kept for the quote back to its fund, where there are such.
[[nodiscard]] accounting::Expected<void> release_quote(accounting::Ledger& ledger,
                                                       const std::string& quote,
                                                       const std::string& why, UtcSeconds now);

}  // namespace scheduler
