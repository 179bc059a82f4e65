// SPDX-License-Identifier: GPL-3.0-or-later
//
// Runs per second through the whole of their money: hold, charge, release. On a file each with its
// three commits to disk, or with `batch` runs a commit; in memory for the cost without the disk.
#include <benchmark/benchmark.h>

#include "books.h"

namespace accounting {
namespace {

constexpr UtcSeconds kNow = 1'795'507'200;

void one_run(Books& books, std::int64_t number) {
  const std::string run = "r" + std::to_string(number);
  must(books.ledger.hold(hold_of(run + "/1", "user:ada", hours(1)), kNow + number));
  must(books.ledger.charge(charge_of("a/" + run + "/0", run + "/1", 1, 1'800), kNow + number));
  must(books.ledger.release(run + "/1", "done", kNow + number));
}

void run_batches(benchmark::State& state, const std::string& path) {
  Books books(path);
  must(books.ledger.grant(grant_of("g1", "user:ada", hours(1'000'000'000)), kNow));
  const std::int64_t batch = state.range(0);
  std::int64_t number = 0;
  for (auto _ : state) {
    if (batch == 1) {
      one_run(books, number++);
      continue;
    }
    must(books.db.transact([&]() -> Expected<void> {
      for (std::int64_t i = 0; i < batch; ++i) one_run(books, number++);
      return {};
    }));
  }
  state.SetItemsProcessed(number);
}

void on_disk(benchmark::State& state) {
  const TemporaryFolder folder;
  run_batches(state, folder.file("ledger.db"));
}
void in_memory(benchmark::State& state) {
  run_batches(state, ":memory:");
}

void verify_after_many_runs(benchmark::State& state) {
  Books books;
  must(books.ledger.grant(grant_of("g1", "user:ada", hours(1'000'000'000)), kNow));
  must(books.db.transact([&]() -> Expected<void> {
    for (std::int64_t i = 0; i < state.range(0); ++i) one_run(books, i);
    return {};
  }));
  for (auto _ : state) benchmark::DoNotOptimize(must(books.ledger.verify()));
  state.SetItemsProcessed(state.iterations() * state.range(0) * 3);
}

BENCHMARK(on_disk)->ArgName("batch")->Arg(1)->Arg(50)->UseRealTime();
BENCHMARK(in_memory)->ArgName("batch")->Arg(1)->UseRealTime();
BENCHMARK(verify_after_many_runs)
    ->ArgName("runs")
    ->Arg(1'000)
    ->Arg(33'333)
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace accounting
