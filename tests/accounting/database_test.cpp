// SPDX-License-Identifier: GPL-3.0-or-later
#include "accounting/database.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <fstream>
#include <limits>
#include <stdexcept>

#include "books.h"
#include "child.h"

namespace accounting {
namespace {

constexpr UtcSeconds kNow = 1'795'507'200;
const tl::unexpected<Error> kStop{Error{"stop"}};

Database database_with_table(const std::string& path = ":memory:") {
  Database db = must(Database::open(path));
  must(db.execute_script("CREATE TABLE IF NOT EXISTS t (x INTEGER, s TEXT) STRICT"));
  return db;
}

void insert(Database& db, std::int64_t x) {
  must(db.run("INSERT INTO t (x) VALUES (?1)", {x}));
}

std::int64_t sum(Database& db) {
  std::int64_t sum = 0;
  must(db.query("SELECT coalesce(sum(x), 0) FROM t", {},
                [&sum](const Row& row) { sum = row.integer(0); }));
  return sum;
}

TEST(Database, ValuesComeBackAsTheyWentIn) {
  Database db = database_with_table();
  const std::string strange("a\0b'\"\xc3\xa9", 7);

  EXPECT_EQ(must(db.run("INSERT INTO t VALUES (?1, ?2), (?3, ?4)",
                        {std::numeric_limits<std::int64_t>::min(), strange, nullptr, ""})),
            2);

  int rows = 0;
  must(db.query("SELECT x, s FROM t ORDER BY rowid", {}, [&](const Row& row) {
    SCOPED_TRACE(rows);
    EXPECT_EQ(row.is_null(0), rows == 1);
    EXPECT_EQ(row.integer(0), rows == 1 ? 0 : std::numeric_limits<std::int64_t>::min());
    EXPECT_EQ(row.text(1), rows == 1 ? "" : strange);
    EXPECT_FALSE(row.is_null(1));
    ++rows;
  }));
  EXPECT_EQ(rows, 2);
}

TEST(Database, RunCountsTheRowsOfItsOwnStatement) {
  Database db = database_with_table();
  insert(db, 1);
  insert(db, 2);

  EXPECT_EQ(must(db.run("UPDATE t SET x = x + 1", {})), 2);
  EXPECT_EQ(must(db.run("UPDATE t SET x = 0 WHERE x = 99", {})), 0);
  EXPECT_EQ(must(db.run("CREATE TABLE u (y INTEGER) STRICT", {})), 0);
}

TEST(Database, AMistakeInAStatementIsAnErrorThatNamesIt) {
  Database db = database_with_table();

  const auto unknown = db.run("INSERT INTO nowhere VALUES (1)", {});
  ASSERT_FALSE(unknown);
  EXPECT_NE(unknown.error().message.find("no such table: nowhere"), std::string::npos)
      << unknown.error().message;
  EXPECT_FALSE(db.run("INSERT INTO t (x) VALUES (?1)", {}));
  EXPECT_FALSE(db.run("INSERT INTO t (x) VALUES (1); DELETE FROM t", {}));
  EXPECT_FALSE(db.run("", {}));
  EXPECT_FALSE(db.run("INSERT INTO t (x) VALUES ('word')", {}));  // STRICT.
  EXPECT_EQ(sum(db), 0);
}

TEST(Database, AQueryMayAskTheSameAgainForEachRow) {
  Database db = database_with_table();
  insert(db, 1);
  insert(db, 2);

  int rows = 0;
  must(db.query("SELECT x FROM t", {}, [&](const Row&) {
    must(db.query("SELECT x FROM t", {}, [&rows](const Row&) { ++rows; }));
  }));

  EXPECT_EQ(rows, 4);
}

TEST(Database, AnErrorRollsItsTransactionBack) {
  Database db = database_with_table();

  const auto result = db.transact([&]() -> Expected<void> {
    insert(db, 1);
    return kStop;
  });

  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().message, "stop");
  EXPECT_EQ(sum(db), 0);
}

TEST(Database, AnExceptionRollsItsTransactionBackAndGoesOn) {
  Database db = database_with_table();

  EXPECT_THROW(static_cast<void>(db.transact([&]() -> Expected<void> {
                 insert(db, 1);
                 throw std::runtime_error("stop");
               })),
               std::runtime_error);

  EXPECT_EQ(sum(db), 0);
  must(db.transact([&]() -> Expected<void> {
    insert(db, 2);
    return {};
  }));
  EXPECT_EQ(sum(db), 2);
}

TEST(Database, ANestedTransactionRollsBackAlone) {
  Database db = database_with_table();

  must(db.transact([&]() -> Expected<void> {
    insert(db, 1);
    EXPECT_FALSE(db.transact([&]() -> Expected<void> {
      insert(db, 10);
      must(db.transact([&]() -> Expected<void> {
        insert(db, 100);
        return {};
      }));
      return kStop;
    }));
    must(db.transact([&]() -> Expected<void> {
      insert(db, 1'000);
      return {};
    }));
    return {};
  }));

  EXPECT_EQ(sum(db), 1'001);
}

TEST(Database, ANestedTransactionIsUndoneWithTheOuterOne) {
  Database db = database_with_table();

  EXPECT_FALSE(db.transact([&]() -> Expected<void> {
    must(db.transact([&]() -> Expected<void> {
      insert(db, 1);
      return {};
    }));
    return kStop;
  }));

  EXPECT_EQ(sum(db), 0);
}

TEST(Database, ASnapshotDoesNotSeeWhatOthersWrite) {
  const TemporaryFolder folder;
  Database reader = database_with_table(folder.file("a.db"));
  Database writer = database_with_table(folder.file("a.db"));

  must(reader.snapshot([&]() -> Expected<void> {
    EXPECT_EQ(sum(reader), 0);
    insert(writer, 5);
    EXPECT_EQ(sum(reader), 0);
    EXPECT_FALSE(reader.transact([]() -> Expected<void> { return {}; }));
    return {};
  }));

  EXPECT_EQ(sum(reader), 5);
}

TEST(Database, AFileIsPrivateDurableAndThereAfterReopening) {
  const TemporaryFolder folder;
  const std::string path = folder.file("a.db");
  {
    Database db = database_with_table(path);
    insert(db, 7);
    struct stat about {};
    ASSERT_EQ(::stat(path.c_str(), &about), 0);
    EXPECT_EQ(about.st_mode & 0777, 0600u);
    ASSERT_EQ(::stat((path + "-wal").c_str(), &about), 0);
    EXPECT_EQ(about.st_mode & 0777, 0600u);
    std::int64_t synchronous = 0;
    must(db.query("PRAGMA synchronous", {}, [&](const Row& row) { synchronous = row.integer(0); }));
    EXPECT_EQ(synchronous, 2);  // FULL.
  }

  Database db = must(Database::open(path));
  EXPECT_EQ(sum(db), 7);
}

TEST(Database, WhatIsNoDatabaseIsRefusedWithAdvice) {
  const TemporaryFolder folder;
  std::ofstream(folder.file("a.db")) << std::string(8'192, 'x');

  const auto db = Database::open(folder.file("a.db"));

  ASSERT_FALSE(db);
  EXPECT_NE(db.error().message.find("not a database"), std::string::npos) << db.error().message;
  EXPECT_NE(db.error().message.find("Restore it from a backup."), std::string::npos);
}

TEST(Database, AFolderThatIsNotThereIsAnError) {
  const TemporaryFolder folder;

  const auto db = Database::open(folder.file("none/a.db"));

  ASSERT_FALSE(db);
  EXPECT_NE(db.error().message.find("No such file or directory"), std::string::npos)
      << db.error().message;
  EXPECT_FALSE(Database::open(""));
}

TEST(Database, ADamagedPageIsFoundAtOpening) {
  const TemporaryFolder folder;
  const std::string path = folder.file("a.db");
  {
    Database db = database_with_table(path);
    must(db.execute_script("CREATE INDEX t_x ON t (x)"));
    for (std::int64_t x = 0; x < 2'000; ++x) insert(db, x);
  }
  {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(3 * 4'096);
    file << std::string(4'096, '\x5a');
  }

  const auto db = Database::open(path);

  EXPECT_FALSE(db);
}

TEST(Database, ABackupIsWholeWhileTheDatabaseIsInUse) {
  const TemporaryFolder folder;
  Database db = database_with_table(folder.file("a.db"));
  insert(db, 1);
  must(db.backup(folder.file("b.db")));
  insert(db, 2);
  must(db.backup(folder.file("b.db")));  // Replaces the older one.
  insert(db, 4);

  Database copy = must(Database::open(folder.file("b.db")));

  EXPECT_EQ(sum(copy), 3);
  const auto in_use = db.backup(folder.file("b.db"));
  ASSERT_FALSE(in_use);
  EXPECT_NE(in_use.error().message.find("is in use there"), std::string::npos);
  EXPECT_FALSE(db.backup(folder.file("none/b.db")));
  EXPECT_FALSE(db.transact([&]() { return db.backup(folder.file("c.db")); }));
}

TEST(DatabaseFault, AKillInTheMiddleOfATransactionLeavesNothingOfIt) {
  const TemporaryFolder folder;
  const std::string path = folder.file("ledger.db");
  Child child([&path](int report) {
    Books books(path);
    must(books.ledger.grant(grant_of("g1", "user:ada", hours(100)), kNow));
    return books.db.transact([&]() -> Expected<void> {
      must(books.ledger.grant(grant_of("g2", "user:ada", hours(10)), kNow));
      must(books.ledger.hold(hold_of("r1/1", "user:ada", hours(64)), kNow));
      if (::write(report, "x", 1) != 1) return kStop;
      for (;;) ::pause();
    })
               ? 0
               : 1;
  });

  ASSERT_EQ(child.read_reports(1), 1);
  child.kill_and_wait();

  Books books(path);
  EXPECT_EQ(must(books.ledger.verify()), std::vector<std::string>{});
  EXPECT_EQ(must(books.ledger.balance("user:ada"))->available, hours(100));
  EXPECT_EQ(must(books.ledger.hold(hold_of("r1/1", "user:ada", hours(64)), kNow)),
            HoldStatus::kHeld);
}

TEST(DatabaseFault, AKillAtAnyMomentLosesNothingThatWasAnswered) {
  const TemporaryFolder folder;
  const std::string path = folder.file("ledger.db");
  int answered = 0;
  for (int round = 0; round < 12; ++round) {
    SCOPED_TRACE(round);
    Child child([&path, answered](int report) {
      Books books(path);
      for (int i = answered;; ++i) {
        must(books.ledger.grant(grant_of("g" + std::to_string(i), "user:ada", hours(1)), kNow + i));
        if (::write(report, "x", 1) != 1) return 1;
      }
    });
    answered += child.read_reports(3 + round * 2);
    ::usleep(static_cast<useconds_t>(round * 137));
    child.kill_and_wait();
    answered += child.read_reports(1'000'000);  // What it still had reported.

    Books books(path);
    EXPECT_EQ(must(books.ledger.verify()), std::vector<std::string>{});
    const std::int64_t transfers = books.count("SELECT count(*) FROM transfer");
    EXPECT_GE(transfers, answered);
    EXPECT_LE(transfers, answered + 1);  // The last one was committed but not yet reported.
    answered = static_cast<int>(transfers);
  }
}

// Holds until an Error comes; returns how many were held.
int hold_until_error(Books& books) {
  for (int i = 0; i < 100'000; ++i) {
    const auto held =
        books.ledger.hold(hold_of("r" + std::to_string(i) + "/1", "user:ada", {1}), kNow);
    if (!held) return i;
    if (*held != HoldStatus::kHeld) return -1;
  }
  return -1;
}

TEST(DatabaseFault, AFullDatabaseGivesAnErrorAndNoHalfTransfer) {
  Books books;
  must(books.ledger.grant(grant_of("g1", "user:ada", hours(1)), kNow));
  const std::int64_t pages = books.count("PRAGMA page_count");
  const auto set_pages_max = [&](std::int64_t n) {
    static_cast<void>(books.count("PRAGMA max_page_count=" + std::to_string(n)));
  };
  set_pages_max(pages + 4);

  const int held = hold_until_error(books);

  ASSERT_GT(held, 0);
  EXPECT_EQ(must(books.ledger.balance("user:ada"))->held, Amount{held});
  EXPECT_EQ(must(books.ledger.verify()), std::vector<std::string>{});

  set_pages_max(1'000'000);
  EXPECT_EQ(
      must(books.ledger.hold(hold_of("r" + std::to_string(held) + "/1", "user:ada", {1}), kNow)),
      HoldStatus::kHeld);
  EXPECT_EQ(must(books.ledger.verify()), std::vector<std::string>{});
}

TEST(DatabaseFault, AnErrorThatABodyHidesCommitsNoHalfTransfer) {
  for (std::int64_t spare_pages = 0; spare_pages < 12; ++spare_pages) {
    SCOPED_TRACE(spare_pages);
    Books books;
    must(books.ledger.grant(grant_of("g1", "user:ada", hours(1)), kNow));
    static_cast<void>(books.count("PRAGMA max_page_count=" +
                                  std::to_string(books.count("PRAGMA page_count") + spare_pages)));

    static_cast<void>(books.db.transact([&]() -> Expected<void> {
      static_cast<void>(hold_until_error(books));
      static_cast<void>(books.ledger.hold(hold_of("last/1", "user:ada", {1}), kNow));
      return {};
    }));

    EXPECT_EQ(must(books.ledger.verify()), std::vector<std::string>{});
  }
}

// The limits are no multiple of a page, so the last write is torn at a new place each time.
TEST(DatabaseFault, AFileThatMayNotGrowGivesAnErrorAndNoHalfTransfer) {
  for (rlim_t bytes_max = 180'000; bytes_max < 230'000; bytes_max += 4'567) {
    SCOPED_TRACE(bytes_max);
    const TemporaryFolder folder;
    const std::string path = folder.file("ledger.db");
    {
      Books books(path);
      must(books.ledger.grant(grant_of("g1", "user:ada", hours(1)), kNow));
    }
    Child child([&path, bytes_max](int report) {
      std::signal(SIGXFSZ, SIG_IGN);  // The write then answers EFBIG.
      const rlimit limit{bytes_max, bytes_max};
      ::setrlimit(RLIMIT_FSIZE, &limit);
      Books books(path);
      const int held = hold_until_error(books);
      for (int i = 0; i < held; ++i) {
        if (::write(report, "x", 1) != 1) return 1;
      }
      // The connection is still good for reading.
      return held > 0 && must(books.ledger.verify()).empty() ? 0 : 2;
    });
    const int held = child.read_reports(1'000'000);
    ASSERT_EQ(child.wait_for_exit(), 0);

    Books books(path);
    EXPECT_GT(held, 0);
    EXPECT_EQ(must(books.ledger.balance("user:ada"))->held, Amount{held});
    EXPECT_EQ(must(books.ledger.verify()), std::vector<std::string>{});
  }
}

TEST(DatabaseFault, AReadOnlyFileIsRefusedWithAdvice) {
  const TemporaryFolder folder;
  const std::string path = folder.file("ledger.db");
  { Books books(path); }
  ASSERT_EQ(::chmod(path.c_str(), 0444), 0);
  ASSERT_EQ(::chmod(folder.path().c_str(), 0755), 0);
  Child child([&path](int) {
    // Root may write everywhere; nobody may not.
    if (::geteuid() == 0 && ::setresuid(65'534, 65'534, 65'534) != 0) return 1;
    const auto db = Database::open(path);
    if (db) return 2;
    return db.error().message.find("Make the file and its folder writable") != std::string::npos
               ? 0
               : 3;
  });

  EXPECT_EQ(child.wait_for_exit(), 0);
}

TEST(DatabaseFault, WritersOfTwoProcessesQueue) {
  const TemporaryFolder folder;
  const std::string path = folder.file("ledger.db");
  Books books(path);
  must(books.ledger.grant(grant_of("g", "user:ada", hours(1)), kNow));
  const auto hold_fifty = [&path](const std::string& who) {
    Books own(path);
    for (int i = 0; i < 50; ++i) {
      const auto held =
          own.ledger.hold(hold_of(who + std::to_string(i) + "/1", "user:ada", {1}), kNow);
      if (!held || *held != HoldStatus::kHeld) return 1;
    }
    return 0;
  };

  Child left([&](int) { return hold_fifty("left"); });
  Child right([&](int) { return hold_fifty("right"); });

  EXPECT_EQ(left.wait_for_exit(), 0);
  EXPECT_EQ(right.wait_for_exit(), 0);
  EXPECT_EQ(must(books.ledger.balance("user:ada"))->held, Amount{100});
  EXPECT_EQ(must(books.ledger.verify()), std::vector<std::string>{});
}

// Who reads a limit, adds to it and writes it back loses what another deposits meanwhile.
TEST(DatabaseFault, Scenario26DepositsOfTwoProcessesAtOnceAllCount) {
  const TemporaryFolder folder;
  const std::string path = folder.file("ledger.db");
  Books books(path);
  const auto deposit_fifty = [&path](const std::string& who) {
    Books own(path);
    for (int i = 0; i < 50; ++i) {
      const auto given = own.ledger.grant(grant_of(who + std::to_string(i), "user:ada", {3}), kNow);
      if (!given || *given != GrantStatus::kGranted) return 1;
    }
    return 0;
  };

  Child left([&](int) { return deposit_fifty("left"); });
  Child right([&](int) { return deposit_fifty("right"); });

  EXPECT_EQ(left.wait_for_exit(), 0);
  EXPECT_EQ(right.wait_for_exit(), 0);
  EXPECT_EQ(must(books.ledger.balance("user:ada"))->available, Amount{300});
  EXPECT_EQ(must(books.ledger.verify()), std::vector<std::string>{});
}

}  // namespace
}  // namespace accounting
