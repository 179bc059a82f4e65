// SPDX-License-Identifier: GPL-3.0-or-later
//
// Jobs that their users submitted themselves to a managed partition. The submit plug-in holds them;
// here they are quoted, their hours are set aside and they are released, or they keep waiting with
// the reason where squeue shows it. From then on each is a run like any other.
#include <algorithm>

#include <fmt/format.h>

#include "scheduler/allowance.h"
#include "scheduler/disk_space.h"
#include "scheduler/dispatcher.h"
#include "scheduler/hold_refusal.h"
#include "scheduler/job_script.h"
#include "scheduler/settlement.h"

namespace scheduler {
namespace {

Error of(const accounting::Error& error) { return {"the books: " + error.message}; }
accounting::Error to_books(const Error& error) { return {error.message}; }

// More would keep the books busy for longer than a look at Slurm may take.
constexpr std::size_t kArrayTasksMax = 2'000;

// The numbers of a job that waits for its hours are written anew this often.
constexpr std::int64_t kTellAgainS = 20;

// A job that waits for its hours asks for them again after this, though nothing changed.
constexpr std::int64_t kAskAgainS = 60;

Refusal refuse(std::string reason) { return Refusal{{std::move(reason)}}; }

// Of a job that Slurm may start on more nodes than it needs: what makes it smaller. Or empty.
std::string advice_on_nodes(const JobSnapshot& job, const Plan& plan) {
  if (!job.may_spread) return "";
  return fmt::format("Slurm may spread it over {} nodes, each with its GPUs: --nodes=N binds it", plan.nodes);
}

Refusal with_advice(Refusal refusal, const std::string& advice) {
  std::string& reason = refusal.reasons.front();
  if (!advice.empty()) reason += (reason.ends_with('.') ? " " : ". ") + advice;
  return refusal;
}

bool is_too_large(const Plan& plan, const Tier* tier) {
  return tier != nullptr && ((tier->max_gpus && plan.gpus > *tier->max_gpus) ||
                             (tier->max_nodes && plan.nodes > *tier->max_nodes));
}

bool has_run(const JobSnapshot& job) { return job.start > 0 && !job.nodes.empty(); }

// A waiting job may name several partitions: "a,b".
bool is_managed(const Site& site, const std::string& partitions) {
  for (std::size_t at = 0; at < partitions.size();) {
    const std::size_t end = std::min(partitions.find(',', at), partitions.size());
    if (site.managed.has(partitions.substr(at, end - at))) return true;
    at = end + 1;
  }
  return false;
}

}  // namespace

// A job, or one task of an array, that has no open run yet.
struct Dispatcher::WantedTask {
  Run run;  // What is known of it: earlier segments, or nothing but its id.
};
struct Dispatcher::WantedJob {
  JobSnapshot job;
  JobStamp stamp;
  std::vector<WantedTask> tasks;
  Plan plan;  // Of one task.

  // What it asks for: the same again is not quoted again until the books change.
  [[nodiscard]] std::string asked() const {
    return fmt::format("{} {} {} {} {} {} {}", job.gpus, job.time_limit_s, job.partition, job.account,
                       job.has_several_gpu_types ? "several" : job.gpu_type, without_reason(job.comment), tasks.size());
  }
  [[nodiscard]] std::string arithmetic(std::int64_t margin_s) const {
    const std::string count = tasks.size() == 1 ? "" : fmt::format("{} tasks x ", tasks.size());
    return fmt::format("{}{} GPU x ({} min + {} s) x {}", count, plan.gpus, plan.time_limit_s / 60,
                       margin_s, accounting::format_weight(plan.quote.weight_milli));
  }
};

Expected<std::optional<Dispatcher::WantedJob>> Dispatcher::wanted_of(const JobSnapshot& job,
                                                                     const JobStamp& stamp) {
  const bool is_live = !is_ended(job.state);
  std::vector<int> tasks = job.array_tasks;
  if (tasks.empty()) tasks.push_back(job.array_task);
  WantedJob wanted{job, stamp, {}, {}};
  for (const int task : tasks) {
    const std::string id = plain_run_id(stamp, task);
    const Run* open = open_run(id);
    if (open != nullptr && is_plain_run_of(*open, job)) {
      snapshots_.emplace(id, job);
      continue;
    }
    if (!is_live && !has_run(job)) continue;
    const auto settled = settled_.find(job.id);
    if (!is_live && settled != settled_.end() && settled->second == job.start) continue;
    auto stored = store_.load(id);
    if (!stored) return tl::unexpected(stored.error());
    const auto payer = is_live ? Expected<std::optional<std::string>>{std::nullopt}
                               : store_.payer(job.id, job.start);
    if (!payer) return tl::unexpected(payer.error());
    const bool is_own = *stored && charged_until(**stored, job.id, job.start, job.end);
    if (!is_live && (is_own || (*payer && **payer != id))) {
      settled_[job.id] = job.start;  // Over and paid.
      continue;
    }
    WantedTask each;
    each.run.id = id;
    if (*stored) each.run = std::move(**stored);
    wanted.tasks.push_back(std::move(each));
  }
  if (wanted.tasks.empty()) return std::optional<WantedJob>{};
  return std::optional{std::move(wanted)};
}

Expected<void> Dispatcher::match_plain_job(const JobSnapshot& job, const JobStamp& stamp,
                                           UtcSeconds now) {
  auto own = wanted_of(job, stamp);
  if (!own) return tl::unexpected(own.error());
  if (!*own) return {};
  if (job.gpus == 0 && !has_run(job)) {
    // Without GPUs it costs nothing. One that gets some after all is met here again.
    if (!is_our_hold(job) || !is_update_due(job.id, now)) return {};
    if (const auto known = learn_facts(now, 0); !known) return known;
    return cluster_->release(job.id, without_reason(job.comment));
  }
  if (job.gpus == 0) return {};
  std::vector<WantedJob> wanted{std::move(**own)};
  const auto components = components_.find(job.het_job);
  if (job.state == JobState::kPending && components != components_.end()) {
    for (const JobSnapshot& other : components->second) {
      const auto its_stamp = parse_stamp(other.admin_comment);
      const bool is_waiting = other.state == JobState::kPending && other.gpus > 0;
      if (other.id == job.id || !its_stamp || !is_waiting || other.uid != job.uid) continue;
      auto component = wanted_of(other, *its_stamp);
      if (!component) return tl::unexpected(component.error());
      if (*component) wanted.push_back(std::move(**component));
    }
  }
  // A job that waits for its hours asks again where it or the books changed, or once a minute, for
  // weights and tiers change by themselves.
  std::string what = std::to_string(books_head_);
  for (const WantedJob& each : wanted) what += "; " + each.asked();
  const auto asked = refused_.find(job.id);
  const bool is_unchanged = job.state == JobState::kPending && asked != refused_.end() &&
                            asked->second.what == what && now - asked->second.when < kAskAgainS;
  if (is_unchanged) return turn_away(job, asked->second.answer, now);
  const auto refusal = admit_plain(wanted, now);
  if (!refusal) return tl::unexpected(refusal.error());
  if (*refusal) {
    refused_[job.id] = {what, now, **refusal};
    return turn_away(job, **refusal, now);
  }
  for (const WantedJob& each : wanted) {
    refused_.erase(each.job.id);
    for (const WantedTask& task : each.tasks) snapshots_.emplace(task.run.id, each.job);
  }
  return {};
}

Expected<void> Dispatcher::match_unstamped_job(const JobSnapshot& job, UtcSeconds now) {
  if (job.gpus == 0 || !is_managed(*site_, job.partition)) return {};
  const auto known = run_of_job_.find(job.id);
  const Run* run = known == run_of_job_.end() ? nullptr : open_run(known->second);
  if (run != nullptr && run->about.uid == job.uid && is_known_submit(*run, job.id, job.submit)) {
    snapshots_.emplace(run->id, job);  // Paid for; an operator took its stamp away.
    return {};
  }
  if (is_ended(job.state)) {
    const auto settled = settled_.find(job.id);
    const bool is_known = settled != settled_.end() && settled->second == job.start;
    if (is_known || !has_run(job)) return {};
    settled_[job.id] = job.start;
    const auto payer = store_.payer(job.id, job.start);
    if (!payer) return tl::unexpected(payer.error());
    if (*payer) return {};
  }
  return turn_away(job,
                   refuse("it was never seen by the submit plug-in, so nobody pays for it: cancel it "
                          "and submit it again"),
                   now);
}

Expected<std::optional<Refusal>> Dispatcher::plan_plain(WantedJob& wanted, const Caller& owner,
                                                        UtcSeconds now) {
  if (wanted.tasks.size() > kArrayTasksMax) {
    return std::optional{refuse(fmt::format("the array has {} tasks; up to {} are possible here",
                                            wanted.tasks.size(), kArrayTasksMax))};
  }
  const std::string fund = fund_of_job(wanted.job, wanted.stamp, *site_, owner.user);
  const PlanOutcome planned = plan_of_job(wanted.job, *site_, *facts_, fund, now);
  if (const auto* refusal = std::get_if<Refusal>(&planned)) return std::optional{*refusal};
  wanted.plan = std::get<Plan>(planned);
  if (!may_spend(owner, fund)) {
    return std::optional{refuse(
        fmt::format("fund {} is not {}'s to spend: it takes the user himself or a member of the "
                    "Unix group", fund, owner.user))};
  }
  // A change of tier binds new jobs only, not one that was quoted before and is quoted anew.
  const bool is_new =
      std::any_of(wanted.tasks.begin(), wanted.tasks.end(),
                  [](const WantedTask& each) { return each.run.segments.empty(); });
  if (!is_new) return std::optional<Refusal>{};
  const auto beyond = beyond_tier_of(owner, wanted.plan, static_cast<int>(wanted.tasks.size()));
  if (!beyond) return tl::unexpected(beyond.error());
  if (beyond->empty()) return std::optional<Refusal>{};
  Refusal refusal{*beyond};
  if (!is_too_large(wanted.plan, find_tier(*site_, wanted.plan.tier))) return std::optional{refusal};
  return std::optional{with_advice(std::move(refusal), advice_on_nodes(wanted.job, wanted.plan))};
}

Expected<std::optional<Refusal>> Dispatcher::admit_plain(std::vector<WantedJob>& wanted,
                                                         UtcSeconds now) {
  const auto owner = look_up_(wanted.front().job.uid, *site_);
  if (!owner) return std::optional{refuse(owner.error().message)};
  // One that runs or has run is charged, room or not.
  const bool is_waiting = wanted.front().job.state == JobState::kPending;
  if (auto no_room = is_waiting ? why_no_room(*site_) : std::nullopt) return no_room;
  if (const auto given = give_allowance(ledger_, *site_, owner->user, now); !given) {
    return tl::unexpected(given.error());
  }
  for (WantedJob& each : wanted) {
    // On how many nodes a job may start that it has put back Slurm does not show: as many as before.
    for (const WantedTask& task : each.tasks) {
      if (each.job.attempt == 0 || task.run.segments.empty()) continue;
      each.job.gpus = std::max(each.job.gpus, task.run.last().plan.gpus);
      each.job.node_count = std::max(each.job.node_count, task.run.last().plan.nodes);
    }
    for (const WantedTask& task : each.tasks) {
      if (task.run.segments.empty() || is_plain_run_of(task.run, each.job)) continue;
      return std::optional{refuse(fmt::format(
          "run {} of {} has this job's id: cancel the job and submit it again", task.run.id,
          task.run.about.user))};
    }
    auto refusal = plan_plain(each, *owner, now);
    if (!refusal) return refusal;
    if (!*refusal) continue;
    if (wanted.size() > 1) {
      std::string& why = (*refusal)->reasons.front();
      why = fmt::format("component {}: {}", each.job.id, why);
    }
    return refusal;
  }
  return hold_tasks(*owner, wanted, now);
}

// What the fund has, and all that is wanted of it: the holds that were made are rolled back.
Expected<std::optional<Refusal>> Dispatcher::why_not_held(const Caller& owner,
                                                          const std::vector<WantedJob>& wanted,
                                                          const std::string& fund,
                                                          accounting::HoldStatus why) const {
  HoldAsked asked{fund, owner.user, {}, 0, 0};
  std::vector<std::string> parts;
  for (const WantedJob& each : wanted) {
    if (each.plan.fund != fund) continue;
    const auto tasks = static_cast<std::int64_t>(each.tasks.size());
    asked.amount.milli_gpu_s += each.plan.quote.hold.milli_gpu_s * tasks;
    asked.gpus += each.plan.gpus * tasks;
    asked.runs += tasks;
    parts.push_back(each.arithmetic(facts_->margin_s(each.plan.partition)));
  }
  std::string advice;
  for (const WantedJob& each : wanted) {
    if (each.plan.fund == fund && advice.empty()) advice = advice_on_nodes(each.job, each.plan);
  }
  auto rule = rule_refusal(ledger_, why, asked);
  if (!rule) return rule;
  const bool is_of_runs = why == accounting::HoldStatus::kExceedsRuns ||
                          why == accounting::HoldStatus::kExceedsMemberRuns;
  if (*rule) return std::optional{is_of_runs ? **rule : with_advice(std::move(**rule), advice)};
  const auto balance = ledger_.balance(fund);
  if (!balance) return tl::unexpected(of(balance.error()));
  return std::optional{with_advice(
      refuse(fmt::format("needs {} ({}), fund {} has {}", accounting::to_gpu_hours(asked.amount),
                         fmt::join(parts, " + "), fund,
                         *balance ? accounting::to_gpu_hours((*balance)->available) : "no GPU-hours")),
      advice)};
}

Expected<std::optional<Refusal>> Dispatcher::hold_tasks(const Caller& owner,
                                                        std::vector<WantedJob>& wanted,
                                                        UtcSeconds now) {
  const std::vector<WantedJob> before = wanted;
  std::string short_fund;
  accounting::HoldStatus why = accounting::HoldStatus::kHeld;
  const auto hold_one = [&](const WantedJob& job, Run& run) -> accounting::Expected<void> {
    const Plan& plan = job.plan;
    const int segment = static_cast<int>(run.segments.size());
    const std::string hold_id = fmt::format("{}/{}", run.id, segment);
    const auto held = ledger_.hold({hold_id, plan.fund, plan.quote.hold, run.id, owner.user,
                                    plan.gpus}, now);
    if (!held) return tl::unexpected(held.error());
    if (*held == accounting::HoldStatus::kExistsWithDifferentContent) {
      return tl::unexpected(accounting::Error{"hold " + hold_id + " exists with other content"});
    }
    if (*held != accounting::HoldStatus::kHeld) {
      short_fund = plan.fund;
      why = *held;
      return tl::unexpected(accounting::Error{"refused"});  // Rolls all of them back.
    }
    if (segment == 0) {
      RunCreated created{owner.uid, owner.user, plan.fund, plan.name, "", {}, true};
      const auto added = store_.append(run, {now, std::move(created)});
      if (!added) return tl::unexpected(to_books(added.error()));
    }
    const auto opened = store_.append(run, {now, SegmentOpened{segment, plan, hold_id, ""}});
    if (!opened) return tl::unexpected(to_books(opened.error()));
    // Of a task of an array: the array's number, until it has its own.
    const auto told = store_.append(run, {now, JobSubmitted{segment, job.job.id, job.job.submit}});
    if (!told) return tl::unexpected(to_books(told.error()));
    return {};
  };
  const auto done = db_->transact([&]() -> accounting::Expected<void> {
    for (WantedJob& job : wanted) {
      for (WantedTask& task : job.tasks) {
        if (const auto held = hold_one(job, task.run); !held) return held;
      }
    }
    return {};
  });
  if (!short_fund.empty()) {
    wanted = before;
    return why_not_held(owner, wanted, short_fund, why);
  }
  if (!done) return tl::unexpected(of(done.error()));
  for (const WantedJob& job : wanted) {
    for (const WantedTask& task : job.tasks) open_[task.run.id] = task.run;
  }
  return std::optional<Refusal>{};
}

Expected<void> Dispatcher::turn_away(const JobSnapshot& job, const Refusal& refusal, UtcSeconds now) {
  const std::string& why = refusal.reasons.front();
  if (job.state == JobState::kPending) {
    const std::string comment = with_reason(job.comment, why);
    if (job.is_held_by_admin && job.comment == comment) return {};
    // Who is held already has only the numbers to be told anew, and those change with every job.
    const bool is_told = job.is_held_by_admin && is_our_hold(job);
    if (is_told && now - last_update_[job.id] < kTellAgainS) return {};
    if (!is_update_due(job.id, now)) return {};
    return cluster_->hold(job.id, comment);
  }
  // It started behind our back: ended at once, and what it used is the audit's to explain.
  const auto noted = ledger_.record_finding(
      {now, fmt::format("job {} of uid {}", job.id, job.uid),
       fmt::format("ran on partition {} with {} GPUs from {} on and no hold: {}", job.partition, job.gpus,
                   accounting::format_utc(job.start), why)});
  if (!noted) return tl::unexpected(of(noted.error()));
  if (is_ended(job.state)) return {};
  return cluster_->cancel(whole_of(job));
}

// Slurm records the attempt as one that was put back, by whomever: that it was the gate is known here.
Expected<void> Dispatcher::keep_refusal(Run& run, const JobSnapshot& job, const std::string& why,
                                        UtcSeconds now) {
  if (run.segments.empty() || run.last().closed || job.start == 0) return {};
  const auto& refused = run.last().refused_starts;
  const bool is_kept = std::any_of(refused.begin(), refused.end(), [&](const StartRefused& each) {
    return each.job == job.id && each.start == job.start;
  });
  if (is_kept) return {};
  return store_.append(run, {now, StartRefused{run.last().index, job.id, job.attempt, job.start, why}});
}

Dispatcher::GateLook Dispatcher::look_for_gates(UtcSeconds now) {
  // What goes wrong with one run keeps no other's job from starting.
  auto looked = tick(now);
  if (!has_looked_) return {std::move(looked), tl::unexpected(Error{trouble_})};
  return {std::move(looked), cluster_->load_jobs()};
}

Expected<std::optional<Refusal>> Dispatcher::may_start(JobId id, UtcSeconds now) {
  if (!gate_look_ || !shares_look_) gate_look_ = look_for_gates(now);
  const auto& [looked, jobs] = *gate_look_;
  if (!jobs) return tl::unexpected(jobs.error());
  for (const JobSnapshot& found : *jobs) {
    if (found.id != id) continue;
    JobSnapshot job = found;
    job.gpus = gpus_of_job(job, *site_);
    if (!site_->managed.has(job.partition)) return std::optional<Refusal>{};
    if (job.gpus == 0) {
      if (const auto known = learn_facts(now, 0); !known) return tl::unexpected(known.error());
      return std::optional<Refusal>{};
    }
    const auto stamp = parse_stamp(job.admin_comment);
    const auto name = parse_comment(without_reason(job.comment));
    Run* run = name ? open_run(name->run_id) : nullptr;
    if (run == nullptr && stamp) run = open_run(plain_run_id(*stamp, job.array_task));
    if (run == nullptr) return std::optional{refuse(fmt::format("job {} has no hold", id))};
    if (troubled_.count(run->id) > 0) return tl::unexpected(looked.error());
    const bool is_trainings = !is_one_of_several(job) && (!run->last().job || *run->last().job == id);
    const bool is_its = run->about.uid == job.uid && (run->about.is_plain || is_trainings);
    View view;
    view.jobs_known = true;
    view.job = &job;
    const auto seen = last_seen_.find(run->id);
    if (seen != last_seen_.end()) view.last_seen = seen->second;
    if (is_its && is_covered(*run, view, now, patience())) return std::optional<Refusal>{};
    const std::string why = fmt::format("job {} is not covered by the hold of run {}", id, run->id);
    if (is_its) {
      if (const auto kept = keep_refusal(*run, job, why, now); !kept) return tl::unexpected(kept.error());
    }
    return std::optional{refuse(why)};
  }
  return std::optional{refuse(fmt::format("Slurm has no job {}", id))};
}

}  // namespace scheduler
