// SPDX-License-Identifier: GPL-3.0-or-later
//
// What the books cost: holds and whole runs (hold, charge, release) on a file with their commits to
// disk, alone or `batch` of them a commit; plain SQLite doing the least that a ledger must; and what
// a million segments make slow. The books of a million segments are made once (minutes) in the folder
// that TRAINYARD_BENCH_FOLDER names, and kept there; without it those benchmarks are skipped.
#include <benchmark/benchmark.h>

#include <filesystem>

#include "accounting/statement.h"
#include "books.h"

namespace accounting {
namespace {

constexpr UtcSeconds kNow = 1'795'507'200;
constexpr std::int64_t kMillion = 1'000'000;
constexpr std::int64_t kFunds = 1'000;
constexpr std::int64_t kYear_s = 365 * 86'400;

void one_run(Books& books, std::int64_t number, const std::string& fund = "user:ada",
             UtcSeconds now = kNow) {
  const std::string run = "r" + std::to_string(number);
  must(books.ledger.hold(hold_of(run + "/1", fund, hours(1)), now));
  must(books.ledger.charge(charge_of("a/" + run + "/0", run + "/1", 1, 1'800), now));
  must(books.ledger.release(run + "/1", "done", now));
}
void one_hold(Books& books, std::int64_t number) {
  must(books.ledger.hold(hold_of("r" + std::to_string(number) + "/1", "user:ada", hours(1)), kNow));
}

template <typename Act>
void batches(benchmark::State& state, const std::string& path, Act act) {
  Books books(path);
  must(books.ledger.grant(grant_of("g1", "user:ada", hours(1'000'000'000)), kNow));
  const std::int64_t batch = state.range(0);
  std::int64_t number = 0;
  for (auto _ : state) {
    must(books.db.transact([&]() -> Expected<void> {
      for (std::int64_t i = 0; i < batch; ++i) act(books, number++);
      return {};
    }));
  }
  state.SetItemsProcessed(number);
}

void holds_on_disk(benchmark::State& state) {
  const TemporaryFolder folder;
  batches(state, folder.file("ledger.db"), one_hold);
}
void holds_in_memory(benchmark::State& state) { batches(state, ":memory:", one_hold); }
void runs_on_disk(benchmark::State& state) {
  const TemporaryFolder folder;
  batches(state, folder.file("ledger.db"),
          [](Books& books, std::int64_t number) { one_run(books, number); });
}

// One row and two balances a hold, with the same promise of the disk and nothing else: no hash, no
// rule, no retry that is told from another request.
void plain_sqlite(benchmark::State& state) {
  const TemporaryFolder folder;
  Database db = must(Database::open(folder.file("plain.db")));
  must(db.execute_script(
      "CREATE TABLE balance (name TEXT PRIMARY KEY, amount INTEGER NOT NULL) STRICT;"
      "CREATE TABLE entry (seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, debit TEXT NOT NULL,"
      "                    credit TEXT NOT NULL, amount INTEGER NOT NULL) STRICT;"
      "INSERT INTO balance VALUES ('free', 1000000000000), ('held', 0);"));
  const std::int64_t batch = state.range(0);
  std::int64_t number = 0;
  for (auto _ : state) {
    must(db.transact([&]() -> Expected<void> {
      for (std::int64_t i = 0; i < batch; ++i) {
        must(db.run("INSERT INTO entry (id, debit, credit, amount) VALUES (?1, 'free', 'held', 1)",
                    {"r" + std::to_string(number++) + "/1"}));
        must(db.run("UPDATE balance SET amount = amount - 1 WHERE name = 'free'", {}));
        must(db.run("UPDATE balance SET amount = amount + 1 WHERE name = 'held'", {}));
      }
      return {};
    }));
  }
  state.SetItemsProcessed(number);
}

// Of a member with a cap, who has had so many runs under it.
void holds_under_a_cap(benchmark::State& state) {
  Books books;
  must(books.ledger.grant(grant_of("g1", "user:ada", hours(1'000'000'000)), kNow));
  const Setting cap{"c1", "user:ada", "cap/ada", "1000000000000000", 0, "root", ""};
  if (must(books.ledger.set(cap, kNow)) != SetStatus::kSet) return state.SkipWithError("no cap");
  must(books.db.transact([&]() -> Expected<void> {
    for (std::int64_t i = 0; i < state.range(0); ++i) one_run(books, i);
    return {};
  }));
  std::int64_t number = state.range(0);
  for (auto _ : state) one_run(books, number++);
  state.SetItemsProcessed(state.iterations());
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

// --- A million segments: a thousand funds, a year ---------------------------------------------

std::string fund_of_run(std::int64_t number) { return "user:u" + std::to_string(number % kFunds); }

// Empty: there is no place for them.
std::string million_segments() {
  const char* folder = std::getenv("TRAINYARD_BENCH_FOLDER");
  if (folder == nullptr) return "";
  const std::string path = std::string(folder) + "/million.db";
  if (std::filesystem::exists(path)) return path;
  const std::string part = path + ".part";
  std::filesystem::create_directories(folder);
  std::filesystem::remove(part);
  Books books(part);
  for (std::int64_t first = 0; first < kMillion; first += 10'000) {
    must(books.db.transact([&]() -> Expected<void> {
      for (std::int64_t i = first; i < first + 10'000; ++i) {
        if (i < kFunds) {
          const std::string id = "g" + std::to_string(i);
          must(books.ledger.grant(grant_of(id, fund_of_run(i), hours(1'000'000)), kNow));
        }
        one_run(books, i, fund_of_run(i), kNow + kYear_s / kMillion * i);
      }
      return {};
    }));
  }
  std::filesystem::rename(part + "-wal", path + "-wal");
  std::filesystem::rename(part, path);
  return path;
}

template <typename Act>
void with_a_million(benchmark::State& state, Act act) {
  const std::string path = million_segments();
  if (path.empty()) {
    state.SkipWithError("TRAINYARD_BENCH_FOLDER is not set");
    return;
  }
  Books books(path);
  for (auto _ : state) act(books);
}

void statement_of_a_run(benchmark::State& state) {
  with_a_million(state, [](Books& books) {
    benchmark::DoNotOptimize(statement_text(must(books.ledger.lines("", "r500000"))));
  });
}
void statement_of_a_fund(benchmark::State& state) {
  with_a_million(state, [](Books& books) {
    benchmark::DoNotOptimize(statement_text(must(books.ledger.lines("user:u7", ""))));
  });
}
// The same rows by SQL alone: their sum, and all that a statement says of them, as text.
constexpr const char* kFundsRows =
    "FROM transfer WHERE debit IN ('fund:user:u7', 'held:user:u7', 'debt:user:u7') "
    "OR credit IN ('fund:user:u7', 'held:user:u7', 'debt:user:u7')";
void plain_sum_of_a_fund(benchmark::State& state) {
  with_a_million(state, [](Books& books) {
    benchmark::DoNotOptimize(books.count(std::string("SELECT sum(amount) ") + kFundsRows));
  });
}
void plain_rows_of_a_fund(benchmark::State& state) {
  with_a_million(state, [](Books& books) {
    std::string text;
    must(books.db.query(
        std::string("SELECT ts_us, kind, id, amount, run, actor, note ") + kFundsRows +
            " ORDER BY seq",
        {}, [&text](const Row& row) {
          for (int column = 0; column < 7; ++column) text += row.text(column) + "  ";
          text += '\n';
        }));
    benchmark::DoNotOptimize(text);
  });
}
void statement_of_a_funds_month(benchmark::State& state) {
  const Period month{kNow + 6 * 30 * 86'400, kNow + 7 * 30 * 86'400};
  with_a_million(state, [&month](Books& books) {
    benchmark::DoNotOptimize(statement_text(must(books.ledger.lines("user:u7", "", month))));
  });
}
void balances_of_all_funds(benchmark::State& state) {
  with_a_million(state, [](Books& books) { benchmark::DoNotOptimize(must(books.ledger.balances())); });
}
// SQLite's integrity check is in it.
void open_the_books(benchmark::State& state) {
  const std::string path = million_segments();
  if (path.empty()) {
    state.SkipWithError("TRAINYARD_BENCH_FOLDER is not set");
    return;
  }
  for (auto _ : state) {
    Books books(path);
    benchmark::DoNotOptimize(books.ledger);
  }
}
// What trainyardd does with all that was ever written before it answers.
void verify_the_books(benchmark::State& state) {
  with_a_million(state, [](Books& books) {
    if (!must(books.ledger.verify()).empty()) std::abort();
  });
}

BENCHMARK(holds_on_disk)->ArgName("batch")->Arg(1)->Arg(100)->Arg(1'000)->UseRealTime();
BENCHMARK(plain_sqlite)->ArgName("batch")->Arg(1)->Arg(100)->Arg(1'000)->UseRealTime();
BENCHMARK(holds_in_memory)->ArgName("batch")->Arg(1)->Arg(1'000)->UseRealTime();
BENCHMARK(runs_on_disk)->ArgName("batch")->Arg(1)->Arg(50)->UseRealTime();
BENCHMARK(holds_under_a_cap)->ArgName("runs_before")->Arg(0)->Arg(1'000)->Arg(40'000);
BENCHMARK(verify_after_many_runs)
    ->ArgName("runs")
    ->Arg(1'000)
    ->Arg(33'333)
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK(statement_of_a_run)->Unit(benchmark::kMillisecond);
BENCHMARK(statement_of_a_fund)->Unit(benchmark::kMillisecond);
BENCHMARK(plain_rows_of_a_fund)->Unit(benchmark::kMillisecond);
BENCHMARK(plain_sum_of_a_fund)->Unit(benchmark::kMillisecond);
BENCHMARK(statement_of_a_funds_month)->Unit(benchmark::kMillisecond);
BENCHMARK(balances_of_all_funds)->Unit(benchmark::kMillisecond);
BENCHMARK(open_the_books)->Unit(benchmark::kMillisecond);
BENCHMARK(verify_the_books)->Unit(benchmark::kMillisecond)->Iterations(1);

}  // namespace
}  // namespace accounting
