// SPDX-License-Identifier: GPL-3.0-or-later
//
// What one look of the service costs with so many live jobs, its books on disk: a pretended cluster,
// so without the time that slurmctld takes for the table (tests/slurm measures that on a real one).
#include <benchmark/benchmark.h>

#include <cstdlib>
#include <filesystem>

#include "world.h"

namespace scheduler {
namespace {

struct LiveJobs {
  explicit LiveJobs(std::int64_t count) {
    site.types[0].nodes = 1'000'000;
    std::string name = (std::filesystem::temp_directory_path() / "tick_bench_XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) std::abort();
    folder = name;
    database.emplace(std::move(*accounting::Database::open(folder + "/books.db")));
    auto opened = Dispatcher::open(site, *database, cluster, [](std::uint32_t, const Site&) {
      return Expected<Caller>{kAda};
    });
    service.emplace(std::move(*opened));
    (void)service->tick(cluster.now);
    (void)service->ledger().grant(
        {"g1", "user:ada", {1'000'000'000 * accounting::kGpuHour.milli_gpu_s}, "root", ""},
        cluster.now);
    const auto done = database->transact([&]() -> accounting::Expected<void> {
      for (std::int64_t i = 0; i < count; ++i) add(i);
      return {};
    });
    if (!done) std::abort();
    look();  // Notes that they run.
  }
  ~LiveJobs() {
    service.reset();
    database.reset();
    std::error_code ignored;
    std::filesystem::remove_all(folder, ignored);
  }
  LiveJobs(const LiveJobs&) = delete;
  LiveJobs& operator=(const LiveJobs&) = delete;

  // Half of them run, half of them wait.
  void add(std::int64_t number) {
    Admission admission;
    admission.run_id = fmt::format("run{:06}", number);
    admission.run_dir = "/runs/" + admission.run_id;
    admission.request.args.data = "/data/data.yaml";
    admission.request.args.epochs = 10;
    admission.request.resources.gpus = 2;
    admission.request.resources.time_limit_s = 360'000;
    admission.data = {100, 20};
    const auto outcome = service->admit(kAda, admission, cluster.now);
    if (!outcome || !std::holds_alternative<Admitted>(*outcome)) std::abort();
    const auto job = cluster.submit(make_job_spec(std::get<Admitted>(*outcome).plan,
                                                  {admission.run_id, 0}, admission.run_dir, site, {}));
    if (number % 2 == 0) cluster.start(job->id);
  }
  void look() {
    cluster.now += 5;
    const auto done = service->tick(cluster.now);
    if (!done || !service->trouble().empty()) std::abort();
  }

  std::string folder;
  Site site = test_site();
  FakeCluster cluster;
  std::optional<accounting::Database> database;
  std::optional<Dispatcher> service;
};

void tick(benchmark::State& state) {
  LiveJobs live(state.range(0));
  for (auto _ : state) live.look();
}

// The service starts again and looks for the first time.
void start_up(benchmark::State& state) {
  LiveJobs live(state.range(0));
  for (auto _ : state) {
    auto opened = Dispatcher::open(live.site, *live.database, live.cluster,
                                   [](std::uint32_t, const Site&) { return Expected<Caller>{kAda}; });
    if (!opened || !opened->tick(live.cluster.now)) std::abort();
  }
}

BENCHMARK(tick)->ArgName("jobs")->Arg(100)->Arg(1'000)->Arg(10'000)->Iterations(40)->Unit(
    benchmark::kMillisecond)->MeasureProcessCPUTime()->UseRealTime();
BENCHMARK(start_up)->ArgName("jobs")->Arg(10'000)->Iterations(3)->Unit(
    benchmark::kMillisecond)->UseRealTime();

}  // namespace
}  // namespace scheduler
