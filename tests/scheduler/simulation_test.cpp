// SPDX-License-Identifier: GPL-3.0-or-later
//
// Random lives of a cluster, its users and a service that dies at any line, and an accountant of its
// own who knows every second that Slurm really allocated.
//
//   TRAINYARD_LIVES=100000 simulation_test    so many lives
//   TRAINYARD_ACTS=5000 simulation_test       longer ones: so many acts each
//   TRAINYARD_SEED=17 simulation_test         this one, with its history
#include <cmath>
#include <cstdlib>
#include <map>
#include <memory>
#include <optional>
#include <set>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "accounting/till.h"
#include "sim_cluster.h"
#include "world.h"

namespace scheduler {
namespace {

constexpr std::int64_t kMeteredWeight = 1500;
constexpr const char* kGroup = "group:vision";

Site sim_site() {
  Site site = test_site();
  site.types[1].weights = {{0, kMeteredWeight}};
  InstanceType shortly = site.types[0];
  shortly.name = shortly.partition = "short";
  site.types.push_back(shortly);
  return site;
}

std::int64_t number_of(const char* name, std::int64_t otherwise) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::strtoll(text, nullptr, 10) : otherwise;
}

// The books of all lives: each life is one transaction that is rolled back.
accounting::Database open_books() {
  auto db = std::move(*accounting::Database::open(":memory:"));
  // All tables are there before the first life: after a rollback of one that makes some SQLite reads its
  // schema anew.
  auto ledger = accounting::Ledger::open(db);
  if (!ledger || !accounting::Till::open(db, *ledger) || !RunStore::open(db)) {
    throw std::runtime_error("no books");
  }
  // A write of the books fails when the countdown is over: as if the service had died in it, at the
  // first of a look or at a later one.
  std::string script = "CREATE TEMP TABLE doom(n INTEGER); INSERT INTO doom VALUES(-1);";
  for (const char* table : {"run_event", "transfer", "run_observation", "run_allocation"}) {
    script += fmt::format(
        "CREATE TEMP TRIGGER doom_of_{0} AFTER INSERT ON main.{0} BEGIN"
        "  SELECT RAISE(ABORT, 'the service died') WHERE (SELECT n FROM doom) = 0;"
        "  UPDATE doom SET n = n - 1 WHERE n > 0; END;",
        table);
  }
  const auto made = db.execute_script(script);
  if (!made) throw std::runtime_error(made.error().message);
  return db;
}

class Life {
 public:
  Life(std::uint64_t seed, accounting::Database& books)
      : dice_(seed), cluster_(dice_), database_(books) {
    open_service();
    grant();
    if (dice_.one_in(3)) set_cap();
    if (dice_.one_in(2)) cluster_.gate = [this](JobId id) { return ask_gate(id); };
  }

  // Empty: all is right.
  std::vector<std::string> run() {
    const std::int64_t acts =
        number_of("TRAINYARD_ACTS", dice_.one_in(6) ? dice_.between(20, 120) : dice_.between(5, 30));
    for (; steps_ < acts && faults_.empty(); ++steps_) {
      happen();
      cluster_.advance(dice_.between(0, 40));
      tick();
    }
    settle();
    check();
    return faults_;
  }
  std::int64_t steps() const { return steps_; }
  int runs_of_several_jobs() const { return runs_of_several_jobs_; }  // Timed ones.
  int kept_out() const { return kept_out_; }                          // Starts, by the gate.
  const std::vector<std::string>& history() const { return cluster_.history; }
  std::vector<std::string> books() const {
    std::vector<std::string> text;
    const auto read = database_.query("SELECT time, run, kind, body FROM run_event ORDER BY seq", {},
                               [&](const accounting::Row& row) {
                                 text.push_back(fmt::format("{} {} {} {}", row.integer(0), row.text(1),
                                                            row.text(2), row.text(3).substr(0, 300)));
                               });
    if (!read) text.push_back(read.error().message);
    for (const std::string& each : named_) text.push_back(each);
    return text;
  }

 private:
  void open_service() {
    auto opened = Dispatcher::open(site_, database_, cluster_, [](std::uint32_t, const Site&) {
      return Expected<Caller>{kAda};
    });
    if (!opened) throw std::runtime_error(opened.error().message);
    service_ = std::make_unique<Dispatcher>(std::move(*opened));
  }
  void die() {
    cluster_.note("the service dies");
    service_.reset();
    back_at_ = cluster_.now + (dice_.one_in(3) ? dice_.between(1, 900) : 0);
  }
  template <typename Call>
  void guarded(Call call) {
    if (!service_) return;
    try {
      call();
    } catch (const ServiceDied&) {
      die();
    }
  }
  void grant() {
    if (!service_) return;
    const auto granted = service_->ledger().grant(
        {fmt::format("g{}", ++grants_), dice_.one_in(3) ? kGroup : "user:ada",
         {dice_.between(1, 4) * accounting::kGpuHour.milli_gpu_s}, "root", ""}, cluster_.now);
    if (!granted) faults_.push_back(granted.error().message);
  }
  // What ada may use of the group's fund.
  void set_cap() {
    cap_ = dice_.between(1, 4) * accounting::kGpuHour.milli_gpu_s / 2;
    const auto done = service_->ledger().set(
        {.id = "cap", .fund = kGroup, .name = "cap/ada", .value = std::to_string(*cap_), .actor = "root",
         .note = ""}, cluster_.now);
    if (!done || *done != accounting::SetStatus::kSet) faults_.push_back("no cap was set");
  }
  void tick() {
    if (!service_) {
      if (cluster_.now < back_at_) return;
      cluster_.note("the service starts");
      open_service();
    }
    guarded([&] {
      if (cluster_.has_faults && dice_.one_in(8)) {
        cluster_.calls_until_death = static_cast<int>(dice_.between(1, 5));
      }
      cluster_.begin_look();
      const auto done = service_->tick(cluster_.now);
      if (done) cluster_.end_look();
      cluster_.calls_until_death = -1;
      if (!done && !cluster_.has_faults) faults_.push_back(done.error().message);
      if (done && service_->trouble().empty()) check_step();
    });
  }

  // No answer, because the service is away or dies, is a no.
  bool ask_gate(JobId id) {
    bool may_start = false;
    guarded([&] {
      if (cluster_.has_faults && dice_.one_in(8)) {
        cluster_.calls_until_death = static_cast<int>(dice_.between(1, 5));
      }
      cluster_.begin_look();
      const auto said = service_->may_start(id, cluster_.now);
      cluster_.calls_until_death = -1;
      if (service_->trouble().empty()) cluster_.end_look();
      if (!said) return;
      may_start = !said->has_value();
      if (may_start) return check_start(id);
      cluster_.note(fmt::format("the gate keeps job {} out: {}", id, (*said)->reasons.front()));
      TrueAllocation* attempt = cluster_.present(id);
      if (attempt == nullptr) return;  // It may have ended it as well: the job was changed.
      attempt->was_kept_out = true;
      ++kept_out_;
    });
    return may_start;
  }

  // What the gate lets through is paid by what is left of its hold, to the end of its limit.
  void check_start(JobId id) {
    const auto& job = cluster_.at(id);
    if (job.shown.gpus == 0) return;
    const auto view = service_->find(job.owner_of_task());
    if (!view || !*view) return fault(fmt::format("the gate lets job {} of no run through", id));
    const Segment& segment = (*view)->run.last();
    const std::int64_t needed =
        job.shown.gpus * (job.shown.time_limit_s + kMargin) * segment.plan.quote.weight_milli;
    if (segment.closed || needed > segment.remaining().milli_gpu_s) {
      fault(fmt::format("at {}: the gate lets job {} through, which needs {}; held are {}", cluster_.now,
                        id, needed, segment.remaining().milli_gpu_s));
    }
  }

  // What holds after every look that was not disturbed.
  void check_step() {
    std::int64_t sum = 1, least = -1;
    const auto read = database_.query(
        "SELECT sum(balance), coalesce(min(balance) FILTER (WHERE floor IS NOT NULL), 0) "
        "FROM account", {}, [&](const accounting::Row& row) {
          sum = row.integer(0);
          least = row.integer(1);
        });
    if (!read || sum != 0 || least < 0) {
      fault(fmt::format("at {}: all accounts sum to {}, the least has {}", cluster_.now, sum, least));
    }
    check_funds();
    for (const JobId id : cluster_.ids(true)) check_limit(id);
    check_new_charges();
  }

  // What the transfers of a fund come to, by their kinds and not by the accounts that they name, is
  // what the ledger says that it has and has set aside.
  void check_funds() {
    std::map<std::string, std::pair<std::int64_t, std::int64_t>> has_and_holds;
    const auto read = database_.query(
        "SELECT coalesce(d.fund, c.fund), t.kind, t.amount FROM transfer t "
        "JOIN account d ON d.name = t.debit JOIN account c ON c.name = t.credit", {},
        [&](const accounting::Row& row) {
          auto& [has, holds] = has_and_holds[row.text(0)];
          const std::string kind = row.text(1);
          const std::int64_t amount = row.integer(2);
          if (kind == "grant" || kind == "refund") has += amount;
          if (kind == "hold" || kind == "extend") has -= amount, holds += amount;
          if (kind == "release" || kind == "reduce") has += amount, holds -= amount;
          if (kind == "charge") holds -= amount;
        });
    const auto balances = service_->ledger().balances();
    const auto use = service_->ledger().member_use(kGroup, "ada");
    if (!read || !balances || !use) return fault("the books cannot be read");
    if (cap_ && use->milli_gpu_s > *cap_) {
      fault(fmt::format("at {}: ada uses {} of {}, and may use {}", cluster_.now, use->milli_gpu_s, kGroup, *cap_));
    }
    for (const auto& balance : *balances) {
      const auto [has, holds] = has_and_holds[balance.fund];
      if (has == balance.available.milli_gpu_s && holds == balance.held.milli_gpu_s) continue;
      fault(fmt::format("at {}: {} has {} and holds {}, its transfers come to {} and {}", cluster_.now,
                        balance.fund, balance.available.milli_gpu_s, balance.held.milli_gpu_s, has, holds));
    }
  }

  // No charge says more than Slurm has given its run by now, but where slurmdbd was silent or wrong.
  void check_new_charges() {
    const auto read = database_.query(
        "SELECT seq, run, gpus, seconds, start_s, end_s, note, id FROM transfer "
        "WHERE kind = 'charge' AND seq > ?1 ORDER BY seq", {checked_seq_},
        [&](const accounting::Row& row) {
          checked_seq_ = row.integer(0);
          if (row.text(6).find("as seen from the controller") != std::string::npos) return;
          const std::int64_t charged_s = row.integer(2) * row.integer(3);
          std::int64_t had_s = 0;
          for (const TrueAllocation& each : cluster_.truth) {
            if (each.owner != row.text(1)) continue;
            if (each.is_disturbed) return;
            const UtcSeconds end = each.end == 0 ? cluster_.now : each.end;
            had_s += each.gpus * std::max<std::int64_t>(
                0, std::min(end, row.integer(5)) - std::max(each.start, row.integer(4)));
          }
          if (charged_s <= had_s) return;
          fault(fmt::format("at {}: charge {} is of {} GPU-s, Slurm had given {}", cluster_.now,
                            row.text(7), charged_s, had_s));
        });
    if (!read) fault(read.error().message);
  }

  // A running job's limit is never longer than what is held for it. After a requeue what is left of
  // the hold may be unknown for a while; of a timed run it is known once all before it is charged.
  void check_limit(JobId id) {
    const JobSnapshot& job = cluster_.at(id).shown;
    if (job.state != JobState::kRunning || job.gpus == 0) return;
    const std::string& owner = cluster_.at(id).owner;
    if (job.attempt > 0 && !is_charged_before(owner, job)) return;
    const auto view = service_->find(cluster_.at(id).owner_of_task());
    if (!view || !*view || is_terminal((*view)->run.state)) return;
    const Segment& segment = (*view)->run.last();
    const bool is_first = segment.seen.size() == 1 && segment.charges.empty();
    const bool is_the_one = segment.job == id && (*view)->job && (*view)->job->start == job.start &&
                            (is_first || job.attempt > 0);
    if (!is_the_one || segment.rejected || segment.ended || segment.cancel_requested) return;
    const std::int64_t needed =
        job.gpus * (job.time_limit_s + kMargin) * segment.plan.quote.weight_milli;
    if (needed <= segment.remaining().milli_gpu_s) return;
    fault(fmt::format("at {}: job {} of {} needs {} for its limit of {} s, held are {}", cluster_.now,
                      id, (*view)->run.id, needed, job.time_limit_s,
                      segment.remaining().milli_gpu_s));
  }

  // All that the run had before this job's present attempt is in the books, to the second; one of
  // 0 s has its charge too.
  bool is_charged_before(const std::string& owner, const JobSnapshot& job) const {
    const auto view = service_->find(owner);
    if (!view || !*view) return false;
    std::int64_t true_s = 0;
    std::size_t attempts = 0, charges = 0;
    for (const TrueAllocation& each : cluster_.truth) {
      if (each.owner != owner || each.start == job.start) continue;
      if (each.is_disturbed || each.end == 0) return false;
      true_s += each.end - each.start;
      ++attempts;
    }
    for (const Segment& segment : (*view)->run.segments) charges += segment.charges.size();
    return (*view)->run.allocated_s() == true_s && charges >= attempts;
  }

  // Hours, most of them more than a job of "short" may last.
  void make_timed(Admission& admission) {
    admission.request.resources.time_limit_s.reset();
    admission.request.args.time_h = static_cast<double>(dice_.between(180, 3'000)) / 3'600;
    if (dice_.one_in(3)) return;
    admission.request.resources.type = "short";
    admission.request.resources.auto_resume = !dice_.one_in(8);
  }

  void submit_training() {
    guarded([&] {
      Admission admission;
      admission.run_id = fmt::format("run{:04}", ++runs_);
      admission.run_dir = "/runs/" + admission.run_id;
      admission.request.args.data = "/data/data.yaml";
      admission.request.args.epochs = 10;
      admission.request.resources.gpus = static_cast<int>(dice_.between(1, 2));
      admission.request.resources.time_limit_s = 60 * dice_.between(2, 30);
      admission.request.resources.type = dice_.one_in(3) ? "metered" : "h100";
      admission.request.resources.auto_resume = dice_.one_in(2);
      if (dice_.one_in(3)) make_timed(admission);
      if (dice_.one_in(3)) admission.request.resources.fund = kGroup;
      admission.data = {100, 20};
      const auto outcome = service_->admit(kAda, admission, cluster_.now);
      if (!outcome || !std::holds_alternative<Admitted>(*outcome)) return;
      if (admission.request.args.time_h) {
        hours_s_[admission.run_id] = std::llround(*admission.request.args.time_h * 3'600);
        gpus_[admission.run_id] = *admission.request.resources.gpus;
      }
      if (dice_.one_in(12)) return;  // The client dies.
      const auto job = cluster_.submit(make_job_spec(std::get<Admitted>(*outcome).plan,
                                                     {admission.run_id, 0}, admission.run_dir, site_, {}));
      if (!job) {
        if (!dice_.one_in(4)) {
          (void)service_->submission_failed(kAda, admission.run_id, 0, "Slurm took none", cluster_.now);
        }
        return;
      }
      if (dice_.one_in(3)) return;  // Nobody tells the service.
      (void)service_->submitted(kAda, admission.run_id, 0, job->id, cluster_.now);
    });
  }

  void happen() {
    const auto live = cluster_.ids(true);
    const auto any = cluster_.ids(false);
    const auto pick = [&](const std::vector<JobId>& from) {
      return from[static_cast<std::size_t>(dice_.between(0, static_cast<std::int64_t>(from.size()) - 1))];
    };
    const std::int64_t what = dice_.between(0, 29);
    if (!cluster_.controller_is_up) {
      if (dice_.one_in(3)) cluster_.controller_is_up = true;
      return;
    }
    if (what < 5) return submit_training();
    if (what < 9) {
      (void)cluster_.submit_plain(static_cast<int>(dice_.between(0, 3)), 60 * dice_.between(1, 30), {});
      return;
    }
    if (what < 11) {
      std::vector<int> tasks;
      for (int task = 0; task < dice_.between(1, 4); ++task) tasks.push_back(2 * task);
      (void)cluster_.submit_plain(1, 60 * dice_.between(1, 20), tasks);
      return;
    }
    if (what == 11) {
      cluster_.crash();
      cluster_.controller_is_up = !dice_.one_in(2);
    } else if (what == 12) {
      cluster_.database_is_up = !cluster_.database_is_up;
      cluster_.note(cluster_.database_is_up ? "slurmdbd is up" : "slurmdbd is down");
    } else if (what == 13 && dice_.one_in(3)) {
      cluster_.twist_a_record();
    } else if (what == 14) {
      if (service_) die();
    } else if (what == 15) {
      grant();
    } else if (what == 16) {
      (void)database_.run("UPDATE doom SET n = ?1", {dice_.between(0, 12)});
      tick();
      (void)database_.run("UPDATE doom SET n = -1", {});
      if (service_) die();
    } else if (what == 17 && runs_ > 0) {
      guarded([&] {
        const std::string id = fmt::format("run{:04}", dice_.between(1, runs_));
        (void)(dice_.one_in(2) ? service_->request_stop(kAda, id, cluster_.now)
                               : service_->request_cancel(kAda, id, cluster_.now));
      });
    } else if (what > 26 && runs_ > 0) {
      guarded([&] {
        const std::string id = fmt::format("run{:04}", dice_.between(1, runs_));
        (void)(dice_.one_in(2) ? service_->request_pause(kAda, id, cluster_.now)
                               : service_->request_resume(kAda, id, cluster_.now));
      });
    } else if (!live.empty() && what < 25) {
      disturb_job(pick(live), what);
    } else if (!any.empty() && what == 25) {
      const JobId id = pick(any);
      const JobSnapshot& job = cluster_.at(id).shown;
      if (is_ended(job.state) && job.start > 0) cluster_.requeue(id, JobState::kRequeued);
    } else if (what == 26) {
      cluster_.advance(dice_.between(100, 1500));
    }
  }

  void disturb_job(JobId id, std::int64_t what) {
    auto& job = cluster_.at(id);
    const bool is_running = job.shown.state == JobState::kRunning && job.ghost_until == 0;
    if (what < 22 && is_running) {
      static constexpr JobState kWhy[] = {JobState::kRequeued, JobState::kNodeFail,
                                          JobState::kPreempted};
      cluster_.requeue(id, kWhy[dice_.between(0, 2)]);
    } else if (what == 22) {
      cluster_.user_cancels(id);
    } else if (what == 23) {
      cluster_.note(fmt::format("somebody changes the limit of {}", id));
      job.shown.time_limit_s = 60 * dice_.between(1, 120);
    } else if (what == 24 && job.shown.gpus > 0 && job.shown.state == JobState::kPending &&
               job.shown.array_tasks.empty()) {
      cluster_.note(fmt::format("somebody changes the GPUs of {}", id));
      job.shown.gpus = static_cast<int>(dice_.between(1, 4));
    }
  }

  // Everything comes to its end: what still waits is cancelled by its user.
  void settle() {
    cluster_.note("everything settles");
    cluster_.settle_down();
    back_at_ = 0;
    // The service looks at what was closed once more after record_wait_s.
    int over = 0;
    for (int i = 0; i < 300 && over < 8; ++i) {
      if (i % 60 == 59) {
        for (const JobId id : cluster_.ids(true)) cluster_.user_cancels(id);
      }
      cluster_.advance(20);
      tick();
      over = cluster_.ids(true).empty() && is_all_over() ? over + 1 : 0;
    }
  }
  bool is_all_over() {
    std::int64_t open = 1;
    (void)database_.query("SELECT count(*) FROM run WHERE is_open = 1", {},
                          [&](const accounting::Row& row) { open = row.integer(0); });
    return service_ && open == 0 && !cluster_.has_messages();
  }

  // --- The accountant --------------------------------------------------------------------------

  void fault(const std::string& text) { faults_.push_back(text); }

  void check() {
    const auto balances = service_->ledger().balances();
    for (const auto& balance : *balances) {
      if (balance.held.milli_gpu_s != 0) fault(fmt::format("{} holds {}", balance.fund, balance.held.milli_gpu_s));
      if (balance.available.milli_gpu_s < 0) fault(balance.fund + " is overspent");
    }
    (void)database_.query("SELECT id, state FROM run WHERE is_open = 1", {},
                          [this](const accounting::Row& row) {
                            fault("run " + row.text(0) + " is " + row.text(1));
                          });
    lines_ = *service_->ledger().lines("", "");
    const auto report = service_->audit();
    const auto findings = service_->ledger().findings();
    for (const auto& finding : *findings) {
      named_.push_back(finding.subject + ": " + finding.text);
      excess_.insert(finding.subject);
    }
    for (const std::string& text : report->faults) check_audit_fault(text);
    for (const std::string& text : report->faults) named_.push_back(text);
    for (const std::string& text : report->notes) named_.push_back(text);
    std::map<std::string, std::int64_t> charged_s, true_s;
    std::map<std::string, bool> is_disturbed;
    for (const TrueAllocation& each : cluster_.truth) {
      check_allocation(each);
      true_s[each.owner] += each.gpus * (each.end - each.start);
      is_disturbed[each.owner] |= each.is_disturbed;
    }
    for (const auto& line : lines_) {
      if (line.kind != "charge") continue;
      charged_s[line.run] += line.gpus * line.seconds;
      if (line.amount.milli_gpu_s != line.gpus * line.seconds * line.weight_milli &&
          excess_.count(line.id) == 0) {
        fault(fmt::format("charge {} is not its arithmetic, and no finding says so", line.id));
      }
    }
    check_hours();
    check_given_back();
    for (const auto& [run, seconds] : charged_s) {
      if (seconds > true_s[run] && !is_disturbed[run] && !is_estimated(run)) {
        fault(fmt::format("run {} is charged {} GPU-s, Slurm allocated {}", run, seconds, true_s[run]));
      }
    }
  }

  // Given back as kept out by the gate is what it kept out, and of that a minute at most.
  void check_given_back() {
    std::map<std::string, const accounting::StatementLine*> charges;
    for (const auto& line : lines_) {
      if (line.kind == "charge") charges[line.id] = &line;
      if (line.kind != "refund" || !line.note.starts_with("START_REFUSED")) continue;
      const auto charge = charges.find(line.ref);
      if (charge == charges.end()) {
        fault("refund " + line.id + " is of no charge");
        continue;
      }
      const accounting::StatementLine& of = *charge->second;
      const bool is_right = std::any_of(
          cluster_.truth.begin(), cluster_.truth.end(), [&of](const TrueAllocation& each) {
            return each.owner == of.run && each.start == of.start && each.was_kept_out;
          });
      if (!is_right || line.amount.milli_gpu_s > of.gpus * 60 * of.weight_milli) {
        fault(fmt::format("refund {} of {} is not of what the gate kept out", line.id,
                          line.amount.milli_gpu_s));
      }
    }
  }

  // Whatever ended its jobs, a timed run costs no more than its hours.
  void check_hours() {
    std::map<std::string, std::int64_t> cost, charges;
    for (const auto& line : lines_) {
      if (line.kind != "charge" || hours_s_.count(line.run) == 0) continue;
      cost[line.run] += line.amount.milli_gpu_s;
      if (++charges[line.run] == 2) ++runs_of_several_jobs_;
      const std::int64_t most = hours_s_[line.run] * gpus_[line.run] * line.weight_milli;
      if (cost[line.run] > most) {
        fault(fmt::format("timed run {} is charged {}, its hours cost {}", line.run, cost[line.run],
                          most));
      }
    }
  }

  // The audit may differ only where Slurm's own records were changed under it.
  void check_audit_fault(const std::string& text) {
    for (const TrueAllocation& each : cluster_.truth) {
      if (each.is_disturbed && text.find("run " + each.owner + " ") != std::string::npos) return;
    }
    fault("audit: " + text);
  }

  bool is_named(const TrueAllocation& each) const {
    const std::string run = "run " + each.owner, job = fmt::format("job {} ", each.id);
    return std::any_of(named_.begin(), named_.end(), [&](const std::string& text) {
      return text.find(run) != std::string::npos || text.find(job) != std::string::npos;
    });
  }

  // Where slurmdbd was silent for too long the charge follows what was seen, and says so.
  bool is_estimated(const std::string& owner) const {
    return std::any_of(named_.begin(), named_.end(), [&](const std::string& text) {
      return text.starts_with("run " + owner + ": ") &&
             text.find("as seen from the controller") != std::string::npos;
    });
  }

  static bool is_of(const accounting::StatementLine& line, UtcSeconds start, UtcSeconds end) {
    return line.start == start || (line.start < end && line.end > start);
  }
  // What the run is charged for an allocation, be it in parts.
  std::int64_t charged_gpu_s(const std::string& run, UtcSeconds start, UtcSeconds end) const {
    std::int64_t sum = 0;
    for (const auto& line : lines_) {
      const bool counts = line.kind == "charge" && line.run == run && is_of(line, start, end);
      if (counts) sum += line.gpus * line.seconds;
    }
    return sum;
  }

  // The changed record of another attempt of its run once said that it had this time.
  bool lies_in_a_changed_record(const TrueAllocation& each) {
    for (const TrueAllocation& other : cluster_.truth) {
      if (!other.is_disturbed || other.owner != each.owner || other.start == each.start) continue;
      for (const AllocationRecord& record : cluster_.recorded[{other.id, other.submit}]) {
        if (record.start < each.end && record.end > each.start) return true;
      }
    }
    return false;
  }

  // Charged is what was allocated, or what its record said at some time.
  void check_allocation(const TrueAllocation& each) {
    if (each.gpus == 0) return;
    const std::int64_t weight = each.partition == "metered" ? kMeteredWeight : 1000;
    for (const auto& line : lines_) {
      const bool is_wrong = line.kind == "charge" && line.run == each.owner &&
                            is_of(line, each.start, each.end) && line.weight_milli != weight;
      if (is_wrong) fault(fmt::format("charge {} has another weight", line.id));
    }
    const std::int64_t charged_s = charged_gpu_s(each.owner, each.start, each.end);
    const std::int64_t true_s = each.gpus * (each.end - each.start);
    if (charged_s == true_s) return;
    if (each.is_disturbed) {
      const auto& said = cluster_.recorded[{each.id, each.submit}];
      const bool is_as_recorded =
          std::any_of(said.begin(), said.end(), [&](const AllocationRecord& record) {
            return record.start == each.start && record.end != 0 &&
                   record.gpus * (record.end - each.start) ==
                       charged_gpu_s(each.owner, each.start, record.end);
          });
      if (is_as_recorded || !each.was_visible) return;
    }
    const bool is_disturbed = each.is_disturbed || lies_in_a_changed_record(each);
    if (is_named(each) && (is_disturbed || charged_s == 0)) return;
    if (is_estimated(each.owner)) return;
    fault(fmt::format("job {} of {} had {} GPUs from {} to {}{}: {} GPU-s; charged are {} GPU-s{}",
                      each.id, each.owner, each.gpus, each.start, each.end,
                      each.is_disturbed ? " (disturbed)" : "", true_s, charged_s,
                      is_named(each) ? "" : ", and no finding says so"));
  }

  Dice dice_;
  Site site_ = sim_site();
  SimCluster cluster_;
  accounting::Database& database_;
  std::unique_ptr<Dispatcher> service_;
  UtcSeconds back_at_ = 0;
  int grants_ = 0, runs_ = 0, runs_of_several_jobs_ = 0, kept_out_ = 0;
  std::map<std::string, std::int64_t> hours_s_, gpus_;  // Of timed runs, as asked for.
  std::int64_t steps_ = 0, checked_seq_ = 0;
  std::optional<std::int64_t> cap_;
  std::vector<std::string> faults_, named_;
  std::set<std::string> excess_;
  std::vector<accounting::StatementLine> lines_;
};

// One life, and what is told of it where it went wrong.
struct Told {
  std::int64_t steps = 0;
  int runs_of_several_jobs = 0, kept_out = 0;
  std::vector<std::string> faults, history;
};

Told live(std::uint64_t seed, accounting::Database& books, bool tells_all) {
  Told told;
  (void)books.transact([&]() -> accounting::Expected<void> {
    Life life(seed, books);
    told.faults = life.run();
    told.steps = life.steps();
    told.runs_of_several_jobs = life.runs_of_several_jobs();
    told.kept_out = life.kept_out();
    if (!told.faults.empty() || tells_all) {
      told.history = life.history();
      for (std::string& line : life.books()) told.history.push_back(std::move(line));
    }
    return tl::unexpected(accounting::Error{"this life is over"});
  });
  return told;
}

// Blocks of lives, so that they can be lived side by side.
constexpr std::int64_t kBlocks = 4;
#ifdef __SANITIZE_ADDRESS__
constexpr std::int64_t kLives = 500;
#else
constexpr std::int64_t kLives = 10'000;
#endif

class Simulation : public ::testing::TestWithParam<std::int64_t> {};

TEST_P(Simulation, WhateverHappensEveryAllocationIsChargedOnceOrAFindingNamesIt) {
  const std::int64_t one = number_of("TRAINYARD_SEED", 0);
  const std::int64_t lives = number_of("TRAINYARD_LIVES", kLives);
  const std::int64_t block = GetParam();
  const std::int64_t first = one > 0 ? one : lives * block / kBlocks + 1;
  const std::int64_t last = one > 0 ? one : lives * (block + 1) / kBlocks;
  if (one > 0 && block > 0) return;  // The first block lives it.
  accounting::Database books = open_books();
  std::int64_t steps = 0;
  int failed = 0, runs_of_several_jobs = 0, kept_out = 0;
  for (std::int64_t seed = first; seed <= last; ++seed) {
    const Told told = live(static_cast<std::uint64_t>(seed), books, one > 0);
    steps += told.steps;
    runs_of_several_jobs += told.runs_of_several_jobs;
    kept_out += told.kept_out;
    if (seed % 10'000 == 0) fmt::print(stderr, "seed {}, {} steps in this block\n", seed, steps);
    if (one > 0 || (failed == 0 && !told.faults.empty())) {
      for (const std::string& line : told.history) fmt::print("{}\n", line);
    }
    if (told.faults.empty()) continue;
    std::string text;
    for (const std::string& fault : told.faults) text += fault + "\n";
    ADD_FAILURE() << "TRAINYARD_SEED=" << seed << "\n" << text;
    if (++failed == 10) break;
  }
  fmt::print("seeds {} to {}: {} steps, {} timed runs of several jobs, {} starts kept out by the gate\n",
             first, last, steps, runs_of_several_jobs, kept_out);
  if (last - first > 50) {
    EXPECT_GT(runs_of_several_jobs, 0);
    EXPECT_GT(kept_out, 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Blocks, Simulation, ::testing::Range(std::int64_t{0}, kBlocks));

}  // namespace
}  // namespace scheduler
