// SPDX-License-Identifier: GPL-3.0-or-later
//
// What a look at Slurm adds to a run, and what is to be done about it. Pure.
#include <algorithm>

#include <fmt/format.h>

#include "scheduler/continuation.h"
#include "scheduler/plain_job.h"
#include "scheduler/run.h"
#include "scheduler/settlement.h"

namespace scheduler {

namespace {

// Slurm's count of restarts at the last record: by the records, and where slurmdbd lost some by what was
// seen of the job.
int attempt_of_last(const Segment& segment, const std::vector<AllocationRecord>& records) {
  const AllocationRecord& last = records.back();
  int attempt = static_cast<int>(records.size()) - 1;
  for (const AttemptStarted& seen : segment.seen) {
    if (seen.job != last.id) continue;
    attempt = std::max(attempt, last.submit > seen.submit ? seen.attempt + 1 : seen.attempt);
  }
  return attempt;
}

JobEnded to_ended(const Segment& segment, const AllocationRecord& record, int attempt) {
  const bool ran = record.start > 0;
  return {segment.index,      record.id,
          attempt,            record.state,
          record.exit_code,   record.exit_signal,
          ran ? record.start : record.end, std::max(record.start, record.end),
          ran ? record.gpus : 0, record.submit};
}

// The job is gone from the controller: purged after its end, or lost.
JobEnded without_job(const Run& run, const View& view, UtcSeconds now, const Patience& patience) {
  const Segment& segment = run.last();
  JobEnded lost;
  lost.segment = segment.index;
  lost.job = *segment.job;
  lost.start = lost.end = now;
  if (!view.records.empty() && !makes_no_sense(view.records.back(), now, patience)) {
    const AllocationRecord& last = view.records.back();
    lost.job = last.id;
    lost.attempt = attempt_of_last(segment, view.records);
    lost.submit = last.submit;
    if (last.start > 0 && last.end == 0) {
      // slurmdbd shows it running for ever: it ended when it was last seen.
      lost.start = last.start;
      const bool is_seen = segment.running && segment.running->start == last.start;
      lost.end = std::max({view.last_seen, last.start, is_seen ? segment.running->noticed : 0});
      lost.gpus = last.gpus;
    }
  }
  if (lost.gpus == 0 && segment.running) {
    const AttemptStarted& seen = *segment.running;
    const UtcSeconds end = std::max({view.last_seen, seen.start, seen.noticed});
    if (!charged_until(run, seen.job, seen.start, end)) {
      lost.job = seen.job;
      lost.attempt = std::max(lost.attempt, seen.attempt);
      lost.start = seen.start;
      lost.end = end;
      lost.gpus = seen.gpus;
      lost.submit = seen.submit;
    }
  }
  return lost;
}

// It was requeued after its end, or a controller that crashed started it once more, and it was over again
// before the next look.
bool is_over_again(const JobEnded& ended, const JobSnapshot* job) {
  if (job == nullptr || !is_ended(job->state) || job->id != ended.job) return false;
  return job->attempt > ended.attempt || (job->start > ended.start && !job->nodes.empty());
}

}  // namespace

bool is_known_submit(const Run& run, JobId job, UtcSeconds submit) {
  for (const Segment& segment : run.segments) {
    if (segment.job == job && segment.job_submit == submit) return true;
    for (const AttemptStarted& seen : segment.seen) {
      if (seen.job == job && seen.submit == submit) return true;
    }
  }
  return false;
}

std::vector<JobId> jobs_of(const Segment& segment) {
  std::vector<JobId> jobs;
  if (segment.job) jobs.push_back(*segment.job);
  for (const AttemptStarted& seen : segment.seen) {
    if (std::find(jobs.begin(), jobs.end(), seen.job) == jobs.end()) jobs.push_back(seen.job);
  }
  return jobs;
}

bool is_record_of(const Run& run, const Segment& segment, const AllocationRecord& record,
                  const Patience& patience) {
  const std::vector<JobId> jobs = jobs_of(segment);
  const auto is_among = [&jobs](JobId id) {
    return std::find(jobs.begin(), jobs.end(), id) != jobs.end();
  };
  // Of a task that was never seen by itself the array's number is known.
  if (!is_among(record.id) && !(record.array_job != 0 && is_among(record.array_job))) return false;
  if (record.uid != run.about.uid) return false;
  if (segment.is_plain && record.array_task != array_task_of(run.id)) return false;
  if (is_known_submit(run, record.id, record.submit)) return true;
  // A plain job may wait for days before its first hold.
  if (segment.is_plain) return record.submit >= run.segments.front().job_submit;
  if (record.submit + patience.clock_slack_s < segment.opened) return false;
  return record.name.empty() || record.name.ends_with("." + run.id);
}

bool needs_records(const Run& run, const View& view, UtcSeconds now, const Patience& patience) {
  if (run.segments.empty() || run.last().closed || !view.jobs_known) return false;
  if (!run.last().job) return false;
  if (view.job != nullptr && !view.job->array_tasks.empty()) return false;
  if (run.last().ended || view.job == nullptr || is_ended(view.job->state)) return true;
  return !earlier_attempts_are_charged(run, view, now, patience);
}

std::vector<EventBody> observe(const Run& run, const View& view, UtcSeconds now,
                               const Patience& patience) {
  std::vector<EventBody> events;
  if (run.segments.empty() || run.last().closed || !view.jobs_known) return events;
  const Segment& segment = run.last();
  const JobSnapshot* job = view.job;
  if (job != nullptr && segment.raise_to_s && job->time_limit_s >= *segment.raise_to_s) {
    events.push_back(LimitRaised{segment.index, *segment.raise_to_s});
  }

  // Waiting tasks of an array share one job; each gets its own when it starts.
  if (job != nullptr && !job->array_tasks.empty()) return events;
  // Until it is settled an ended job may go on: requeued, or started again after a crash.
  const bool is_live_again = job != nullptr && !is_ended(job->state) && job->start > 0;
  if (segment.ended && !is_live_again && !is_over_again(*segment.ended, job)) return events;
  if (job != nullptr) {
    const bool is_told = segment.job && *segment.job == job->id &&
                         (segment.job_submit != 0 || job->attempt > 0 || job->submit == 0);
    if (!is_told) events.push_back(JobSubmitted{segment.index, job->id, job->submit});
    // While its nodes boot its start is not yet what slurmdbd's record will say.
    const bool is_up = job->state == JobState::kRunning && !job->is_powering_up;
    const bool has_allocation = is_up || job->state == JobState::kSuspended ||
                                (is_ended(job->state) && job->start > 0 && !job->nodes.empty());
    const bool is_known = std::any_of(
        segment.seen.begin(), segment.seen.end(), [&](const AttemptStarted& seen) {
          return seen.job == job->id && seen.start == job->start;
        });
    if (has_allocation && !is_known) {
      events.push_back(AttemptStarted{segment.index, job->id, job->attempt, job->start, job->gpus,
                                      job->nodes, job->submit, view.last_seen});
    }
    if (is_ended(job->state)) {
      // A job that was cancelled while it waited never had an allocation.
      const bool ran = has_allocation || is_known;
      events.push_back(JobEnded{segment.index, job->id, job->attempt, job->state, job->exit_code,
                                job->exit_signal, ran ? job->start : job->end,
                                std::max(job->end, ran ? job->start : job->end),
                                ran ? job->gpus : 0, job->submit});
    }
    return events;
  }
  if (!segment.job) {
    // Its client told nothing, and it is gone from the controller already.
    if (!view.records.empty()) {
      const AllocationRecord& first = view.records.front();
      events.push_back(JobSubmitted{segment.index, first.id, first.submit});
    }
    return events;
  }
  if (!view.records_known) return events;
  if (!view.records.empty()) {
    const AllocationRecord& last = view.records.back();
    if (last.end != 0 && last.state != JobState::kRequeued && !makes_no_sense(last, now, patience)) {
      events.push_back(to_ended(segment, last, attempt_of_last(segment, view.records)));
      return events;
    }
  }
  if (now - std::max({view.last_seen, view.last_shown, segment.opened}) > patience.record_wait_s) {
    events.push_back(without_job(run, view, now, patience));
  }
  return events;
}

bool is_as_planned(const Segment& segment, const JobSnapshot& job) {
  const Plan& plan = segment.plan;
  if (!job.partition.empty() && job.partition != plan.partition) return false;
  // A plain job's plan names no GPUs of Slurm's, and grows with it.
  if (segment.is_plain) return true;
  // A job that names no type where its plan does may be given a dearer one.
  const auto types = gpu_types_in(plan.tres_per_node);
  const bool is_other_type =
      !types.empty() && (job.has_several_gpu_types || job.gpu_type != types.front());
  return job.gpus <= plan.gpus && !is_other_type;
}

bool is_covered(const Run& run, const View& view, UtcSeconds now, const Patience& patience) {
  const Segment& segment = run.last();
  const Plan& plan = segment.plan;
  if (segment.rejected || segment.closed || view.job == nullptr) return false;
  if (!earlier_attempts_are_charged(run, view, now, patience)) return false;
  const JobSnapshot& job = *view.job;
  if (!is_as_planned(segment, job)) return false;
  const auto needed = accounting::usage_amount(std::max(job.gpus, plan.gpus),
                                               job.time_limit_s + patience.margin_s(plan),
                                               plan.quote.weight_milli);
  return needed && *needed <= segment.remaining();
}

namespace {

// The longest limit that what is left of the hold pays.
std::int64_t covered_limit_s(const Segment& segment, const JobSnapshot& job,
                             const Patience& patience) {
  return limit_that_fits_s(segment.remaining(), std::max(job.gpus, segment.plan.gpus),
                           segment.plan.quote.weight_milli, patience.margin_s(segment.plan));
}

bool has_cancel(const std::vector<Action>& actions) {
  return std::any_of(actions.begin(), actions.end(), [](const Action& action) {
    return std::holds_alternative<CancelJob>(action);
  });
}

// A job that is more than what is left of its hold pays: it is ended, or its limit is cut.
void add_bounds(const Segment& segment, const JobSnapshot& job, const Patience& patience,
                std::vector<Action>& actions) {
  const Plan& plan = segment.plan;
  const std::int64_t covered_s = covered_limit_s(segment, job, patience);
  if (has_cancel(actions)) {
    if (covered_s >= 60 && job.time_limit_s > covered_s) actions.push_back(CutLimit{job.id, covered_s});
    return;
  }
  if (!is_as_planned(segment, job)) {
    actions.push_back(CancelJob{
        job.id, fmt::format("the job was changed: it has {} GPUs{} in partition {}, planned and held "
                            "are {} GPUs of type {} in partition {}",
                            job.gpus, job.gpu_type.empty() ? "" : " (" + job.gpu_type + ")",
                            job.partition, plan.gpus, plan.type, plan.partition)});
  } else if (covered_s < 60) {
    actions.push_back(CancelJob{job.id, fmt::format("budget: {} of the hold are left, not enough "
                                                    "for another attempt",
                                                    accounting::to_gpu_hours(segment.remaining()))});
  } else if (job.time_limit_s > covered_s) {
    actions.push_back(CutLimit{job.id, covered_s});
  }
}

void add_coverage(const Run& run, const View& view, UtcSeconds now, const Patience& patience,
                  std::vector<Action>& actions) {
  const Segment& segment = run.last();
  const JobSnapshot& job = *view.job;
  const bool is_waiting = job.state == JobState::kPending;
  // Until the attempts before this one are charged, what is left of the hold is not known, but no more
  // than what it says.
  if (!earlier_attempts_are_charged(run, view, now, patience)) {
    const bool can_start = is_waiting && parse_stamp(job.admin_comment) && !job.is_held;
    if (can_start) actions.push_back(HoldJob{job.id, "an earlier attempt is not charged yet"});
    if (job.state == JobState::kRunning && !segment.rejected) {
      add_bounds(segment, job, patience, actions);
    }
    return;
  }
  if (is_continuation(run, view)) {
    if (segment.stop_requested || segment.cancel_requested) return;
    const std::size_t before = actions.size();
    add_continuation(run, view, now, patience, actions);
    if (actions.size() > before || segment.pause_requested || is_covered(run, view, now, patience)) {
      return;
    }
  }
  if (segment.rejected) {
    actions.push_back(CancelJob{job.id, *segment.rejected});
    return;
  }
  if (is_covered(run, view, now, patience)) {
    if (is_waiting && is_our_hold(job)) actions.push_back(ReleaseJob{job.id});
    add_late_limit(run, view, patience, actions);
    return;
  }
  if (segment.is_plain && is_waiting) {
    // Somebody changed it, or it was requeued: it waits until a new hold covers it.
    // Only what Slurm shows as held gives its hours back.
    if (job.is_held) {
      actions.push_back(CloseSegment{Outcome::kStopped, "changed or requeued; quoted anew",
                                     unseen_attempts(run, job.id, job.attempt)});
    } else {
      actions.push_back(HoldJob{job.id, "its hours are set aside anew"});
    }
    return;
  }
  add_bounds(segment, job, patience, actions);
}

// How much longer an epochs run gets at a time: a quarter of its plan, ten minutes at least.
std::int64_t stretch_s(const Run& run, const JobSnapshot& job, const Patience& patience) {
  const Plan& plan = run.last().plan;
  constexpr std::int64_t kShortest_s = 600, kLongest_s = 4 * 3600;
  std::int64_t stretch = std::clamp(plan.time_limit_s / 4, kShortest_s, kLongest_s) / 60 * 60;
  if (patience.longest_limit_s > 0) {
    stretch = std::min(stretch, patience.longest_limit_s - job.time_limit_s);
  }
  if (const auto left_s = tier_left_s(run)) {
    stretch = std::min(stretch, *left_s - job.time_limit_s);
  }
  if (patience.facts != nullptr) {
    const auto longest = patience.facts->partition_max_s.find(plan.partition);
    if (longest != patience.facts->partition_max_s.end()) {
      stretch = std::min(stretch, longest->second - job.time_limit_s);
    }
  }
  return stretch;
}

// An epochs run has an estimated end. Where the real one lies later its hold grows ahead of need,
// and then its limit; where the fund cannot pay it saves and leaves in time.
void add_extension(const Run& run, const View& view, UtcSeconds now, const Patience& patience,
                   std::vector<Action>& actions) {
  const Segment& segment = run.last();
  const JobSnapshot& job = *view.job;
  constexpr std::int64_t kLeaveLead_s = 40;  // To save and to leave.
  if (segment.is_plain || segment.plan.is_timed || job.state != JobState::kRunning) return;
  if (segment.stop_requested || segment.cancel_requested || segment.rejected) return;
  if (segment.pause_requested) return;
  if (segment.raise_to_s) {
    // An attempt that has ended since has used some of what the new limit was paid with.
    if (!earlier_attempts_are_charged(run, view, now, patience)) return;
    const std::int64_t to_s =
        std::min(*segment.raise_to_s, covered_limit_s(segment, job, patience));
    if (job.time_limit_s < to_s) actions.push_back(RaiseLimit{job.id, to_s});
    if (job.time_limit_s < to_s || job.time_limit_s >= *segment.raise_to_s) return;
  }
  const std::int64_t left_s = job.start + job.time_limit_s - now;
  if (segment.budget_ended && left_s <= kLeaveLead_s) {
    actions.push_back(AskToStop{job.id});
    return;
  }
  const std::int64_t lead_s = std::min(patience.extend_lead_s, job.time_limit_s / 2);
  if (left_s > lead_s || !is_covered(run, view, now, patience)) return;
  const std::int64_t stretch = stretch_s(run, job, patience);
  if (stretch >= 60) actions.push_back(ExtendHold{job.id, job.time_limit_s, stretch});
}

// While a charge is on its way, what is left of the hold is not what the books will say.
bool has_charge(const std::vector<Action>& actions) {
  return std::any_of(actions.begin(), actions.end(), [](const Action& action) {
    return std::holds_alternative<PostCharge>(action);
  });
}

// Why the job was ended, where somebody ended it.
std::uint32_t killed_by(const Segment& segment, const View& view) {
  if (!view.records.empty() && view.records.back().killed_by_uid != 0) {
    return view.records.back().killed_by_uid;
  }
  return segment.charges.empty() ? 0 : segment.charges.back().killed_by_uid;
}

}  // namespace

std::vector<Action> next_actions(const Run& run, const View& view, UtcSeconds now,
                                 const Patience& patience) {
  std::vector<Action> actions;
  if (run.segments.empty() || run.last().closed || !view.jobs_known) return actions;
  const Segment& segment = run.last();

  if (segment.ended) {
    add_charges(run, view, now, patience, actions);
    if (!has_charge(actions) && is_settled(run, view, now, patience)) {
      const SegmentClosed closed =
          explain_end(segment, *segment.ended, killed_by(segment, view));
      const int attempts = segment.ended->attempt + (segment.ended->gpus > 0 ? 1 : 0);
      const std::string unseen = unseen_attempts(run, segment.ended->job, attempts);
      actions.push_back(CloseSegment{closed.outcome, closed.reason,
                                     unseen.empty() ? unseen_end(run, view) : unseen});
    }
    return actions;
  }

  if (view.job != nullptr && !view.job->array_tasks.empty()) {
    add_coverage(run, view, now, patience, actions);
    return actions;
  }
  if (!segment.job) {
    // No job carries the run's id. One may still be on its way from the client, or may have come
    // and gone: slurmdbd is asked for its name.
    if (!view.records.empty()) return actions;
    const UtcSeconds since = segment.opened + patience.unclaimed_hold_s;
    if (!view.records_known && now - since <= patience.record_wait_s) return actions;
    const std::string unsure =
        view.records_known ? ""
                           : fmt::format("no job of run {} was seen, and slurmdbd was silent when its "
                                         "hold was released", run.id);
    const auto close = [&](Outcome outcome, std::string reason) {
      actions.push_back(CloseSegment{outcome, std::move(reason), unsure});
    };
    if (segment.submission_failed) {
      close(Outcome::kFailed, *segment.submission_failed);
    } else if (segment.cancel_requested) {
      close(Outcome::kCancelled, "cancelled by " + segment.stopped_by);
    } else if (segment.stop_requested) {
      close(Outcome::kStopped, "stopped by " + segment.stopped_by + " before it was submitted");
    } else if (now - segment.opened > patience.unclaimed_hold_s) {
      close(Outcome::kFailed,
            fmt::format("no job appeared in Slurm within {} s: the client died or could not reach "
                        "it. The hold is released", patience.unclaimed_hold_s));
    }
    return actions;
  }

  add_charges(run, view, now, patience, actions);
  if (view.job == nullptr || is_ended(view.job->state)) return actions;
  const JobSnapshot& job = *view.job;
  if (segment.cancel_requested) {
    actions.push_back(CancelJob{job.id, "cancelled by " + segment.stopped_by, true});
  } else if (segment.stop_requested) {
    const bool is_late = now - *segment.stop_requested > patience.stop_grace_s;
    if (job.state != JobState::kRunning || is_late) {
      actions.push_back(CancelJob{job.id, "stopped by " + segment.stopped_by, true});
    } else {
      actions.push_back(AskToStop{job.id});
    }
  } else if (segment.pause_requested && job.state == JobState::kRunning) {
    actions.push_back(AskToStop{job.id});
  }
  // The next round, with the charge in the books, sees the true rest.
  if (has_charge(actions)) return actions;
  add_coverage(run, view, now, patience, actions);
  add_extension(run, view, now, patience, actions);
  if (has_cancel(actions)) {  // It is not waited for until it has saved and left.
    std::erase_if(actions, [](const Action& action) { return std::holds_alternative<AskToStop>(action); });
  }
  return actions;
}

}  // namespace scheduler
