// SPDX-License-Identifier: GPL-3.0-or-later
//
// The tables of the runs have a version: books from before it go forward, those of a newer program
// are refused.
#include "scheduler/run_store.h"

#include <gtest/gtest.h>

#include "world.h"

namespace scheduler {
namespace {

TEST(RunTables, OfBooksWithoutAVersionGoForward) {
  World world;
  world.grant("user:ada", 10);
  world.tick();
  ASSERT_NE(world.launch(world.admission()), 0u);
  ASSERT_TRUE(world.database.run("DELETE FROM ledger_meta WHERE key = 'run_version'", {}));

  world.restart();
  EXPECT_EQ(world.state(), "queued");
  std::string version;
  ASSERT_TRUE(world.database.query(
      "SELECT value FROM ledger_meta WHERE key = 'run_version'", {},
      [&version](const accounting::Row& row) { version = row.text(0); }));
  EXPECT_EQ(version, "2");
}

TEST(RunTables, OfANewerProgramAreRefused) {
  World world;
  ASSERT_TRUE(
      world.database.run("UPDATE ledger_meta SET value = '9' WHERE key = 'run_version'", {}));
  const auto opened = RunStore::open(world.database);
  ASSERT_FALSE(opened);
  EXPECT_NE(opened.error().message.find("run version 9 is newer than the 2"), std::string::npos)
      << opened.error().message;
}

}  // namespace
}  // namespace scheduler
