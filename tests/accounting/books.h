// SPDX-License-Identifier: GPL-3.0-or-later
// tests/accounting/books.h
//
// What the tests of the ledger share: a folder that goes away, and short ways to write a request.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>

#include "accounting/ledger.h"

namespace accounting {

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "ledger_test_XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) std::abort();
    path_ = name;
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  [[nodiscard]] std::string file(const std::string& name) const {
    return (std::filesystem::path(path_) / name).string();
  }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// The value, or the end of the test with the message of the Error.
template <typename T>
T must(Expected<T> result) {
  if (!result) throw std::runtime_error(result.error().message);
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

inline std::string content_of(const std::string& path) {
  const std::ifstream input(path, std::ios::binary);
  if (!input) throw std::runtime_error(path + ": not readable");
  std::ostringstream content;
  content << input.rdbuf();
  return content.str();
}

struct Books {
  explicit Books(const std::string& path = ":memory:")
      : db(must(Database::open(path))), ledger(must(Ledger::open(db))) {}
  Database db;
  Ledger ledger;

  [[nodiscard]] std::int64_t count(const std::string& sql) {
    std::int64_t number = 0;
    must(db.query(sql, {}, [&number](const Row& row) { number = row.integer(0); }));
    return number;
  }
};

inline Amount hours(std::int64_t n) {
  return {n * kGpuHour.milli_gpu_s};
}

inline Grant grant_of(const std::string& id, const std::string& fund, Amount amount) {
  return {.id = id, .fund = fund, .amount = amount, .actor = "root", .note = ""};
}

inline Hold hold_of(const std::string& id, const std::string& fund, Amount amount) {
  return {
      .id = id, .fund = fund, .amount = amount, .run = id.substr(0, id.find('/')), .actor = "ada"};
}

inline Charge charge_of(const std::string& id, const std::string& hold_id, std::int64_t gpus,
                        std::int64_t seconds) {
  return {.id = id,
          .hold_id = hold_id,
          .cluster = "alpha",
          .gpus = gpus,
          .seconds = seconds,
          .weight_milli = 1'000,
          .start = 1'795'507'200,
          .end = 1'795'507'200 + seconds,
          .note = "h100 COMPLETED"};
}

}  // namespace accounting
