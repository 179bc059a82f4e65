// SPDX-License-Identifier: GPL-3.0-or-later
//
// What people ask beside runs and books: how long runs take.
#include <nlohmann/json.hpp>

#include "scheduler/answers.h"
#include "scheduler/books_desk.h"
#include "scheduler/estimate.h"

namespace scheduler {
namespace {

using nlohmann::json;

// No name of a user stands in it: everybody may see how fast the site trains.
json answer_estimates(Dispatcher& dispatcher, const json& request) {
  const auto rates = accounting::measured_rates(dispatcher.database());
  if (!rates) return failed(rates.error().message);
  const std::string format = request.value("format", "json");
  if (format == "csv") return good({{"body", accounting::rates_csv(*rates)}});
  if (format == "text") return good({{"body", accounting::rates_text(*rates)}});
  json rows;
  rates_to_json(rows, *rates);
  return good({{"rates", std::move(rows)}});
}

}  // namespace

std::optional<json> answer_people(Dispatcher& dispatcher, const Site& site, const Caller& caller,
                                  const json& request, UtcSeconds now) {
  const std::string verb = request.at("verb");
  if (verb == "estimates") return answer_estimates(dispatcher, request);
  return answer_tier_desk(dispatcher, site, caller, request, now);
}

}  // namespace scheduler
