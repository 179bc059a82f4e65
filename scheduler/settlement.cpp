// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/settlement.h"

#include <algorithm>

#include <fmt/format.h>

#include "accounting/tariff.h"

namespace scheduler {
namespace {

// A charge that is, or is a part of, the allocation from `start` to `end`.
bool is_part_of(const AttemptCharged& charge, JobId job, UtcSeconds start, UtcSeconds end) {
  if (charge.job != job) return false;
  return charge.start == start || (charge.start < end && charge.end > start);
}

template <typename Visit>
void each_charge(const Run& run, Visit visit) {
  for (const Segment& segment : run.segments) {
    for (const AttemptCharged& charge : segment.charges) visit(charge);
  }
}

// Allocations of the job in the books, to compare with Slurm's count of its restarts. What was added to
// one later is not another one. A plain job is one job through all segments; each segment of a training
// has its own, and an earlier one's may have had its number.
int allocations_charged(const Run& run, JobId job) {
  int count = 0;
  for (const Segment& segment : run.segments) {
    if (!segment.is_plain && segment.index != run.last().index) continue;
    for (const AttemptCharged& charge : segment.charges) {
      if (charge.job != job) continue;
      bool is_addition = false;
      each_charge(run, [&](const AttemptCharged& other) {
        is_addition |= other.job == charge.job && other.submit == charge.submit &&
                       other.end == charge.start && other.start < charge.start;
      });
      if (!is_addition) ++count;
    }
  }
  return count;
}

bool is_on_gpus(const JobSnapshot& job) {
  return job.state == JobState::kRunning || job.state == JobState::kSuspended;
}

// The end of the allocation as the controller showed it; nothing: it did not.
std::optional<UtcSeconds> shown_end(const Segment& segment, JobId job, UtcSeconds start) {
  std::optional<UtcSeconds> end;
  for (const JobEnded& each : segment.ends) {
    const bool is_its = each.job == job && each.start == start && each.gpus > 0 &&
                        each.state != JobState::kUnknown;
    if (is_its) end = std::max(each.end, start);
  }
  return end;
}

// When an allocation that was seen running was over, as far as looks at the controller tell; nothing
// while it lasts.
std::optional<UtcSeconds> loosely_seen_end(const Segment& segment, std::size_t place,
                                          const View& view) {
  const AttemptStarted& seen = segment.seen[place];
  const auto last_look = [&](UtcSeconds looked) {
    return std::max({looked, seen.start, seen.noticed});
  };
  if (const auto shown = shown_end(segment, seen.job, seen.start)) return shown;
  if (place + 1 < segment.seen.size()) {
    // A requeued job gets its new submit time when its allocation is over. That of a later attempt than
    // the next one comes after waits that are nobody's to pay.
    const AttemptStarted& next = segment.seen[place + 1];
    if (next.attempt == seen.attempt + 1 && next.submit >= seen.start) return next.submit;
    return std::min(last_look(next.before), std::max(next.start, seen.start));
  }
  if (segment.ended) {
    const JobEnded& ended = *segment.ended;
    if (ended.job == seen.job && ended.start == seen.start && ended.gpus > 0) return ended.end;
    if (ended.attempt == seen.attempt + 1 && ended.submit >= seen.start) return ended.submit;
    return last_look(view.last_seen);
  }
  if (view.job == nullptr) return std::nullopt;  // observe() says what became of it.
  const JobSnapshot& job = *view.job;
  const bool is_same = job.id == seen.job && job.start == seen.start;
  if (is_same && (is_on_gpus(job) || is_ended(job.state))) return std::nullopt;
  if (job.attempt == seen.attempt + 1 && job.submit >= seen.start) return job.submit;
  return last_look(view.last_seen);
}

// An allocation is over when its job is submitted anew, whatever a changed record says.
UtcSeconds believable_end(const Run& run, const View& view, const AllocationRecord& record) {
  UtcSeconds end = std::max(record.end, record.start);  // A clock that stepped back counts as none.
  const auto limit = [&](JobId job, UtcSeconds submit) {
    if (job == record.id && submit > record.submit && submit >= record.start) end = std::min(end, submit);
  };
  for (const AllocationRecord& other : view.records) limit(other.id, other.submit);
  if (view.job != nullptr) limit(view.job->id, view.job->submit);
  for (const Segment& segment : run.segments) {
    // Where its owner requeues a job that has ended, slurmctld 22.05 closes the record once more, with
    // the time of the requeue.
    const auto shown = shown_end(segment, record.id, record.start);
    if (shown && record.state == JobState::kRequeued) end = std::min(end, *shown);
    for (const AttemptStarted& seen : segment.seen) limit(seen.job, seen.submit);
  }
  return end;
}

// The same, but not beyond what is known to have come after it.
std::optional<UtcSeconds> seen_end(const Run& run, std::size_t place, const View& view) {
  const AttemptStarted& seen = run.last().seen[place];
  auto end = loosely_seen_end(run.last(), place, view);
  if (!end) return end;
  const auto limit = [&](JobId job, UtcSeconds later) {
    if (job == seen.job && later > seen.start) end = std::min(*end, later);
  };
  for (const AllocationRecord& record : view.records) {
    limit(record.id, record.submit);
    limit(record.id, record.start);
  }
  for (const AttemptStarted& other : run.last().seen) limit(other.job, other.start);
  each_charge(run, [&](const AttemptCharged& charge) { limit(charge.job, charge.start); });
  return end;
}

AttemptCharged from_record(const Run& run, const View& view, const AllocationRecord& record) {
  AttemptCharged charge;
  charge.segment = run.last().index;
  charge.job = record.id;
  charge.attempt = next_attempt(run);
  charge.state = record.state;
  charge.exit_code = record.exit_code;
  charge.submit = record.submit;
  charge.start = record.start;
  charge.end = believable_end(run, view, record);
  charge.gpus = record.gpus;
  charge.killed_by_uid = record.killed_by_uid;
  return charge;
}

// The controller lost the job, and slurmdbd has not told how it ended.
bool is_end_unknown(const Segment& segment, const View& view) {
  return segment.ended->state == JobState::kUnknown && segment.ended->gpus == 0 &&
         (view.records.empty() || view.records.back().end == 0);
}

bool is_closed(const AllocationRecord& record, UtcSeconds now, const Patience& patience) {
  return record.end != 0 && record.start > 0 && !makes_no_sense(record, now, patience);
}

bool has_closed_record(const View& view, JobId job, UtcSeconds start, UtcSeconds now,
                       const Patience& patience) {
  return std::any_of(view.records.begin(), view.records.end(), [&](const AllocationRecord& record) {
    return is_closed(record, now, patience) && record.id == job && record.start == start;
  });
}

// A record that reaches beyond the next submission was changed. When its allocation was over is told
// by the submission of the attempt after it, whose record may still be on its way. Not waited for so
// long that the job would be let go on with the hours that this one cost.
bool waits_for_later_records(const Run& run, const View& view, const AllocationRecord& record,
                             UtcSeconds now, const Patience& patience) {
  if (record.end <= believable_end(run, view, record)) return false;
  const Segment& segment = run.last();
  int attempts = 0;
  UtcSeconds since = 0;
  if (segment.ended && segment.ended->job == record.id) {
    attempts = segment.ended->attempt;
    since = segment.ended_noticed;
  } else if (view.job != nullptr && view.job->id == record.id) {
    attempts = view.job->attempt;
    since = view.job->submit;
  }
  const auto known = std::count_if(
      view.records.begin(), view.records.end(), [&](const AllocationRecord& other) {
        return other.id == record.id && is_closed(other, now, patience);
      });
  return known < attempts && now - since <= patience.record_wait_s / 2;
}

// The record of an allocation of which a part is in the books already.
void compare_with_books(const Run& run, const View& view, const AllocationRecord& record,
                        UtcSeconds until, std::vector<Action>& actions) {
  const UtcSeconds end = std::max(record.end, record.start);
  const std::string& type = run.last().plan.type;
  bool is_over_for_good = false;
  each_charge(run, [&](const AttemptCharged& charge) {
    is_over_for_good |= is_part_of(charge, record.id, record.start, end) &&
                        is_ended(charge.state) && charge.state != JobState::kRequeued;
  });
  // Where its owner requeues a job that has ended, slurmctld 22.05 closes the record once more, with
  // the time of the requeue.
  if (record.state == JobState::kRequeued && is_over_for_good) return;
  if (until < believable_end(run, view, record)) {
    // Closed a second time, later, or charged before the record came.
    AttemptCharged rest = from_record(run, view, record);
    rest.start = until;
    actions.push_back(PostCharge{rest, fmt::format("{} {}, more of an allocation that was charged",
                                                   type, to_name(record.state)),
                                 "", record.nodes});
    return;
  }
  std::int64_t charged = 0;
  each_charge(run, [&](const AttemptCharged& charge) {
    if (is_part_of(charge, record.id, record.start, end)) {
      charged += charge.gpus * (charge.end - charge.start);
    }
  });
  const std::int64_t recorded = record.gpus * (end - record.start);
  if (charged == recorded) return;
  actions.push_back(NoteFinding{fmt::format(
      "job {} from {} on: {} GPU-s are charged, slurmdbd has {} GPU-s. Nothing is given back for a "
      "record that changed", record.id, accounting::format_utc(record.start), charged, recorded)});
}

// When the allocation that began at `start` was last seen running; 0: never.
UtcSeconds last_sighting(const Segment& segment, JobId job, UtcSeconds start, const View& view) {
  for (std::size_t place = 0; place < segment.seen.size(); ++place) {
    const AttemptStarted& seen = segment.seen[place];
    if (seen.job != job || seen.start != start) continue;
    return place + 1 < segment.seen.size() ? segment.seen[place + 1].before : view.last_seen;
  }
  return 0;
}

// What slurmdbd says counts. That it says less than was seen, somebody may want to know.
std::string doubt_of(const Segment& segment, const AllocationRecord& record, UtcSeconds end,
                     const View& view, const Patience& patience) {
  const UtcSeconds seen = last_sighting(segment, record.id, record.start, view);
  if (seen <= end + patience.clock_slack_s) return "";
  return fmt::format("job {}: slurmdbd's record from {} on ends at {}, but it was seen running at {}. "
                     "Charged is what the record says", record.id,
                     accounting::format_utc(record.start), accounting::format_utc(end),
                     accounting::format_utc(seen));
}

// The end of an allocation comes before its start where the controller's clock was set back while it
// ran. Slurm counts no second of it then, and so do the books.
std::string clock_doubt_of(const Segment& segment, const AttemptCharged& charge, const View& view) {
  if (charge.end > charge.start) return "";
  const UtcSeconds seen = last_sighting(segment, charge.job, charge.start, view);
  if (seen <= charge.start) return "";
  return fmt::format(". It was seen running at {}: the clock of slurmctld was set back, as it seems",
                     accounting::format_utc(seen));
}

void add_as_seen(const Run& run, const View& view, AttemptCharged charge,
                 std::vector<Action>& actions) {
  charge.segment = run.last().index;
  charge.attempt = next_attempt(run);
  charge.end = std::max(charge.end, charge.start);
  const char* const why = view.records_known ? "slurmdbd has no record of it" : "slurmdbd is silent";
  actions.push_back(PostCharge{
      charge,
      fmt::format("{} {}, {}: as seen from the controller", run.last().plan.type,
                  to_name(charge.state), why),
      fmt::format("job {}: {} GPUs from {} to {} are charged as seen from the controller; {}{}",
                  charge.job, charge.gpus, accounting::format_utc(charge.start),
                  accounting::format_utc(charge.end), why,
                  clock_doubt_of(run.last(), charge, view))});
}

}  // namespace

bool makes_no_sense(const AllocationRecord& record, UtcSeconds now, const Patience& patience) {
  constexpr int kGpusMax = 1'000'000;
  const UtcSeconds latest = now + patience.clock_slack_s;
  return record.gpus < 0 || record.gpus > kGpusMax || record.start < 0 || record.start > latest ||
         record.end > latest;
}

int next_attempt(const Run& run) {
  int next = 0;
  each_charge(run, [&](const AttemptCharged& charge) { next = std::max(next, charge.attempt + 1); });
  return next;
}

std::optional<UtcSeconds> charged_until(const Run& run, JobId job, UtcSeconds start, UtcSeconds end) {
  std::optional<UtcSeconds> until;
  each_charge(run, [&](const AttemptCharged& charge) {
    if (!is_part_of(charge, job, start, end)) return;
    until = std::max(until.value_or(charge.end), charge.end);
  });
  return until;
}

void add_charges(const Run& run, const View& view, UtcSeconds now, const Patience& patience,
                 std::vector<Action>& actions) {
  const Segment& segment = run.last();
  for (const AllocationRecord& record : view.records) {
    if (makes_no_sense(record, now, patience)) {
      actions.push_back(NoteFinding{fmt::format(
          "job {}: slurmdbd's record of {} GPUs from {} to {} makes no sense and is left alone",
          record.id, record.gpus, record.start, record.end)});
    }
    if (!is_closed(record, now, patience)) continue;
    if (waits_for_later_records(run, view, record, now, patience)) continue;
    const auto until =
        charged_until(run, record.id, record.start, believable_end(run, view, record));
    if (until) {
      compare_with_books(run, view, record, *until, actions);
    } else {
      const AttemptCharged charge = from_record(run, view, record);
      actions.push_back(PostCharge{charge,
                                   fmt::format("{} {}", segment.plan.type, to_name(record.state)),
                                   doubt_of(segment, record, charge.end, view, patience),
                                   record.nodes});
    }
    // A charge's number follows from those before it.
    if (!actions.empty() && std::holds_alternative<PostCharge>(actions.back())) return;
  }
  for (std::size_t place = 0; place < segment.seen.size(); ++place) {
    const AttemptStarted& seen = segment.seen[place];
    const auto end = seen_end(run, place, view);
    if (!end || has_closed_record(view, seen.job, seen.start, now, patience)) continue;
    if (charged_until(run, seen.job, seen.start, *end)) continue;
    const UtcSeconds noticed = segment.ended ? segment.ended_noticed : *end;
    if (now - noticed <= patience.record_wait_s) continue;
    const bool is_last = segment.ended && segment.ended->start == seen.start;
    AttemptCharged charge;
    charge.job = seen.job;
    charge.state = is_last ? segment.ended->state : JobState::kUnknown;
    charge.exit_code = is_last ? segment.ended->exit_code : 0;
    charge.submit = seen.submit;
    charge.start = seen.start;
    charge.end = *end;
    charge.gpus = seen.gpus;
    add_as_seen(run, view, charge, actions);
    return;
  }
  if (!segment.ended || segment.ended->gpus == 0) return;
  const JobEnded& ended = *segment.ended;
  if (charged_until(run, ended.job, ended.start, ended.end)) return;
  if (has_closed_record(view, ended.job, ended.start, now, patience)) return;
  if (now - segment.ended_noticed <= patience.record_wait_s) return;
  AttemptCharged charge;
  charge.job = ended.job;
  charge.state = ended.state;
  charge.exit_code = ended.exit_code;
  charge.submit = ended.submit;
  charge.start = ended.start;
  charge.end = ended.end;
  charge.gpus = ended.gpus;
  add_as_seen(run, view, charge, actions);
}

bool earlier_attempts_are_charged(const Run& run, const View& view, UtcSeconds now,
                                  const Patience& patience) {
  const Segment& segment = run.last();
  for (std::size_t place = 0; place < segment.seen.size(); ++place) {
    const AttemptStarted& seen = segment.seen[place];
    const auto end = seen_end(run, place, view);
    if (end && !charged_until(run, seen.job, seen.start, *end)) return false;
  }
  if (view.job == nullptr || view.job->attempt <= allocations_charged(run, view.job->id)) return true;
  return now - view.job->submit > patience.record_wait_s;
}

bool is_settled(const Run& run, const View& view, UtcSeconds now, const Patience& patience) {
  const Segment& segment = run.last();
  const JobEnded& ended = *segment.ended;
  const bool has_waited = now - segment.ended_noticed > patience.record_wait_s;
  if (ended.gpus > 0 && !charged_until(run, ended.job, ended.start, ended.end)) return false;
  for (std::size_t place = 0; place < segment.seen.size(); ++place) {
    const AttemptStarted& seen = segment.seen[place];
    const auto end = seen_end(run, place, view);
    if (end && !charged_until(run, seen.job, seen.start, *end)) return false;
  }
  if (has_waited) return true;
  if (!view.records_known) return false;
  if (allocations_charged(run, ended.job) < ended.attempt) return false;
  if (is_end_unknown(segment, view)) return false;  // slurmdbd may be behind.
  // A job that was cancelled while it waited may have run for a moment between two looks.
  return ended.gpus > 0 || now - segment.ended_noticed > 5 ||
         (!view.records.empty() && view.records.back().end != 0);
}

std::string unseen_end(const Run& run, const View& view) {
  const Segment& segment = run.last();
  if (!segment.ended || !is_end_unknown(segment, view)) return "";
  return fmt::format("the controller lost job {} of run {}, and slurmdbd had not told how it ended "
                     "when its hold was released: what it may have had nobody pays",
                     segment.job.value_or(0), run.id);
}

std::string unseen_attempts(const Run& run, JobId job, int attempts) {
  const int known = allocations_charged(run, job);
  if (known >= attempts) return "";
  return fmt::format("job {} of run {} was started {} times, and neither slurmdbd nor a look at "
                     "the controller has shown more than {} allocations of it",
                     job, run.id, attempts, known);
}

}  // namespace scheduler
