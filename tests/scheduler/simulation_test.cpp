// SPDX-License-Identifier: GPL-3.0-or-later
//
// Random lives of a cluster, its users and a service that dies at any line, and an accountant of its
// own who knows every second that Slurm really allocated.
//
//   TRAINYARD_LIVES=100000 simulation_test    so many lives
//   TRAINYARD_ACTS=5000 simulation_test       longer ones: so many acts each
//   TRAINYARD_SEED=17 simulation_test         this one, with its history
#include <cstdlib>
#include <map>
#include <memory>
#include <optional>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "accounting/till.h"
#include "sim_accountant.h"
#include "sim_clients.h"
#include "sim_cluster.h"
#include "world.h"

namespace scheduler {
namespace {

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
      : dice_(seed), cluster_(dice_), database_(books),
        clients_(dice_, cluster_, site_, books, [this](const auto& call) {
          guarded([&] { call(*service_); });
        }) {
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
      cluster_.advance(dice_.between(0, 20));
      clients_.act();
      cluster_.advance(dice_.between(0, 20));
      tick();
      take_faults(clients_.faults);
    }
    settle();
    take_faults(clients_.faults);
    SimAccountant accountant(cluster_, *service_, database_, clients_, granted_);
    accountant.check();
    take_faults(accountant.faults);
    words_ = accountant.words();
    for (const Counts* each : {&clients_.counts, &accountant.counts}) {
      for (const auto& [what, count] : *each) counts_[what] += count;
    }
    return faults_;
  }
  std::int64_t steps() const { return steps_; }
  const Counts& counts() const { return counts_; }
  const std::vector<std::string>& history() const { return cluster_.history; }
  std::vector<std::string> books() const {
    std::vector<std::string> text;
    const auto read = database_.query("SELECT time, run, kind, body FROM run_event ORDER BY seq", {},
                               [&](const accounting::Row& row) {
                                 text.push_back(fmt::format("{} {} {} {}", row.integer(0), row.text(1),
                                                            row.text(2), row.text(3).substr(0, 300)));
                               });
    if (!read) text.push_back(read.error().message);
    text.insert(text.end(), words_.begin(), words_.end());
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
    const std::string fund = dice_.one_in(3) ? kGroup : "user:ada";
    const Amount amount{dice_.between(1, 4) * accounting::kGpuHour.milli_gpu_s};
    const auto granted =
        service_->ledger().grant({fmt::format("g{}", ++grants_), fund, amount, "root", ""}, cluster_.now);
    if (!granted) return fault(granted.error().message);
    granted_[fund] += amount.milli_gpu_s;
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
      ++counts_["starts kept out by the gate"];
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
    const auto view = service_->find(cluster_.at(id).owner_of_task());
    if (!view || !*view || is_terminal((*view)->run.state)) return;
    if (job.attempt > 0 && !is_charged_before((*view)->run, owner, job)) return;
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

  // All that the job had before its present attempt is in the books, to the second; an attempt of 0 s
  // has its charge too.
  bool is_charged_before(const Run& run, const std::string& owner, const JobSnapshot& job) const {
    std::int64_t true_s = 0, charged_s = 0;
    std::size_t attempts = 0, charges = 0;
    for (const TrueAllocation& each : cluster_.truth) {
      if (each.owner != owner || each.id != job.id || each.start == job.start) continue;
      if (each.is_disturbed || each.end == 0) return false;
      true_s += each.end - each.start;
      ++attempts;
    }
    for (const Segment& segment : run.segments) {
      for (const AttemptCharged& charge : segment.charges) {
        if (charge.job != job.id) continue;
        charged_s += charge.end - charge.start;
        ++charges;
      }
    }
    return charged_s == true_s && charges >= attempts;
  }

  void happen() {
    const auto live = cluster_.ids(true);
    const auto any = cluster_.ids(false);
    const auto pick = [&](const std::vector<JobId>& from) {
      return from[static_cast<std::size_t>(dice_.between(0, static_cast<std::int64_t>(from.size()) - 1))];
    };
    const std::int64_t what = dice_.between(0, 31);
    if (!cluster_.controller_is_up) {
      if (dice_.one_in(3)) cluster_.controller_is_up = true;
      return;
    }
    if (what < 5) return clients_.start_training();
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
    } else if (what == 17 && clients_.has_runs()) {
      guarded([&] {
        const std::string id = clients_.any_run();
        (void)(dice_.one_in(2) ? service_->request_stop(kAda, id, cluster_.now)
                               : service_->request_cancel(kAda, id, cluster_.now));
      });
    } else if (what > 29 && clients_.has_runs()) {
      clients_.resume();
    } else if (what > 26 && clients_.has_runs()) {
      guarded([&] {
        const std::string id = clients_.any_run();
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
      if (job.gate_at == 0 && dice_.one_in(4)) return cluster_.fail_prolog(id);
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
    // The service looks at what was closed once more after record_wait_s, and once Slurm shows it no more.
    int over = 0;
    for (int i = 0; i < 300 && over < 8; ++i) {
      if (i % 60 == 59) {
        for (const JobId id : cluster_.ids(true)) cluster_.user_cancels(id);
      }
      cluster_.advance(20);
      clients_.act();
      tick();
      const bool is_over = clients_.is_idle() && cluster_.ids(false).empty() && is_all_over();
      over = is_over ? over + 1 : 0;
    }
  }
  bool is_all_over() {
    std::int64_t open = 1;
    (void)database_.query("SELECT count(*) FROM run WHERE is_open = 1", {},
                          [&](const accounting::Row& row) { open = row.integer(0); });
    return service_ && open == 0 && !cluster_.has_messages();
  }

  void fault(const std::string& text) { faults_.push_back(text); }
  void take_faults(std::vector<std::string>& from) {
    faults_.insert(faults_.end(), from.begin(), from.end());
    from.clear();
  }

  Dice dice_;
  Site site_ = sim_site();
  SimCluster cluster_;
  accounting::Database& database_;
  SimClients clients_;
  std::unique_ptr<Dispatcher> service_;
  UtcSeconds back_at_ = 0;
  int grants_ = 0;
  std::map<std::string, std::int64_t> granted_;  // By fund.
  std::int64_t steps_ = 0, checked_seq_ = 0;
  std::optional<std::int64_t> cap_;
  Counts counts_;
  std::vector<std::string> faults_, words_;
};

// One life, and what is told of it where it went wrong.
struct Told {
  std::int64_t steps = 0;
  Counts counts;
  std::vector<std::string> faults, history;
};

Told live(std::uint64_t seed, accounting::Database& books, bool tells_all) {
  Told told;
  (void)books.transact([&]() -> accounting::Expected<void> {
    Life life(seed, books);
    told.faults = life.run();
    told.steps = life.steps();
    told.counts = life.counts();
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

// What is to happen in one of so many lives at least: otherwise nothing is said of it.
struct MustHappen {
  const char* what;
  std::int64_t lives;
};
constexpr MustHappen kMustHappen[] = {
    {"timed runs of several jobs", 50},
    {"starts kept out by the gate", 500},
    {"launches failed", 10},
    {"answers lost", 50},
    {"asked again", 50},
    {"asked again for something else", 50},
    {"second jobs", 50},
    {"first jobs that ran before a look", 50},
    {"numbers told twice", 50},
    {"numbers told late", 50},
    {"numbers told of the other job", 50},
    {"runs resumed", 50},
};

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
  int failed = 0;
  Counts counts;
  for (std::int64_t seed = first; seed <= last; ++seed) {
    const Told told = live(static_cast<std::uint64_t>(seed), books, one > 0);
    steps += told.steps;
    for (const auto& [what, count] : told.counts) counts[what] += count;
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
  fmt::print("seeds {} to {}: {} steps", first, last, steps);
  for (const auto& [what, count] : counts) fmt::print(", {} {}", count, what);
  fmt::print("\n");
  if (one > 0 || failed > 0) return;
  for (const auto& [what, in_lives] : kMustHappen) EXPECT_GE(counts[what], (last - first) / in_lives) << what;
}

INSTANTIATE_TEST_SUITE_P(Blocks, Simulation, ::testing::Range(std::int64_t{0}, kBlocks));

}  // namespace
}  // namespace scheduler
