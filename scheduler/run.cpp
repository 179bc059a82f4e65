// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/run.h"

#include <pwd.h>

#include <algorithm>
#include <cstring>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "trainer/contract/exit_code.h"

namespace scheduler {
namespace {

using nlohmann::json;

template <class... Ts>
struct Overloaded : Ts... {
  using Ts::operator()...;
};
template <class... Ts>
Overloaded(Ts...) -> Overloaded<Ts...>;

std::string user_name(std::uint32_t uid) {
  const passwd* entry = getpwuid(uid);
  return entry != nullptr ? entry->pw_name : fmt::format("uid {}", uid);
}

std::string minutes(std::int64_t seconds) {
  return seconds % 3600 == 0 ? fmt::format("{} h", seconds / 3600)
                             : fmt::format("{} min", seconds / 60);
}

Segment* open_segment(Run& run) {
  return run.segments.empty() || run.segments.back().closed ? nullptr : &run.segments.back();
}

RunState state_of(const Run& run) {
  if (run.segments.empty()) return RunState::kHeld;
  const Segment& segment = run.last();
  if (segment.closed) {
    switch (segment.closed->outcome) {
      case Outcome::kFinished: return RunState::kFinished;
      case Outcome::kStopped: return RunState::kStopped;
      case Outcome::kCancelled: return RunState::kCancelled;
      case Outcome::kFailed: return RunState::kFailed;
    }
  }
  if (segment.ended) return RunState::kSettling;
  if (segment.stop_requested || segment.cancel_requested) return RunState::kStopping;
  // A requeued job waits again: its latest attempt is charged already.
  const bool is_running = segment.running && std::none_of(
      segment.charges.begin(), segment.charges.end(),
      [&](const AttemptCharged& charge) { return charge.attempt == segment.running->attempt; });
  if (is_running) return RunState::kRunning;
  return segment.job ? RunState::kQueued : RunState::kHeld;
}

}  // namespace

// --- Names and JSON --------------------------------------------------------------------------

std::string event_kind(const EventBody& body) {
  static const char* const kNames[] = {
      "RunCreated", "SegmentOpened", "JobSubmitted", "SubmissionFailed", "AttemptStarted",
      "StopRequested", "CancelRequested", "LimitCut", "JobRejected", "JobEnded", "AttemptCharged",
      "SegmentClosed"};
  static_assert(std::size(kNames) == std::variant_size_v<EventBody>);
  return kNames[body.index()];
}

std::string to_name(RunState state) {
  switch (state) {
    case RunState::kHeld: return "held";
    case RunState::kQueued: return "queued";
    case RunState::kRunning: return "running";
    case RunState::kStopping: return "stopping";
    case RunState::kSettling: return "settling";
    case RunState::kFinished: return "finished";
    case RunState::kStopped: return "stopped";
    case RunState::kCancelled: return "cancelled";
    case RunState::kFailed: return "failed";
  }
  return "unknown";
}

std::string to_name(Outcome outcome) {
  switch (outcome) {
    case Outcome::kFinished: return "finished";
    case Outcome::kStopped: return "stopped";
    case Outcome::kCancelled: return "cancelled";
    case Outcome::kFailed: return "failed";
  }
  return "unknown";
}

bool is_terminal(RunState state) {
  return state == RunState::kFinished || state == RunState::kStopped ||
         state == RunState::kCancelled || state == RunState::kFailed;
}

json event_to_json(const EventBody& body) {
  return std::visit(
      Overloaded{
          [](const RunCreated& e) -> json {
            return {{"uid", e.uid}, {"user", e.user}, {"fund", e.fund}, {"name", e.name},
                    {"run_dir", e.run_dir}, {"request", e.request}};
          },
          [](const SegmentOpened& e) -> json {
            return {{"segment", e.segment}, {"plan", e.plan}, {"hold_id", e.hold_id},
                    {"content_hash", e.content_hash}};
          },
          [](const JobSubmitted& e) -> json { return {{"segment", e.segment}, {"job", e.job}}; },
          [](const SubmissionFailed& e) -> json {
            return {{"segment", e.segment}, {"message", e.message}};
          },
          [](const AttemptStarted& e) -> json {
            return {{"segment", e.segment}, {"job", e.job}, {"attempt", e.attempt},
                    {"start", e.start}, {"gpus", e.gpus}, {"nodes", e.nodes}};
          },
          [](const StopRequested& e) -> json { return {{"by", e.by}}; },
          [](const CancelRequested& e) -> json { return {{"by", e.by}}; },
          [](const LimitCut& e) -> json {
            return {{"segment", e.segment}, {"from_s", e.from_s}, {"to_s", e.to_s}};
          },
          [](const JobRejected& e) -> json {
            return {{"segment", e.segment}, {"reason", e.reason}};
          },
          [](const JobEnded& e) -> json {
            return {{"segment", e.segment}, {"job", e.job}, {"attempt", e.attempt},
                    {"state", to_name(e.state)}, {"exit_code", e.exit_code},
                    {"exit_signal", e.exit_signal}, {"start", e.start}, {"end", e.end},
                    {"gpus", e.gpus}};
          },
          [](const AttemptCharged& e) -> json {
            return {{"segment", e.segment}, {"job", e.job}, {"attempt", e.attempt},
                    {"state", to_name(e.state)}, {"start", e.start}, {"end", e.end},
                    {"gpus", e.gpus}, {"charged", e.charged.milli_gpu_s},
                    {"excess", e.excess.milli_gpu_s}, {"killed_by_uid", e.killed_by_uid}};
          },
          [](const SegmentClosed& e) -> json {
            return {{"segment", e.segment}, {"outcome", to_name(e.outcome)}, {"reason", e.reason}};
          }},
      body);
}

EventBody event_from_json(const std::string& kind, const json& j) {
  if (kind == "RunCreated") {
    return RunCreated{j.at("uid"), j.at("user"), j.at("fund"), j.at("name"), j.at("run_dir"),
                      j.at("request").get<TrainingRequest>()};
  }
  if (kind == "SegmentOpened") {
    return SegmentOpened{j.at("segment"), j.at("plan").get<Plan>(), j.at("hold_id"),
                         j.at("content_hash")};
  }
  if (kind == "JobSubmitted") return JobSubmitted{j.at("segment"), j.at("job")};
  if (kind == "SubmissionFailed") return SubmissionFailed{j.at("segment"), j.at("message")};
  if (kind == "AttemptStarted") {
    return AttemptStarted{j.at("segment"), j.at("job"),  j.at("attempt"),
                          j.at("start"),   j.at("gpus"), j.at("nodes")};
  }
  if (kind == "StopRequested") return StopRequested{j.at("by")};
  if (kind == "CancelRequested") return CancelRequested{j.at("by")};
  if (kind == "LimitCut") return LimitCut{j.at("segment"), j.at("from_s"), j.at("to_s")};
  if (kind == "JobRejected") return JobRejected{j.at("segment"), j.at("reason")};
  if (kind == "JobEnded") {
    return JobEnded{j.at("segment"),     j.at("job"),   j.at("attempt"),
                    job_state_from_name(j.at("state")), j.at("exit_code"),
                    j.at("exit_signal"), j.at("start"), j.at("end"),
                    j.at("gpus")};
  }
  if (kind == "AttemptCharged") {
    return AttemptCharged{j.at("segment"),
                          j.at("job"),
                          j.at("attempt"),
                          job_state_from_name(j.at("state")),
                          j.at("start"),
                          j.at("end"),
                          j.at("gpus"),
                          Amount{j.at("charged").get<std::int64_t>()},
                          Amount{j.at("excess").get<std::int64_t>()},
                          j.at("killed_by_uid")};
  }
  if (kind == "SegmentClosed") {
    const std::string name = j.at("outcome");
    for (const Outcome outcome :
         {Outcome::kFinished, Outcome::kStopped, Outcome::kCancelled, Outcome::kFailed}) {
      if (to_name(outcome) == name) return SegmentClosed{j.at("segment"), outcome, j.at("reason")};
    }
    throw std::invalid_argument("unknown outcome " + name);
  }
  throw std::invalid_argument("unknown event " + kind);
}

// --- State -----------------------------------------------------------------------------------

std::int64_t Segment::charged_seconds() const {
  std::int64_t seconds = 0;
  for (const AttemptCharged& charge : charges) seconds += charge.end - charge.start;
  return seconds;
}

Amount Segment::charged() const {
  Amount sum;
  for (const AttemptCharged& charge : charges) sum.milli_gpu_s += charge.charged.milli_gpu_s;
  return sum;
}

Amount Segment::remaining() const {
  return {plan.quote.hold.milli_gpu_s - charged().milli_gpu_s};
}

Amount Run::charged() const {
  Amount sum;
  for (const Segment& segment : segments) sum.milli_gpu_s += segment.charged().milli_gpu_s;
  return sum;
}

std::int64_t Run::allocated_s() const {
  std::int64_t seconds = 0;
  for (const Segment& segment : segments) seconds += segment.charged_seconds();
  return seconds;
}

Run apply(Run run, const RunEvent& event) {
  Segment* segment = open_segment(run);
  std::visit(
      Overloaded{[&](const RunCreated& e) {
                   run.about = e;
                   run.created = event.time;
                 },
                 [&](const SegmentOpened& e) {
                   Segment opened;
                   opened.index = e.segment;
                   opened.plan = e.plan;
                   opened.hold_id = e.hold_id;
                   opened.content_hash = e.content_hash;
                   opened.opened = event.time;
                   run.segments.push_back(std::move(opened));
                 },
                 [&](const JobSubmitted& e) { if (segment != nullptr) segment->job = e.job; },
                 [&](const SubmissionFailed& e) {
                   if (segment != nullptr) segment->submission_failed = e.message;
                 },
                 [&](const AttemptStarted& e) { if (segment != nullptr) segment->running = e; },
                 [&](const StopRequested& e) {
                   if (segment == nullptr || segment->stop_requested) return;
                   segment->stop_requested = event.time;
                   segment->stopped_by = e.by;
                 },
                 [&](const CancelRequested& e) {
                   if (segment == nullptr || segment->cancel_requested) return;
                   segment->cancel_requested = event.time;
                   segment->stopped_by = e.by;
                 },
                 [&](const LimitCut&) {},
                 [&](const JobRejected& e) {
                   if (segment != nullptr) segment->rejected = e.reason;
                 },
                 [&](const JobEnded& e) {
                   if (segment == nullptr) return;
                   segment->ended = e;
                   segment->ended_noticed = event.time;
                 },
                 [&](const AttemptCharged& e) {
                   if (segment != nullptr) segment->charges.push_back(e);
                 },
                 [&](const SegmentClosed& e) {
                   if (segment == nullptr) return;
                   segment->closed = e;
                   run.reason = e.reason;
                   run.ended = segment->ended ? segment->ended->end : event.time;
                 }},
      event.body);
  run.state = state_of(run);
  if (!is_terminal(run.state)) {
    run.reason.clear();
    run.ended = 0;
  }
  return run;
}

// --- A look at Slurm -------------------------------------------------------------------------

namespace {

bool is_charged(const Segment& segment, int attempt) {
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

  if (job != nullptr && !segment.job) events.push_back(JobSubmitted{segment.index, job->id});
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

namespace {

void add_coverage(const Segment& segment, const JobSnapshot& job, const Patience& patience,
                  std::vector<Action>& actions) {
  const Plan& plan = segment.plan;
  // Until the attempts before this one are charged, what is left of the hold is not known.
  for (int attempt = 0; attempt < job.attempt; ++attempt) {
    if (!is_charged(segment, attempt)) return;
  }
  if (segment.rejected) {
    actions.push_back(CancelJob{job.id, *segment.rejected});
    return;
  }
  const std::int64_t covered_s =
      limit_that_fits_s(segment.remaining(), std::max(job.gpus, plan.gpus),
                        plan.quote.weight_milli, patience.margin_s);
  if (job.gpus > plan.gpus || (!job.partition.empty() && job.partition != plan.partition)) {
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

SegmentClosed explain_end(const Segment& segment, const JobEnded& ended,
                          std::uint32_t killed_by_uid) {
  const auto closed = [&](Outcome outcome, std::string reason) {
    return SegmentClosed{segment.index, outcome, std::move(reason)};
  };
  const bool ran = ended.gpus > 0;
  const std::string resumable = ran ? " It can be resumed from its last checkpoint." : "";
  if (segment.cancel_requested) return closed(Outcome::kCancelled, "cancelled by " + segment.stopped_by);
  if (segment.rejected) return closed(Outcome::kFailed, *segment.rejected + "." + resumable);

  using contract::ExitCode;
  const auto code = contract::exit_code_from_int(ended.exit_code);
  switch (ended.state) {
    case JobState::kCompleted:
      return closed(Outcome::kFinished, "finished");
    case JobState::kCancelled:
      if (segment.stop_requested) return closed(Outcome::kStopped, "stopped by " + segment.stopped_by);
      return closed(Outcome::kCancelled,
                    fmt::format("cancelled in Slurm (scancel) by {}.{}", user_name(killed_by_uid),
                                resumable));
    case JobState::kTimeout:
    case JobState::kDeadline:
      return closed(Outcome::kStopped,
                    fmt::format("Slurm ended the job at its time limit of {}.{}",
                                minutes(segment.plan.time_limit_s), resumable));
    case JobState::kNodeFail:
      return closed(Outcome::kFailed, fmt::format("a node failed ({}).{}",
                                                  segment.running ? segment.running->nodes : "?",
                                                  resumable));
    case JobState::kPreempted:
      return closed(Outcome::kStopped, "preempted by a job of higher priority." + resumable);
    case JobState::kBootFail:
      return closed(Outcome::kFailed, "a node did not boot. Nothing was trained.");
    case JobState::kOutOfMemory:
      return closed(Outcome::kFailed,
                    "out of memory: Slurm ended the job. Ask for a smaller batch or imgsz." + resumable);
    case JobState::kFailed:
      break;
    default:
      return closed(Outcome::kFailed,
                    "Slurm lost the job; the charge follows what was last seen of it." + resumable);
  }
  if (code == ExitCode::kStopped) {
    return closed(Outcome::kStopped, segment.stop_requested
                                         ? "stopped by " + segment.stopped_by + "; the checkpoint is saved"
                                         : "stopped by a signal; the checkpoint is saved");
  }
  if (code == ExitCode::kDeadline) {
    return closed(Outcome::kStopped,
                  fmt::format("the time limit of {} came near; the checkpoint is saved. "
                              "`trainyard resume` continues.",
                              minutes(segment.plan.time_limit_s)));
  }
  if (code && *code != ExitCode::kFinished) {
    return closed(Outcome::kFailed,
                  fmt::format("{} (exit code {}). The log says more.{}", contract::describe(*code),
                              ended.exit_code, resumable));
  }
  // srun and shells report a process that a signal ended as 128 + signal.
  const int signal = ended.exit_signal != 0 ? ended.exit_signal
                     : ended.exit_code > 128 ? ended.exit_code - 128 : 0;
  if (signal != 0) {
    return closed(Outcome::kFailed,
                  fmt::format("a rank was ended by signal {} ({}); the other ranks were stopped.{}",
                              signal, strsignal(signal), resumable));
  }
  return closed(Outcome::kFailed,
                fmt::format("the job ended with exit code {}. The log says more.{}", ended.exit_code,
                            resumable));
}

}  // namespace scheduler
