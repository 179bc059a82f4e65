// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/dispatcher.h"

#include <algorithm>
#include <set>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "accounting/digest.h"
#include "scheduler/job_script.h"

namespace scheduler {
namespace {

template <class... Ts>
struct Overloaded : Ts... {
  using Ts::operator()...;
};
template <class... Ts>
Overloaded(Ts...) -> Overloaded<Ts...>;

// An action on the cluster is repeated this often until its effect is seen.
constexpr std::int64_t kRepeatAfterS = 5;
// How long slurmdbd is left alone after it did not answer.
constexpr std::int64_t kDatabaseRetryS = 5;
// The last sighting of a running job is written down this often.
constexpr std::int64_t kSightingS = 20;
// Clocks of the service and of slurmctld may differ by this.
constexpr std::int64_t kClockSlackS = 300;

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

bool may_spend(const Caller& caller, const std::string& fund) {
  if (fund == "user:" + caller.user) return true;
  return fund.rfind("group:", 0) == 0 &&
         std::find(caller.groups.begin(), caller.groups.end(), fund.substr(6)) != caller.groups.end();
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

// --- Audit -----------------------------------------------------------------------------------

constexpr int kAuditedRunsMax = 1'000'000;
constexpr std::size_t kJobsPerQuestion = 500;

struct SettledSegment {
  const Run* run;
  const Segment* segment;
};

// What was charged for a segment against what slurmdbd has of its job.
void compare_charges(const SettledSegment& settled, const std::vector<AllocationRecord>& records,
                     Dispatcher::AuditReport& report) {
  const Run& run = *settled.run;
  const Segment& segment = *settled.segment;
  const std::string subject =
      fmt::format("run {} segment {} (job {})", run.id, segment.index, *segment.job);
  std::vector<AllocationRecord> own;
  for (const AllocationRecord& record : records) {
    const bool is_own = record.id == *segment.job && record.uid == run.about.uid &&
                        record.submit + kClockSlackS >= segment.opened &&
                        record.submit <= segment.ended_noticed + kClockSlackS;
    if (is_own) own.push_back(record);
  }
  for (const AttemptCharged& charge : segment.charges) {
    const auto place = static_cast<std::size_t>(charge.attempt);
    if (place >= own.size()) {
      report.notes.push_back(
          fmt::format("{}: slurmdbd has no record of attempt {}", subject, charge.attempt));
      continue;
    }
    ++report.charges_compared;
    const AllocationRecord& record = own[place];
    const std::int64_t recorded_s =
        record.start > 0 ? std::max<std::int64_t>(record.end - record.start, 0) : 0;
    const std::int64_t charged_s = charge.end - charge.start;
    if (record.gpus * recorded_s != charge.gpus * charged_s) {
      report.faults.push_back(
          fmt::format("{}: attempt {} is charged with {} GPU x {} s, slurmdbd has {} GPU x {} s",
                      subject, charge.attempt, charge.gpus, charged_s, record.gpus, recorded_s));
    }
  }
  if (own.size() > segment.charges.size()) {
    report.faults.push_back(fmt::format("{}: slurmdbd has {} attempts, {} are charged", subject,
                                        own.size(), segment.charges.size()));
  }
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

Expected<Dispatcher> Dispatcher::open(const Site& site, accounting::Database& db, Cluster& cluster) {
  auto ledger = accounting::Ledger::open(db);
  if (!ledger) return tl::unexpected(of(ledger.error()));
  auto store = RunStore::open(db);
  if (!store) return tl::unexpected(store.error());
  Dispatcher dispatcher(site, db, cluster, std::move(*ledger), std::move(*store));
  auto open_runs = dispatcher.store_.load_open();
  if (!open_runs) return tl::unexpected(open_runs.error());
  for (Run& run : *open_runs) {
    const auto observation = dispatcher.store_.observation(run.id);
    if (!observation) return tl::unexpected(observation.error());
    if (*observation) dispatcher.last_seen_[run.id] = (*observation)->last_seen;
    const std::string id = run.id;
    dispatcher.open_.emplace(id, std::move(run));
  }
  return dispatcher;
}

Expected<void> Dispatcher::learn_facts() {
  if (facts_) return {};
  auto facts = cluster_->facts();
  if (!facts) return tl::unexpected(facts.error());
  if (!site_->cluster.empty() && facts->name != site_->cluster) {
    return tl::unexpected(Error{fmt::format("{}: cluster = \"{}\", but Slurm here calls itself \"{}\"",
                                            site_->path, site_->cluster, facts->name)});
  }
  facts_ = *facts;
  return {};
}

Patience Dispatcher::patience() const {
  Patience patience;
  patience.unclaimed_hold_s = site_->unclaimed_hold_s;
  patience.record_wait_s = site_->record_wait_s;
  if (facts_) patience.margin_s = facts_->margin_s();
  return patience;
}

Run* Dispatcher::open_run(const std::string& run_id) {
  const auto found = open_.find(run_id);
  return found == open_.end() ? nullptr : &found->second;
}

// --- What clients ask ------------------------------------------------------------------------

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

Expected<std::optional<Refusal>> Dispatcher::request(const Caller& caller, const std::string& run_id,
                                                     const EventBody& body, UtcSeconds now) {
  Run* run = open_run(run_id);
  if (run == nullptr) {
    const auto stored = store_.load(run_id);
    if (!stored) return tl::unexpected(stored.error());
    if (!*stored) return std::optional<Refusal>{refuse("run " + run_id + " is not known")};
    return std::optional<Refusal>{
        refuse(fmt::format("run {} is {} already", run_id, to_name((*stored)->state)))};
  }
  if (run->about.uid != caller.uid && !caller.is_admin) {
    return std::optional<Refusal>{
        refuse(fmt::format("run {} belongs to {}", run_id, run->about.user))};
  }
  const bool is_repeat = (std::holds_alternative<StopRequested>(body) && run->last().stop_requested) ||
                         (std::holds_alternative<CancelRequested>(body) && run->last().cancel_requested);
  if (!is_repeat) {
    if (const auto added = store_.append(*run, {now, body}); !added) {
      return tl::unexpected(added.error());
    }
  }
  return std::optional<Refusal>{};
}

Expected<std::optional<Refusal>> Dispatcher::request_stop(const Caller& caller,
                                                          const std::string& run_id,
                                                          UtcSeconds now) {
  return request(caller, run_id, StopRequested{caller.user}, now);
}

Expected<std::optional<Refusal>> Dispatcher::request_cancel(const Caller& caller,
                                                            const std::string& run_id,
                                                            UtcSeconds now) {
  return request(caller, run_id, CancelRequested{caller.user}, now);
}

// --- The loop --------------------------------------------------------------------------------

Expected<void> Dispatcher::load_views(UtcSeconds now, std::map<std::string, View>& views) {
  auto jobs = cluster_->load_jobs();
  if (!jobs) return tl::unexpected(jobs.error());
  snapshots_.clear();
  for (JobSnapshot& job : *jobs) {
    const auto name = parse_comment(job.comment);
    if (!name) continue;
    const bool is_live = !is_ended(job.state);
    Run* run = open_run(name->run_id);
    if (run == nullptr || run->last().index != name->segment) {
      // A job of a segment whose hold is gone (somebody requeued it, or sent its script again) has
      // nothing to pay it. A job that only bears a strange comment is not ours.
      if (!is_live) continue;
      const auto stored = store_.load(name->run_id);
      if (!stored) return tl::unexpected(stored.error());
      if (*stored && (*stored)->about.uid == job.uid) {
        (void)cluster_->cancel(job.id);
      }
      continue;
    }
    if (run->about.uid != job.uid || job.submit + kClockSlackS < run->last().opened) continue;
    if (run->last().job && *run->last().job != job.id) {
      if (is_live) (void)cluster_->cancel(job.id);  // A second job for one hold.
      continue;
    }
    const auto [place, is_first] = snapshots_.emplace(run->id, job);
    if (!is_first) {
      // Two jobs and neither is known yet: the first that Slurm took is the run's.
      JobSnapshot& kept = place->second;
      if (job.id < kept.id) std::swap(job, kept);
      if (!is_ended(job.state)) (void)cluster_->cancel(job.id);
    }
  }
  std::vector<JobId> to_ask;
  std::int64_t since = now;
  for (const auto& [id, run] : open_) {
    View& view = views[id];
    view.jobs_known = true;
    const auto snapshot = snapshots_.find(id);
    if (snapshot != snapshots_.end()) {
      view.job = &snapshot->second;
      if (view.job->state == JobState::kRunning || view.job->state == JobState::kSuspended) {
        UtcSeconds& seen = last_seen_[id];
        if (now - seen >= kSightingS) {
          seen = now;
          const auto kept = store_.observe(id, {view.job->id, view.job->attempt, now});
          if (!kept) return tl::unexpected(kept.error());
        }
      }
    }
    const auto seen = last_seen_.find(id);
    if (seen != last_seen_.end()) view.last_seen = seen->second;
    if (needs_records(run, view)) {
      to_ask.push_back(*run.last().job);
      since = std::min(since, run.last().opened - kClockSlackS);
    }
  }
  if (to_ask.empty() || now - last_asked_["failed"] < kDatabaseRetryS) return {};
  auto records = cluster_->load_records(to_ask, since);
  if (!records) {
    last_asked_["failed"] = now;
    trouble_ = records.error().message;
    return {};
  }
  for (const auto& [id, run] : open_) {
    View& view = views[id];
    if (!needs_records(run, view)) continue;
    view.records_known = true;
    for (const AllocationRecord& record : *records) {
      // Owner and time tell our job from an older one that had the same number.
      const bool is_ours = record.id == *run.last().job && record.uid == run.about.uid &&
                           record.submit + kClockSlackS >= run.last().opened;
      if (is_ours) view.records.push_back(record);
    }
  }
  return {};
}

Expected<void> Dispatcher::tick(UtcSeconds now) {
  trouble_.clear();
  if (!cluster_->is_reachable()) {
    trouble_ = "slurmctld does not answer";
    return {};
  }
  if (const auto known = learn_facts(); !known) {
    trouble_ = known.error().message;
    return {};
  }
  std::map<std::string, View> views;
  if (const auto loaded = load_views(now, views); !loaded) {
    trouble_ = loaded.error().message;
    return {};
  }
  last_poll_ = now;
  std::string faults;
  for (auto& [id, run] : open_) {
    if (const auto done = tick_run(run, views[id], now); !done) {
      faults += fmt::format("{}run {}: {}", faults.empty() ? "" : "; ", id, done.error().message);
    }
  }
  for (auto it = open_.begin(); it != open_.end();) {
    if (is_terminal(it->second.state)) {
      snapshots_.erase(it->first);
      last_seen_.erase(it->first);
      last_signal_.erase(it->first);
      it = open_.erase(it);
    } else {
      ++it;
    }
  }
  if (!faults.empty()) return tl::unexpected(Error{faults});
  return {};
}

Expected<void> Dispatcher::tick_run(Run& run, const View& view, UtcSeconds now) {
  // A charge makes way for the close: go round until nothing of the books is left to do.
  for (int round = 0; round < 8 && !is_terminal(run.state); ++round) {
    for (const EventBody& event : observe(run, view, now, patience())) {
      if (const auto added = store_.append(run, {now, event}); !added) {
        return tl::unexpected(added.error());
      }
    }
    bool books_changed = false;
    for (const Action& action : next_actions(run, view, now, patience())) {
      books_changed |= std::holds_alternative<PostCharge>(action) ||
                       std::holds_alternative<CloseSegment>(action);
      if (const auto done = perform(run, action, now); !done) return tl::unexpected(done.error());
    }
    if (!books_changed) break;
  }
  return {};
}

Expected<void> Dispatcher::perform(Run& run, const Action& action, UtcSeconds now) {
  const auto is_due = [&] {
    UtcSeconds& last = last_signal_[run.id];
    if (now - last < kRepeatAfterS) return false;
    last = now;
    return true;
  };
  return std::visit(
      Overloaded{
          [&](const AskToStop& a) -> Expected<void> {
            return is_due() ? cluster_->ask_to_stop(a.job) : Expected<void>{};
          },
          [&](const CancelJob& a) -> Expected<void> {
            const Segment& segment = run.last();
            const bool was_asked = segment.stop_requested || segment.cancel_requested;
            if (!was_asked && !segment.rejected) {
              const auto added = store_.append(run, {now, JobRejected{segment.index, a.why}});
              if (!added) return tl::unexpected(added.error());
            }
            return is_due() ? cluster_->cancel(a.job) : Expected<void>{};
          },
          [&](const CutLimit& a) -> Expected<void> {
            const auto job = snapshots_.find(run.id);
            const std::int64_t from = job == snapshots_.end() ? 0 : job->second.time_limit_s;
            if (const auto set = cluster_->set_time_limit(a.job, a.to_s); !set) return set;
            return store_.append(run, {now, LimitCut{run.last().index, from, a.to_s}});
          },
          [&](const PostCharge& a) { return post_charge(run, a, now); },
          [&](const CloseSegment& a) { return close_segment(run, a, now); }},
      action);
}

Expected<void> Dispatcher::post_charge(Run& run, const PostCharge& action, UtcSeconds now) {
  const Segment& segment = run.last();
  AttemptCharged charged = action.charge;
  const auto done = db_->transact([&]() -> accounting::Expected<void> {
    accounting::Charge charge;
    charge.id = fmt::format("{}/{}/{}/{}", facts_->name, run.id, segment.index, charged.attempt);
    charge.hold_id = segment.hold_id;
    charge.cluster = facts_->name;
    charge.gpus = charged.gpus;
    charge.seconds = charged.end - charged.start;
    charge.weight_milli = segment.plan.quote.weight_milli;
    charge.start = charged.start;
    charge.end = charged.end;
    charge.note = fmt::format("job {} {}", charged.job, action.note);
    const auto outcome = ledger_.charge(charge, now);
    if (!outcome) return tl::unexpected(outcome.error());
    if (outcome->status != accounting::ChargeStatus::kCharged &&
        outcome->status != accounting::ChargeStatus::kAlreadyCharged) {
      return tl::unexpected(accounting::Error{fmt::format(
          "charge {}: the ledger answered status {}", charge.id, static_cast<int>(outcome->status))});
    }
    charged.charged = outcome->charged;
    charged.excess = outcome->excess;
    if (const auto added = store_.append(run, {now, charged}); !added) {
      return tl::unexpected(to_books(added.error()));
    }
    return {};
  });
  if (!done) return tl::unexpected(of(done.error()));
  return {};
}

Expected<void> Dispatcher::close_segment(Run& run, const CloseSegment& action, UtcSeconds now) {
  const auto done = db_->transact([&]() -> accounting::Expected<void> {
    const auto released = ledger_.release(run.last().hold_id, action.reason, now);
    if (!released) return tl::unexpected(released.error());
    if (*released == accounting::ReleaseStatus::kUnknownHold) {
      return tl::unexpected(accounting::Error{"hold " + run.last().hold_id + " is not in the ledger"});
    }
    const SegmentClosed closed{run.last().index, action.outcome, action.reason};
    if (const auto added = store_.append(run, {now, closed}); !added) {
      return tl::unexpected(to_books(added.error()));
    }
    return {};
  });
  if (!done) return tl::unexpected(of(done.error()));
  return {};
}

// --- What is shown ---------------------------------------------------------------------------

Expected<std::optional<Dispatcher::RunView>> Dispatcher::find(const std::string& run_id) const {
  const auto snapshot = snapshots_.find(run_id);
  const std::optional<JobSnapshot> job =
      snapshot == snapshots_.end() ? std::nullopt : std::optional(snapshot->second);
  const auto open = open_.find(run_id);
  if (open != open_.end()) return std::optional<RunView>{RunView{open->second, job}};
  auto stored = store_.load(run_id);
  if (!stored) return tl::unexpected(stored.error());
  if (!*stored) return std::optional<RunView>{};
  return std::optional<RunView>{RunView{std::move(**stored), std::nullopt}};
}

Expected<std::vector<Dispatcher::RunView>> Dispatcher::latest(const std::string& user,
                                                              int count) const {
  auto runs = store_.load_latest(user, count);
  if (!runs) return tl::unexpected(runs.error());
  std::vector<RunView> views;
  for (Run& run : *runs) {
    const auto snapshot = snapshots_.find(run.id);
    views.push_back({std::move(run), snapshot == snapshots_.end() ? std::nullopt
                                                                  : std::optional(snapshot->second)});
  }
  return views;
}

Expected<Dispatcher::AuditReport> Dispatcher::audit() {
  AuditReport report;
  const auto faults = ledger_.verify();
  if (!faults) return tl::unexpected(of(faults.error()));
  report.faults = *faults;
  const auto findings = ledger_.findings();
  if (!findings) return tl::unexpected(of(findings.error()));
  for (const accounting::Finding& finding : *findings) {
    report.notes.push_back(fmt::format("{} {}: {}", accounting::format_utc(finding.when),
                                       finding.subject, finding.text));
  }
  const auto runs = store_.load_latest("", kAuditedRunsMax);
  if (!runs) return tl::unexpected(runs.error());
  std::vector<SettledSegment> settled;
  for (const Run& run : *runs) {
    for (const Segment& segment : run.segments) {
      if (segment.job && segment.closed) settled.push_back({&run, &segment});
    }
  }
  for (std::size_t first = 0; first < settled.size(); first += kJobsPerQuestion) {
    const auto part = std::span(settled).subspan(
        first, std::min(kJobsPerQuestion, settled.size() - first));
    std::vector<JobId> jobs;
    std::int64_t since = INT64_MAX;
    for (const SettledSegment& each : part) {
      jobs.push_back(*each.segment->job);
      since = std::min(since, each.segment->opened - kClockSlackS);
    }
    const auto records = cluster_->load_records(jobs, since);
    if (!records) return tl::unexpected(records.error());
    for (const SettledSegment& each : part) compare_charges(each, *records, report);
  }
  return report;
}

}  // namespace scheduler
