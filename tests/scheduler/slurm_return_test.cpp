// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/slurm_return.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <iterator>

#include "files.h"

namespace scheduler {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

class Return : public testing::Test {
 protected:
  std::string file(const char* name) const { return (folder.path() / name).string(); }
  int tries() const {
    std::ifstream lines(file("tries"));
    return static_cast<int>(std::count(std::istreambuf_iterator<char>(lines), {}, '\n'));
  }
  // Until the program of this try has ended and was taken.
  void try_at(SteadyTime now, int number) {
    EXPECT_FALSE(slurm.may_look(now));
    while (slurm.is_trying()) {
      usleep(1000);
      EXPECT_FALSE(slurm.may_look(now));
    }
    EXPECT_EQ(tries(), number);
  }

  test::Folder folder;
  SlurmReturn slurm{
      {"/bin/sh", "-c", "echo x >>\"$0/tries\"; [ -e \"$0/up\" ]", folder.path().string()}};
  const SteadyTime start{std::chrono::hours(1)};
};

TEST_F(Return, IsLookedForByTheServiceWhileItAnswersOrFailsAtOnce) {
  for (const bool saw : {true, false}) {
    slurm.looked(saw, milliseconds(saw ? 9000 : 100));
    EXPECT_TRUE(slurm.may_look(start));
  }
  EXPECT_EQ(tries(), 0);
}

TEST_F(Return, IsLookedForAsideAfterALookThatTookLong) {
  slurm.looked(false, milliseconds(8700));
  try_at(start, 1);
  EXPECT_FALSE(slurm.may_look(start + milliseconds(900)));
  EXPECT_EQ(tries(), 1);
  try_at(start + seconds(1), 2);
  EXPECT_FALSE(slurm.may_look(start + milliseconds(2900)));
  EXPECT_EQ(tries(), 2);

  std::ofstream(file("up")).flush();
  EXPECT_FALSE(slurm.may_look(start + seconds(3)));
  bool may = false;
  while (slurm.is_trying()) {
    usleep(1000);
    may = slurm.may_look(start + seconds(3));
  }
  EXPECT_TRUE(may);
  EXPECT_EQ(tries(), 3);
  slurm.looked(true, milliseconds(10));
  EXPECT_TRUE(slurm.may_look(start + seconds(4)));
}

TEST_F(Return, IsLookedForByTheServiceWhereNothingCanBeStarted) {
  SlurmReturn alone({"/nonexistent/trainyardd"});
  alone.looked(false, milliseconds(8700));
  EXPECT_TRUE(alone.may_look(start));
  EXPECT_FALSE(alone.may_look(start + milliseconds(900)));
  EXPECT_TRUE(alone.may_look(start + seconds(1)));
}

}  // namespace
}  // namespace scheduler
