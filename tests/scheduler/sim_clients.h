// SPDX-License-Identifier: GPL-3.0-or-later
// tests/scheduler/sim_clients.h
//
// People who train, as scheduler/train_command.cpp does it for them: hours are asked for, a job is
// submitted, its number is told, and what has ended is resumed. Replies get lost. Then they ask again,
// the same or something else, submit a second job, and tell a number twice, late or of the other job.
// Each answer is judged by what was answered first.
#pragma once

#include <cmath>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "scheduler/submission.h"
#include "sim_cluster.h"
#include "world.h"

namespace scheduler {

inline constexpr const char* kGroup = "group:vision";

// How often something happened, in words: a test in which it never does proves nothing of it.
using Counts = std::map<std::string, std::int64_t>;

class SimClients {
 public:
  // Calls back with the service where it is there; it may die in the call.
  using WithService = std::function<void(const std::function<void(Dispatcher&)>&)>;

  // All outlive the clients.
  SimClients(Dice& dice, SimCluster& cluster, const Site& site, accounting::Database& books,
             WithService with_service)
      : dice_(dice), cluster_(cluster), site_(site), books_(books), with_service_(std::move(with_service)) {}

  Counts counts;
  std::vector<std::string> faults;
  std::map<std::string, std::int64_t> hours_s, gpus;  // Of timed runs, as asked for.

  bool has_runs() const { return runs_ > 0; }
  std::string any_run() { return fmt::format("run{:04}", dice_.between(1, runs_)); }
  bool is_idle() const { return errands_.empty(); }

  void start_training() {
    Admission admission;
    admission.run_id = fmt::format("run{:04}", ++runs_);
    admission.run_dir = "/runs/" + admission.run_id;
    admission.request.args.data = "/data/data.yaml";
    admission.request.args.epochs = 10;
    admission.request.resources.auto_resume = dice_.one_in(2);
    choose_resources(admission.request.resources);
    if (dice_.one_in(3)) make_timed(admission);
    admission.data = {100, 20};
    ask(admission);
  }

  // What has ended goes on as a further segment; a timed run in what is left of its hours.
  void resume() {
    const std::string id = any_run();
    const auto first = asked_.find({id, 0});
    std::optional<Run> run;
    with_service_([&](Dispatcher& service) {
      if (const auto view = service.find(id); view && *view) run = (*view)->run;
    });
    if (!run || first == asked_.end() || !is_terminal(run->state)) return;
    Admission admission = first->second;
    admission.segment = static_cast<int>(run->segments.size());
    admission.epochs_done = static_cast<int>(dice_.between(0, 9));
    if (!admission.request.args.time_h && dice_.one_in(2)) choose_resources(admission.request.resources);
    ask(admission);
    const bool is_resumed = asked_.count({id, admission.segment}) > 0;
    if (!is_resumed) return;
    ++counts["runs resumed"];
    if (run->state == RunState::kFinished) faults.push_back(id + " was finished, and is resumed");
  }

  // What they meant to do later.
  void act() {
    std::vector<Errand> due;
    std::erase_if(errands_, [&](const Errand& each) {
      if (each.due > cluster_.now) return false;
      due.push_back(each);
      return true;
    });
    for (const Errand& each : due) {
      if (each.job == 0) {
        ask(each.admission);
      } else {
        say(each.admission, each.job, "numbers told late");
      }
    }
  }

 private:
  using Name = std::pair<std::string, int>;  // Run and segment.
  struct Errand {
    UtcSeconds due = 0;
    Admission admission;
    JobId job = 0;  // To be told; 0: to be asked for.
  };

  static Name name_of(const Admission& admission) { return {admission.run_id, admission.segment}; }
  static bool is_same(const Admission& a, const Admission& b) {
    return admission_hash(a) == admission_hash(b);
  }

  void choose_resources(Resources& resources) {
    resources.gpus = static_cast<int>(dice_.between(1, 2));
    resources.time_limit_s = 60 * dice_.between(2, 30);
    resources.type = dice_.one_in(3) ? "metered" : "h100";
    resources.fund = dice_.one_in(3) ? kGroup : "";
  }
  // Hours, most of them more than a job of "short" may last.
  void make_timed(Admission& admission) {
    admission.request.resources.time_limit_s.reset();
    admission.request.args.time_h = static_cast<double>(dice_.between(180, 3'000)) / 3'600;
    if (dice_.one_in(3)) return;
    admission.request.resources.type = "short";
    admission.request.resources.auto_resume = !dice_.one_in(8);
  }
  // Of a timed run only what its hours do not depend on.
  Admission changed(Admission admission) {
    Resources& resources = admission.request.resources;
    const std::int64_t what = dice_.between(0, 3);
    if (what == 0) admission.run_dir += "-2";
    if (what == 1) resources.fund = resources.fund == kGroup ? "user:ada" : kGroup;
    if (what == 2) admission.data.train_images += 1;
    if (what == 3) admission.request.args.epochs += 10;
    return admission;
  }
  void later(const Admission& admission, JobId job = 0) {
    if (!cluster_.has_faults) return;  // Everything comes to its end.
    errands_.push_back({cluster_.now + dice_.between(0, dice_.one_in(2) ? 30 : 400), admission, job});
  }

  // --- Asking for hours ------------------------------------------------------------------------

  void ask(const Admission& wanted) {
    std::optional<AdmitOutcome> answer;
    with_service_([&](Dispatcher& service) { answer = admit(service, wanted); });
    if (!answer || (cluster_.has_faults && dice_.one_in(8))) {
      if (answer) ++counts["answers lost"];
      return later(dice_.one_in(4) ? changed(wanted) : wanted);
    }
    const auto* admitted = std::get_if<Admitted>(&*answer);
    if (admitted == nullptr) return;
    if (dice_.one_in(12)) later(wanted);
    if (dice_.one_in(12)) later(changed(wanted));
    if (dice_.one_in(12)) return;  // The client dies.
    // One that looked a moment too early submits all the same.
    if (admitted->was_known && is_job_known(wanted) && !dice_.one_in(4)) return;
    submit(wanted, admitted->plan, admitted->was_known);
  }

  std::optional<AdmitOutcome> admit(Dispatcher& service, const Admission& wanted) {
    const bool is_doomed = cluster_.has_faults && dice_.one_in(12);
    const std::int64_t holds = holds_of(wanted.run_id);
    if (is_doomed) (void)books_.run("UPDATE doom SET n = ?1", {dice_.between(0, 3)});
    auto outcome = service.admit(kAda, wanted, cluster_.now);
    if (is_doomed) (void)books_.run("UPDATE doom SET n = -1", {});
    const bool is_new = judge(wanted, outcome);
    if (holds_of(wanted.run_id) != holds + (is_new ? 1 : 0)) {
      fault(wanted, fmt::format("{} holds were made", holds_of(wanted.run_id) - holds));
    }
    if (!outcome && is_doomed && dice_.one_in(2)) throw ServiceDied();
    if (!outcome) return std::nullopt;
    return std::move(*outcome);
  }

  // The same is answered alike, whatever became of the run since; something else under its name is
  // refused. Returns whether the answer is the first.
  bool judge(const Admission& wanted, const Expected<AdmitOutcome>& outcome) {
    if (!outcome) return false;
    const auto* admitted = std::get_if<Admitted>(&*outcome);
    const auto before = asked_.find(name_of(wanted));
    if (before == asked_.end()) {
      if (admitted == nullptr) return false;
      if (admitted->was_known) fault(wanted, "it was never admitted, and is known");
      asked_[name_of(wanted)] = wanted;
      answered_[name_of(wanted)] = *admitted;
      if (wanted.request.args.time_h) {
        hours_s[wanted.run_id] = std::llround(*wanted.request.args.time_h * 3'600);
        gpus[wanted.run_id] = *wanted.request.resources.gpus;
      }
      return true;
    }
    if (!is_same(wanted, before->second)) {
      ++counts["asked again for something else"];
      if (admitted != nullptr) fault(wanted, "something else was asked, and is admitted");
      return false;
    }
    ++counts["asked again"];
    const Admitted& first = answered_[name_of(wanted)];
    const bool is_alike = admitted != nullptr && admitted->was_known && admitted->hold_id == first.hold_id &&
                          nlohmann::json(admitted->plan) == nlohmann::json(first.plan);
    if (!is_alike) fault(wanted, "the same was asked again, and is answered otherwise");
    return false;
  }

  std::int64_t holds_of(const std::string& run) const {
    std::int64_t holds = -1;
    (void)books_.query("SELECT count(*) FROM transfer WHERE kind = 'hold' AND run = ?1", {run},
                       [&](const accounting::Row& row) { holds = row.integer(0); });
    return holds;
  }
  bool is_job_known(const Admission& wanted) {
    bool is_known = false;
    with_service_([&](Dispatcher& service) {
      const auto view = service.find(wanted.run_id);
      if (!view || !*view) return;
      const auto& segments = (*view)->run.segments;
      is_known = segments.at(static_cast<std::size_t>(wanted.segment)).job.has_value();
    });
    return is_known;
  }

  // --- Submitting ------------------------------------------------------------------------------

  void submit(const Admission& wanted, const Plan& plan, bool is_again) {
    const SegmentName name{wanted.run_id, wanted.segment};
    const auto& jobs = cluster_.submitted[to_comment(name)];
    const std::size_t before = jobs.size();
    const auto job = submit_once_or_not(make_job_spec(plan, name, wanted.run_dir, site_, {}), is_again);
    if (before > 0 && jobs.size() > before) count_second_job(wanted.run_id, jobs);
    if (job) return tell(wanted, *job);
    if (!dice_.one_in(4)) {
      with_service_([&](Dispatcher& service) {
        (void)service.submission_failed(kAda, wanted.run_id, wanted.segment, "Slurm took none", cluster_.now);
      });
    }
    if (!dice_.one_in(3)) return later(wanted);
    if (dice_.one_in(2)) return;
    cluster_.advance(dice_.between(0, 60));  // No look comes between.
    submit(wanted, plan, true);
  }

  // An older client, or somebody's own script, does not look whether the job is there already.
  std::optional<JobId> submit_once_or_not(const JobSpec& spec, bool is_again) {
    if (!dice_.one_in(4)) {
      const auto job = cluster_.submit(spec);
      return job ? std::optional(job->id) : std::nullopt;
    }
    const Submission submission = submit_once(cluster_, spec, kAda.uid, is_again);
    const auto* submitted = std::get_if<Submitted>(&submission);
    return submitted == nullptr ? std::nullopt : std::optional(submitted->id);
  }

  void count_second_job(const std::string& owner, const std::vector<JobId>& jobs) {
    ++counts["second jobs"];
    for (const TrueAllocation& each : cluster_.truth) {
      const bool is_first = each.id == jobs.front() && each.owner == owner;
      if (!is_first || each.was_visible || each.gpus == 0) continue;
      ++counts["first jobs that ran before a look"];
      return;
    }
  }

  // Nobody may tell the service: it finds the job by its comment.
  void tell(const Admission& wanted, JobId job) {
    if (dice_.one_in(3)) return;
    const auto& jobs = cluster_.submitted[to_comment({wanted.run_id, wanted.segment})];
    const JobId other = jobs.front() == job ? jobs.back() : jobs.front();
    if (other != job && !dice_.one_in(3)) return say(wanted, other, "numbers told of the other job");
    if (dice_.one_in(3)) return later(wanted, job);
    say(wanted, job, "numbers told");
    if (dice_.one_in(5)) say(wanted, job, "numbers told twice");
  }
  void say(const Admission& wanted, JobId job, const char* how) {
    with_service_([&](Dispatcher& service) {
      ++counts[how];
      cluster_.note(fmt::format("job {} is told of run {}/{}", job, wanted.run_id, wanted.segment));
      (void)service.submitted(kAda, wanted.run_id, wanted.segment, job, cluster_.now);
    });
  }

  void fault(const Admission& wanted, const std::string& text) {
    faults.push_back(fmt::format("at {}: segment {} of run {}: {}", cluster_.now, wanted.segment,
                                 wanted.run_id, text));
  }

  Dice& dice_;
  SimCluster& cluster_;
  const Site& site_;
  accounting::Database& books_;
  WithService with_service_;
  int runs_ = 0;
  std::map<Name, Admission> asked_;    // What was admitted, whether or not its client was told.
  std::map<Name, Admitted> answered_;
  std::vector<Errand> errands_;
};

}  // namespace scheduler
