// SPDX-License-Identifier: GPL-3.0-or-later
//
// Random lives of a cluster, its users and a service that dies at any line, and an accountant of its
// own who knows every second that Slurm really allocated.
//
//   TRAINYARD_LIVES=2000 simulation_test      so many lives
//   TRAINYARD_SEED=17 simulation_test         this one, with its history
#include <cstdlib>
#include <memory>
#include <optional>
#include <set>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "sim_cluster.h"
#include "world.h"

namespace scheduler {
namespace {

constexpr std::int64_t kMeteredWeight = 1500;

Site sim_site() {
  Site site = test_site();
  site.types[1].weights = {{0, kMeteredWeight}};
  return site;
}

class Life {
 public:
  explicit Life(std::uint64_t seed) : dice_(seed), cluster_(dice_) {
    // A write of the books fails when the countdown is over: as if the service had died in it.
    const auto made = database_.execute_script(
        "CREATE TEMP TABLE doom(n INTEGER); INSERT INTO doom VALUES(-1);"
        "CREATE TEMP TRIGGER doom_of_event AFTER INSERT ON main.run_event BEGIN"
        "  SELECT RAISE(ABORT, 'the service died') WHERE (SELECT n FROM doom) = 0; END;");
    (void)made;
    open_service();
    grant();
  }

  // Empty: all is right.
  std::vector<std::string> run() {
    const std::int64_t acts = dice_.between(20, 120);
    for (std::int64_t i = 0; i < acts; ++i) {
      happen();
      cluster_.advance(dice_.between(0, 40));
      tick();
    }
    settle();
    check();
    return faults_;
  }
  const std::vector<std::string>& history() const { return cluster_.history; }
  std::vector<std::string> books() const {
    std::vector<std::string> text;
    auto& db = const_cast<accounting::Database&>(database_);
    const auto read = db.query("SELECT time, run, kind, body FROM run_event ORDER BY seq", {},
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
        {fmt::format("g{}", ++grants_), "user:ada",
         {dice_.between(1, 4) * accounting::kGpuHour.milli_gpu_s}, "root", ""}, cluster_.now);
    if (!granted) faults_.push_back(granted.error().message);
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
    });
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
      admission.data = {100, 20};
      const auto outcome = service_->admit(kAda, admission, cluster_.now);
      if (!outcome || !std::holds_alternative<Admitted>(*outcome)) return;
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
      (void)database_.run("UPDATE doom SET n = 0", {});
      tick();
      (void)database_.run("UPDATE doom SET n = -1", {});
      if (service_) die();
    } else if (what == 17 && runs_ > 0) {
      guarded([&] {
        const std::string id = fmt::format("run{:04}", dice_.between(1, runs_));
        (void)(dice_.one_in(2) ? service_->request_stop(kAda, id, cluster_.now)
                               : service_->request_cancel(kAda, id, cluster_.now));
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
    for (int i = 0; i < 300; ++i) {
      if (i % 60 == 59) {
        for (const JobId id : cluster_.ids(true)) cluster_.user_cancels(id);
      }
      cluster_.advance(20);
      tick();
    }
  }

  // --- The accountant --------------------------------------------------------------------------

  void fault(const std::string& text) { faults_.push_back(text); }

  void check() {
    const auto wrong = service_->ledger().verify();
    for (const std::string& each : *wrong) fault("verify: " + each);
    const auto balances = service_->ledger().balances();
    for (const auto& balance : *balances) {
      if (balance.held.milli_gpu_s != 0) fault(fmt::format("{} holds {}", balance.fund, balance.held.milli_gpu_s));
      if (balance.available.milli_gpu_s < 0) fault(balance.fund + " is overspent");
    }
    const auto views = service_->latest("", 10'000);
    for (const auto& view : *views) {
      if (!is_terminal(view.run.state)) fault("run " + view.run.id + " is " + to_name(view.run.state));
    }
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
    for (const auto& [run, seconds] : charged_s) {
      if (seconds > true_s[run] && !is_disturbed[run] && !is_estimated(run)) {
        fault(fmt::format("run {} is charged {} GPU-s, Slurm allocated {}", run, seconds, true_s[run]));
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

  void check_allocation(const TrueAllocation& each) {
    if (each.gpus == 0) return;
    const std::int64_t weight = each.partition == "metered" ? kMeteredWeight : 1000;
    std::int64_t charged_s = 0;
    for (const auto& line : lines_) {
      if (line.kind != "charge" || line.run != each.owner) continue;
      const bool touches = line.start == each.start || (line.start < each.end && line.end > each.start);
      if (!touches) continue;
      charged_s += line.gpus * line.seconds;
      if (line.weight_milli != weight) fault(fmt::format("charge {} has another weight", line.id));
    }
    const std::int64_t true_s = each.gpus * (each.end - each.start);
    if (charged_s == true_s) return;
    if (each.is_disturbed) {
      const auto record = cluster_.records.find({each.id, each.submit});
      const bool is_as_recorded = record != cluster_.records.end() &&
                                  record->second.start == each.start &&
                                  record->second.gpus * (record->second.end - each.start) == charged_s;
      if (is_as_recorded || !each.was_visible) return;
    }
    if (is_named(each) && (each.is_disturbed || charged_s == 0)) return;
    if (is_estimated(each.owner)) return;
    fault(fmt::format("job {} of {} had {} GPUs from {} to {}{}: {} GPU-s; charged are {} GPU-s{}",
                      each.id, each.owner, each.gpus, each.start, each.end,
                      each.is_disturbed ? " (disturbed)" : "", true_s, charged_s,
                      is_named(each) ? "" : ", and no finding says so"));
  }

  Dice dice_;
  Site site_ = sim_site();
  SimCluster cluster_;
  accounting::Database database_ = open_books();
  std::unique_ptr<Dispatcher> service_;
  UtcSeconds back_at_ = 0;
  int grants_ = 0, runs_ = 0;
  std::vector<std::string> faults_, named_;
  std::set<std::string> excess_;
  std::vector<accounting::StatementLine> lines_;

  static accounting::Database open_books() {
    auto db = std::move(*accounting::Database::open(":memory:"));
    if (!RunStore::open(db)) throw std::runtime_error("no books");
    return db;
  }
};

std::int64_t number_of(const char* name, std::int64_t otherwise) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::strtoll(text, nullptr, 10) : otherwise;
}

TEST(Simulation, WhateverHappensEveryAllocationIsChargedOnceOrAFindingNamesIt) {
  const std::int64_t one = number_of("TRAINYARD_SEED", 0);
  const std::int64_t lives = number_of("TRAINYARD_LIVES", 100);
  int failed = 0;
  for (std::int64_t seed = one > 0 ? one : 1; seed < (one > 0 ? one + 1 : lives + 1); ++seed) {
    Life life(static_cast<std::uint64_t>(seed));
    const auto faults = life.run();
    if (faults.empty()) continue;
    std::string text;
    for (const std::string& fault : faults) text += fault + "\n";
    if (one > 0) {
      for (const std::string& line : life.history()) fmt::print("{}\n", line);
      for (const std::string& line : life.books()) fmt::print("{}\n", line);
    }
    ADD_FAILURE() << "TRAINYARD_SEED=" << seed << "\n" << text;
    if (++failed == 10) break;
  }
}

}  // namespace
}  // namespace scheduler
