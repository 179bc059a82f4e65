// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/dispatcher.h"

#include <algorithm>

#include <fmt/format.h>

#include "scheduler/estimate.h"
#include "scheduler/job_script.h"
#include "scheduler/plain_job.h"
#include "scheduler/refund_policy.h"
#include "scheduler/settlement.h"

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
// An admin may change Slurm's configuration while the service lives.
constexpr std::int64_t kFactsS = 60;
// Clocks of the service and of slurmctld may differ by this.
constexpr std::int64_t kClockSlackS = 300;

Error of(const accounting::Error& error) { return {"the books: " + error.message}; }
accounting::Error to_books(const Error& error) { return {error.message}; }

Refusal refuse(std::string reason) { return Refusal{{std::move(reason)}}; }

}  // namespace

Expected<Dispatcher> Dispatcher::open(const Site& site, accounting::Database& db, Cluster& cluster,
                                      CallerLookup look_up) {
  auto ledger = accounting::Ledger::open(db);
  if (!ledger) return tl::unexpected(of(ledger.error()));
  if (const auto till = accounting::Till::open(db, *ledger); !till) {
    return tl::unexpected(of(till.error()));
  }
  auto store = RunStore::open(db);
  if (!store) return tl::unexpected(store.error());
  Dispatcher dispatcher(site, db, cluster, std::move(*ledger), std::move(*store));
  dispatcher.look_up_ = std::move(look_up);
  const auto restored = dispatcher.store_.restored_since();
  if (!restored) return tl::unexpected(restored.error());
  dispatcher.restored_since_ = *restored;
  auto closed = dispatcher.store_.lately_closed();
  if (!closed) return tl::unexpected(closed.error());
  for (const auto& [id, when] : *closed) {
    dispatcher.second_looks_[id] = when + site.record_wait_s;
  }
  if (const auto loaded = dispatcher.load_open_runs(); !loaded) {
    return tl::unexpected(loaded.error());
  }
  return dispatcher;
}

Expected<Dispatcher> Dispatcher::beside(const Site& site, accounting::Database& db,
                                        Cluster& cluster) {
  auto ledger = accounting::Ledger::open(db);
  if (!ledger) return tl::unexpected(of(ledger.error()));
  Dispatcher dispatcher(site, db, cluster, std::move(*ledger), RunStore::beside(db));
  if (const auto loaded = dispatcher.load_open_runs(); !loaded) {
    return tl::unexpected(loaded.error());
  }
  dispatcher.learn_submits();
  return dispatcher;
}

Expected<void> Dispatcher::load_open_runs() {
  auto open_runs = store_.load_open();
  if (!open_runs) return tl::unexpected(open_runs.error());
  for (Run& run : *open_runs) {
    const auto observation = store_.observation(run.id);
    if (!observation) return tl::unexpected(observation.error());
    if (*observation) last_seen_[run.id] = (*observation)->last_seen;
    const std::string id = run.id;
    open_.emplace(id, std::move(run));
  }
  return {};
}

void Dispatcher::learn_submits() {
  submits_.clear();
  for (const auto& [id, run] : open_) {
    const Segment& segment = run.last();
    if (segment.job && segment.job_submit > 0) {
      submits_[{*segment.job, segment.job_submit}].insert(id);
    }
    for (const AttemptStarted& seen : segment.seen) {
      if (seen.submit > 0) submits_[{seen.job, seen.submit}].insert(id);
    }
  }
}

Expected<void> Dispatcher::learn_facts(UtcSeconds now) { return learn_facts(now, kFactsS); }

Expected<void> Dispatcher::learn_facts(UtcSeconds now, std::int64_t fresh_s) {
  if (facts_ && facts_->counts_gpus && now - facts_at_ < fresh_s) return {};
  auto facts = cluster_->facts();
  if (!facts && facts_ && facts_->counts_gpus) return {};
  if (!facts) return tl::unexpected(facts.error());
  if (!site_->cluster.empty() && facts->name != site_->cluster) {
    return tl::unexpected(Error{fmt::format("{}: cluster = \"{}\", but Slurm here calls itself \"{}\"",
                                            site_->path, site_->cluster, facts->name)});
  }
  facts_ = *facts;
  facts_at_ = now;
  // Every job would read as one without GPUs, which costs nothing.
  if (!facts_->counts_gpus) {
    return tl::unexpected(Error{"Slurm does not count GPUs, so no job is let start or charged: set "
                                "AccountingStorageTRES=gres/gpu in slurm.conf and restart slurmctld"});
  }
  return {};
}

Patience Dispatcher::patience() const {
  Patience patience;
  patience.unclaimed_hold_s = site_->unclaimed_hold_s;
  patience.record_wait_s = site_->record_wait_s;
  patience.extend_lead_s = site_->extend_lead_s;
  patience.longest_limit_s = site_->limits.max_time_s.value_or(0);
  if (facts_) patience.facts = &*facts_;
  return patience;
}

std::int64_t Dispatcher::longest_job_s(const Plan& plan) const {
  if (!plan.auto_resume || plan.is_timed) return plan.job_limit_s;
  std::int64_t longest_s = site_->limits.max_time_s.value_or(0);
  if (!facts_) return longest_s;
  const auto found = facts_->partition_max_s.find(plan.partition);
  if (found == facts_->partition_max_s.end()) return longest_s;
  return longest_s == 0 ? found->second : std::min(longest_s, found->second);
}

Run* Dispatcher::open_run(const std::string& run_id) {
  const auto found = open_.find(run_id);
  return found == open_.end() ? nullptr : &found->second;
}

// --- What clients ask ------------------------------------------------------------------------

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
  // A coordinator ends what spends his fund's hours; to spend more is its owner's affair.
  const bool is_resume = std::holds_alternative<ResumeRequested>(body);
  if (run->about.uid != caller.uid && !caller.is_admin &&
      (is_resume || !leads_run(caller, run->last().plan.account, run->last().plan.fund))) {
    return std::optional<Refusal>{
        refuse(fmt::format("run {} belongs to {}", run_id, run->about.user))};
  }
  if (run->about.is_plain) {
    return std::optional<Refusal>{refuse(fmt::format(
        "run {} is a job that {} submitted himself: scancel{}", run_id, run->about.user,
        run->last().job ? fmt::format(" {}", *run->last().job) : ""))};
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

Expected<std::optional<Refusal>> Dispatcher::request_pause(const Caller& caller,
                                                           const std::string& run_id,
                                                           UtcSeconds now) {
  const Run* run = open_run(run_id);
  const bool goes_on = run != nullptr && run->last().plan.auto_resume && !run->last().ended;
  if (!goes_on) return request_stop(caller, run_id, now);
  return request(caller, run_id, PauseRequested{caller.user}, now);
}

Expected<std::optional<Refusal>> Dispatcher::request_resume(const Caller& caller,
                                                            const std::string& run_id,
                                                            UtcSeconds now) {
  const Run* run = open_run(run_id);
  if (run != nullptr && run->state != RunState::kPaused && run->about.uid == caller.uid &&
      !run->last().pause_requested) {
    return std::optional<Refusal>{
        refuse(fmt::format("run {} is {}, not paused", run_id, to_name(run->state)))};
  }
  return request(caller, run_id, ResumeRequested{caller.user}, now);
}

Expected<std::optional<Refusal>> Dispatcher::request_cancel(const Caller& caller,
                                                            const std::string& run_id,
                                                            UtcSeconds now) {
  return request(caller, run_id, CancelRequested{caller.user}, now);
}

// --- The loop --------------------------------------------------------------------------------

Expected<void> Dispatcher::match_job(const JobSnapshot& job, UtcSeconds now) {
  const auto name = parse_comment(without_reason(job.comment));
  const auto known = run_of_job_.find(job.id);
  Run* run = name ? open_run(name->run_id) : nullptr;
  if (!name && known != run_of_job_.end()) run = open_run(known->second);
  const bool is_runs = run != nullptr && !run->about.is_plain && run->about.uid == job.uid &&
                       !is_one_of_several(job) && job.submit + kClockSlackS >= run->last().opened;
  // Without its comment it is known by what its user cannot change everywhere: another job may have
  // got its number from a controller that crashed.
  const auto mark = parse_stamp(job.admin_comment);
  const Run* marked = mark ? open_run(plain_run_id(*mark, job.array_task)) : nullptr;
  const bool is_plain = marked != nullptr && is_plain_run_of(*marked, job);
  const bool is_surely = name ? name->segment == (run == nullptr ? -1 : run->last().index)
                              : is_runs && (job.name.ends_with("." + run->id) ||
                                             (job.attempt > 0 && run->last().running && !is_plain) ||
                                            is_known_submit(*run, job.id, job.submit));
  if (is_runs && is_surely) {
    // A second job for one hold: a client that had no answer submitted again.
    if (run->last().job && *run->last().job != job.id) return end_unfunded(job, run->id, now);
    if (!run->last().job) {
      // Its first job may be gone by now, and what was said of this one stays true.
      const auto is_second = was_unfunded(job.id, run->id);
      if (!is_second) return tl::unexpected(is_second.error());
      if (*is_second) return end_unfunded(job, run->id, now);
    }
    const auto [place, is_first] = snapshots_.emplace(run->id, job);
    if (!is_first) {
      // Two jobs and neither is known yet: the first that Slurm took is the run's.
      JobSnapshot other = job;
      if (other.id < place->second.id) std::swap(other, place->second);
      return end_unfunded(other, run->id, now);
    }
    return {};
  }
  if (name) {
    // A job of a segment whose hold is gone (somebody requeued it, or sent its script again) has
    // nothing to pay it. A job that only bears a strange comment is not that run's.
    const auto owner = owner_of_run(name->run_id);
    if (!owner) return tl::unexpected(owner.error());
    if (*owner == job.uid) return end_unfunded(job, name->run_id, now);
  }
  if (const auto stamp = parse_stamp(job.admin_comment)) return match_plain_job(job, *stamp, now);
  return match_unstamped_job(job, now);
}

Expected<std::optional<std::uint32_t>> Dispatcher::owner_of_run(const std::string& run_id) {
  const auto known = owners_.find(run_id);
  if (known != owners_.end()) return std::optional{known->second};
  const auto stored = store_.load(run_id);
  if (!stored) return tl::unexpected(stored.error());
  if (!*stored) return std::optional<std::uint32_t>{};
  owners_[run_id] = (*stored)->about.uid;
  return std::optional{(*stored)->about.uid};
}

Expected<void> Dispatcher::load_views(UtcSeconds now, std::map<std::string, View>& views) {
  auto jobs = cluster_->load_jobs();
  if (!jobs) return tl::unexpected(jobs.error());
  const auto head = ledger_.head();
  if (!head) return tl::unexpected(of(head.error()));
  books_head_ = head->seq;
  std::map<JobId, std::uint32_t> owners;
  for (const JobSnapshot& job : *jobs) owners[job.id] = job.uid;
  snapshots_.clear();
  run_of_job_.clear();
  learn_submits();
  for (const auto& [id, run] : open_) {
    const Segment& segment = run.last();
    if (!segment.job) continue;
    // A client may have told any number.
    const auto owner = owners.find(*segment.job);
    if (owner == owners.end() || owner->second == run.about.uid) run_of_job_[*segment.job] = id;
  }
  const auto is_gone = [&owners](const auto& each) { return owners.count(each.first) == 0; };
  std::erase_if(refused_, is_gone);
  std::erase_if(settled_, is_gone);
  components_.clear();
  running_.clear();
  shown_.clear();
  for (JobSnapshot& job : *jobs) {
    const auto stamp = parse_stamp(job.admin_comment);
    shown_[job.id] = {stamp ? plain_run_id(*stamp, job.array_task) : "", job.submit};
    job.gpus = gpus_of_job(job, *site_);
    if (job.gpus > 0 && job.state == JobState::kRunning) running_.push_back(job);
    if (job.het_job != 0) components_[job.het_job].push_back(job);
  }
  for (const JobSnapshot& job : *jobs) {
    // One job that cannot be looked after keeps no other from it.
    if (const auto matched = match_job(job, now); !matched) {
      trouble_ = fmt::format("job {}: {}", job.id, matched.error().message);
    }
  }
  // Of a number that was given twice slurmdbd's records are whose job this is now.
  for (const auto& [id, job] : snapshots_) {
    if (job.submit > 0) submits_[{job.id, job.submit}].insert(id);
  }
  std::vector<Sighting> sightings;
  for (const auto& [id, run] : open_) {
    View& view = views[id];
    view.jobs_known = true;
    const auto before = last_seen_.find(id);
    if (before != last_seen_.end()) view.last_seen = before->second;
    view.last_shown = last_shown_.try_emplace(id, now).first->second;
    const auto snapshot = snapshots_.find(id);
    if (snapshot != snapshots_.end()) {
      view.job = &snapshot->second;
      last_shown_[id] = now;
      // An attempt that is new at this look has its event: until that is written its time is not to be
      // taken for one of the attempt before it.
      const auto& known = run.last().running;
      const bool is_known = known && known->job == view.job->id && known->start == view.job->start;
      const bool is_on = view.job->state == JobState::kRunning || view.job->state == JobState::kSuspended;
      if (is_known && is_on) {
        last_seen_[id] = now;
        if (now - last_kept_[id] >= kSightingS) {
          sightings.push_back({id, {view.job->id, view.job->attempt, now}});
        }
      }
    }
  }
  if (const auto kept = store_.observe(sightings); !kept) return tl::unexpected(kept.error());
  for (const Sighting& sighting : sightings) last_kept_[sighting.run_id] = now;
  ask_for_records(now, views);
  return {};
}

void Dispatcher::ask_by_name(UtcSeconds now, std::map<std::string, View>& views) {
  for (const auto& [id, run] : open_) {
    const Segment& segment = run.last();
    View& view = views[id];
    if (run.about.is_plain || segment.job || view.job != nullptr) continue;
    const bool is_over = segment.submission_failed || segment.stop_requested ||
                         segment.cancel_requested ||
                         now - segment.opened > site_->unclaimed_hold_s;
    if (!is_over || now - last_asked_["failed"] < kDatabaseRetryS) continue;
    const auto records = cluster_->find_records(job_name(segment.plan, {id, segment.index}),
                                                segment.opened - kClockSlackS);
    if (!records) {
      last_asked_["failed"] = now;
      trouble_ = records.error().message;
      return;
    }
    for (const AllocationRecord& record : *records) {
      // An earlier segment's job bore the same name.
      const bool is_earlier = std::any_of(run.segments.begin(), run.segments.end() - 1,
                                          [&](const Segment& s) { return s.job == record.id; });
      if (record.uid != run.about.uid || is_earlier) continue;
      // What was there before a further segment was opened is of an earlier one, whose client was late.
      if (segment.index > 0 && record.submit < segment.opened) continue;
      if (!record.partition.empty() && record.partition != segment.plan.partition) continue;
      const auto is_unfunded = was_unfunded(record.id, id);
      if (!is_unfunded) {
        trouble_ = is_unfunded.error().message;
        return;
      }
      if (*is_unfunded) continue;
      // The first that Slurm took is the run's, as where the controller still shows them.
      if (view.records.empty() || view.records.front().id == record.id) {
        view.records.push_back(record);
      } else if (const auto noted = note_unfunded(record, id, now); !noted) {
        trouble_ = noted.error().message;
      }
    }
    view.records_known = true;
  }
}

void Dispatcher::ask_for_records(UtcSeconds now, std::map<std::string, View>& views) {
  ask_by_name(now, views);
  std::vector<JobId> to_ask;
  std::int64_t since = now;
  for (const auto& [id, run] : open_) {
    if (!needs_records(run, views[id], now, patience())) continue;
    for (const JobId job : jobs_of(run.last())) to_ask.push_back(job);
    const UtcSeconds first = run.about.is_plain ? run.segments.front().job_submit
                                                : run.last().opened - kClockSlackS;
    since = std::min(since, first);
  }
  if (to_ask.empty() || now - last_asked_["failed"] < kDatabaseRetryS) return;
  // A job id may have been given twice.
  std::sort(to_ask.begin(), to_ask.end());
  to_ask.erase(std::unique(to_ask.begin(), to_ask.end()), to_ask.end());
  const auto records = cluster_->load_records(to_ask, since);
  if (!records) {
    last_asked_["failed"] = now;
    trouble_ = records.error().message;
    return;
  }
  for (const auto& [id, run] : open_) {
    View& view = views[id];
    if (!needs_records(run, view, now, patience())) continue;
    view.records_known = true;
    for (const AllocationRecord& record : *records) {
      if (!is_record_of(run, run.last(), record, patience())) continue;
      const auto is_foreign = is_of_another(id, record);
      if (!is_foreign) {
        trouble_ = is_foreign.error().message;
        return;
      }
      if (!*is_foreign) view.records.push_back(record);
    }
    // A plain job's first record bears the time that the controller told. Where that is missing, or never
    // started, so that none can have come after it, only those that a look has shown are surely its own.
    const bool is_first_missing =
        run.about.is_plain && !view.records.empty() &&
        (view.records.front().submit != run.segments.front().job_submit ||
         view.records.front().start == 0);
    if (is_first_missing) {
      std::erase_if(view.records, [&each = run](const AllocationRecord& record) {
        return !is_known_submit(each, record.id, record.submit);
      });
    }
  }
}

void Dispatcher::forget(std::map<std::string, Run>::iterator run) {
  snapshots_.erase(run->first);
  last_seen_.erase(run->first);
  last_kept_.erase(run->first);
  last_shown_.erase(run->first);
  last_asked_to_stop_.erase(run->first);
  last_cancelled_.erase(run->first);
  if (run->second.last().job) last_update_.erase(*run->second.last().job);
  open_.erase(run);
}

Expected<void> Dispatcher::tick(UtcSeconds now) {
  trouble_.clear();
  troubled_.clear();
  has_looked_ = false;
  gate_look_.reset();
  if (!cluster_->is_reachable()) {
    trouble_ = "slurmctld does not answer";
    return {};
  }
  if (const auto known = learn_facts(now); !known) {
    trouble_ = known.error().message;
    return {};
  }
  if (restored_since_) {
    if (const auto read = catch_up(now); !read) {
      trouble_ = read.error().message;
      return {};
    }
  }
  std::map<std::string, View> views;
  if (const auto loaded = load_views(now, views); !loaded) {
    trouble_ = loaded.error().message;
    return {};
  }
  last_poll_ = now;
  has_looked_ = true;
  std::string faults;
  for (auto& [id, run] : open_) {
    if (const auto done = tick_run(run, views[id], now); !done) {
      troubled_.insert(id);
      faults += fmt::format("{}run {}: {}", faults.empty() ? "" : "; ", id, done.error().message);
    }
  }
  for (auto it = open_.begin(); it != open_.end();) {
    const auto run = it++;
    if (is_terminal(run->second.state)) forget(run);
  }
  if (const auto looked = look_again(now); !looked) trouble_ = looked.error().message;
  if (!faults.empty()) return tl::unexpected(Error{faults});
  return {};
}

Expected<void> Dispatcher::tick_run(Run& run, const View& view, UtcSeconds now) {
  // A charge makes way for the next and for the close: go round until nothing of the books is left to
  // do. Many attempts may be charged at once, after the service was away; a long look delays others.
  const std::size_t rounds = 8 + std::min<std::size_t>(view.records.size(), 200);
  for (std::size_t round = 0; round < rounds && !is_terminal(run.state); ++round) {
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
  const auto is_due = [&](std::map<std::string, UtcSeconds>& signals) {
    UtcSeconds& last = signals[run.id];
    if (now - last < kRepeatAfterS) return false;
    last = now;
    return true;
  };
  return std::visit(
      Overloaded{
          [&](const ReleaseJob& a) -> Expected<void> { return release_job(run, a.job, now); },
          [&](const HoldJob& a) -> Expected<void> {
            const auto job = snapshots_.find(run.id);
            if (job == snapshots_.end() || !is_update_due(a.job, now)) return {};
            return cluster_->hold(a.job, with_reason(job->second.comment, a.why));
          },
          [&](const AskToStop& a) -> Expected<void> {
            return is_due(last_asked_to_stop_) ? cluster_->ask_to_stop(a.job) : Expected<void>{};
          },
          [&](const CancelJob& a) -> Expected<void> {
            const Segment& segment = run.last();
            if (!a.is_wish && !segment.cancel_requested && !segment.rejected) {
              const auto added = store_.append(run, {now, JobRejected{segment.index, a.why}});
              if (!added) return tl::unexpected(added.error());
            }
            if (!is_due(last_cancelled_)) return {};
            const auto job = snapshots_.find(run.id);
            return cluster_->cancel(job == snapshots_.end() ? a.job : whole_of(job->second));
          },
          [&](const CutLimit& a) -> Expected<void> {
            const auto job = snapshots_.find(run.id);
            const std::int64_t from = job == snapshots_.end() ? 0 : job->second.time_limit_s;
            if (const auto set = cluster_->set_time_limit(a.job, a.to_s); !set) return set;
            return store_.append(run, {now, LimitCut{run.last().index, from, a.to_s}});
          },
          [&](const RaiseLimit& a) -> Expected<void> {
            // The event follows when Slurm shows the new limit.
            return is_update_due(a.job, now) ? cluster_->set_time_limit(a.job, a.to_s)
                                             : Expected<void>{};
          },
          [&](const FundAttempt& a) { return fund_attempt(run, a, now); },
          [&](const ExtendHold& a) { return extend_hold(run, a, now); },
          [&](const PostCharge& a) { return post_charge(run, a, now); },
          [&](const NoteFinding& a) -> Expected<void> {
            const auto noted = ledger_.record_finding({now, "run " + run.id, a.text});
            if (!noted) return tl::unexpected(of(noted.error()));
            return {};
          },
          [&](const CloseSegment& a) { return close_segment(run, a, now); }},
      action);
}

bool Dispatcher::is_update_due(JobId job, UtcSeconds now) {
  UtcSeconds& last = last_update_[job];
  if (now - last < kRepeatAfterS) return false;
  last = now;
  return true;
}

Expected<void> Dispatcher::release_job(const Run& run, JobId job, UtcSeconds now) {
  const auto snapshot = snapshots_.find(run.id);
  if (snapshot == snapshots_.end() || !is_update_due(job, now)) return {};
  return cluster_->release(job, without_reason(snapshot->second.comment));
}

accounting::Expected<Amount> Dispatcher::refund_by_policy(const Segment& segment,
                                                          const std::string& charge_id,
                                                          const AttemptCharged& charged,
                                                          std::span<const UtcSeconds> failed_prologs,
                                                          UtcSeconds now) {
  const auto due = refund_of(segment, charged, *site_, failed_prologs);
  if (!due) return Amount{};
  // The id is made of the charge and the reason: it is given once, whoever asks how often.
  const auto status = ledger_.refund({fmt::format("{}/refund/{}", charge_id, due->reason), charge_id,
                                      due->amount, "policy",
                                      fmt::format("{}: refunds of site.toml", due->reason)}, now);
  if (!status) return tl::unexpected(status.error());
  if (*status == accounting::RefundStatus::kRefunded ||
      *status == accounting::RefundStatus::kAlreadyRefunded) {
    return due->amount;
  }
  const auto noted = ledger_.record_finding(
      {now, charge_id, fmt::format("{} were to be given back for {}, and the ledger answered status {}. "
                                   "Give them: trainyard admin refund",
                                   accounting::to_gpu_hours(due->amount), due->reason,
                                   static_cast<int>(*status))});
  if (!noted) return tl::unexpected(noted.error());
  return Amount{};
}

accounting::Expected<void> Dispatcher::transact_with(
    const std::string& run_id, const std::function<accounting::Expected<void>()>& body) {
  const Run* run = open_run(run_id);
  std::optional<Run> before;
  if (run != nullptr) before = *run;
  auto done = db_->transact(body);
  if (done || !before) return done;
  if (Run* spoilt = open_run(run_id); spoilt != nullptr) *spoilt = std::move(*before);
  return done;
}

Expected<void> Dispatcher::post_charge(Run& run, const PostCharge& action, UtcSeconds now) {
  const Segment& segment = run.last();
  AttemptCharged charged = action.charge;
  std::vector<UtcSeconds> failed_prologs;
  if (!action.nodes.empty() && may_have_failed_at_launch(segment, charged, *site_)) {
    auto failed = cluster_->failed_prologs(action.nodes);
    if (!failed) return tl::unexpected(failed.error());
    failed_prologs = std::move(*failed);
  }
  const auto done = transact_with(run.id, [&]() -> accounting::Expected<void> {
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
    if (site_->fund_owes_excess) charge.excess = accounting::Excess::kFundOwes;
    const auto outcome = ledger_.charge(charge, now);
    if (!outcome) return tl::unexpected(outcome.error());
    if (outcome->status != accounting::ChargeStatus::kCharged &&
        outcome->status != accounting::ChargeStatus::kAlreadyCharged) {
      return tl::unexpected(accounting::Error{fmt::format(
          "charge {}: the ledger answered status {}", charge.id, static_cast<int>(outcome->status))});
    }
    charged.charged = outcome->charged;
    charged.excess = outcome->excess;
    const auto refunded = refund_by_policy(segment, charge.id, charged, failed_prologs, now);
    if (!refunded) return tl::unexpected(refunded.error());
    charged.refunded = *refunded;
    if (!action.finding.empty()) {
      const auto noted = ledger_.record_finding({now, "run " + run.id, action.finding});
      if (!noted) return tl::unexpected(noted.error());
    }
    if (const auto added = store_.append(run, {now, charged}); !added) {
      return tl::unexpected(to_books(added.error()));
    }
    return {};
  });
  if (!done) return tl::unexpected(of(done.error()));
  return {};
}

Expected<void> Dispatcher::close_segment(Run& run, const CloseSegment& action, UtcSeconds now) {
  const auto done = transact_with(run.id, [&]() -> accounting::Expected<void> {
    const auto released = ledger_.release(run.last().hold_id, action.reason, now);
    if (!released) return tl::unexpected(released.error());
    if (*released == accounting::ReleaseStatus::kUnknownHold) {
      return tl::unexpected(accounting::Error{"hold " + run.last().hold_id + " is not in the ledger"});
    }
    if (const auto measured = measure(run, *site_, now);
        measured && action.outcome == Outcome::kFinished) {
      if (const auto kept = accounting::keep_measured(*db_, *measured); !kept) return kept;
    }
    if (!action.finding.empty()) {
      const auto noted = ledger_.record_finding({now, "run " + run.id, action.finding});
      if (!noted) return tl::unexpected(noted.error());
    }
    const SegmentClosed closed{run.last().index, action.outcome, action.reason};
    if (const auto added = store_.append(run, {now, closed}); !added) {
      return tl::unexpected(to_books(added.error()));
    }
    return {};
  });
  if (!done) return tl::unexpected(of(done.error()));
  second_looks_[run.id] = now + site_->record_wait_s;
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

}  // namespace scheduler
