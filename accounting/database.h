// SPDX-License-Identifier: GPL-3.0-or-later
// accounting/database.h
//
// The one place where SQLite enters. A Database is one connection to a file in WAL mode with
// synchronous=FULL: a transaction that committed survives a power cut. Used by one thread at a
// time. Other modules keep their own tables in the same file (scheduler/run_store), so that a
// run's events and its transfers commit together.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "accounting/error.h"

namespace accounting {

using Value = std::variant<std::nullptr_t, std::int64_t, std::string>;

// One row of an answer, valid inside the callback alone.
class Row {
 public:
  [[nodiscard]] std::int64_t integer(int column) const;  // 0 where the column is null.
  [[nodiscard]] std::string text(int column) const;      // Empty where the column is null.
  [[nodiscard]] bool is_null(int column) const;

 private:
  friend class Database;
  explicit Row(void* statement) : statement_(statement) {}
  void* statement_;
};

class Database {
 public:
  // Opens or makes the file (mode 0600), sets the pragmas and runs a quick integrity check.
  // ":memory:" is a database that dies with the object.
  [[nodiscard]] static Expected<Database> open(const std::string& path);
  Database(Database&&) noexcept;
  Database& operator=(Database&&) noexcept;
  ~Database();

  // One or several statements without parameters, such as a schema.
  [[nodiscard]] Expected<void> execute_script(std::string_view sql);

  // One statement with ?1, ?2, ... bound. Statements are prepared once and kept.
  // run() returns the number of rows changed.
  [[nodiscard]] Expected<std::int64_t> run(std::string_view sql, const std::vector<Value>& values);
  [[nodiscard]] Expected<void> query(std::string_view sql, const std::vector<Value>& values,
                                     const std::function<void(const Row&)>& each_row);

  // Runs `body` in one transaction (BEGIN IMMEDIATE; a savepoint inside another one). Commits
  // where body returns a value, rolls everything back where it returns an Error or throws.
  [[nodiscard]] Expected<void> transact(const std::function<Expected<void>()>& body);

  // Runs `body` on one unchanging view of the file; writers go on beside it. Nothing may be
  // written in it. Inside transact it is that transaction's view.
  [[nodiscard]] Expected<void> snapshot(const std::function<Expected<void>()>& body);

  // Copies the whole database to `path` while it is in use (SQLite's online backup). A file that
  // stands there is replaced once the copy is complete and on disk; after an Error it is as it was.
  [[nodiscard]] Expected<void> backup(const std::string& path);

 private:
  struct Impl;
  explicit Database(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace accounting
