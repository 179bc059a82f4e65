// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/restore.h"

#include <fmt/format.h>

#include <filesystem>
#include <system_error>

#include "accounting/ledger.h"
#include "accounting/tariff.h"
#include "scheduler/run_store.h"

namespace scheduler {
namespace {

Error of(const std::string& where, const accounting::Error& error) {
  return {fmt::format("{}: {}", where, error.message)};
}

// The books with their write-ahead log, which would otherwise be taken for the copy's.
Expected<void> move_aside(const std::string& database, accounting::UtcSeconds now) {
  for (const char* ending : {"", "-wal", "-shm"}) {
    const std::string from = database + ending;
    std::error_code fault;
    if (!std::filesystem::exists(from, fault)) continue;
    std::filesystem::rename(from, fmt::format("{}.replaced.{}{}", database, now, ending), fault);
    if (fault) return tl::unexpected(Error{fmt::format("{}: {}", from, fault.message())});
  }
  return {};
}

}  // namespace

Expected<std::string> restore_books(const std::string& database, const std::string& copy,
                                    accounting::UtcSeconds now) {
  std::error_code fault;
  if (!std::filesystem::is_regular_file(copy, fault)) {
    return tl::unexpected(Error{copy + ": there is no such file"});
  }
  if (std::filesystem::equivalent(copy, database, fault)) {
    return tl::unexpected(Error{copy + ": these are the books themselves"});
  }
  auto db = accounting::Database::open(copy);
  if (!db) return tl::unexpected(of(copy, db.error()));
  auto ledger = accounting::Ledger::open(*db);
  if (!ledger) return tl::unexpected(of(copy, ledger.error()));
  const auto faults = ledger->verify();
  if (!faults) return tl::unexpected(of(copy, faults.error()));
  if (!faults->empty()) {
    return tl::unexpected(Error{fmt::format("{}: the copy is not right, and nothing was changed: {}",
                                            copy, faults->front())});
  }
  accounting::UtcSeconds last = 0;
  auto read = db->query("SELECT coalesce(max(ts_us), 0) / 1000000 FROM transfer", {},
                        [&last](const accounting::Row& row) { last = row.integer(0); });
  if (!read) return tl::unexpected(of(copy, read.error()));
  const auto head = ledger->head();
  if (!head) return tl::unexpected(of(copy, head.error()));

  if (const auto moved = move_aside(database, now); !moved) return tl::unexpected(moved.error());
  if (const auto put = db->backup(database); !put) return tl::unexpected(of(database, put.error()));
  const std::string text = fmt::format(
      "restored at {} from a copy whose last transfer is {} ({:.8}), of {}: jobs that were submitted "
      "after it have no hold here. Slurm is read for them before anything is admitted; see the audit's "
      "findings, and: sacct -a -D -S {} -o jobid,user,comment%40,elapsed,alloctres",
      accounting::format_utc(now), head->seq, head->hash, accounting::format_utc(last),
      accounting::format_utc(last).substr(0, 19));
  auto restored = accounting::Database::open(database);
  if (!restored) return tl::unexpected(of(database, restored.error()));
  auto books = accounting::Ledger::open(*restored);
  if (!books) return tl::unexpected(of(database, books.error()));
  if (const auto kept = books->record_finding({now, "books", text}); !kept) {
    return tl::unexpected(of(database, kept.error()));
  }
  auto store = RunStore::open(*restored);
  if (!store) return tl::unexpected(store.error());
  if (const auto marked = store->set_restored(last); !marked) return tl::unexpected(marked.error());
  return text;
}

}  // namespace scheduler
