// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/restore.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <filesystem>
#include <system_error>
#include <vector>

#include "accounting/ledger.h"
#include "accounting/tariff.h"
#include "accounting/till.h"
#include "scheduler/run_store.h"

namespace scheduler {
namespace {

// SQLite's database, its write-ahead log and the index of that.
constexpr std::array<const char*, 3> kEndings{"", "-wal", "-shm"};

std::string restoring(const std::string& database) { return database + ".restoring"; }
std::string restored(const std::string& database) { return database + ".restored"; }

Error of(const std::string& where, const accounting::Error& error) {
  return {fmt::format("{}: {}", where, error.message)};
}

tl::unexpected<Error> system_error(const std::string& path, int code) {
  return tl::unexpected(Error{fmt::format("{}: {}", path, std::generic_category().message(code))});
}

class Descriptor {
 public:
  Descriptor(const std::string& path, int flags)
      : number_(::open(path.c_str(), flags | O_CLOEXEC, 0600)) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (number_ >= 0) ::close(number_);
  }
  [[nodiscard]] int get() const { return number_; }

 private:
  int number_;
};

// All bytes, on disk when it returns.
Expected<void> copy_file(const std::string& from, const std::string& to) {
  const Descriptor source(from, O_RDONLY);
  if (source.get() < 0) return system_error(from, errno);
  const Descriptor target(to, O_WRONLY | O_CREAT | O_EXCL);
  if (target.get() < 0) return system_error(to, errno);
  std::vector<char> buffer(std::size_t{1} << 20);
  for (;;) {
    const ssize_t count = ::read(source.get(), buffer.data(), buffer.size());
    if (count < 0) return system_error(from, errno);
    if (count == 0) break;
    for (ssize_t done = 0; done < count;) {
      const ssize_t written =
          ::write(target.get(), buffer.data() + done, static_cast<std::size_t>(count - done));
      if (written < 0) return system_error(to, errno);
      done += written;
    }
  }
  if (::fsync(target.get()) != 0) return system_error(to, errno);
  return {};
}

Expected<void> sync_folder_of(const std::string& path) {
  const std::string parent = std::filesystem::path(path).parent_path().string();
  const std::string folder = parent.empty() ? std::string(1, '.') : parent;
  const Descriptor descriptor(folder, O_RDONLY | O_DIRECTORY);
  if (descriptor.get() < 0 || ::fsync(descriptor.get()) != 0) return system_error(folder, errno);
  return {};
}

void remove_all(const std::string& path) {
  std::error_code ignored;
  for (const char* ending : kEndings) std::filesystem::remove(path + ending, ignored);
}

Expected<void> rename_file(const std::string& from, const std::string& to) {
  std::error_code fault;
  std::filesystem::rename(from, to, fault);
  if (fault) return tl::unexpected(Error{fmt::format("{} to {}: {}", from, to, fault.message())});
  return {};
}

// Opens what was copied, brings it forward, verifies it and marks it as restored. Afterwards all of
// it is in the one file.
Expected<std::string> make_right(const std::string& path, const std::string& copy,
                                 const std::string& actor, accounting::UtcSeconds now) {
  auto db = accounting::Database::open(path);
  if (!db) return tl::unexpected(of(copy, db.error()));
  auto ledger = accounting::Ledger::open(*db);
  if (!ledger) return tl::unexpected(of(copy, ledger.error()));
  const auto faults = ledger->verify();
  if (!faults) return tl::unexpected(of(copy, faults.error()));
  if (!faults->empty()) {
    return tl::unexpected(Error{fmt::format(
        "{}: the copy is not right, and nothing was changed: {}", copy, faults->front())});
  }
  accounting::UtcSeconds last = 0;
  auto read = db->query("SELECT coalesce(max(ts_us), 0) / 1000000 FROM transfer", {},
                        [&last](const accounting::Row& row) { last = row.integer(0); });
  if (!read) return tl::unexpected(of(copy, read.error()));
  const auto head = ledger->head();
  if (!head) return tl::unexpected(of(copy, head.error()));
  const std::string text = fmt::format(
      "restored at {} from a copy whose last transfer is {} ({:.8}), of {}: jobs that were "
      "submitted after it have no hold here. Slurm is read for them before anything is admitted; "
      "see the audit's findings, and: sacct -a -D -S {} -o jobid,user,comment%40,elapsed,alloctres",
      accounting::format_utc(now), head->seq, head->hash, accounting::format_utc(last),
      accounting::format_utc(last).substr(0, 19));
  if (const auto kept = ledger->record_finding({now, "books", text}); !kept) {
    return tl::unexpected(of(path, kept.error()));
  }
  auto till = accounting::Till::open(*db, *ledger);
  if (!till) return tl::unexpected(of(path, till.error()));
  if (const auto kept = till->record({now, actor, "restore", copy}); !kept) {
    return tl::unexpected(of(path, kept.error()));
  }
  auto store = RunStore::open(*db);
  if (!store) return tl::unexpected(store.error());
  if (const auto marked = store->set_restored(last); !marked) return tl::unexpected(marked.error());
  bool is_whole = false;
  auto checkpointed =
      db->query("PRAGMA wal_checkpoint(TRUNCATE)", {},
                [&is_whole](const accounting::Row& row) { is_whole = row.integer(0) == 0; });
  if (!checkpointed) return tl::unexpected(of(path, checkpointed.error()));
  if (!is_whole) return tl::unexpected(Error{path + ": another process has it open"});
  return text;
}

// The books with their write-ahead log, which would otherwise be taken for the new ones'. All or
// nothing, unless this process is killed meanwhile.
Expected<void> replace(const std::string& database, accounting::UtcSeconds now) {
  const std::string aside = fmt::format("{}.replaced.{}", database, now);
  std::vector<const char*> moved;
  std::error_code fault;
  Expected<void> done;
  for (const char* ending : kEndings) {
    if (!std::filesystem::exists(database + ending, fault)) continue;
    done = rename_file(database + ending, aside + ending);
    if (!done) break;
    moved.push_back(ending);
  }
  if (done) done = rename_file(restored(database), database);
  if (!done) {
    for (const char* ending : moved) {
      if (!rename_file(aside + ending, database + ending)) return done;  // "restored" tells of it.
    }
    remove_all(restored(database));
    return done;
  }
  return sync_folder_of(database);
}

}  // namespace

Expected<std::string> restore_books(const std::string& database, const std::string& copy,
                                    const std::string& actor, accounting::UtcSeconds now) {
  std::error_code fault;
  if (!std::filesystem::is_regular_file(copy, fault)) {
    return tl::unexpected(Error{copy + ": there is no such file"});
  }
  for (const std::string& own : {database, restoring(database), restored(database)}) {
    if (!std::filesystem::equivalent(copy, own, fault)) continue;
    return tl::unexpected(
        Error{copy + (own == database ? ": these are the books themselves"
                                      : ": this is what a restore writes. Rename it first")});
  }
  const std::string part = restoring(database);
  remove_all(part);  // Of a restore that was killed.
  Expected<std::string> text = [&]() -> Expected<std::string> {
    for (const char* ending : {"", "-wal"}) {
      if (!std::filesystem::exists(copy + ending, fault)) continue;
      if (const auto copied = copy_file(copy + ending, part + ending); !copied) {
        return tl::unexpected(copied.error());
      }
    }
    return make_right(part, copy, actor, now);
  }();
  if (text) {
    // Whole and on disk before it has the name by which cut_off_restore() knows it.
    auto named = rename_file(part, restored(database));
    if (named) named = sync_folder_of(database);
    if (!named) text = tl::unexpected(named.error());
  }
  remove_all(part);
  if (!text) return text;
  const auto replaced = replace(database, now);
  if (!replaced) return tl::unexpected(replaced.error());
  return text;
}

std::optional<std::string> cut_off_restore(const std::string& database) {
  std::error_code fault;
  if (!std::filesystem::exists(restored(database), fault)) return std::nullopt;
  return fmt::format("{}: a restore was cut off before this file became {}. Run trainyardd --restore "
                     "again, with the same copy", restored(database), database);
}

}  // namespace scheduler
