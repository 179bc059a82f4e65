// SPDX-License-Identifier: GPL-3.0-or-later
// tests/scheduler/world.h
//
// A pretended cluster, its books, and a dispatcher that can be killed and restarted.
#pragma once

#include <optional>
#include <stdexcept>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "fake_cluster.h"
#include "scheduler/dispatcher.h"
#include "scheduler/job_script.h"

namespace scheduler {

inline constexpr std::int64_t kMargin = 90;  // KillWait 30 and two sweeps.

inline Site test_site() {
  Site site;
  site.path = "site.toml";
  site.unclaimed_hold_s = 60;
  site.record_wait_s = 100;
  site.default_type = "h100";
  InstanceType type;
  type.name = "h100";
  type.partition = "gpu";
  type.gres = "gpu:h100";
  type.nodes = 2;
  type.gpus_per_node = 2;
  type.images_per_s = 10;
  type.startup_s = 30;
  type.weights = {{0, 1000}};
  InstanceType metered = type;
  metered.name = "metered";
  metered.partition = "metered";
  site.types = {type, metered};
  site.managed.partitions = {"metered"};
  return site;
}

inline const Caller kAda{1000, "ada", {"vision"}, false};
inline const Caller kAdmin{900, "root", {}, true};
inline const Caller kBob{1001, "bob", {}, false};

// A cluster, its books and a dispatcher that can be killed: `restart` makes a new one of the books.
class World {
 public:
  World() { restart(); }
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  void restart() {
    dispatcher_.reset();
    auto opened = Dispatcher::open(site, database, cluster, [this](std::uint32_t uid, const Site&) {
      if (uid == kAda.uid) return Expected<Caller>{ada};
      if (uid == kBob.uid) return Expected<Caller>{kBob};
      return Expected<Caller>{tl::unexpected(Error{"nobody has this uid"})};
    });
    if (!opened) throw std::runtime_error(opened.error().message);
    dispatcher_.emplace(std::move(*opened));
  }
  Dispatcher& dispatcher() { return *dispatcher_; }

  void tick(std::int64_t seconds = 1) {
    cluster.now += seconds;
    const auto done = dispatcher_->tick(cluster.now);
    ASSERT_TRUE(done) << done.error().message;
  }
  void grant(const std::string& fund, std::int64_t hours) {
    const auto status = dispatcher_->ledger().grant(
        {fmt::format("g{}", ++grants_), fund, {hours * accounting::kGpuHour.milli_gpu_s}, "root", ""},
        cluster.now);
    ASSERT_TRUE(status && *status == accounting::GrantStatus::kGranted);
  }
  Admission admission(const std::string& id = "runone", int segment = 0) const {
    Admission admission;
    admission.run_id = id;
    admission.segment = segment;
    admission.run_dir = "/runs/" + id;
    admission.request.args.data = "/data/data.yaml";
    admission.request.args.epochs = 10;
    admission.request.resources.gpus = 2;
    admission.request.resources.time_limit_s = 600;
    admission.data = {100, 20};
    return admission;
  }
  // Admits and submits as a client does. Returns the job.
  JobId launch(const Admission& request, const Caller& caller = kAda) {
    const auto outcome = dispatcher_->admit(caller, request, cluster.now);
    if (!outcome) throw std::runtime_error(outcome.error().message);
    const auto* refusal = std::get_if<Refusal>(&*outcome);
    if (refusal != nullptr) throw std::runtime_error(refusal->reasons.front());
    const SegmentName name{request.run_id, request.segment};
    const auto submitted = cluster.submit(make_job_spec(std::get<Admitted>(*outcome).plan, name,
                                                        request.run_dir, site, {}));
    if (!submitted) return 0;
    (void)dispatcher_->submitted(caller, request.run_id, request.segment, submitted->id, cluster.now);
    return submitted->id;
  }
  Run run(const std::string& id = "runone") {
    const auto view = dispatcher_->find(id);
    if (!view || !*view) throw std::runtime_error("no run " + id);
    return (*view)->run;
  }
  std::string state(const std::string& id = "runone") { return to_name(run(id).state); }
  accounting::FundBalance balance(const std::string& fund = "user:ada") {
    return **dispatcher_->ledger().balance(fund);
  }
  void expect_books_are_right() {
    const auto faults = dispatcher_->ledger().verify();
    ASSERT_TRUE(faults);
    EXPECT_TRUE(faults->empty()) << faults->front();
  }

  Site site = test_site();
  Caller ada = kAda;  // As the machine's user database has her.
  FakeCluster cluster;
  accounting::Database database = std::move(*accounting::Database::open(":memory:"));

 private:
  std::optional<Dispatcher> dispatcher_;
  int grants_ = 0;
};

}  // namespace scheduler
