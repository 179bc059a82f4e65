// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/dispatcher.h
//
// The heart of trainyardd: takes what clients ask, looks at Slurm once for all runs, appends events
// and performs actions. It keeps nothing that its database does not hold, so it may be killed at any
// line. One thread; the clock is an argument.
#pragma once

#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "accounting/ledger.h"
#include "accounting/till.h"
#include "scheduler/caller.h"
#include "scheduler/cluster.h"
#include "scheduler/plain_job.h"
#include "scheduler/run.h"
#include "scheduler/run_audit.h"
#include "scheduler/run_store.h"
#include "scheduler/site.h"

namespace scheduler {

// The user behind a uid; the machine's own user database but in tests.
using CallerLookup = std::function<Expected<Caller>(std::uint32_t uid, const Site& site)>;

struct Admission {
  std::string run_id;
  int segment = 0;
  std::string run_dir;
  TrainingRequest request;
  DataFacts data;
  int epochs_done = 0;   // Of earlier segments, as the client read it in the run's folder.
  std::string quote = {};  // A quote that this is to be made by; empty: by today's weights.
};

struct Admitted {
  Plan plan;
  std::string hold_id;
  bool was_known = false;  // A retry: nothing changed.
};

using AdmitOutcome = std::variant<Admitted, Refusal>;

using FindingsBySubject = std::map<std::string, std::vector<std::string>>;  // Their texts.

class Dispatcher {
 public:
  // All outlive the dispatcher. Loads the open runs.
  [[nodiscard]] static Expected<Dispatcher> open(const Site& site, accounting::Database& db,
                                                 Cluster& cluster,
                                                 CallerLookup look_up = look_up_caller);
  // For audit() alone, beside the service that owns these books: opens what `open` has made, and
  // writes nothing.
  [[nodiscard]] static Expected<Dispatcher> beside(const Site& site, accounting::Database& db,
                                                   Cluster& cluster);

  // Plans again, sets the hours aside and records the segment, in one transaction. Same run id and
  // same content: the first answer again. A refusal leaves nothing behind.
  [[nodiscard]] Expected<AdmitOutcome> admit(const Caller& caller, const Admission& admission,
                                             UtcSeconds now);
  // The client tells which job it made, or that Slurm took none. Both may come late, twice or never.
  [[nodiscard]] Expected<void> submitted(const Caller& caller, const std::string& run_id, int segment,
                                         JobId job, UtcSeconds now);
  [[nodiscard]] Expected<void> submission_failed(const Caller& caller, const std::string& run_id,
                                                 int segment, const std::string& message,
                                                 UtcSeconds now);
  // A Refusal where the run is over or not the caller's.
  [[nodiscard]] Expected<std::optional<Refusal>> request_stop(const Caller& caller,
                                                              const std::string& run_id,
                                                              UtcSeconds now);
  // A run without auto_resume is stopped; it is resumed by its next segment.
  [[nodiscard]] Expected<std::optional<Refusal>> request_pause(const Caller& caller,
                                                               const std::string& run_id,
                                                               UtcSeconds now);
  // A Refusal where it is not paused. It goes on when its fund can pay.
  [[nodiscard]] Expected<std::optional<Refusal>> request_resume(const Caller& caller,
                                                                const std::string& run_id,
                                                                UtcSeconds now);
  [[nodiscard]] Expected<std::optional<Refusal>> request_cancel(const Caller& caller,
                                                                const std::string& run_id,
                                                                UtcSeconds now);

  // release.cpp: gives back what is left of a hold: of an open run whose job is gone, which ends with
  // it, with a finding; or, by the hold's id, of no open run. With its entry in the log of what admins
  // did, in one transaction.
  [[nodiscard]] Expected<std::optional<Refusal>> release_by_admin(const Caller& admin,
                                                                  const std::string& id,
                                                                  const std::string& note,
                                                                  UtcSeconds now);

  // One look at Slurm and everything that follows. An Error where a part could not be done; it is
  // tried again at the next tick.
  [[nodiscard]] Expected<void> tick(UtcSeconds now);

  // May Slurm start this job now? Asked by the start gate of managed partitions; looks at Slurm itself.
  [[nodiscard]] Expected<std::optional<Refusal>> may_start(JobId job, UtcSeconds now);
  // What is asked of may_start() up to the next call is answered by one look: it was all asked before.
  void share_look() {
    shares_look_ = true;
    gate_look_.reset();
  }

  // The run with what the last look showed of its job.
  struct RunView {
    Run run;
    std::optional<JobSnapshot> job;
  };
  [[nodiscard]] Expected<std::optional<RunView>> find(const std::string& run_id) const;
  [[nodiscard]] Expected<std::vector<RunView>> latest(const std::string& user, int count) const;

  // Recomputes the books, compares every run's events with them and every charge with slurmdbd, some
  // hundred runs at a time: nothing depends on how many there are. One sentence a fault.
  // `remembered`: the end of the chain at an earlier time; the books of today must hold it.
  [[nodiscard]] Expected<AuditReport> audit(
      const std::optional<accounting::Head>& remembered = std::nullopt);
  // The same by what the books are now, without their findings.
  [[nodiscard]] Expected<AuditReport> audit_here();
  // Who does that, where it is not to be done here and now (verifier.h). While it goes on the report is
  // pending, and asked for again.
  using AuditAside = std::function<Expected<AuditReport>()>;
  void audit_by(AuditAside audit) { audit_aside_ = std::move(audit); }

  [[nodiscard]] const std::optional<ClusterFacts>& facts() const { return facts_; }
  [[nodiscard]] accounting::Ledger& ledger() { return ledger_; }
  [[nodiscard]] accounting::Database& database() { return *db_; }
  [[nodiscard]] accounting::Till till() { return {*db_, ledger_}; }

  // `body` in one transaction. Where it is rolled back, at the commit too (a full disk shows there), the
  // open run of that id is again what it was: nothing is done by what the books do not have.
  [[nodiscard]] accounting::Expected<void> transact_with(
      const std::string& run_id, const std::function<accounting::Expected<void>()>& body);
  // The request with the user's default fund, where it names none and he has set one.
  [[nodiscard]] Expected<TrainingRequest> with_default_fund(const Caller& caller,
                                                            TrainingRequest request) const;
  // admission.cpp: why no run of this plan could begin, whatever is paid and whatever else ends: the
  // user's tier or a rule of the fund, in the words of admit(). Nothing: it could.
  [[nodiscard]] Expected<std::optional<Refusal>> why_never(const Caller& caller, const Plan& plan) const;
  // The longest that one job of a run of several may last; 0: the run has one job, or no bound is known.
  [[nodiscard]] std::int64_t longest_job_s(const Plan& plan) const;
  [[nodiscard]] bool has_looked() const { return has_looked_; }
  [[nodiscard]] UtcSeconds last_poll() const { return last_poll_; }
  [[nodiscard]] const std::string& trouble() const { return trouble_; }  // Why Slurm is not seen.

 private:
  Dispatcher(const Site& site, accounting::Database& db, Cluster& cluster, accounting::Ledger ledger,
             RunStore store)
      : site_(&site), db_(&db), cluster_(&cluster), ledger_(std::move(ledger)),
        store_(std::move(store)) {}

  // Reads them where they are not known, or were read a minute ago and Slurm answers. An error where
  // Slurm does not count GPUs: then nothing may be concluded from a job that seems to have none.
  [[nodiscard]] Expected<void> learn_facts(UtcSeconds now);
  // The same where they were read `fresh_s` seconds ago; 0: now.
  [[nodiscard]] Expected<void> learn_facts(UtcSeconds now, std::int64_t fresh_s);
  // admission.cpp: the plan with the quote's weight, or why the quote does not fit it.
  [[nodiscard]] Expected<std::variant<Plan, Refusal>> by_quote(const Caller& caller, Plan plan,
                                                               const Admission& admission,
                                                               UtcSeconds now);
  // What of the plan the user's tier does not allow; the tier is written into the plan. `new_runs`: how
  // many of this plan, of an array several. `run`: with its earlier segments, whose time counts as well,
  // and whose tier may allow the plan as well: a change does not bind it. Null: a new one.
  [[nodiscard]] Expected<std::vector<std::string>> beyond_tier_of(
      const Caller& caller, Plan& plan, int new_runs = 1, const Run* run = nullptr);
  // Of the numbers of GPUs that the request allows the largest that its fund and tier pay and that is
  // free now; where less is free than the least, the largest that they pay.
  [[nodiscard]] Expected<PlanOutcome> plan_within(const Caller& caller,
                                                  const TrainingRequest& request,
                                                  const Admission& admission, const Run& run,
                                                  UtcSeconds now);
  [[nodiscard]] int free_gpus(const InstanceType& type) const;
  void forget(std::map<std::string, Run>::iterator run);  // One that is over.
  [[nodiscard]] Expected<void> tick_run(Run& run, const View& view, UtcSeconds now);
  [[nodiscard]] Expected<void> perform(Run& run, const Action& action, UtcSeconds now);
  [[nodiscard]] Expected<void> post_charge(Run& run, const PostCharge& action, UtcSeconds now);
  [[nodiscard]] accounting::Expected<Amount> refund_by_policy(const Segment& segment,
                                                              const std::string& charge_id,
                                                              const AttemptCharged& charged,
                                                              std::span<const UtcSeconds> failed_prologs,
                                                              UtcSeconds now);
  // extension.cpp: a run that was made by a quote gets no more than the quote's hold.
  [[nodiscard]] Expected<void> extend_hold(Run& run, const ExtendHold& action, UtcSeconds now);
  [[nodiscard]] Expected<void> fund_attempt(Run& run, const FundAttempt& action, UtcSeconds now);
  [[nodiscard]] Expected<void> close_segment(Run& run, const CloseSegment& action, UtcSeconds now);
  [[nodiscard]] Expected<void> load_views(UtcSeconds now, std::map<std::string, View>& views);
  [[nodiscard]] Expected<void> match_job(const JobSnapshot& job, UtcSeconds now);
  // Names what ran while nobody knew it, in findings. Until then nothing is admitted.
  [[nodiscard]] Expected<void> catch_up(UtcSeconds now);
  // Names what runs whose last segment was closed record_wait_s ago had beyond their charges: a
  // controller that crashed may have started their job once more.
  [[nodiscard]] Expected<void> look_again(UtcSeconds now);
  [[nodiscard]] Expected<void> note_unfunded_job(const JobSnapshot& job, const std::string& run_id,
                                                 UtcSeconds now);
  // Does a finding of the run say that this job is none of its?
  [[nodiscard]] Expected<bool> was_unfunded(JobId job, const std::string& run_id) const;
  // Names an allocation that is over and that no hold pays.
  [[nodiscard]] Expected<void> note_unfunded(const AllocationRecord& record,
                                             const std::string& run_id, UtcSeconds now);
  [[nodiscard]] bool is_shown(const Run& run) const;  // A job of its number, live or not.
  void ask_by_name(UtcSeconds now, std::map<std::string, View>& views);
  void ask_for_records(UtcSeconds now, std::map<std::string, View>& views);
  [[nodiscard]] Expected<void> load_open_runs();
  void learn_submits();  // Those of the open runs, by their events.
  // The next runs from `place` on, against the ledger, of one moment.
  [[nodiscard]] Expected<std::vector<Run>> compare_next(std::int64_t& place, AuditReport& report);
  [[nodiscard]] Expected<void> compare_with_slurmdbd(const std::vector<Run>& runs,
                                                     const FindingsBySubject& findings,
                                                     AuditReport& report);
  // Which runs had a job of a number, and since when each managed partition has plain jobs: it was not
  // managed from the beginning.
  struct Claims {
    std::multimap<JobId, std::string> runs;
    std::map<std::string, UtcSeconds> since;
    void add(const Run& run, const Site& site);
  };
  [[nodiscard]] Expected<bool> is_claimed(const Claims& claims, const AllocationRecord& record) const;
  // Allocations on managed partitions that no run claims.
  [[nodiscard]] Expected<void> note_unclaimed(const Claims& claims,
                                              const FindingsBySubject& findings,
                                              AuditReport& report);
  // Two runs may have had a job of one number: whose allocation is it?
  [[nodiscard]] Expected<bool> is_of_another(const std::string& run_id,
                                             const AllocationRecord& record) const;
  // Ends a job whose run's hold is closed, and notes what it used.
  [[nodiscard]] Expected<void> end_unfunded(const JobSnapshot& job, const std::string& run_id,
                                            UtcSeconds now);
  [[nodiscard]] bool is_update_due(JobId job, UtcSeconds now);
  [[nodiscard]] Expected<void> release_job(const Run& run, JobId job, UtcSeconds now);

  // plain_admission.cpp
  struct WantedTask;
  struct WantedJob;
  [[nodiscard]] Expected<void> match_plain_job(const JobSnapshot& job, const JobStamp& stamp,
                                               UtcSeconds now);
  // A job with GPUs of a managed partition that the submit plug-in never saw: nobody pays for it, so it
  // waits, held, or is ended with a finding.
  [[nodiscard]] Expected<void> match_unstamped_job(const JobSnapshot& job, UtcSeconds now);
  // Nothing where all of its tasks are known or over.
  [[nodiscard]] Expected<std::optional<WantedJob>> wanted_of(const JobSnapshot& job,
                                                             const JobStamp& stamp);
  // A job, or all components of a heterogeneous one: together or not at all.
  [[nodiscard]] Expected<std::optional<Refusal>> admit_plain(std::vector<WantedJob>& wanted,
                                                             UtcSeconds now);
  [[nodiscard]] Expected<std::optional<Refusal>> plan_plain(WantedJob& wanted, const Caller& owner,
                                                            UtcSeconds now);
  [[nodiscard]] Expected<std::optional<Refusal>> hold_tasks(const Caller& owner,
                                                            std::vector<WantedJob>& wanted,
                                                            UtcSeconds now);
  [[nodiscard]] Expected<std::optional<Refusal>> why_not_held(
      const Caller& owner, const std::vector<WantedJob>& wanted, const std::string& fund,
      accounting::HoldStatus why) const;
  [[nodiscard]] Expected<void> turn_away(const JobSnapshot& job, const Refusal& refusal,
                                         UtcSeconds now);

  // Nothing where no such run was ever admitted. Kept in memory: Slurm shows an ended job for minutes.
  [[nodiscard]] Expected<std::optional<std::uint32_t>> owner_of_run(const std::string& run_id);
  [[nodiscard]] Run* open_run(const std::string& run_id);
  [[nodiscard]] Patience patience() const;
  [[nodiscard]] Expected<std::optional<Refusal>> request(const Caller& caller,
                                                         const std::string& run_id,
                                                         const EventBody& body, UtcSeconds now);

  const Site* site_;
  accounting::Database* db_;
  Cluster* cluster_;
  accounting::Ledger ledger_;
  RunStore store_;
  std::optional<ClusterFacts> facts_;
  UtcSeconds facts_at_ = 0;                        // When they were last read.
  std::map<std::string, Run> open_;                // By run id.
  std::map<std::string, JobSnapshot> snapshots_;   // Of open runs, at the last look.
  std::map<std::string, UtcSeconds> last_seen_;    // When an open run's job was last seen running.
  std::map<std::string, UtcSeconds> last_shown_;   // When it was last there, waiting or running.
  std::map<std::string, UtcSeconds> last_kept_;    // When that was last written down.
  // Jobs with their submit times that open runs are known to have had.
  std::map<std::pair<JobId, UtcSeconds>, std::set<std::string>> submits_;
  std::map<std::string, UtcSeconds> second_looks_;  // By run: when it is due.
  std::map<std::string, UtcSeconds> last_asked_;   // When its records were last asked for.
  std::map<std::string, UtcSeconds> last_asked_to_stop_, last_cancelled_;  // Its job, by run.
  std::map<JobId, std::string> run_of_job_;        // Of open runs, at the last look.
  std::map<JobId, std::vector<JobSnapshot>> components_;  // Of heterogeneous jobs, at the last look.
  std::map<JobId, UtcSeconds> last_update_;        // When a job was last held or released.
  std::map<JobId, UtcSeconds> settled_;            // Start of an ended job's allocation, looked after.
  struct Asked {
    std::string what;       // The job and the books as they were.
    UtcSeconds when = 0;
    Refusal answer;
  };
  std::optional<UtcSeconds> restored_since_;       // Slurm is still to be read from then on.
  struct Shown {
    std::string run_id;          // By its stamp; empty: it has none.
    UtcSeconds submit = 0;
  };
  std::map<JobId, Shown> shown_;                   // Everybody's jobs, at the last look.
  std::vector<JobSnapshot> running_;               // Everybody's jobs with GPUs, at the last look.
  std::int64_t books_head_ = 0;                    // The newest transfer at the last look.
  std::map<JobId, Asked> refused_;                 // Waiting jobs that the books cannot pay.
  std::map<std::string, std::uint32_t> owners_;    // Of runs, open or not.
  CallerLookup look_up_;
  AuditAside audit_aside_;
  UtcSeconds last_poll_ = 0;
  std::string trouble_;
  bool has_looked_ = false;          // The last tick saw Slurm's jobs.
  std::set<std::string> troubled_;   // Runs for which it could not do what was due.
  struct GateLook {
    Expected<void> looked;                    // What could not be done at it.
    Expected<std::vector<JobSnapshot>> jobs;  // After all that it did.
  };
  [[nodiscard]] GateLook look_for_gates(UtcSeconds now);  // plain_admission.cpp
  // plain_admission.cpp: an attempt that the gate keeps out, so that its charge is given back.
  [[nodiscard]] Expected<void> keep_refusal(Run& run, const JobSnapshot& job, const std::string& why,
                                            UtcSeconds now);
  std::optional<GateLook> gate_look_;
  bool shares_look_ = false;
};

// Hash of what a client asked for, so that a retry can be told from another request.
[[nodiscard]] std::string admission_hash(const Admission& admission);
// Hash of what a quote is for: the arguments of the training and the images of its data set. Type,
// GPUs, fund and size stand in the quote itself.
[[nodiscard]] std::string quoted_content(const TrainingRequest& request, const DataFacts& data);

}  // namespace scheduler
