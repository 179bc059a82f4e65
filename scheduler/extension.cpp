// SPDX-License-Identifier: GPL-3.0-or-later
//
// More hours for a run: while it runs, and for its next attempt.
#include <algorithm>
#include <limits>

#include <fmt/format.h>

#include "accounting/till.h"
#include "scheduler/dispatcher.h"
#include "scheduler/hold_refusal.h"
#include "scheduler/plain_job.h"

namespace scheduler {
namespace {

// The books are asked again without a change of theirs after this: weights and dated grants.
constexpr std::int64_t kAskAgainS = 60;

Error of(const accounting::Error& error) { return {"the books: " + error.message}; }
accounting::Error to_books(const Error& error) { return {error.message}; }

// The quote by which a hold was made, and what the hold may still get under it.
struct QuoteRoom {
  std::string id;
  Amount most, left;
};

// Nothing: the hold was made by no quote.
accounting::Expected<std::optional<QuoteRoom>> quote_room(accounting::Database& db,
                                                          accounting::Ledger& ledger,
                                                          const std::string& hold_id) {
  const auto held = ledger.hold_state(hold_id);
  if (!held) return tl::unexpected(held.error());
  if (!*held || (*held)->hold.quote.empty()) return std::nullopt;
  const auto quote = accounting::Till(db, ledger).quote((*held)->hold.quote);
  if (!quote) return tl::unexpected(quote.error());
  if (!*quote) return std::nullopt;
  const std::int64_t used = (*held)->hold.amount.milli_gpu_s + (*held)->extended.milli_gpu_s;
  return QuoteRoom{(*quote)->id, (*quote)->hold,
                   {std::max<std::int64_t>((*quote)->hold.milli_gpu_s - used, 0)}};
}

// What the fund can pay; of a run with a quote no more than that.
Amount payable_under(Amount of_fund, const std::optional<QuoteRoom>& room) {
  return room ? std::min(of_fund, room->left) : of_fund;
}

// How long the plan's GPUs are paid.
std::int64_t affordable_s(Amount payable, const Plan& plan) {
  const auto second = accounting::usage_amount(plan.gpus, 1, plan.quote.weight_milli);
  if (!second || second->milli_gpu_s == 0) return std::numeric_limits<std::int64_t>::max();
  return payable.milli_gpu_s / second->milli_gpu_s;
}

// A hold that was refused for the same reason. An Error: it was no rule of the fund's, but a fault.
Expected<accounting::HoldStatus> as_hold_status(accounting::ExtendStatus status,
                                                const std::string& hold_id) {
  switch (status) {
    case accounting::ExtendStatus::kExceedsAvailable:
      return accounting::HoldStatus::kExceedsAvailable;
    case accounting::ExtendStatus::kFundClosed: return accounting::HoldStatus::kFundClosed;
    case accounting::ExtendStatus::kInDebt: return accounting::HoldStatus::kInDebt;
    case accounting::ExtendStatus::kExceedsMemberCap: return accounting::HoldStatus::kExceedsMemberCap;
    default:
      return tl::unexpected(Error{fmt::format("more for hold {}: the ledger answered status {}",
                                              hold_id, static_cast<int>(status))});
  }
}

std::string quote_is_used_up(const Run& run, const QuoteRoom& room, std::int64_t stretch_s) {
  const Plan& plan = run.last().plan;
  const auto needed = accounting::usage_amount(plan.gpus, stretch_s, plan.quote.weight_milli);
  return fmt::format(
      "budget: quote {} is used up: it is for at most {}, and the next {} min of this run need {} "
      "more. It is saved before its limit. To go on at today's price: {}trainyard resume {}",
      room.id, accounting::to_gpu_hours(room.most), stretch_s / 60,
      accounting::to_gpu_hours(needed.value_or(Amount{})),
      plan.auto_resume ? fmt::format("trainyard stop {0}, then ", run.id) : "", run.id);
}

// Why the next `stretch_s` are not paid: the balance, or a rule of the fund, with its numbers.
Expected<std::string> budget_reason(const accounting::Ledger& ledger, const Run& run,
                                    std::int64_t stretch_s, accounting::HoldStatus bound) {
  const Plan& plan = run.last().plan;
  const Amount needed =
      accounting::usage_amount(plan.gpus, stretch_s, plan.quote.weight_milli).value_or(Amount{});
  const auto rule = rule_refusal(ledger, bound, {plan.fund, run.about.user, needed, plan.gpus});
  if (!rule) return tl::unexpected(rule.error());
  std::string why;
  if (*rule) {
    why = (*rule)->reasons.front();
  } else {
    const auto balance = ledger.balance(plan.fund);
    if (!balance) return tl::unexpected(of(balance.error()));
    why = fmt::format("fund {} has {} available; the next {} min of this run need {}.", plan.fund,
                      accounting::to_gpu_hours(*balance ? (*balance)->available : Amount{}),
                      stretch_s / 60, accounting::to_gpu_hours(needed));
  }
  return fmt::format("budget: {} It is saved before its limit. If that changes while it runs or waits "
                     "it goes on by itself; later: trainyard resume {}", why, run.id);
}

// Why the run's owner may not spend its fund any more, in words; nothing: he may, as far as is known.
std::string spender_refusal(const Run& run, const Expected<Caller>& owner) {
  const std::string& fund = run.last().plan.fund;
  if (!owner || may_spend(*owner, fund)) return "";
  return fmt::format("budget: fund {} is not {}'s to spend any more: he is no member of the Unix group. "
                     "It is saved before its limit.", fund, run.about.user);
}

}  // namespace

Expected<void> Dispatcher::extend_hold(Run& run, const ExtendHold& action, UtcSeconds now) {
  const std::string what = fmt::format("extend {} {}", action.limit_s, books_head_);
  const auto asked = refused_.find(action.job);
  const bool is_unchanged = asked != refused_.end() && asked->second.what == what &&
                            now - asked->second.when < kAskAgainS;
  if (is_unchanged) return {};
  const Plan plan = run.last().plan;
  const int segment = run.last().index;
  const auto payable = payable_by(ledger_, plan.fund, run.about.user);
  if (!payable) return tl::unexpected(payable.error());
  const auto room = quote_room(*db_, ledger_, run.last().hold_id);
  if (!room) return tl::unexpected(of(room.error()));
  const bool is_quotes = *room && (*room)->left <= payable->amount;
  // Who has left the group since the run was admitted draws no new hours from its fund.
  const std::string no_spender = spender_refusal(run, look_up_(run.about.uid, *site_));
  const auto refuse_it = [&](accounting::HoldStatus bound) -> Expected<void> {
    refused_[action.job] = {what, now, {}};
    const Expected<std::string> why =
        !no_spender.empty() ? no_spender
        : is_quotes         ? quote_is_used_up(run, **room, action.stretch_s)
                            : budget_reason(ledger_, run, action.stretch_s, bound);
    if (!why) return tl::unexpected(why.error());
    if (run.last().budget_ended == *why) return {};
    return store_.append(run, {now, BudgetEnded{segment, *why}});
  };
  const std::int64_t stretch_s =
      std::min(action.stretch_s, affordable_s(payable_under(payable->amount, *room), plan) / 60 * 60);
  if (stretch_s < 60 || !no_spender.empty()) return refuse_it(payable->bound);
  const auto amount = accounting::usage_amount(plan.gpus, stretch_s, plan.quote.weight_milli);
  if (!amount) return tl::unexpected(Error{"a stretch is more than the books can hold"});
  auto status = accounting::ExtendStatus::kInvalid;
  const auto done = transact_with(run.id, [&]() -> accounting::Expected<void> {
    // The limit tells one extension of a hold from the next.
    const std::int64_t limit_s = action.limit_s + stretch_s;
    const auto extended = ledger_.extend(
        {fmt::format("{}+{}", run.last().hold_id, run.last().extended.milli_gpu_s),
         run.last().hold_id, *amount, run.about.user, fmt::format("limit {} s", limit_s)}, now);
    if (!extended) return tl::unexpected(extended.error());
    status = *extended;
    if (status != accounting::ExtendStatus::kExtended) return {};
    const auto added = store_.append(run, {now, HoldExtended{segment, *amount, limit_s}});
    if (!added) return tl::unexpected(to_books(added.error()));
    return {};
  });
  if (!done) return tl::unexpected(of(done.error()));
  if (status != accounting::ExtendStatus::kExtended) {
    const auto rule = as_hold_status(status, run.last().hold_id);
    return rule ? refuse_it(*rule) : Expected<void>(tl::unexpected(rule.error()));
  }
  refused_.erase(action.job);
  return {};
}

Expected<void> Dispatcher::fund_attempt(Run& run, const FundAttempt& action, UtcSeconds now) {
  const std::string what = fmt::format("{} {}", action.limit_s, books_head_);
  const auto asked = refused_.find(action.job);
  const bool is_unchanged = asked != refused_.end() && asked->second.what == what &&
                            now - asked->second.when < kAskAgainS;
  if (is_unchanged) return {};
  const Plan plan = run.last().plan;
  const int segment = run.last().index;
  const std::int64_t margin_s = patience().margin_s(plan);
  const auto payable = payable_by(ledger_, plan.fund, run.about.user);
  if (!payable) return tl::unexpected(payable.error());
  const auto room = quote_room(*db_, ledger_, run.last().hold_id);
  if (!room) return tl::unexpected(of(room.error()));
  const bool is_quotes = *room && (*room)->left <= payable->amount;
  const std::string no_spender = spender_refusal(run, look_up_(run.about.uid, *site_));
  const Amount left = run.last().remaining();
  const std::int64_t payable_s =
      limit_that_fits_s({left.milli_gpu_s + payable_under(payable->amount, *room).milli_gpu_s},
                        plan.gpus, plan.quote.weight_milli, margin_s);
  const std::int64_t limit_s = std::min(action.limit_s, payable_s);
  const auto refuse_it = [&](accounting::HoldStatus bound) -> Expected<void> {
    refused_[action.job] = {what, now, {}};
    const Expected<std::string> why =
        !no_spender.empty() ? no_spender
        : is_quotes         ? quote_is_used_up(run, **room, action.least_s)
                            : budget_reason(ledger_, run, action.least_s, bound);
    if (!why) return tl::unexpected(why.error());
    if (!run.last().budget_ended) {
      const auto added = store_.append(run, {now, BudgetEnded{segment, *why}});
      if (!added) return added;
    }
    const auto job = snapshots_.find(run.id);
    if (job == snapshots_.end() || job->second.is_held_by_admin) return {};
    return cluster_->hold(action.job, with_reason(job->second.comment, "budget"));
  };
  if (limit_s < action.least_s || !no_spender.empty()) return refuse_it(payable->bound);
  if (limit_s < action.limit_s) {
    if (const auto set = cluster_->set_time_limit(action.job, limit_s); !set) return set;
    const auto cut = store_.append(run, {now, LimitCut{segment, action.limit_s, limit_s}});
    if (!cut) return cut;
  }
  const auto needed = accounting::usage_amount(plan.gpus, limit_s + margin_s, plan.quote.weight_milli);
  if (!needed) return tl::unexpected(Error{"an attempt is more than the books can hold"});
  const Amount amount{needed->milli_gpu_s - left.milli_gpu_s};
  if (amount.milli_gpu_s <= 0) return {};
  auto status = accounting::ExtendStatus::kInvalid;
  const auto done = transact_with(run.id, [&]() -> accounting::Expected<void> {
    const auto extended = ledger_.extend(
        {fmt::format("{}+{}", run.last().hold_id, run.last().extended.milli_gpu_s),
         run.last().hold_id, amount, run.about.user, fmt::format("a further attempt, {} s", limit_s)},
        now);
    if (!extended) return tl::unexpected(extended.error());
    status = *extended;
    if (status != accounting::ExtendStatus::kExtended) return {};
    const auto added = store_.append(run, {now, HoldExtended{segment, amount, limit_s}});
    if (!added) return tl::unexpected(to_books(added.error()));
    return {};
  });
  if (!done) return tl::unexpected(of(done.error()));
  if (status != accounting::ExtendStatus::kExtended) {
    const auto rule = as_hold_status(status, run.last().hold_id);
    return rule ? refuse_it(*rule) : Expected<void>(tl::unexpected(rule.error()));
  }
  refused_.erase(action.job);
  return {};
}

}  // namespace scheduler
