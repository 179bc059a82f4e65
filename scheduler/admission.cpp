// SPDX-License-Identifier: GPL-3.0-or-later
//
// What a client asks of the dispatcher before and while it submits a run.
#include <algorithm>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "accounting/digest.h"
#include "scheduler/dispatcher.h"

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

std::string hold_id(const std::string& run_id, int segment) {
  return fmt::format("{}/{}", run_id, segment);
}

std::string hours_and_minutes(std::int64_t seconds) {
  if (seconds < 3600) return fmt::format("{} min", seconds / 60);
  if (seconds % 3600 < 60) return fmt::format("{} h", seconds / 3600);
  return fmt::format("{} h {} min", seconds / 3600, seconds % 3600 / 60);
}

// What the fund lacks, with both numbers and what would fit.
Refusal beyond_fund(const Plan& plan, Amount available, std::int64_t margin_s) {
  std::string text = fmt::format(
      "fund {} has {} available; this run needs a hold of {} ({} x {} x {}{} x weight {}).",
      plan.fund, accounting::to_gpu_hours(available), accounting::to_gpu_hours(plan.quote.hold),
      plan.gpus, plan.type, hours_and_minutes(plan.time_limit_s),
      plan.is_timed ? " of training and the reserve of its hours"
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

}  // namespace

std::string admission_hash(const Admission& admission) {
  const nlohmann::json content = {
      {"segment", admission.segment},
      {"run_dir", admission.run_dir},
      {"request", admission.request},
      {"train_images", admission.data.train_images},
      {"val_images", admission.data.val_images},
      {"epochs_done", admission.epochs_done}};
  return accounting::sha256_hex(content.dump());
}

Expected<AdmitOutcome> Dispatcher::admit(const Caller& caller, const Admission& admission,
                                         UtcSeconds now) {
  if (const auto known = learn_facts(); !known) return tl::unexpected(known.error());
  if (!is_run_id(admission.run_id)) {
    return AdmitOutcome{refuse("run id \"" + admission.run_id + "\" is not 6 to 32 of a-z and 0-9")};
  }
  auto stored = store_.load(admission.run_id);
  if (!stored) return tl::unexpected(stored.error());
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
  if (run.state == RunState::kFinished && known_segments > 0) {
    return AdmitOutcome{refuse(fmt::format("run {} is finished; there is nothing to resume", run.id))};
  }

  const Progress progress{admission.epochs_done, run.allocated_s()};
  PlanOutcome planned = make_plan(admission.request, *site_, *facts_, admission.data, progress,
                                  caller.user, now);
  if (auto* refusal = std::get_if<Refusal>(&planned)) return AdmitOutcome{*refusal};
  const Plan plan = std::get<Plan>(planned);
  if (!may_spend(caller, plan.fund)) {
    return AdmitOutcome{refuse(fmt::format(
        "fund {} is not {}'s to spend: it takes the user himself or a member of the Unix group",
        plan.fund, caller.user))};
  }
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
    const auto held = ledger_.hold({hold, plan.fund, plan.quote.hold, run.id, caller.user}, now);
    if (!held) return tl::unexpected(held.error());
    status = *held;
    if (status != accounting::HoldStatus::kHeld) return {};
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
  if (!done) return tl::unexpected(of(done.error()));

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
      return AdmitOutcome{
          beyond_fund(plan, *balance ? (*balance)->available : Amount{}, facts_->margin_s())};
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
