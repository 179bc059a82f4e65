// SPDX-License-Identifier: GPL-3.0-or-later
//
// Why a segment ended, in words.
#include <pwd.h>

#include <cstring>

#include <fmt/format.h>

#include "scheduler/continuation.h"
#include "scheduler/run.h"
#include "trainer/contract/exit_code.h"

namespace scheduler {
namespace {

std::string user_name(std::uint32_t uid) {
  const passwd* entry = getpwuid(uid);
  return entry != nullptr ? entry->pw_name : fmt::format("uid {}", uid);
}

std::string minutes(std::int64_t seconds) {
  return seconds % 3600 == 0 ? fmt::format("{} h", seconds / 3600)
                             : fmt::format("{} min", seconds / 60);
}

}  // namespace

SegmentClosed explain_end(const Segment& segment, const JobEnded& ended,
                          std::uint32_t killed_by_uid) {
  const auto closed = [&](Outcome outcome, std::string reason) {
    return SegmentClosed{segment.index, outcome, std::move(reason)};
  };
  const bool ran = ended.gpus > 0 && !segment.is_plain;
  const std::int64_t limit_s = segment.limit_s.value_or(segment.plan.time_limit_s);
  const std::string resumable = ran ? " It can be resumed from its last checkpoint." : "";
  if (segment.cancel_requested) return closed(Outcome::kCancelled, "cancelled by " + segment.stopped_by);
  if (segment.rejected) {
    const bool is_at_its_end = segment.rejected->starts_with(kHoursUsed);
    return closed(is_at_its_end ? Outcome::kStopped : Outcome::kFailed,
                  *segment.rejected + "." + resumable);
  }

  using contract::ExitCode;
  const auto code = contract::exit_code_from_int(ended.exit_code);
  const bool has_left = code == ExitCode::kStopped || code == ExitCode::kDeadline;
  const bool ran_out = ended.state == JobState::kTimeout ||
                       (ended.state == JobState::kFailed && has_left);
  if (segment.budget_ended && ran_out && !segment.stop_requested) {
    return closed(Outcome::kStopped, *segment.budget_ended);
  }
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
                                minutes(limit_s), resumable));
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
  if (segment.is_plain) {
    return closed(Outcome::kFailed, fmt::format("the job ended with exit code {}, signal {}",
                                                ended.exit_code, ended.exit_signal));
  }
  if (code == ExitCode::kStopped) {
    return closed(Outcome::kStopped, segment.stop_requested
                                         ? "stopped by " + segment.stopped_by + "; the checkpoint is saved"
                                         : "stopped by a signal or its stop file; the checkpoint is saved");
  }
  if (code == ExitCode::kDeadline) {
    return closed(Outcome::kStopped,
                  fmt::format("the time limit of {} came near; the checkpoint is saved. "
                              "`trainyard resume` continues.",
                              minutes(limit_s)));
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
