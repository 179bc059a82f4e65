// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/run.h"

#include <algorithm>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace scheduler {
namespace {

using nlohmann::json;

template <class... Ts>
struct Overloaded : Ts... {
  using Ts::operator()...;
};
template <class... Ts>
Overloaded(Ts...) -> Overloaded<Ts...>;

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
      [&](const AttemptCharged& charge) {
        return charge.job == segment.running->job && charge.start == segment.running->start;
      });
  if (is_running) return RunState::kRunning;
  const bool is_waiting_for_more = segment.pause_requested || segment.budget_ended;
  if (segment.job && segment.plan.auto_resume && is_waiting_for_more) return RunState::kPaused;
  return segment.job ? RunState::kQueued : RunState::kHeld;
}

}  // namespace

// --- Names and JSON --------------------------------------------------------------------------

std::string event_kind(const EventBody& body) {
  static const char* const kNames[] = {
      "RunCreated", "SegmentOpened", "JobSubmitted", "SubmissionFailed", "AttemptStarted",
      "StopRequested", "CancelRequested", "LimitCut", "JobRejected", "JobEnded", "AttemptCharged",
      "SegmentClosed", "HoldExtended", "LimitRaised", "BudgetEnded", "PauseRequested",
      "ResumeRequested", "StartRefused"};
  static_assert(std::size(kNames) == std::variant_size_v<EventBody>);
  return kNames[body.index()];
}

std::string to_name(RunState state) {
  switch (state) {
    case RunState::kHeld: return "held";
    case RunState::kQueued: return "queued";
    case RunState::kRunning: return "running";
    case RunState::kPaused: return "paused";
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
                    {"run_dir", e.run_dir}, {"request", e.request}, {"is_plain", e.is_plain}};
          },
          [](const SegmentOpened& e) -> json {
            return {{"segment", e.segment}, {"plan", e.plan}, {"hold_id", e.hold_id},
                    {"content_hash", e.content_hash}};
          },
          [](const JobSubmitted& e) -> json {
            return {{"segment", e.segment}, {"job", e.job}, {"submit", e.submit}};
          },
          [](const SubmissionFailed& e) -> json {
            return {{"segment", e.segment}, {"message", e.message}};
          },
          [](const AttemptStarted& e) -> json {
            return {{"segment", e.segment}, {"job", e.job}, {"attempt", e.attempt},
                    {"start", e.start}, {"gpus", e.gpus}, {"nodes", e.nodes},
                    {"submit", e.submit}, {"before", e.before}};
          },
          [](const StopRequested& e) -> json { return {{"by", e.by}}; },
          [](const CancelRequested& e) -> json { return {{"by", e.by}}; },
          [](const PauseRequested& e) -> json { return {{"by", e.by}}; },
          [](const ResumeRequested& e) -> json { return {{"by", e.by}}; },
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
                    {"gpus", e.gpus}, {"submit", e.submit}};
          },
          [](const AttemptCharged& e) -> json {
            return {{"segment", e.segment}, {"job", e.job}, {"attempt", e.attempt},
                    {"state", to_name(e.state)}, {"start", e.start}, {"end", e.end},
                    {"gpus", e.gpus}, {"charged", e.charged.milli_gpu_s},
                    {"excess", e.excess.milli_gpu_s}, {"killed_by_uid", e.killed_by_uid},
                    {"refunded", e.refunded.milli_gpu_s}, {"submit", e.submit},
                    {"exit_code", e.exit_code}};
          },
          [](const HoldExtended& e) -> json {
            return {{"segment", e.segment}, {"amount", e.amount.milli_gpu_s}, {"limit_s", e.limit_s}};
          },
          [](const LimitRaised& e) -> json { return {{"segment", e.segment}, {"to_s", e.to_s}}; },
          [](const BudgetEnded& e) -> json {
            return {{"segment", e.segment}, {"reason", e.reason}};
          },
          [](const StartRefused& e) -> json {
            return {{"segment", e.segment}, {"job", e.job}, {"attempt", e.attempt},
                    {"start", e.start}, {"reason", e.reason}};
          },
          [](const SegmentClosed& e) -> json {
            return {{"segment", e.segment}, {"outcome", to_name(e.outcome)}, {"reason", e.reason}};
          }},
      body);
}

EventBody event_from_json(const std::string& kind, const json& j) {
  if (kind == "RunCreated") {
    return RunCreated{j.at("uid"), j.at("user"), j.at("fund"), j.at("name"), j.at("run_dir"),
                      j.at("request").get<TrainingRequest>(), j.value("is_plain", false)};
  }
  if (kind == "SegmentOpened") {
    return SegmentOpened{j.at("segment"), j.at("plan").get<Plan>(), j.at("hold_id"),
                         j.at("content_hash")};
  }
  if (kind == "JobSubmitted") {
    return JobSubmitted{j.at("segment"), j.at("job"), j.value("submit", UtcSeconds{0})};
  }
  if (kind == "SubmissionFailed") return SubmissionFailed{j.at("segment"), j.at("message")};
  if (kind == "AttemptStarted") {
    return AttemptStarted{j.at("segment"), j.at("job"),   j.at("attempt"),
                          j.at("start"),   j.at("gpus"),  j.at("nodes"),
                          j.value("submit", UtcSeconds{0}), j.value("before", UtcSeconds{0})};
  }
  if (kind == "StopRequested") return StopRequested{j.at("by")};
  if (kind == "CancelRequested") return CancelRequested{j.at("by")};
  if (kind == "PauseRequested") return PauseRequested{j.at("by")};
  if (kind == "ResumeRequested") return ResumeRequested{j.at("by")};
  if (kind == "LimitCut") return LimitCut{j.at("segment"), j.at("from_s"), j.at("to_s")};
  if (kind == "HoldExtended") {
    return HoldExtended{j.at("segment"), Amount{j.at("amount").get<std::int64_t>()}, j.at("limit_s")};
  }
  if (kind == "LimitRaised") return LimitRaised{j.at("segment"), j.at("to_s")};
  if (kind == "BudgetEnded") return BudgetEnded{j.at("segment"), j.at("reason")};
  if (kind == "StartRefused") {
    return StartRefused{j.at("segment"), j.at("job"), j.at("attempt"), j.at("start"), j.at("reason")};
  }
  if (kind == "JobRejected") return JobRejected{j.at("segment"), j.at("reason")};
  if (kind == "JobEnded") {
    return JobEnded{j.at("segment"),     j.at("job"),   j.at("attempt"),
                    job_state_from_name(j.at("state")), j.at("exit_code"),
                    j.at("exit_signal"), j.at("start"), j.at("end"),
                    j.at("gpus"),        j.value("submit", UtcSeconds{0})};
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
                          j.at("killed_by_uid"),
                          Amount{j.value("refunded", std::int64_t{0})},
                          j.value("submit", UtcSeconds{0}),
                          j.value("exit_code", 0)};
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
  return {plan.quote.hold.milli_gpu_s + extended.milli_gpu_s - charged().milli_gpu_s};
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

std::optional<std::int64_t> tier_left_s(const Run& run) {
  const std::int64_t max_s = run.last().plan.tier_max_s;
  if (max_s == 0) return std::nullopt;
  return std::max<std::int64_t>(max_s - run.allocated_s(), 0);
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
                   opened.is_plain = run.about.is_plain;
                   run.segments.push_back(std::move(opened));
                 },
                 [&](const JobSubmitted& e) {
                   if (segment == nullptr) return;
                   segment->job = e.job;
                   // Of a job that is met after a requeue the first time counts.
                   UtcSeconds& first = segment->job_submit;
                   if (e.submit != 0 && (first == 0 || e.submit < first)) first = e.submit;
                 },
                 [&](const SubmissionFailed& e) {
                   if (segment != nullptr) segment->submission_failed = e.message;
                 },
                 [&](const AttemptStarted& e) {
                   if (segment == nullptr) return;
                   // A further attempt was paid for; the words are of the one before it.
                   if (segment->running) segment->budget_ended.reset();
                   segment->seen.push_back(e);
                   segment->seen.back().noticed = event.time;
                   segment->running = segment->seen.back();
                   // It goes on after all: requeued, or started again after a crash.
                   if (segment->ended && segment->ended->start != e.start) segment->ended.reset();
                 },
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
                 [&](const PauseRequested& e) {
                   if (segment == nullptr || segment->pause_requested) return;
                   segment->pause_requested = event.time;
                   segment->stopped_by = e.by;
                 },
                 [&](const ResumeRequested&) {
                   if (segment != nullptr) segment->pause_requested.reset();
                 },
                 [&](const LimitCut& e) {
                   if (segment == nullptr) return;
                   segment->raise_to_s.reset();
                   segment->limit_s = e.to_s;
                 },
                 [&](const HoldExtended& e) {
                   if (segment == nullptr) return;
                   segment->extended.milli_gpu_s += e.amount.milli_gpu_s;
                   segment->raise_to_s = e.limit_s;
                   segment->budget_ended.reset();
                 },
                 [&](const LimitRaised& e) {
                   if (segment == nullptr) return;
                   segment->raise_to_s.reset();
                   segment->limit_s = e.to_s;
                 },
                 [&](const BudgetEnded& e) {
                   if (segment != nullptr) segment->budget_ended = e.reason;
                 },
                 [&](const JobRejected& e) {
                   if (segment != nullptr) segment->rejected = e.reason;
                 },
                 [&](const StartRefused& e) {
                   if (segment != nullptr) segment->refused_starts.push_back(e);
                 },
                 [&](const JobEnded& e) {
                   if (segment == nullptr) return;
                   segment->ended = e;
                   segment->ends.push_back(e);
                   segment->ended_noticed = event.time;
                 },
                 [&](const AttemptCharged& e) {
                   if (segment != nullptr) segment->charges.push_back(e);
                 },
                 [&](const SegmentClosed& e) {
                   if (segment == nullptr) return;
                   segment->closed = e;
                   segment->closed_noticed = event.time;
                   run.reason = e.reason;
                   run.ended = segment->ended ? segment->ended->end : event.time;
                 }},
      event.body);
  run.state = state_of(run);
  if (!is_terminal(run.state)) {
    run.reason.clear();
    run.ended = 0;
  }
  if (run.state == RunState::kRunning && run.last().budget_ended) {
    run.reason = *run.last().budget_ended;
  }
  if (run.state == RunState::kPaused) {
    run.reason = run.last().pause_requested ? "paused by " + run.last().stopped_by
                                            : *run.last().budget_ended;
  }
  return run;
}

}  // namespace scheduler
