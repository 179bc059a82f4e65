// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/run.h
//
// A run is a fold over its events: `apply` makes the state, `observe` says which events a look at
// Slurm adds, `next_actions` what is to be done. All three are pure; actions are idempotent, so a
// service that was killed at any line repeats them without harm (docs/runs.md).
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "accounting/amount.h"
#include "scheduler/cluster.h"
#include "scheduler/plan.h"
#include "scheduler/request.h"

namespace scheduler {

using accounting::Amount;
using accounting::UtcSeconds;

// --- Events. Stored under their names; never rename, only add. -------------------------------

struct RunCreated {
  std::uint32_t uid = 0;
  std::string user, fund, name, run_dir;
  TrainingRequest request;
  bool is_plain = false;     // A job of a managed partition that its user submitted himself.
};
struct SegmentOpened {  // The hold is in the books, in the same database transaction.
  int segment = 0;
  Plan plan;
  std::string hold_id;
  std::string content_hash;  // Of what the client asked: a retry must ask the same.
};
struct JobSubmitted {      // Told by the client, or found by its comment.
  int segment = 0;
  JobId job = 0;
  UtcSeconds submit = 0;   // Slurm's time, of a plain job; 0: not told.
};
struct SubmissionFailed {  // Told by the client: Slurm refused.
  int segment = 0;
  std::string message;
};
struct AttemptStarted {    // Seen running.
  int segment = 0;
  JobId job = 0;
  int attempt = 0;
  UtcSeconds start = 0;
  int gpus = 0;
  std::string nodes;
  UtcSeconds submit = 0;   // Slurm's, of this attempt; 0: an event of an older version.
  UtcSeconds before = 0;   // When the run's job was last seen running before this attempt; 0: never.
  UtcSeconds noticed = 0;  // The event's own time.
};
struct StopRequested { std::string by; };
struct CancelRequested { std::string by; };
struct PauseRequested { std::string by; };
struct ResumeRequested { std::string by; };  // Of a paused run whose job waits.
struct LimitCut {          // The job's limit was longer than what is held for it.
  int segment = 0;
  std::int64_t from_s = 0, to_s = 0;
};
struct HoldExtended {      // The transfer is in the books, in the same database transaction.
  int segment = 0;
  Amount amount;
  std::int64_t limit_s = 0;  // What is held pays for this limit; the job is to get it.
};
struct LimitRaised {       // The job has got the limit that was paid for.
  int segment = 0;
  std::int64_t to_s = 0;
};
struct BudgetEnded {       // The fund cannot pay the next stretch: the run saves and pauses.
  int segment = 0;
  std::string reason;      // In words, with the numbers and what it would take.
};
struct JobRejected {       // The job is not what was planned, or nothing is left to pay it.
  int segment = 0;
  std::string reason;
};
struct JobEnded {          // As the controller showed it, or slurmdbd where the controller forgot it.
  int segment = 0;
  JobId job = 0;
  int attempt = 0;
  JobState state = JobState::kUnknown;
  int exit_code = 0, exit_signal = 0;
  UtcSeconds start = 0, end = 0;
  int gpus = 0;            // 0: it had no allocation.
  UtcSeconds submit = 0;
};
struct AttemptCharged {    // The transfer is in the books, in the same database transaction.
  int segment = 0;
  JobId job = 0;
  int attempt = 0;         // Counts the run's charges.
  JobState state = JobState::kUnknown;
  UtcSeconds start = 0, end = 0;
  int gpus = 0;
  Amount charged, excess;
  std::uint32_t killed_by_uid = 0;
  Amount refunded;         // By the site's policy for this end.
  UtcSeconds submit = 0;
  int exit_code = 0;       // Books of before it was kept have none: 0.
};
struct StartRefused {      // The start gate said no: Slurm puts the attempt back, and its script never ran.
  int segment = 0;
  JobId job = 0;
  int attempt = 0;
  UtcSeconds start = 0;    // Of the attempt's allocation, by which its charge is known.
  std::string reason;
};
enum class Outcome { kFinished, kStopped, kCancelled, kFailed };
struct SegmentClosed {     // The rest of the hold is back in the fund.
  int segment = 0;
  Outcome outcome = Outcome::kFailed;
  std::string reason;      // In words.
};

using EventBody =
    std::variant<RunCreated, SegmentOpened, JobSubmitted, SubmissionFailed, AttemptStarted,
                 StopRequested, CancelRequested, LimitCut, JobRejected, JobEnded, AttemptCharged,
                 SegmentClosed, HoldExtended, LimitRaised, BudgetEnded, PauseRequested,
                 ResumeRequested, StartRefused>;

struct RunEvent {
  UtcSeconds time = 0;
  EventBody body;
};

[[nodiscard]] std::string event_kind(const EventBody& body);       // "JobEnded"
[[nodiscard]] nlohmann::json event_to_json(const EventBody& body);
// Throws std::exception where kind or content is unknown.
[[nodiscard]] EventBody event_from_json(const std::string& kind, const nlohmann::json& json);

// --- State -----------------------------------------------------------------------------------

enum class RunState {
  kHeld,       // The hours are set aside; no job yet.
  kQueued, kRunning,
  kPaused,     // Its job waits until it is paid, or until somebody resumes it.
  kStopping,   // A stop or cancel is under way.
  kSettling,   // The job ended; Slurm's record is awaited.
  kFinished, kStopped, kCancelled, kFailed
};
[[nodiscard]] std::string to_name(RunState state);  // "running"
[[nodiscard]] std::string to_name(Outcome outcome);
[[nodiscard]] bool is_terminal(RunState state);

struct Segment {
  int index = 0;
  bool is_plain = false;
  UtcSeconds job_submit = 0;
  Plan plan;
  std::string hold_id, content_hash;
  UtcSeconds opened = 0;
  std::optional<JobId> job;
  std::optional<AttemptStarted> running;   // The latest attempt seen running.
  std::vector<AttemptStarted> seen;        // All of them.
  std::vector<StartRefused> refused_starts;
  std::optional<JobEnded> ended;
  std::vector<JobEnded> ends;              // Those before it too: a job that ended may be requeued.
  std::vector<AttemptCharged> charges;
  std::optional<std::string> submission_failed;
  std::optional<std::string> rejected;
  std::optional<UtcSeconds> stop_requested, cancel_requested, pause_requested;
  std::string stopped_by;
  std::optional<SegmentClosed> closed;
  Amount extended;                           // Added to plan.quote.hold while it ran.
  std::optional<std::int64_t> raise_to_s;    // A limit that is paid for and not yet the job's.
  std::optional<std::int64_t> limit_s;       // The job's, where it was raised or cut.
  std::optional<std::string> budget_ended;
  UtcSeconds ended_noticed = 0, closed_noticed = 0;

  [[nodiscard]] std::int64_t charged_seconds() const;
  [[nodiscard]] Amount charged() const;
  // What is left of the hold for the attempt that is waiting or running.
  [[nodiscard]] Amount remaining() const;
};

struct Run {
  std::string id;
  UtcSeconds created = 0;
  RunCreated about;
  std::vector<Segment> segments;
  RunState state = RunState::kHeld;
  std::string reason;            // Of a terminal state.
  UtcSeconds ended = 0;

  [[nodiscard]] const Segment& last() const { return segments.back(); }
  [[nodiscard]] Amount charged() const;
  [[nodiscard]] std::int64_t allocated_s() const;
};

// What the run's tier leaves it beside what it was allocated already: for its next job, or for the one
// that runs. Nothing: the tier does not bind it.
[[nodiscard]] std::optional<std::int64_t> tier_left_s(const Run& run);

// Precondition: the first event is RunCreated, and a segment's events follow its SegmentOpened.
[[nodiscard]] Run apply(Run run, const RunEvent& event);

// --- A look at Slurm -------------------------------------------------------------------------

struct View {
  bool jobs_known = false;              // The controller answered.
  const JobSnapshot* job = nullptr;     // The segment's job, where the controller has it.
  // slurmdbd was asked about this job, or where none is known for the job's name, and answered.
  bool records_known = false;
  std::vector<AllocationRecord> records;  // Of the segment's job, by submit time.
  // When the job was seen running, before this look: its latest attempt in the run's events, or one
  // before that.
  UtcSeconds last_seen = 0;
  UtcSeconds last_shown = 0;            // When the controller had it, or the service began to look.
};

struct Patience {
  std::int64_t unclaimed_hold_s = 300;
  std::int64_t record_wait_s = 900;
  std::int64_t stop_grace_s = 300;      // After this a stop becomes a cancel.
  std::int64_t extend_lead_s = 600;     // A run that needs longer is looked after so long before its end.
  std::int64_t longest_limit_s = 0;     // The site's; 0: none.
  // How late Slurm ends jobs and what its partitions allow; outlives this. nullptr: not known yet.
  const ClusterFacts* facts = nullptr;
  std::int64_t clock_slack_s = 300;     // Clocks of the service and of slurmctld may differ by this.

  [[nodiscard]] std::int64_t margin_s(const Plan& plan) const {
    return facts == nullptr ? ClusterFacts{}.margin_s("") : facts->margin_s(plan.partition);
  }
};

// Actions on the cluster, repeated every tick until the view shows their effect.
// Waiting jobs of managed partitions: free to start, or kept from starting.
struct ReleaseJob { JobId job; };
struct HoldJob { JobId job; std::string why; };
struct AskToStop { JobId job; };
// `is_wish`: its owner or an admin asked for it. Otherwise the run is rejected for `why`.
struct CancelJob { JobId job; std::string why; bool is_wish = false; };
struct CutLimit { JobId job; std::int64_t to_s; };
struct RaiseLimit { JobId job; std::int64_t to_s; };
// Actions on the books.
// `finding`: what the audit is to know of it; may be empty. `nodes`: of the allocation, where known.
struct PostCharge { AttemptCharged charge; std::string note, finding, nodes = {}; };
struct NoteFinding { std::string text; };
// A further attempt of a run that goes on by itself: for `limit_s`, or for what the fund can pay if
// that is `least_s` or more.
struct FundAttempt { JobId job; std::int64_t limit_s, least_s; };
// More for an epochs run that comes near its limit: `stretch_s` more, or what the fund can pay. Where
// it could not, asked again when the books change.
struct ExtendHold { JobId job; std::int64_t limit_s, stretch_s; };
struct CloseSegment { Outcome outcome; std::string reason; std::string finding = {}; };
using Action = std::variant<ReleaseJob, HoldJob, AskToStop, CancelJob, CutLimit, RaiseLimit,
                            PostCharge, NoteFinding, FundAttempt, ExtendHold, CloseSegment>;

// Is this an allocation of the segment's job? Owner, time and name tell it from another job that had
// the same number.
[[nodiscard]] bool is_record_of(const Run& run, const Segment& segment,
                                const AllocationRecord& record, const Patience& patience);
// Did a look or a client name this submit time of this job as the run's?
[[nodiscard]] bool is_known_submit(const Run& run, JobId job, UtcSeconds submit);
// Partition, number and type of GPUs are those of the plan, or fewer of them: others have other prices.
[[nodiscard]] bool is_as_planned(const Segment& segment, const JobSnapshot& job);
// What is held for the open segment pays for the view's job, as it is asked for or allocated now.
[[nodiscard]] bool is_covered(const Run& run, const View& view, UtcSeconds now,
                              const Patience& patience);
// Is slurmdbd to be asked about this segment's jobs now?
[[nodiscard]] bool needs_records(const Run& run, const View& view, UtcSeconds now,
                                 const Patience& patience);
// The jobs of the open segment: one, but where a controller that crashed gave a task of an array
// another number.
[[nodiscard]] std::vector<JobId> jobs_of(const Segment& segment);
// The events that the view adds to the open segment.
[[nodiscard]] std::vector<EventBody> observe(const Run& run, const View& view, UtcSeconds now,
                                             const Patience& patience);
[[nodiscard]] std::vector<Action> next_actions(const Run& run, const View& view, UtcSeconds now,
                                               const Patience& patience);

// Why the segment ended, in words, and how it counts.
[[nodiscard]] SegmentClosed explain_end(const Segment& segment, const JobEnded& ended,
                                        std::uint32_t killed_by_uid);

}  // namespace scheduler
