// SPDX-License-Identifier: GPL-3.0-or-later
//
// What a look at Slurm adds to a run, and what is to be done about it. Pure.
#include <algorithm>

#include <fmt/format.h>

#include "scheduler/plain_job.h"
#include "scheduler/run.h"

namespace scheduler {

namespace {

bool is_charged(const Segment& segment, int attempt) {
  if (attempt < segment.first_attempt) return true;
  return std::any_of(segment.charges.begin(), segment.charges.end(),
                     [&](const AttemptCharged& charge) { return charge.attempt == attempt; });
}

// Attempts that Slurm has closed for good: all but the last of a job that still waits or runs.
// `attempt` is the place among the records, which slurmdbd keeps one an attempt.
bool is_closed_record(const AllocationRecord& record, bool is_last, bool job_is_over) {
  if (record.end == 0) return false;
  if (!is_last) return true;
  return job_is_over && is_ended(record.state) && record.state != JobState::kRequeued;
}

bool earlier_attempts_are_charged(const Segment& segment, const JobSnapshot& job) {
  for (int attempt = 0; attempt < job.attempt; ++attempt) {
    if (!is_charged(segment, attempt)) return false;
  }
  return true;
}

AttemptCharged to_charge(const Segment& segment, const AllocationRecord& record, int attempt) {
  AttemptCharged charge;
  charge.segment = segment.index;
  charge.job = record.id;
  charge.attempt = attempt;
  charge.state = record.state;
  // An attempt that never started has no allocation; a clock that stepped back counts as none.
  charge.start = record.start > 0 ? record.start : record.end;
  charge.end = std::max(record.end, charge.start);
  charge.gpus = record.gpus;
  charge.killed_by_uid = record.killed_by_uid;
  return charge;
}

JobEnded to_ended(const Segment& segment, const AllocationRecord& record, int attempt) {
  return {segment.index,   record.id,     attempt, record.state, record.exit_code,
          record.exit_signal, record.start, record.end, record.gpus};
}

}  // namespace

bool is_record_of(const Run& run, const Segment& segment, const AllocationRecord& record,
                  const Patience& patience) {
  if (!segment.job || record.id != *segment.job || record.uid != run.about.uid) return false;
  // A plain job may wait for days before its first hold, and its attempts are counted from the first.
  if (segment.is_plain) return record.submit >= run.segments.front().job_submit;
  return record.submit + patience.clock_slack_s >= segment.opened;
}

bool needs_records(const Run& run, const View& view) {
  if (run.segments.empty() || run.last().closed || !run.last().job || !view.jobs_known) return false;
  const Segment& segment = run.last();
  if (segment.ended || view.job == nullptr || is_ended(view.job->state)) return true;
  // An attempt before the present one is not in the books yet.
  return view.job->attempt > 0 && !is_charged(segment, view.job->attempt - 1);
}

std::vector<EventBody> observe(const Run& run, const View& view, UtcSeconds now,
                               const Patience& patience) {
  std::vector<EventBody> events;
  if (run.segments.empty() || run.last().closed || !view.jobs_known) return events;
  const Segment& segment = run.last();
  const JobSnapshot* job = view.job;

  // Waiting tasks of an array share one job; each gets its own when it starts.
  if (job != nullptr && !job->array_tasks.empty()) return events;
  if (job != nullptr && !segment.job) {
    events.push_back(JobSubmitted{segment.index, job->id, job->submit});
  }
  if (segment.ended) return events;

  if (job != nullptr) {
    const bool has_allocation = job->state == JobState::kRunning ||
                                job->state == JobState::kSuspended ||
                                (is_ended(job->state) && job->start > 0 && !job->nodes.empty());
    const bool is_known = segment.running && segment.running->attempt == job->attempt &&
                          segment.running->job == job->id;
    if (has_allocation && !is_known) {
      events.push_back(AttemptStarted{segment.index, job->id, job->attempt, job->start, job->gpus,
                                      job->nodes});
    }
    if (is_ended(job->state)) {
      // A job that was cancelled while it waited never had an allocation.
      const bool ran = has_allocation || is_known;
      events.push_back(JobEnded{segment.index, job->id, job->attempt, job->state, job->exit_code,
                                job->exit_signal, ran ? job->start : job->end, job->end,
                                ran ? job->gpus : 0});
    }
    return events;
  }

  // The controller does not have the job: purged after its end, or lost.
  if (segment.job && view.records_known) {
    if (!view.records.empty()) {
      const AllocationRecord& last = view.records.back();
      const bool is_final = last.end != 0 && last.state != JobState::kRequeued;
      if (is_final) {
        events.push_back(to_ended(segment, last, static_cast<int>(view.records.size()) - 1));
      } else if (now - std::max(view.last_seen, segment.opened) > patience.record_wait_s) {
        // slurmdbd shows it running for ever: it ended when we last saw it.
        const UtcSeconds end = std::max(view.last_seen, last.start);
        events.push_back(JobEnded{segment.index, *segment.job,
                                  static_cast<int>(view.records.size()) - 1, JobState::kUnknown, 0,
                                  0, last.start > 0 ? last.start : end, end, last.gpus});
      }
    } else if (now - std::max(view.last_seen, segment.opened) > patience.record_wait_s) {
      JobEnded lost{segment.index, *segment.job, 0, JobState::kUnknown, 0, 0, now, now, 0};
      if (segment.running) {
        lost.attempt = segment.running->attempt;
        lost.start = segment.running->start;
        lost.end = std::max(view.last_seen, lost.start);
        lost.gpus = segment.running->gpus;
      }
      events.push_back(lost);
    }
  }
  return events;
}

bool is_covered(const Segment& segment, const JobSnapshot& job, const Patience& patience) {
  const Plan& plan = segment.plan;
  if (segment.rejected || segment.closed || !earlier_attempts_are_charged(segment, job)) return false;
  if (!job.partition.empty() && job.partition != plan.partition) return false;
  if (!segment.is_plain && job.gpus > plan.gpus) return false;
  const auto needed = accounting::usage_amount(std::max(job.gpus, plan.gpus),
                                               job.time_limit_s + patience.margin_s,
                                               plan.quote.weight_milli);
  return needed && *needed <= segment.remaining();
}

namespace {

void add_coverage(const Segment& segment, const JobSnapshot& job, const Patience& patience,
                  std::vector<Action>& actions) {
  const Plan& plan = segment.plan;
  const bool is_waiting = job.state == JobState::kPending;
  // Until the attempts before this one are charged, what is left of the hold is not known.
  if (!earlier_attempts_are_charged(segment, job)) {
    const bool can_start = is_waiting && parse_stamp(job.admin_comment) && !job.is_held;
    if (can_start) actions.push_back(HoldJob{job.id, "an earlier attempt is not charged yet"});
    return;
  }
  if (segment.rejected) {
    actions.push_back(CancelJob{job.id, *segment.rejected});
    return;
  }
  if (is_covered(segment, job, patience)) {
    if (is_waiting && is_our_hold(job)) actions.push_back(ReleaseJob{job.id});
    return;
  }
  if (segment.is_plain && is_waiting) {
    // Somebody changed it, or it was requeued: it waits until a new hold covers it.
    if (!job.is_held) actions.push_back(HoldJob{job.id, "its hours are set aside anew"});
    actions.push_back(CloseSegment{Outcome::kStopped, "changed or requeued; quoted anew"});
    return;
  }
  const std::int64_t covered_s =
      limit_that_fits_s(segment.remaining(), std::max(job.gpus, plan.gpus),
                        plan.quote.weight_milli, patience.margin_s);
  const bool has_other_gpus = !segment.is_plain && job.gpus > plan.gpus;
  if (has_other_gpus || (!job.partition.empty() && job.partition != plan.partition)) {
    actions.push_back(CancelJob{
        job.id, fmt::format("the job was changed: it has {} GPUs in partition {}, planned and held "
                            "are {} GPUs in partition {}",
                            job.gpus, job.partition, plan.gpus, plan.partition)});
  } else if (covered_s < 60) {
    actions.push_back(CancelJob{job.id, fmt::format("budget: {} of the hold are left, not enough "
                                                    "for another attempt",
                                                    accounting::to_gpu_hours(segment.remaining()))});
  } else if (job.time_limit_s > covered_s) {
    actions.push_back(CutLimit{job.id, covered_s});
  }
}

void add_charges(const Segment& segment, const View& view, UtcSeconds now, const Patience& patience,
                 std::vector<Action>& actions) {
  const bool job_is_over = segment.ended.has_value();
  const int records = static_cast<int>(view.records.size());
  for (int attempt = 0; attempt < records; ++attempt) {
    const AllocationRecord& record = view.records[static_cast<std::size_t>(attempt)];
    if (is_charged(segment, attempt)) continue;
    if (!is_closed_record(record, attempt == records - 1, job_is_over)) continue;
    actions.push_back(PostCharge{to_charge(segment, record, attempt),
                                 fmt::format("{} {}", segment.plan.type, to_name(record.state))});
  }
  if (!job_is_over) return;
  const JobEnded& ended = *segment.ended;
  const bool has_final_record =
      records > ended.attempt &&
      is_closed_record(view.records.back(), true, true);
  if (has_final_record || is_charged(segment, ended.attempt)) return;
  const bool waited_long = now - segment.ended_noticed > patience.record_wait_s;
  const bool never_ran = ended.gpus == 0 && view.records_known && view.records.empty();
  if (waited_long || (never_ran && now - segment.ended_noticed > 5)) {
    AttemptCharged charge;
    charge.segment = segment.index;
    charge.job = ended.job;
    charge.attempt = ended.attempt;
    charge.state = ended.state;
    charge.start = ended.start;
    charge.end = std::max(ended.end, ended.start);
    charge.gpus = ended.gpus;
    actions.push_back(PostCharge{charge, fmt::format("{} {}, slurmdbd has no record: as seen from "
                                                     "the controller",
                                                     segment.plan.type, to_name(ended.state))});
  }
}

}  // namespace

std::vector<Action> next_actions(const Run& run, const View& view, UtcSeconds now,
                                 const Patience& patience) {
  std::vector<Action> actions;
  if (run.segments.empty() || run.last().closed || !view.jobs_known) return actions;
  const Segment& segment = run.last();

  if (segment.ended) {
    add_charges(segment, view, now, patience, actions);
    if (actions.empty() && is_charged(segment, segment.ended->attempt)) {
      const SegmentClosed closed =
          explain_end(segment, *segment.ended, segment.charges.back().killed_by_uid);
      actions.push_back(CloseSegment{closed.outcome, closed.reason});
    }
    return actions;
  }

  if (view.job != nullptr && !view.job->array_tasks.empty()) {
    add_coverage(segment, *view.job, patience, actions);
    return actions;
  }
  if (!segment.job) {
    // No job carries the run's id. One may still be on its way from the client.
    if (segment.submission_failed) {
      actions.push_back(CloseSegment{Outcome::kFailed, *segment.submission_failed});
    } else if (segment.cancel_requested) {
      actions.push_back(CloseSegment{Outcome::kCancelled, "cancelled by " + segment.stopped_by});
    } else if (segment.stop_requested) {
      actions.push_back(CloseSegment{Outcome::kStopped, "stopped by " + segment.stopped_by +
                                                            " before it was submitted"});
    } else if (now - segment.opened > patience.unclaimed_hold_s) {
      actions.push_back(CloseSegment{
          Outcome::kFailed, fmt::format("no job appeared in Slurm within {} s: the client died or "
                                        "could not reach it. The hold is released",
                                        patience.unclaimed_hold_s)});
    }
    return actions;
  }

  add_charges(segment, view, now, patience, actions);
  if (view.job == nullptr || is_ended(view.job->state)) return actions;
  const JobSnapshot& job = *view.job;
  if (segment.cancel_requested) {
    actions.push_back(CancelJob{job.id, "cancelled by " + segment.stopped_by});
  } else if (segment.stop_requested) {
    const bool is_late = now - *segment.stop_requested > patience.stop_grace_s;
    if (job.state != JobState::kRunning || is_late) {
      actions.push_back(CancelJob{job.id, "stopped by " + segment.stopped_by});
    } else {
      actions.push_back(AskToStop{job.id});
    }
  }
  add_coverage(segment, job, patience, actions);
  return actions;
}

}  // namespace scheduler
