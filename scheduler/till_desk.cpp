// SPDX-License-Identifier: GPL-3.0-or-later
//
// Prices, quotes, receipts, and what is handed in, as they are asked of the service.
#include <fmt/format.h>

#include <algorithm>

#include <nlohmann/json.hpp>

#include "accounting/posting.h"
#include "accounting/tariff.h"
#include "accounting/till.h"
#include "scheduler/answers.h"
#include "scheduler/books_desk.h"
#include "scheduler/estimate.h"
#include "scheduler/payment_desk.h"

namespace scheduler {
namespace {

using accounting::Till;
using nlohmann::json;

json answer_price_set(Till& till, const Caller& caller, const json& request, UtcSeconds now) {
  if (!caller.is_admin) return refused({std::string(kAdminsOnly)});
  const accounting::Price price{.from = request.value("from", now),
                                .currency = request.at("currency"),
                                .minor = request.at("minor"),
                                .actor = caller.user};
  const bool is_currency =
      price.currency.size() == 3 &&
      price.currency.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZ") == std::string::npos;
  if (!is_currency || price.minor <= 0) {
    return bad_request(fmt::format("{} {} is no price: a currency has three capital letters, and a "
                                   "price is above zero", price.minor, price.currency));
  }
  if (const auto set = till.set_price(price, now); !set) return refused({set.error().message});
  return good({{"from", price.from}, {"currency", price.currency}, {"minor", price.minor}});
}

json answer_prices(const Till& till, UtcSeconds now) {
  const auto prices = till.prices();
  const auto current = till.price_at(now);
  if (!prices) return failed(prices.error().message);
  if (!current) return failed(current.error().message);
  json out = json::array();
  for (const accounting::Price& price : *prices) {
    out.push_back({{"from", price.from},
                   {"currency", price.currency},
                   {"minor", price.minor},
                   {"actor", price.actor}});
  }
  return good({{"prices", std::move(out)},
               {"now", *current ? json((*current)->minor) : json(nullptr)},
               {"currency", *current ? json((*current)->currency) : json(nullptr)}});
}

// A code that a person brought, with what his fund has now.
json answer_code(Dispatcher& dispatcher, Till& till, const Site& site, const Caller& caller,
                 const json& request, UtcSeconds now) {
  const auto providers = payment_providers(site, Way::kCode);
  if (!providers) return failed(providers.error().message);
  const std::string code = request.at("code");
  json answer = answer_claim(dispatcher, till, *providers, caller, {.body = code, .signature = {}},
                             request.value("fund", ""), now);
  if (!answer.at("ok").get<bool>() || !answer.at("result").contains("fund")) return answer;
  const auto balance = dispatcher.ledger().balance(answer.at("result").at("fund"));
  if (!balance) return failed(balance.error().message);
  answer["result"]["available"] = *balance ? (*balance)->available.milli_gpu_s : 0;
  return answer;
}

json answer_message(Dispatcher& dispatcher, Till& till, const Site& site, const Caller& caller,
                    const json& request, UtcSeconds now) {
  const auto providers = payment_providers(site, Way::kMessage);
  if (!providers) return failed(providers.error().message);
  const std::string body = request.at("body"), signature = request.at("signature");
  return answer_claim(dispatcher, till, *providers, caller,
                      {.body = body, .signature = signature}, "", now);
}

json answer_receipts(const Till& till, const Caller& caller, const json& request) {
  const std::string fund = request.value("fund", "user:" + caller.user);
  if (!fund.empty() && !may_see_fund(caller, fund)) return refused({"fund " + fund + " is not yours to see"});
  if (fund.empty() && !caller.is_admin) return refused({std::string(kAdminsOnly)});
  const auto receipts = till.receipts(fund);
  if (!receipts) return failed(receipts.error().message);
  json out = json::array();
  for (const accounting::Receipt& receipt : *receipts) {
    const auto reversed = till.reversed_minor(receipt);
    if (!reversed) return failed(reversed.error().message);
    out.push_back(receipt_to_json(receipt));
    out.back()["reversed_minor"] = *reversed;
  }
  return good({{"receipts", std::move(out)}});
}

json answer_acts(const Till& till, const Caller& caller, const json& request) {
  if (!caller.is_admin) return refused({std::string(kAdminsOnly)});
  constexpr std::int64_t kActsMax = 1'000;
  const auto acts =
      till.acts(std::clamp(request.value("count", kActsMax), std::int64_t{1}, kActsMax),
                request.value("before", std::int64_t{0}));
  if (!acts) return failed(acts.error().message);
  json out = json::array();
  for (const accounting::AdminAct& act : *acts) {
    out.push_back({{"number", act.number}, {"time", act.when}, {"actor", act.actor},
                   {"act", act.act}, {"detail", act.detail}});
  }
  return good({{"acts", std::move(out)}});
}

json quote_to_json(const accounting::Quote& quote) {
  const auto cost = accounting::cost_minor(quote.hold, quote.price_minor);
  const bool has_price = quote.price_minor > 0 && cost;
  return {{"quote", quote.id},           {"fund", quote.fund},
          {"type", quote.type},          {"gpus", quote.gpus},
          {"weight_milli", quote.weight_milli},
          {"hold", quote.hold.milli_gpu_s},
          {"expected", quote.expected.milli_gpu_s},
          {"made", quote.made},          {"expires", quote.expires},
          {"run", quote.run},            {"currency", quote.currency},
          {"price_minor", quote.price_minor},
          {"cost_minor", has_price ? json(*cost) : json(nullptr)}};
}

json answer_quote(Dispatcher& dispatcher, Till& till, const Site& site, const Caller& caller,
                  const json& request, UtcSeconds now) {
  const std::string id = request.at("id");
  if (const auto known = till.quote(id); !known) {
    return failed(known.error().message);
  } else if (*known) {
    if ((*known)->user != caller.user && !caller.is_admin) return refused({"quote " + id + " is not yours"});
    return good(quote_to_json(**known));
  }
  if (!request.contains("request")) return refused({"quote " + id + " is not known"});
  if (!accounting::is_name(id)) {
    return bad_request(fmt::format("\"{}\" is no id of a quote: 1 to {} letters, digits and {}", id,
                                   accounting::kNameLengthMax, accounting::kNameMarks));
  }
  if (!dispatcher.facts()) return failed("Slurm has not answered yet; try again in a moment");
  const DataFacts data{request.at("train_images"), request.at("val_images")};
  auto asked = dispatcher.with_default_fund(caller, request.at("request").get<TrainingRequest>());
  if (!asked) return failed(asked.error().message);
  const PlanOutcome outcome =
      make_plan(*asked, site, *dispatcher.facts(), data, Progress{}, caller.user, now,
                rates_of(dispatcher.database()));
  if (const auto* refusal = std::get_if<Refusal>(&outcome)) return refused(refusal->reasons);
  const Plan& plan = std::get<Plan>(outcome);
  if (!may_spend(caller, plan.fund)) return refused({"fund " + plan.fund + " is not yours to spend"});
  // Before money is asked for what could not begin.
  const auto never = dispatcher.why_never(caller, plan);
  if (!never) return failed(never.error().message);
  if (*never) return refused((*never)->reasons);
  const auto price = till.price_at(now);
  if (!price) return failed(price.error().message);
  const accounting::Quote quote{.id = id,
                                .user = caller.user,
                                .fund = plan.fund,
                                .type = plan.type,
                                .gpus = plan.gpus,
                                .weight_milli = plan.quote.weight_milli,
                                .hold = plan.quote.hold,
                                .expected = plan.quote.expected,
                                .currency = *price ? (*price)->currency : "",
                                .price_minor = *price ? (*price)->minor : 0,
                                .made = now,
                                .expires = now + site.quote_valid_s,
                                .run = "",
                                .content = quoted_content(*asked, data)};
  if (const auto kept = till.keep_quote(quote); !kept) return failed(kept.error().message);
  json out = quote_to_json(quote);
  out["plan"] = plan;
  const auto balance = dispatcher.ledger().balance(plan.fund);
  if (!balance) return failed(balance.error().message);
  out["available"] = *balance ? json((*balance)->available.milli_gpu_s) : json(nullptr);
  return good(std::move(out));
}

}  // namespace

std::optional<json> answer_till(Dispatcher& dispatcher, const Site& site, const Caller& caller,
                                const json& request, UtcSeconds now) {
  const std::string verb = request.at("verb");
  Till till = dispatcher.till();
  if (verb == "price_set") return answer_price_set(till, caller, request, now);
  if (verb == "prices") return answer_prices(till, now);
  if (verb == "voucher_make") return answer_voucher_make(till, site, caller, request, now);
  if (verb == "voucher_use") return answer_code(dispatcher, till, site, caller, request, now);
  if (verb == "webhook") return answer_message(dispatcher, till, site, caller, request, now);
  if (verb == "receipts") return answer_receipts(till, caller, request);
  if (verb == "acts") return answer_acts(till, caller, request);
  if (verb == "quote") return answer_quote(dispatcher, till, site, caller, request, now);
  return std::nullopt;
}

}  // namespace scheduler
