// SPDX-License-Identifier: GPL-3.0-or-later
#include "accounting/database.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sqlite3.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <map>
#include <system_error>
#include <utility>

namespace accounting {
namespace {

constexpr int kBusyTimeoutMs = 10'000;

sqlite3_stmt* raw(void* statement) {
  return static_cast<sqlite3_stmt*>(statement);
}

// The first words of a statement on one line, for messages.
std::string abstract_of(std::string_view sql) {
  constexpr std::size_t kLength = 60;
  std::string abstract;
  for (const char c : sql) {
    const bool is_space = c == ' ' || c == '\n' || c == '\t';
    if (is_space && (abstract.empty() || abstract.back() == ' ')) continue;
    if (abstract.size() == kLength) return abstract + "...";
    abstract += is_space ? ' ' : c;
  }
  return abstract;
}

std::string_view advice(int code) {
  switch (code & 0xff) {
    case SQLITE_FULL:
      return " Free space on its file system.";
    case SQLITE_BUSY:
      return " Another process keeps it locked.";
    case SQLITE_READONLY:
      return " Make the file and its folder writable for the service.";
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return " Restore it from a backup.";
    default:
      return "";
  }
}

tl::unexpected<Error> system_error(const std::string& path, std::string_view doing, int code) {
  return tl::unexpected(
      Error{fmt::format("{}: {}: {}", path, doing, std::generic_category().message(code))});
}

struct CloseDatabase {
  void operator()(sqlite3* db) const { sqlite3_close_v2(db); }
};
struct FinalizeStatement {
  void operator()(sqlite3_stmt* statement) const { sqlite3_finalize(statement); }
};
using Handle = std::unique_ptr<sqlite3, CloseDatabase>;
using Statement = std::unique_ptr<sqlite3_stmt, FinalizeStatement>;

// Makes the file where there is none, so that it never exists with a wider mode. SQLite gives the
// -wal and -shm files the mode of the database.
Expected<void> make_private_file(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (descriptor >= 0) {
    ::close(descriptor);
    return {};
  }
  if (errno == EEXIST) return {};
  return system_error(path, "create", errno);
}

Expected<void> sync_to_disk(const std::string& path, int flags) {
  const int descriptor = ::open(path.c_str(), flags | O_CLOEXEC);
  if (descriptor < 0) return system_error(path, "open to sync", errno);
  const int code = ::fsync(descriptor) == 0 ? 0 : errno;
  ::close(descriptor);
  if (code != 0) return system_error(path, "fsync", code);
  return {};
}

}  // namespace

std::int64_t Row::integer(int column) const {
  return sqlite3_column_int64(raw(statement_), column);
}

std::string Row::text(int column) const {
  const unsigned char* bytes = sqlite3_column_text(raw(statement_), column);
  if (bytes == nullptr) return {};
  const int length = sqlite3_column_bytes(raw(statement_), column);
  return {reinterpret_cast<const char*>(bytes), static_cast<std::size_t>(length)};
}

bool Row::is_null(int column) const {
  return sqlite3_column_type(raw(statement_), column) == SQLITE_NULL;
}

struct Database::Impl {
  std::string path;
  Handle handle;
  std::map<std::string, Statement, std::less<>> statements;  // Finalized before the handle closes.
  int depth = 0;                                             // Of nested transact calls.
  bool in_snapshot = false;                                  // Outside of transact.

  ~Impl() { statements.clear(); }

  [[nodiscard]] tl::unexpected<Error> error(std::string_view doing) const {
    const int code = sqlite3_extended_errcode(handle.get());
    return tl::unexpected(Error{fmt::format("{}: {}: {} (SQLite {}).{}", path, doing,
                                            sqlite3_errmsg(handle.get()), code, advice(code))});
  }

  // Some failures (a full disk, an I/O error) make SQLite roll the whole transaction back at once.
  // What follows must not be committed statement by statement.
  [[nodiscard]] bool lost_its_transaction() const {
    return depth > 0 && sqlite3_get_autocommit(handle.get()) != 0;
  }

  [[nodiscard]] Expected<void> execute(const std::string& sql) {
    if (lost_its_transaction()) {
      return tl::unexpected(
          Error{fmt::format("{}: {}: the transaction was rolled back by an earlier failure.", path,
                            abstract_of(sql))});
    }
    if (sqlite3_exec(handle.get(), sql.c_str(), nullptr, nullptr, nullptr) != SQLITE_OK) {
      return error(abstract_of(sql));
    }
    return {};
  }

  // The kept statement, or a fresh one (left in `spare`) where the kept one is being stepped.
  [[nodiscard]] Expected<sqlite3_stmt*> prepare(std::string_view sql, Statement& spare) {
    const auto kept = statements.find(sql);
    if (kept != statements.end() && sqlite3_stmt_busy(kept->second.get()) == 0) {
      return kept->second.get();
    }
    sqlite3_stmt* prepared = nullptr;
    const char* rest = nullptr;
    if (sqlite3_prepare_v3(handle.get(), sql.data(), static_cast<int>(sql.size()),
                           SQLITE_PREPARE_PERSISTENT, &prepared, &rest) != SQLITE_OK) {
      return error(abstract_of(sql));
    }
    Statement fresh{prepared};
    const std::string_view tail{rest, static_cast<std::size_t>(sql.data() + sql.size() - rest)};
    if (prepared == nullptr || tail.find_first_not_of(" \t\n;") != std::string_view::npos) {
      return tl::unexpected(
          Error{fmt::format("{}: {}: not exactly one statement.", path, abstract_of(sql))});
    }
    (kept == statements.end() ? statements[std::string(sql)] : spare) = std::move(fresh);
    return prepared;
  }

  [[nodiscard]] Expected<void> bind(sqlite3_stmt* statement, std::string_view sql,
                                    const std::vector<Value>& values) const {
    const int wanted = sqlite3_bind_parameter_count(statement);
    if (wanted != static_cast<int>(values.size())) {
      return tl::unexpected(Error{fmt::format("{}: {}: {} values for {} parameters.", path,
                                              abstract_of(sql), values.size(), wanted)});
    }
    int index = 0;
    for (const Value& value : values) {
      ++index;
      int code = SQLITE_OK;
      if (const auto* number = std::get_if<std::int64_t>(&value)) {
        code = sqlite3_bind_int64(statement, index, *number);
      } else if (const auto* text = std::get_if<std::string>(&value)) {
        // Lives until the statement is reset.
        code = sqlite3_bind_text64(statement, index, text->data(), text->size(), SQLITE_STATIC,
                                   SQLITE_UTF8);
      } else {
        code = sqlite3_bind_null(statement, index);
      }
      if (code != SQLITE_OK) return error(abstract_of(sql));
    }
    return {};
  }

  [[nodiscard]] Expected<void> step_all(std::string_view sql, const std::vector<Value>& values,
                                        const std::function<void(sqlite3_stmt*)>& each_row) {
    if (lost_its_transaction()) {
      return tl::unexpected(
          Error{fmt::format("{}: {}: the transaction was rolled back by an earlier failure.", path,
                            abstract_of(sql))});
    }
    Statement spare;
    const Expected<sqlite3_stmt*> statement = prepare(sql, spare);
    if (!statement) return tl::unexpected(statement.error());
    struct Reset {  // Also where each_row throws.
      sqlite3_stmt* statement;
      ~Reset() {
        sqlite3_reset(statement);
        sqlite3_clear_bindings(statement);
      }
    } const reset{*statement};
    if (auto bound = bind(*statement, sql, values); !bound) return bound;
    for (;;) {
      const int code = sqlite3_step(*statement);
      if (code == SQLITE_DONE) return {};
      if (code != SQLITE_ROW) return error(abstract_of(sql));
      each_row(*statement);
    }
  }

  [[nodiscard]] Expected<void> step(const std::string& sql) {
    return step_all(sql, {}, [](sqlite3_stmt*) {});
  }

  [[nodiscard]] Expected<std::string> pragma(const std::string& text) {
    std::string answer;
    auto done = step_all(text, {}, [&answer](sqlite3_stmt* row) {
      const unsigned char* bytes = sqlite3_column_text(row, 0);
      if (bytes != nullptr) answer = reinterpret_cast<const char*>(bytes);
    });
    if (!done) return tl::unexpected(done.error());
    return answer;
  }

  void roll_back(const std::string& savepoint) {
    if (sqlite3_get_autocommit(handle.get()) != 0) return;  // SQLite has done it.
    const std::string sql =
        savepoint.empty() ? "ROLLBACK" : fmt::format("ROLLBACK TO {0}; RELEASE {0}", savepoint);
    sqlite3_exec(handle.get(), sql.c_str(), nullptr, nullptr, nullptr);
  }

  [[nodiscard]] Expected<void> prepare_connection();
};

Expected<void> Database::Impl::prepare_connection() {
  sqlite3_busy_timeout(handle.get(), kBusyTimeoutMs);
  sqlite3_extended_result_codes(handle.get(), 1);
  if (sqlite3_db_readonly(handle.get(), "main") == 1) {
    return tl::unexpected(Error{fmt::format("{}: not writable.{}", path, advice(SQLITE_READONLY))});
  }
  const auto mode = pragma("PRAGMA journal_mode=WAL");
  if (!mode) return tl::unexpected(mode.error());
  if (*mode != "wal" && *mode != "memory") {
    return tl::unexpected(Error{fmt::format(
        "{}: journal mode is {}, wal is needed. Put it on a local file system.", path, *mode)});
  }
  for (const char* setting :
       {"PRAGMA synchronous=FULL", "PRAGMA foreign_keys=ON", "PRAGMA trusted_schema=OFF",
        // INSERT OR REPLACE then fires the delete triggers.
        "PRAGMA recursive_triggers=ON", "PRAGMA cell_size_check=ON",
        // What a savepoint would bring back stays in memory: a file of it took half of a batch's time.
        "PRAGMA temp_store=MEMORY"}) {
    if (auto set = pragma(setting); !set) return tl::unexpected(set.error());
  }
  const auto verdict = pragma("PRAGMA quick_check(1)");
  if (!verdict) return tl::unexpected(verdict.error());
  if (*verdict != "ok") {
    return tl::unexpected(
        Error{fmt::format("{}: integrity check: {}.{}", path, *verdict, advice(SQLITE_CORRUPT))});
  }
  statements.clear();
  return {};
}

Database::Database(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Database::Database(Database&&) noexcept = default;
Database& Database::operator=(Database&&) noexcept = default;
Database::~Database() = default;

Expected<Database> Database::open(const std::string& path) {
  if (path.empty()) return tl::unexpected(Error{"database: the path is empty."});
  if (path != ":memory:") {
    if (auto made = make_private_file(path); !made) return tl::unexpected(made.error());
  }
  auto impl = std::make_unique<Impl>();
  impl->path = path;
  sqlite3* handle = nullptr;
  const int code =
      sqlite3_open_v2(path.c_str(), &handle,
                      SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, nullptr);
  impl->handle.reset(handle);
  if (code != SQLITE_OK) return impl->error("open");
  if (auto ready = impl->prepare_connection(); !ready) return tl::unexpected(ready.error());
  return Database(std::move(impl));
}

Expected<void> Database::execute_script(std::string_view sql) {
  return impl_->execute(std::string(sql));
}

Expected<std::int64_t> Database::run(std::string_view sql, const std::vector<Value>& values) {
  sqlite3* handle = impl_->handle.get();
  const sqlite3_int64 changes_before = sqlite3_total_changes64(handle);
  if (auto done = impl_->step_all(sql, values, [](sqlite3_stmt*) {}); !done) {
    return tl::unexpected(done.error());
  }
  // sqlite3_changes keeps its last answer where a statement is not an INSERT, UPDATE or DELETE.
  if (sqlite3_total_changes64(handle) == changes_before) return 0;
  return sqlite3_changes64(handle);
}

Expected<void> Database::query(std::string_view sql, const std::vector<Value>& values,
                               const std::function<void(const Row&)>& each_row) {
  return impl_->step_all(sql, values,
                         [&each_row](sqlite3_stmt* statement) { each_row(Row(statement)); });
}

Expected<void> Database::transact(const std::function<Expected<void>()>& body) {
  Impl& impl = *impl_;
  if (impl.in_snapshot) {
    return tl::unexpected(Error{fmt::format("{}: transact inside a snapshot.", impl.path)});
  }
  const std::string savepoint = impl.depth == 0 ? "" : fmt::format("nested_{}", impl.depth);
  // Prepared once and kept, as every statement: short transactions are many.
  if (auto begun = impl.step(savepoint.empty() ? "BEGIN IMMEDIATE" : "SAVEPOINT " + savepoint);
      !begun) {
    return begun;
  }

  struct Level {
    int& depth;
    explicit Level(int& of) : depth(of) { ++depth; }
    ~Level() { --depth; }
  } const level{impl.depth};
  Expected<void> result;
  try {
    result = body();
  } catch (...) {
    impl.roll_back(savepoint);
    throw;
  }
  if (result) result = impl.step(savepoint.empty() ? "COMMIT" : "RELEASE " + savepoint);
  if (!result) impl.roll_back(savepoint);
  return result;
}

Expected<void> Database::snapshot(const std::function<Expected<void>()>& body) {
  Impl& impl = *impl_;
  if (impl.depth > 0 || impl.in_snapshot) return body();
  if (auto begun = impl.execute("BEGIN DEFERRED"); !begun) return begun;

  struct End {
    Impl& impl;
    ~End() {
      impl.in_snapshot = false;
      impl.roll_back("");  // Nothing was written.
    }
  } const end{impl};
  impl.in_snapshot = true;
  return body();
}

Expected<void> Database::backup(const std::string& path) {
  if (impl_->depth > 0) {
    return tl::unexpected(Error{fmt::format("{}: backup inside a transaction.", impl_->path)});
  }
  std::error_code ignored;
  if (std::filesystem::exists(path + "-wal", ignored)) {
    return tl::unexpected(Error{fmt::format(
        "{}: {}-wal exists: a database is in use there. Choose another path.", path, path)});
  }
  const std::string part = path + ".part";
  std::filesystem::remove(part, ignored);  // Of a backup that was cut off.
  if (auto made = make_private_file(part); !made) return made;

  const auto copy = [&]() -> Expected<void> {
    sqlite3* opened = nullptr;
    const int code = sqlite3_open_v2(part.c_str(), &opened, SQLITE_OPEN_READWRITE, nullptr);
    const Handle target{opened};
    const auto failed = [&]() {
      return tl::unexpected(Error{
          fmt::format("backup of {} to {}: {}.", impl_->path, path, sqlite3_errmsg(target.get()))});
    };
    if (code != SQLITE_OK) return failed();
    sqlite3_busy_timeout(target.get(), kBusyTimeoutMs);
    sqlite3_backup* job = sqlite3_backup_init(target.get(), "main", impl_->handle.get(), "main");
    if (job == nullptr) return failed();
    const int stepped = sqlite3_backup_step(job, -1);  // All pages, from one snapshot.
    const int finished = sqlite3_backup_finish(job);   // OK also where the step met a lock.
    if (finished != SQLITE_OK) return failed();
    if (stepped != SQLITE_DONE) {
      return tl::unexpected(Error{
          fmt::format("backup of {} to {}: {}.", impl_->path, path, sqlite3_errstr(stepped))});
    }
    return {};
  };
  const auto publish = [&]() -> Expected<void> {
    if (auto synced = sync_to_disk(part, O_RDWR); !synced) return synced;
    if (std::rename(part.c_str(), path.c_str()) != 0) return system_error(path, "rename", errno);
    const std::string folder = std::filesystem::path(path).parent_path().string();
    return sync_to_disk(folder.empty() ? "." : folder, O_RDONLY | O_DIRECTORY);
  };
  Expected<void> result = copy();
  if (result) result = publish();
  if (!result) std::filesystem::remove(part, ignored);
  return result;
}

}  // namespace accounting
