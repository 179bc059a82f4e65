// SPDX-License-Identifier: GPL-3.0-or-later
//
// What a client asks of the dispatcher before and while it submits a run.
#include <algorithm>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "accounting/digest.h"
#include "accounting/till.h"
#include "scheduler/allowance.h"
#include "scheduler/books_desk.h"
#include "scheduler/disk_space.h"
#include "scheduler/dispatcher.h"
#include "scheduler/estimate.h"
#include "scheduler/hold_refusal.h"
#include "scheduler/plain_job.h"
#include "scheduler/tiers.h"

namespace scheduler {
namespace {

Error of(const accounting::Error& error) { return {"the books: " + error.message}; }
accounting::Error to_books(const Error& error) { return {error.message}; }

Refusal refuse(std::string reason) { return Refusal{{std::move(reason)}}; }

bool is_run_id(const std::string& id) {
  return id.size() >= 6 && id.size() <= 32 && std::all_of(id.begin(), id.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
         });
}

// The first parts of ids that the service makes (RUN/0 would be among them), and the jobs that people
// submit themselves.
bool is_taken_by_service(const std::string& run_id) {
  return run_id == "allowance" || run_id == "reversal" || run_id == "voucher" ||
         is_plain_run_id(run_id);
}

std::string hold_id(const std::string& run_id, int segment) {
  return fmt::format("{}/{}", run_id, segment);
}

std::string hours_and_minutes(std::int64_t seconds) {
  if (seconds < 3600) return fmt::format("{} min", seconds / 60);
  if (seconds % 3600 < 60) return fmt::format("{} h", seconds / 3600);
  return fmt::format("{} h {} min", seconds / 3600, seconds % 3600 / 60);
}

// How a transaction is left that refused, so that all of it is rolled back.
constexpr const char* kRefused = "refused";

Amount spendable(const accounting::FundBalance& balance) {
  return {balance.available.milli_gpu_s + balance.credit_limit.milli_gpu_s};
}

// What the fund lacks, with both numbers and what would fit.
Refusal beyond_fund(const Plan& plan, Amount available, std::int64_t margin_s) {
  std::string text = fmt::format(
      "fund {} has {} available; this run needs a hold of {} ({} x {} x {}{} x weight {}).",
      plan.fund, accounting::to_gpu_hours(available), accounting::to_gpu_hours(plan.quote.hold),
      plan.gpus, plan.type,
      hours_and_minutes(plan.job_limit_s > 0 ? plan.quote.expected_s : plan.time_limit_s),
      plan.job_limit_s > 0 ? " in several jobs"
      : plan.is_timed      ? " of training and the reserve of its hours"
                    : fmt::format(" and {} s of margin", margin_s),
      accounting::format_weight(plan.quote.weight_milli));
  const std::int64_t fits_s =
      limit_that_fits_s(available, plan.gpus, plan.quote.weight_milli, margin_s);
  if (fits_s >= 60 && plan.is_timed) {
    // The hold of a timed run is gpus x hours x weight: whole thousandths of an hour, rounded down.
    const std::int64_t affordable_s = available.milli_gpu_s / (plan.gpus * plan.quote.weight_milli);
    const std::int64_t thousandths = affordable_s * 1000 / 3600;
    text += fmt::format(" time={}.{:03} (hours) would fit.", thousandths / 1000, thousandths % 1000);
  } else if (fits_s >= 60) {
    text += fmt::format(" A time limit of {} would fit (--time-limit {}m).",
                        hours_and_minutes(fits_s), fits_s / 60);
  } else {
    text += fmt::format(" Nothing would fit with {} GPUs. Ask for a grant, or use another --fund.",
                        plan.gpus);
  }
  return refuse(text);
}

// A run was measured since the quote was made, and the estimate has grown: the run begins with the
// hours that were quoted.
void fit_into(Plan& plan, Amount quoted, std::int64_t margin_s) {
  const std::int64_t limit_s =
      limit_that_fits_s(quoted, plan.gpus, plan.quote.weight_milli, margin_s);
  const auto hold = accounting::usage_amount(plan.gpus, limit_s + margin_s, plan.quote.weight_milli);
  const std::int64_t expected_s = std::min(plan.quote.expected_s, limit_s);
  const auto expected = accounting::usage_amount(plan.gpus, expected_s, plan.quote.weight_milli);
  if (limit_s < 60 || !hold || !expected) return;
  plan.time_limit_s = limit_s;
  plan.quote.hold = *hold;
  plan.quote.expected_s = expected_s;
  plan.quote.expected = *expected;
}

// Marks the quote as the run's, whose hold takes the place of the one that was kept for it.
accounting::Expected<accounting::HoldStatus> hold_by_quote(accounting::Till till,
                                                           accounting::Ledger& ledger,
                                                           const accounting::Hold& hold,
                                                           UtcSeconds now) {
  const auto is_ours = till.use_quote(hold.quote, hold.run);
  if (!is_ours) return tl::unexpected(is_ours.error());
  if (!*is_ours) {
    return tl::unexpected(accounting::Error{"quote " + hold.quote + " is another run's"});
  }
  const auto kept = quote_holds(ledger, hold.quote);
  if (!kept) return tl::unexpected(kept.error());
  return ledger.hold_from(kept->open, "for run " + hold.run, hold, now);
}

// The price of the quote, or of the day.
accounting::Expected<void> freeze_price(const accounting::Till& till, const std::string& quote_id,
                                        UtcSeconds now, Quote& quote) {
  if (!quote_id.empty()) {
    const auto quoted = till.quote(quote_id);
    if (!quoted) return tl::unexpected(quoted.error());
    if (*quoted && (*quoted)->price_minor > 0) {
      quote.price_minor = (*quoted)->price_minor;
      quote.currency = (*quoted)->currency;
    }
    return {};
  }
  const auto price = till.price_at(now);
  if (!price) return tl::unexpected(price.error());
  if (*price) {
    quote.price_minor = (*price)->minor;
    quote.currency = (*price)->currency;
  }
  return {};
}

}  // namespace

std::string admission_hash(const Admission& admission) {
  nlohmann::json content = {
      {"segment", admission.segment},
      {"run_dir", admission.run_dir},
      {"request", admission.request},
      {"train_images", admission.data.train_images},
      {"val_images", admission.data.val_images},
      {"epochs_done", admission.epochs_done}};
  if (!admission.quote.empty()) content["quote"] = admission.quote;
  return accounting::sha256_hex(content.dump());
}

std::string quoted_content(const TrainingRequest& request, const DataFacts& data) {
  const nlohmann::json content = {{"train", request.args},
                                  {"train_images", data.train_images},
                                  {"val_images", data.val_images}};
  return accounting::sha256_hex(content.dump());
}

Expected<TrainingRequest> Dispatcher::with_default_fund(const Caller& caller,
                                                        TrainingRequest request) const {
  if (!request.resources.fund.empty()) return request;
  const auto fund = ledger_.setting("user:" + caller.user, "default_fund");
  if (!fund) return tl::unexpected(of(fund.error()));
  request.resources.fund = fund->value_or("");
  return request;
}

Expected<std::vector<std::string>> Dispatcher::beyond_tier_of(const Caller& caller,
                                                              Plan& plan, int new_runs,
                                                              const Run* earlier_run) {
  const auto name = ledger_.setting("user:" + caller.user, "tier");
  if (!name) return tl::unexpected(of(name.error()));
  const auto open_runs = store_.open_runs_of(caller.user);
  if (!open_runs) return tl::unexpected(open_runs.error());
  const bool is_resume = earlier_run != nullptr && !earlier_run->segments.empty();
  const std::string admitted_under = is_resume ? earlier_run->last().plan.tier : "";
  const std::int64_t allocated_s = is_resume ? earlier_run->allocated_s() : 0;
  const auto beyond = [&](const Tier& tier) {
    return beyond_tier(tier, plan, allocated_s, *open_runs + new_runs - 1, caller.user, site_->path);
  };
  const auto bind = [&plan](const Tier& tier) {
    plan.tier = tier.name;
    plan.tier_max_s = tier.max_time_s.value_or(0);
  };
  const Tier* tier = find_tier(*site_, name->value_or(""));
  if (tier == nullptr) return std::vector<std::string>{};
  const std::vector<std::string> reasons = beyond(*tier);
  bind(*tier);
  if (reasons.empty() || admitted_under.empty()) return reasons;
  const Tier* earlier = find_tier(*site_, admitted_under);
  if (earlier == nullptr || !beyond(*earlier).empty()) return reasons;
  bind(*earlier);
  return std::vector<std::string>{};
}

Expected<std::optional<Refusal>> Dispatcher::why_never(const Caller& caller, const Plan& plan) const {
  const auto name = ledger_.setting("user:" + caller.user, "tier");
  if (!name) return tl::unexpected(of(name.error()));
  if (const Tier* tier = find_tier(*site_, name->value_or(""))) {
    std::vector<std::string> reasons = beyond_tier(*tier, plan, 0, 0, caller.user, site_->path);
    if (!reasons.empty()) return std::optional{Refusal{std::move(reasons)}};
  }
  return lasting_refusal(ledger_, {plan.fund, caller.user, plan.quote.hold, plan.gpus});
}

Expected<std::variant<Plan, Refusal>> Dispatcher::by_quote(const Caller& caller, Plan plan,
                                                           const Admission& admission,
                                                           UtcSeconds now) {
  using Quoted = std::variant<Plan, Refusal>;
  const auto found = till().quote(admission.quote);
  if (!found) return tl::unexpected(of(found.error()));
  if (!*found || (*found)->user != caller.user) {
    return Quoted{refuse(fmt::format("quote {} is not known", admission.quote))};
  }
  const accounting::Quote& quote = **found;
  if (!quote.run.empty() && quote.run != admission.run_id) {
    return Quoted{refuse(fmt::format("quote {} was used by run {}", quote.id, quote.run))};
  }
  if (admission.segment > 0) {
    return Quoted{refuse(fmt::format("quote {} is for a new run. Resume run {} without it, at "
                                      "today's price",
                                      quote.id, admission.run_id))};
  }
  if (quote.expires <= now) {
    return Quoted{refuse(fmt::format("quote {} expired at {}. Ask for a new one: trainyard quote",
                                      quote.id, accounting::format_utc(quote.expires)))};
  }
  if (plan.type != quote.type || plan.gpus != quote.gpus || plan.fund != quote.fund) {
    return Quoted{refuse(fmt::format("quote {} is for {} x {} paid by {}; this run asks for {} x {} "
                                      "paid by {}",
                                      quote.id, quote.gpus, quote.type, quote.fund, plan.gpus,
                                      plan.type, plan.fund))};
  }
  // Both are products with the weight, so that the division leaves nothing.
  const std::int64_t weight = plan.quote.weight_milli;
  if (weight != quote.weight_milli) {
    if (weight == 0) return Quoted{refuse("this type is free now; a quote is not needed")};
    const auto hold = accounting::usage_amount(1, plan.quote.hold.milli_gpu_s / weight,
                                               quote.weight_milli);
    const auto expected = accounting::usage_amount(1, plan.quote.expected.milli_gpu_s / weight,
                                                   quote.weight_milli);
    if (!hold || !expected) return Quoted{refuse("the quote's weight makes no amount")};
    plan.quote.hold = *hold;
    plan.quote.expected = *expected;
    plan.quote.weight_milli = quote.weight_milli;
  }
  const bool is_same = quote.content == quoted_content(admission.request, admission.data);
  if (is_same && plan.quote.hold > quote.hold && !plan.is_timed &&
      !admission.request.resources.time_limit_s) {
    fit_into(plan, quote.hold, facts_->margin_s(plan.partition));
  }
  if (plan.quote.hold > quote.hold) {
    return Quoted{refuse(fmt::format("quote {} is for at most {}; this run needs a hold of {}. Ask "
                                      "for a new one: trainyard quote",
                                      quote.id, accounting::to_gpu_hours(quote.hold),
                                      accounting::to_gpu_hours(plan.quote.hold)))};
  }
  // A quote of an older version does not know what it is for.
  if (!is_same && !quote.content.empty()) {
    return Quoted{refuse(fmt::format("quote {} is for another training: the arguments or the data "
                                      "set ({} training and {} validation images now) are not those "
                                      "that were quoted. Ask for a new one: trainyard quote",
                                      quote.id, admission.data.train_images,
                                      admission.data.val_images))};
  }
  return Quoted{std::move(plan)};
}

int Dispatcher::free_gpus(const InstanceType& type) const {
  constexpr std::size_t kTyped = std::string_view("gpu:").size();
  const std::string gpu_type = type.gres.size() > kTyped ? type.gres.substr(kTyped) : "";
  int free = type.nodes * type.gpus_per_node;
  for (const JobSnapshot& job : running_) {
    const bool is_of_type = gpu_type.empty() || job.gpu_type.empty()
                                ? job.partition == type.partition
                                : job.gpu_type == gpu_type;
    if (is_of_type) free -= job.gpus;
  }
  return free;
}

Expected<PlanOutcome> Dispatcher::plan_within(const Caller& caller, const TrainingRequest& request,
                                              const Admission& admission, const Run& run,
                                              UtcSeconds now) {
  const Progress progress{admission.epochs_done, run.allocated_s()};
  const auto plan_of = [&](const TrainingRequest& each) {
    return make_plan(each, *site_, *facts_, admission.data, progress, caller.user, now, rates_of(*db_));
  };
  // What was quoted has its number already.
  if (!request.resources.gpus_min || !admission.quote.empty()) return plan_of(request);
  if (const auto given = give_allowance(ledger_, *site_, caller.user, now); !given) {
    return tl::unexpected(given.error());
  }
  PlanOutcome outcome = Refusal{};
  std::optional<Plan> least, payable;
  for (const TrainingRequest& each : by_gpus(request)) {
    outcome = plan_of(each);
    Plan* plan = std::get_if<Plan>(&outcome);
    if (plan == nullptr) continue;
    least = *plan;
    const auto beyond = beyond_tier_of(caller, *plan, 1, &run);
    if (!beyond) return tl::unexpected(beyond.error());
    const auto balance = ledger_.balance(plan->fund);
    if (!balance) return tl::unexpected(of(balance.error()));
    if (!beyond->empty() || !*balance || spendable(**balance) < plan->quote.hold) continue;
    if (plan->gpus <= free_gpus(*site_->find_type(plan->type))) return outcome;
    if (!payable) payable = *plan;
  }
  if (payable) return PlanOutcome{*payable};
  // Why not even the least: the caller's checks say it.
  return least ? PlanOutcome{*least} : outcome;
}

Expected<AdmitOutcome> Dispatcher::admit(const Caller& caller, const Admission& admission,
                                         UtcSeconds now) {
  if (const auto known = learn_facts(now); !known) return tl::unexpected(known.error());
  if (restored_since_) {
    return tl::unexpected(Error{"the books were restored from a copy, and Slurm is not read yet for what "
                                "it does not know. Try again in a moment"});
  }
  if (!is_run_id(admission.run_id)) {
    return AdmitOutcome{refuse("run id \"" + admission.run_id + "\" is not 6 to 32 of a-z and 0-9")};
  }
  auto stored = store_.load(admission.run_id);
  if (!stored) return tl::unexpected(stored.error());
  if (!*stored && is_taken_by_service(admission.run_id)) {
    return AdmitOutcome{refuse("run id \"" + admission.run_id + "\" is one that the service makes "
                               "itself (of jobs sent by sbatch: 16 hexadecimal digits). Take another")};
  }
  const std::string content_hash = admission_hash(admission);
  Run run;
  run.id = admission.run_id;
  if (*stored) {
    run = std::move(**stored);
    if (run.about.uid != caller.uid) {
      return AdmitOutcome{refuse(fmt::format("run {} belongs to {}", run.id, run.about.user))};
    }
  }
  const int known_segments = static_cast<int>(run.segments.size());
  if (admission.segment < known_segments && admission.segment >= 0) {
    const Segment& segment = run.segments[static_cast<std::size_t>(admission.segment)];
    if (segment.content_hash == content_hash) {
      return AdmitOutcome{Admitted{segment.plan, segment.hold_id, true}};
    }
    return AdmitOutcome{refuse(fmt::format(
        "segment {} of run {} exists with other content. Nothing was changed.", admission.segment,
        run.id))};
  }
  if (admission.segment != known_segments) {
    return AdmitOutcome{refuse(fmt::format("run {} has {} segments; segment {} cannot be next",
                                           run.id, known_segments, admission.segment))};
  }
  if (known_segments > 0 && !is_terminal(run.state)) {
    return AdmitOutcome{refuse(fmt::format("run {} is {}; it can be resumed once it has ended",
                                           run.id, to_name(run.state)))};
  }
  if (auto no_room = why_no_room(*site_)) return AdmitOutcome{std::move(*no_room)};
  if (run.state == RunState::kFinished && known_segments > 0) {
    return AdmitOutcome{refuse(fmt::format("run {} is finished; there is nothing to resume", run.id))};
  }

  const auto asked = with_default_fund(caller, admission.request);
  if (!asked) return tl::unexpected(asked.error());
  auto within = plan_within(caller, *asked, admission, run, now);
  if (!within) return tl::unexpected(within.error());
  PlanOutcome planned = std::move(*within);
  if (auto* refusal = std::get_if<Refusal>(&planned)) return AdmitOutcome{*refusal};
  if (!admission.quote.empty()) {
    const auto quoted = by_quote(caller, std::get<Plan>(planned), admission, now);
    if (!quoted) return tl::unexpected(quoted.error());
    if (auto* refusal = std::get_if<Refusal>(&*quoted)) return AdmitOutcome{*refusal};
    planned = std::get<Plan>(*quoted);
  }
  Plan plan = std::get<Plan>(planned);
  if (const auto priced = freeze_price(till(), admission.quote, now, plan.quote); !priced) {
    return tl::unexpected(of(priced.error()));
  }
  if (!may_spend(caller, plan.fund)) {
    return AdmitOutcome{refuse(fmt::format(
        "fund {} is not {}'s to spend: it takes the user himself or a member of the Unix group",
        plan.fund, caller.user))};
  }
  if (const auto given = give_allowance(ledger_, *site_, caller.user, now); !given) {
    return tl::unexpected(given.error());
  }
  const auto beyond = beyond_tier_of(caller, plan, 1, &run);
  if (!beyond) return tl::unexpected(beyond.error());
  if (!beyond->empty()) return AdmitOutcome{Refusal{*beyond}};
  if (site_->limits.max_runs_per_user) {
    const auto open_runs = store_.open_runs_of(caller.user);
    if (!open_runs) return tl::unexpected(open_runs.error());
    if (*open_runs >= *site_->limits.max_runs_per_user) {
      return AdmitOutcome{refuse(fmt::format("{} has {} open runs; the limit is {} ({}:{})",
                                             caller.user, *open_runs,
                                             *site_->limits.max_runs_per_user, site_->path,
                                             site_->limits.line))};
    }
  }

  accounting::HoldStatus status = accounting::HoldStatus::kInvalid;
  const std::string hold = hold_id(run.id, admission.segment);
  const auto done = db_->transact([&]() -> accounting::Expected<void> {
    const accounting::Hold wanted{.id = hold,
                                  .fund = plan.fund,
                                  .amount = plan.quote.hold,
                                  .run = run.id,
                                  .actor = caller.user,
                                  .gpus = plan.gpus,
                                  .expires_after_s = 0,
                                  .quote = admission.quote};
    const auto held = admission.quote.empty() ? ledger_.hold(wanted, now)
                                              : hold_by_quote(till(), ledger_, wanted, now);
    if (!held) return tl::unexpected(held.error());
    status = *held;
    // A refusal leaves nothing behind, the use of a quote neither.
    if (status != accounting::HoldStatus::kHeld) return tl::unexpected(accounting::Error{kRefused});
    if (known_segments == 0) {
      const RunCreated created{caller.uid, caller.user, plan.fund, plan.name, admission.run_dir,
                               admission.request};
      if (const auto added = store_.append(run, {now, created}); !added) {
        return tl::unexpected(to_books(added.error()));
      }
    }
    const SegmentOpened opened{admission.segment, plan, hold, content_hash};
    if (const auto added = store_.append(run, {now, opened}); !added) {
      return tl::unexpected(to_books(added.error()));
    }
    return {};
  });
  if (!done && done.error().message != kRefused) return tl::unexpected(of(done.error()));

  const auto rule = rule_refusal(ledger_, status,
                                 {plan.fund, caller.user, plan.quote.hold, plan.gpus});
  if (!rule) return tl::unexpected(rule.error());
  if (*rule) return AdmitOutcome{**rule};
  switch (status) {
    case accounting::HoldStatus::kHeld:
      open_[run.id] = std::move(run);
      return AdmitOutcome{Admitted{plan, hold, false}};
    case accounting::HoldStatus::kUnknownFund:
      return AdmitOutcome{refuse(fmt::format(
          "fund {} has no GPU-hours yet. An admin gives them: trainyard admin grant {} 10h",
          plan.fund, plan.fund))};
    case accounting::HoldStatus::kExceedsAvailable: {
      const auto balance = ledger_.balance(plan.fund);
      if (!balance) return tl::unexpected(of(balance.error()));
      return AdmitOutcome{beyond_fund(plan, *balance ? spendable(**balance) : Amount{},
                                      facts_->margin_s(plan.partition))};
    }
    default:
      return tl::unexpected(Error{fmt::format("hold {} of {}: the ledger answered status {}", hold,
                                              accounting::to_gpu_hours(plan.quote.hold),
                                              static_cast<int>(status))});
  }
}

Expected<void> Dispatcher::submitted(const Caller& caller, const std::string& run_id, int segment,
                                     JobId job, UtcSeconds now) {
  Run* run = open_run(run_id);
  if (run == nullptr || run->about.uid != caller.uid) return {};
  if (run->last().index != segment || run->last().job) return {};
  return store_.append(*run, {now, JobSubmitted{segment, job}});
}

Expected<void> Dispatcher::submission_failed(const Caller& caller, const std::string& run_id,
                                             int segment, const std::string& message,
                                             UtcSeconds now) {
  Run* run = open_run(run_id);
  if (run == nullptr || run->about.uid != caller.uid) return {};
  if (run->last().index != segment || run->last().job || run->last().submission_failed) return {};
  return store_.append(*run, {now, SubmissionFailed{segment, message}});
}

}  // namespace scheduler
