// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/payment_desk.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "accounting/tariff.h"
#include "scheduler/answers.h"
#include "scheduler/books_desk.h"
#include "scheduler/group_members.h"
#include "scheduler/hold_refusal.h"

namespace scheduler {
namespace {

using accounting::Amount;
using accounting::Till;
using accounting::to_gpu_hours;
using nlohmann::json;

using Why = accounting::Expected<std::string>;  // Empty: it is done.

// Why the books do not set the quote's hours aside, in words.
Why why_not_kept(Dispatcher& dispatcher, const accounting::Quote& quote,
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
  return why_not_kept(dispatcher, quote, *held);
}

// What is to be known of a payment that is true, and of which somebody has to do something.
accounting::Expected<void> find_payment(Dispatcher& dispatcher, const std::string& provider,
                                        const accounting::PaymentEvent& event,
                                        const std::string& what, UtcSeconds now) {
  return dispatcher.ledger().record_finding(
      {now, "pay/" + provider + "/" + event.payment,
       fmt::format("payment {} of {} for fund {}: {}.", event.payment,
                   accounting::format_money(event.minor, event.currency), event.fund, what)});
}

// What of a payment is wanting in the books or in the machine's user database, as findings. Why the
// quote's hours are not kept.
Why finish_payment(Dispatcher& dispatcher, const Till& till, const accounting::PaymentEvent& event,
                   const accounting::Receipt& receipt, UtcSeconds now) {
  const std::string& provider = receipt.payment.provider;
  if (!has_owner(event.fund)) {
    const auto found = find_payment(dispatcher, provider, event,
                                    "it was booked, and there is no user or group of that name. Refund "
                                    "it where the name is wrong", now);
    if (!found) return tl::unexpected(found.error());
  }
  if (event.quote.empty()) return "";
  const auto why = keep_for_quote(dispatcher, till, receipt, now);
  if (!why || why->empty()) return why;
  const auto found = find_payment(dispatcher, provider, event,
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
json unbooked(Dispatcher& dispatcher, const std::string& provider,
              const accounting::PaymentEvent& event, const std::string& why, bool is_for_good,
              UtcSeconds now) {
  const auto found = find_payment(dispatcher, provider, event, "it is not booked: " + why, now);
  if (!found) return failed(found.error().message);
  return is_for_good ? refused({why}) : failed(why);
}

// Money that was paid: its hours come into the fund.
json answer_payment(Dispatcher& dispatcher, Till& till, const std::string& provider,
                    const accounting::PaymentEvent& event, UtcSeconds now) {
  accounting::PayOutcome outcome;
  std::string not_kept;
  const auto done = dispatcher.database().transact([&]() -> accounting::Expected<void> {
    auto paid = till.pay({.provider = provider,
                          .reference = event.payment,
                          .fund = event.fund,
                          .currency = event.currency,
                          .minor = event.minor,
                          .quote = event.quote,
                          .actor = provider},
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
      return unbooked(dispatcher, provider, event,
                      fmt::format("payment {} was told before, of {} for {}", event.payment,
                                  accounting::format_money(outcome.receipt.payment.minor,
                                                           outcome.receipt.payment.currency),
                                  outcome.receipt.payment.fund), true, now);
    case accounting::PayStatus::kNoPrice:
      return unbooked(dispatcher, provider, event,
                      "hours have no price yet: trainyard admin price 0.74 EUR", false, now);
    case accounting::PayStatus::kOtherCurrency:
      return unbooked(dispatcher, provider, event,
                      fmt::format("hours are not sold in {}", event.currency), true, now);
    case accounting::PayStatus::kInvalid:
      break;
  }
  return unbooked(dispatcher, provider, event,
                  fmt::format("{} buy nothing for {}",
                              accounting::format_money(event.minor, event.currency), event.fund),
                  true, now);
}

// Hours that the provider is good for: they are a grant of the fund, once.
json answer_given(Dispatcher& dispatcher, const Caller& caller, const std::string& provider,
                  const accounting::GivenHours& given, std::string fund, UtcSeconds now) {
  if (fund.empty()) fund = given.fund.empty() ? "user:" + caller.user : given.fund;
  if (!given.fund.empty() && given.fund != fund) {
    return refused({fmt::format("this {} is for fund {}, not for {}", provider, given.fund, fund)});
  }
  if (!may_spend(caller, fund)) return refused({"fund " + fund + " is not yours"});
  const auto status = dispatcher.ledger().grant({.id = provider + "/" + given.reference,
                                                 .fund = fund,
                                                 .amount = given.amount,
                                                 .actor = caller.user,
                                                 .note = provider + " " + given.reference},
                                                now);
  if (!status) return failed(status.error().message);
  if (*status == accounting::GrantStatus::kExistsWithDifferentContent) {
    return refused({fmt::format("{} {} was used before", provider, given.reference)});
  }
  if (*status == accounting::GrantStatus::kInvalid) {
    return refused(
        {fmt::format("the ledger takes no {} for {}", to_gpu_hours(given.amount), fund)});
  }
  return good({{"was_known", *status == accounting::GrantStatus::kAlreadyGranted},
               {"fund", fund},
               {"amount", given.amount.milli_gpu_s}});
}

// What a provider did sign, and what says nothing that can be booked.
json unread(Dispatcher& dispatcher, const std::string& provider, const accounting::Claim& claim,
            const std::string& why, UtcSeconds now) {
  constexpr std::size_t kShown = 300;
  const std::string shown = json(claim.body.substr(0, kShown)).dump(-1, ' ', true,
                                                                    json::error_handler_t::replace);
  const auto found = dispatcher.ledger().record_finding(
      {now, "pay/" + provider, "a signed message that is no payment message: " + shown});
  if (!found) return failed(found.error().message);
  return refused({why});
}

}  // namespace

json receipt_to_json(const accounting::Receipt& receipt) {
  const accounting::Payment& payment = receipt.payment;
  return {{"receipt", receipt.number},        {"time", receipt.when},
          {"fund", payment.fund},             {"provider", payment.provider},
          {"reference", payment.reference},   {"currency", payment.currency},
          {"minor", payment.minor},           {"price_minor", receipt.price_minor},
          {"amount", receipt.amount.milli_gpu_s}, {"quote", payment.quote},
          {"grant", receipt.grant_id}};
}

json answer_claim(Dispatcher& dispatcher, Till& till, const Providers& providers,
                  const Caller& caller, const accounting::Claim& claim, const std::string& fund,
                  UtcSeconds now) {
  using Why = accounting::NotTaken::Why;
  std::string not_mine;
  for (const auto& provider : providers) {
    const std::string name = provider->name();
    const accounting::Told told = provider->read(claim, now);
    if (const auto* fault = std::get_if<accounting::NotTaken>(&told)) {
      if (fault->why == Why::kUnreadable) return unread(dispatcher, name, claim, fault->text, now);
      if (fault->why == Why::kRefused) return refused({fault->text});
      if (not_mine.empty()) not_mine = fault->text;
      continue;
    }
    if (const auto* given = std::get_if<accounting::GivenHours>(&told)) {
      return answer_given(dispatcher, caller, name, *given, fund, now);
    }
    const auto& event = std::get<accounting::PaymentEvent>(told);
    if (event.payment.empty()) return good({{"event", event.id}, {"ignored", event.type}});
    if (event.reversal.empty()) return answer_payment(dispatcher, till, name, event, now);
    return answer_reversal(dispatcher, till, name, event, now);
  }
  return refused({not_mine});
}

}  // namespace scheduler
