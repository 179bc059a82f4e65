// SPDX-License-Identifier: GPL-3.0-or-later
//
// Prices, quotes, payments and vouchers, as they are asked of the service.
#include <fmt/format.h>

#include <algorithm>

#include <nlohmann/json.hpp>

#include "accounting/tariff.h"
#include "accounting/till.h"
#include "accounting/voucher.h"
#include "accounting/webhook.h"
#include "scheduler/answers.h"
#include "scheduler/books_desk.h"
#include "scheduler/estimate.h"
#include "scheduler/group_members.h"
#include "scheduler/hold_refusal.h"
#include "scheduler/secret_key.h"

namespace scheduler {
namespace {

using accounting::Amount;
using accounting::Till;
using accounting::to_gpu_hours;
using nlohmann::json;

constexpr std::string_view kAdminsOnly =
    "only an admin of Trainyard does this (admin_users and admin_groups of site.toml)";

json receipt_to_json(const accounting::Receipt& receipt) {
  const accounting::Payment& payment = receipt.payment;
  return {{"receipt", receipt.number},        {"time", receipt.when},
          {"fund", payment.fund},             {"provider", payment.provider},
          {"reference", payment.reference},   {"currency", payment.currency},
          {"minor", payment.minor},           {"price_minor", receipt.price_minor},
          {"amount", receipt.amount.milli_gpu_s}, {"quote", payment.quote},
          {"grant", receipt.grant_id}};
}

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

json answer_voucher_make(Till& till, const Site& site, const Caller& caller, const json& request,
                         UtcSeconds now) {
  if (!caller.is_admin) return refused({std::string(kAdminsOnly)});
  const accounting::Voucher voucher{.id = request.at("id"),
                                    .amount = {request.at("amount").get<std::int64_t>()},
                                    .expires = request.value("expires", std::int64_t{0}),
                                    .fund = request.value("fund", "")};
  if (voucher.expires != 0 && voucher.expires <= now) {
    return bad_request(fmt::format("a voucher that expires at {} is void already; it is {} now",
                                   accounting::format_utc(voucher.expires),
                                   accounting::format_utc(now)));
  }
  const auto is_used = till.is_voucher_used(voucher.id);
  if (!is_used) return failed(is_used.error().message);
  if (*is_used) {
    return refused({fmt::format("voucher {} was made before and is used: a new one of that id would "
                                "be good for nothing. Give another --id, or none", voucher.id)});
  }
  const auto key = secret_key(site.database + ".voucher_key");
  if (!key) return failed(key.error().message);
  const auto code = accounting::write_voucher(voucher, *key);
  if (!code) {
    return bad_request(fmt::format("{} for \"{}\" is no voucher: an id has letters, digits, _ and -, "
                                   "an amount is above zero, a fund is user:NAME or group:NAME",
                                   to_gpu_hours(voucher.amount), voucher.fund));
  }
  const auto kept = till.record({now, caller.user, "voucher",
                                 fmt::format("{}: {} for {}", voucher.id,
                                             to_gpu_hours(voucher.amount),
                                             voucher.fund.empty() ? "anybody" : voucher.fund)});
  if (!kept) return failed(kept.error().message);
  return good({{"code", *code}, {"id", voucher.id}});
}

json answer_voucher_use(Dispatcher& dispatcher, const Site& site, const Caller& caller,
                        const json& request, UtcSeconds now) {
  const auto key = secret_key(site.database + ".voucher_key");
  if (!key) return failed(key.error().message);
  const auto read = accounting::read_voucher(request.at("code").get<std::string>(), *key, now);
  if (const auto* fault = std::get_if<accounting::VoucherFault>(&read)) {
    switch (*fault) {
      case accounting::VoucherFault::kMalformed:
        return refused({"this is no voucher. A voucher begins with TYV1 and is one long word."});
      case accounting::VoucherFault::kForged:
        return refused({"this voucher was not made here, or it was changed. Copy all of it."});
      case accounting::VoucherFault::kExpired:
        return refused({"this voucher has expired. Ask an admin for another."});
    }
  }
  const auto& voucher = std::get<accounting::Voucher>(read);
  std::string fund = request.value("fund", "");
  if (fund.empty()) fund = voucher.fund.empty() ? "user:" + caller.user : voucher.fund;
  if (!voucher.fund.empty() && voucher.fund != fund) {
    return refused({fmt::format("this voucher is for fund {}, not for {}", voucher.fund, fund)});
  }
  if (!may_spend(caller, fund)) return refused({"fund " + fund + " is not yours"});
  const auto status = dispatcher.ledger().grant({.id = "voucher/" + voucher.id,
                                                 .fund = fund,
                                                 .amount = voucher.amount,
                                                 .actor = caller.user,
                                                 .note = "voucher " + voucher.id},
                                                now);
  if (!status) return failed(status.error().message);
  if (*status == accounting::GrantStatus::kExistsWithDifferentContent) {
    return refused({fmt::format("voucher {} was used before", voucher.id)});
  }
  if (*status == accounting::GrantStatus::kInvalid) {
    return refused({fmt::format("the ledger takes no {} for {}", to_gpu_hours(voucher.amount), fund)});
  }
  const auto balance = dispatcher.ledger().balance(fund);
  if (!balance) return failed(balance.error().message);
  return good({{"was_known", *status == accounting::GrantStatus::kAlreadyGranted},
               {"fund", fund},
               {"amount", voucher.amount.milli_gpu_s},
               {"available", *balance ? (*balance)->available.milli_gpu_s : 0}});
}

std::string text_of(accounting::WebhookFault fault) {
  switch (fault) {
    case accounting::WebhookFault::kMalformedHeader:
      return "the signature header is not \"t=SECONDS,v1=HEX\"";
    case accounting::WebhookFault::kOutsideWindow:
      return "the message was signed too long ago, or in the future: a replay, or a clock is off";
    case accounting::WebhookFault::kForged:
      return "the signature does not fit the body";
    case accounting::WebhookFault::kMalformedBody:
      break;
  }
  return "the body is no payment message (docs/formats/payment.md)";
}

using Why = accounting::Expected<std::string>;  // Empty: it is done.

// Why the books do not set the quote's hours aside, in words.
Why why_not_held(Dispatcher& dispatcher, const accounting::Quote& quote,
                 accounting::HoldStatus status) {
  if (status == accounting::HoldStatus::kHeld) return "";
  const auto rule = rule_refusal(dispatcher.ledger(), status,
                                 {quote.fund, quote.user, quote.hold, 0});
  if (!rule) return tl::unexpected(accounting::Error{rule.error().message});
  if (*rule) return (*rule)->reasons.front();
  const auto balance = dispatcher.ledger().balance(quote.fund);
  if (!balance) return tl::unexpected(balance.error());
  return fmt::format("fund {} has {} available, and the quote is for {}", quote.fund,
                     to_gpu_hours(*balance ? (*balance)->available : Amount{}),
                     to_gpu_hours(quote.hold));
}

// Keeps the hours of the quote that was paid for from other runs of the fund, or says why not.
Why keep_for_quote(Dispatcher& dispatcher, const Till& till, const accounting::Receipt& receipt,
                   UtcSeconds now) {
  const std::string& fund = receipt.payment.fund;
  const auto found = till.quote(receipt.payment.quote);
  if (!found) return tl::unexpected(found.error());
  if (!*found) return "there is no quote " + receipt.payment.quote;
  const accounting::Quote& quote = **found;
  if (quote.fund != fund) {
    return fmt::format("quote {} is for fund {}, and {} was paid for", quote.id, quote.fund, fund);
  }
  if (!quote.run.empty()) return fmt::format("quote {} was used by run {}", quote.id, quote.run);
  if (quote.expires <= now) {
    return fmt::format("quote {} expired at {}", quote.id, accounting::format_utc(quote.expires));
  }
  const auto paid = till.paid_for(quote);
  if (!paid) return tl::unexpected(paid.error());
  if (*paid < quote.hold) {
    return fmt::format("quote {} is for {}, and {} of it are paid for", quote.id,
                       to_gpu_hours(quote.hold), to_gpu_hours(*paid));
  }
  const auto holds = quote_holds(dispatcher.ledger(), quote.id);
  if (!holds) return tl::unexpected(holds.error());
  if (!holds->open.empty()) return "";
  const auto held = dispatcher.ledger().hold({.id = holds->next,
                                              .fund = quote.fund,
                                              .amount = quote.hold,
                                              .run = "",
                                              .actor = quote.user,
                                              .gpus = 0,
                                              .expires_after_s = quote.expires - now,
                                              .quote = quote.id},
                                             now);
  if (!held) return tl::unexpected(held.error());
  return why_not_held(dispatcher, quote, *held);
}

// What is to be known of a payment that is true, and of which somebody has to do something.
accounting::Expected<void> find_payment(Dispatcher& dispatcher,
                                        const accounting::PaymentEvent& event,
                                        const std::string& what, UtcSeconds now) {
  return dispatcher.ledger().record_finding(
      {now, "pay/webhook/" + event.payment,
       fmt::format("payment {} of {} for fund {}: {}.", event.payment,
                   accounting::format_money(event.minor, event.currency), event.fund, what)});
}

// What of a payment is wanting in the books or in the machine's user database, as findings. Why the
// quote's hours are not kept.
Why finish_payment(Dispatcher& dispatcher, const Till& till, const accounting::PaymentEvent& event,
                   const accounting::Receipt& receipt, UtcSeconds now) {
  if (!has_owner(event.fund)) {
    const auto found = find_payment(dispatcher, event,
                                    "it was booked, and there is no user or group of that name. Refund "
                                    "it where the name is wrong", now);
    if (!found) return tl::unexpected(found.error());
  }
  if (event.quote.empty()) return "";
  const auto why = keep_for_quote(dispatcher, till, receipt, now);
  if (!why || why->empty()) return why;
  const auto found = find_payment(dispatcher, event,
                                  fmt::format("the hours of quote {} are not kept for its run: {}",
                                              event.quote, *why), now);
  if (!found) return tl::unexpected(found.error());
  return why;
}

// Lets the hours go that are kept for a quote, where what is left of its payments after this
// reversal does not cover them.
accounting::Expected<void> let_go(Dispatcher& dispatcher, const Till& till,
                                  const std::string& provider,
                                  const accounting::PaymentEvent& event, UtcSeconds now) {
  const auto receipt = till.receipt_of_payment(provider, event.payment);
  if (!receipt) return tl::unexpected(receipt.error());
  if (!*receipt || (*receipt)->payment.quote.empty()) return {};
  const auto is_known = till.knows_reversal(provider, event.reversal);
  if (!is_known) return tl::unexpected(is_known.error());
  if (*is_known || (*receipt)->payment.currency != event.currency) return {};
  const auto quote = till.quote((*receipt)->payment.quote);
  if (!quote) return tl::unexpected(quote.error());
  if (!*quote || (*quote)->fund != (*receipt)->payment.fund) return {};
  const auto paid = till.paid_for(**quote);
  if (!paid) return tl::unexpected(paid.error());
  const auto before = till.reversed_minor(**receipt);
  if (!before) return tl::unexpected(before.error());
  const std::int64_t whole = (*receipt)->payment.minor;
  const std::int64_t total = event.minor < whole - *before ? *before + event.minor : whole;
  const std::int64_t goes = accounting::hours_of_part(**receipt, total).milli_gpu_s -
                            accounting::hours_of_part(**receipt, *before).milli_gpu_s;
  if (paid->milli_gpu_s - goes >= (*quote)->hold.milli_gpu_s) return {};
  return release_quote(dispatcher.ledger(), (*quote)->id, "its payment went back", now);
}

// Money that went back: its hours go back, those kept for a quote that was paid by it first.
json answer_reversal(Dispatcher& dispatcher, Till& till, const std::string& provider,
                     const accounting::PaymentEvent& event, UtcSeconds now) {
  const accounting::Reversal reversal{
      .provider = provider,
      .reversal = event.reversal,
      .kind = event.type == "payment.refunded" ? "refund" : "chargeback",
      .reference = event.payment,
      .currency = event.currency,
      .minor = event.minor,
      .actor = provider};
  accounting::ReverseOutcome outcome;
  const auto done = dispatcher.database().transact([&]() -> accounting::Expected<void> {
    const auto free = let_go(dispatcher, till, provider, event, now);
    if (!free) return free;
    auto reversed = till.reverse(reversal, now);
    if (!reversed) return tl::unexpected(reversed.error());
    outcome = *reversed;
    return {};
  });
  if (!done) return failed(done.error().message);
  using accounting::ReverseStatus;
  switch (outcome.status) {
    case ReverseStatus::kReversed:
      return good({{"reversal", event.reversal}, {"was_known", false},
                   {"fund", outcome.receipt.payment.fund}, {"minor", outcome.minor},
                   {"beyond_minor", outcome.beyond_minor},
                   {"amount", outcome.amount.milli_gpu_s}, {"due", outcome.due.milli_gpu_s}});
    case ReverseStatus::kAlreadyReversed:
      return good({{"reversal", event.reversal}, {"was_known", true}});
    case ReverseStatus::kWaits:
      return good({{"reversal", event.reversal}, {"was_known", false}, {"waits_for", event.payment}});
    case ReverseStatus::kExistsWithDifferentContent:
      return refused({fmt::format("{} {} was told before with other content", reversal.kind,
                                  event.reversal)});
    case ReverseStatus::kOtherCurrency:
      return refused({fmt::format("payment {} was in {}, not in {}", event.payment,
                                  outcome.receipt.payment.currency, event.currency)});
    case ReverseStatus::kInvalid:
      break;
  }
  return refused({fmt::format("{} {} is none that the till takes", reversal.kind, event.reversal)});
}

// A payment that is true and cannot be booked: an admin is told by a finding.
json unbooked(Dispatcher& dispatcher, const accounting::PaymentEvent& event, const std::string& why,
              bool is_for_good, UtcSeconds now) {
  const auto found = find_payment(dispatcher, event, "it is not booked: " + why, now);
  if (!found) return failed(found.error().message);
  return is_for_good ? refused({why}) : failed(why);
}

// A message that the payment service did sign, and that says nothing which can be booked.
json unread(Dispatcher& dispatcher, const std::string& body, UtcSeconds now) {
  constexpr std::size_t kShown = 300;
  const std::string shown = json(body.substr(0, kShown)).dump(-1, ' ', true,
                                                              json::error_handler_t::replace);
  const auto found = dispatcher.ledger().record_finding(
      {now, "pay/webhook", "a signed message that is no payment message: " + shown});
  if (!found) return failed(found.error().message);
  return refused({text_of(accounting::WebhookFault::kMalformedBody)});
}

json answer_webhook(Dispatcher& dispatcher, Till& till, const Site& site, const json& request,
                    UtcSeconds now) {
  const auto key = secret_key(site.database + ".webhook_key");
  if (!key) return failed(key.error().message);
  const accounting::SignedWebhook provider(*key, site.webhook_window_s);
  const std::string body = request.at("body");
  const auto read = provider.read(request.at("signature").get<std::string>(), body, now);
  if (const auto* fault = std::get_if<accounting::WebhookFault>(&read)) {
    if (*fault == accounting::WebhookFault::kMalformedBody) return unread(dispatcher, body, now);
    return refused({text_of(*fault)});
  }
  const auto& event = std::get<accounting::PaymentEvent>(read);
  if (event.payment.empty()) return good({{"event", event.id}, {"ignored", event.type}});
  if (!event.reversal.empty()) {
    return answer_reversal(dispatcher, till, provider.name(), event, now);
  }
  accounting::PayOutcome outcome;
  std::string not_kept;
  const auto done = dispatcher.database().transact([&]() -> accounting::Expected<void> {
    auto paid = till.pay({.provider = provider.name(),
                          .reference = event.payment,
                          .fund = event.fund,
                          .currency = event.currency,
                          .minor = event.minor,
                          .quote = event.quote,
                          .actor = provider.name()},
                         now);
    if (!paid) return tl::unexpected(paid.error());
    outcome = *paid;
    if (outcome.status != accounting::PayStatus::kPaid) return {};
    const auto finished = finish_payment(dispatcher, till, event, outcome.receipt, now);
    if (!finished) return tl::unexpected(finished.error());
    not_kept = *finished;
    return {};
  });
  if (!done) return failed(done.error().message);
  switch (outcome.status) {
    case accounting::PayStatus::kPaid:
    case accounting::PayStatus::kAlreadyPaid: {
      json out = receipt_to_json(outcome.receipt);
      out["was_known"] = outcome.status == accounting::PayStatus::kAlreadyPaid;
      if (!event.quote.empty() && outcome.status == accounting::PayStatus::kPaid) {
        out["kept"] = not_kept.empty();
        out["not_kept"] = not_kept;
      }
      return good(std::move(out));
    }
    case accounting::PayStatus::kExistsWithDifferentContent:
      return unbooked(dispatcher, event,
                      fmt::format("payment {} was told before, of {} for {}", event.payment,
                                  accounting::format_money(outcome.receipt.payment.minor,
                                                           outcome.receipt.payment.currency),
                                  outcome.receipt.payment.fund), true, now);
    case accounting::PayStatus::kNoPrice:
      return unbooked(dispatcher, event, "hours have no price yet: trainyard admin price 0.74 EUR",
                      false, now);
    case accounting::PayStatus::kOtherCurrency:
      return unbooked(dispatcher, event, fmt::format("hours are not sold in {}", event.currency),
                      true, now);
    case accounting::PayStatus::kInvalid:
      break;
  }
  return unbooked(dispatcher, event,
                  fmt::format("{} buy nothing for {}",
                              accounting::format_money(event.minor, event.currency), event.fund),
                  true, now);
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
  auto till = Till::open(dispatcher.database(), dispatcher.ledger());
  if (!till) return failed(till.error().message);
  if (verb == "price_set") return answer_price_set(*till, caller, request, now);
  if (verb == "prices") return answer_prices(*till, now);
  if (verb == "voucher_make") return answer_voucher_make(*till, site, caller, request, now);
  if (verb == "voucher_use") return answer_voucher_use(dispatcher, site, caller, request, now);
  if (verb == "webhook") return answer_webhook(dispatcher, *till, site, request, now);
  if (verb == "receipts") return answer_receipts(*till, caller, request);
  if (verb == "acts") return answer_acts(*till, caller, request);
  if (verb == "quote") return answer_quote(dispatcher, *till, site, caller, request, now);
  return std::nullopt;
}

}  // namespace scheduler
