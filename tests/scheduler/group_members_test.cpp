// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/group_members.h"

#include <grp.h>
#include <gtest/gtest.h>
#include <pwd.h>
#include <unistd.h>

#include <algorithm>

namespace scheduler {
namespace {

// The account that runs the test has a first group, and seldom stands in that group's own list.
TEST(GroupMembers, AreAlsoThoseWhoseFirstGroupItIs) {
  const passwd* self = getpwuid(geteuid());
  if (self == nullptr) GTEST_SKIP() << "uid " << geteuid() << " has no name here";
  const std::string user = self->pw_name;
  const group* first = getgrgid(self->pw_gid);
  if (first == nullptr) GTEST_SKIP() << "the first group of " << user << " has no name here";

  const auto members = group_members(first->gr_name);

  EXPECT_EQ(std::count(members.begin(), members.end(), user), 1);
}

TEST(GroupMembers, OfNoGroupAreNone) {
  EXPECT_TRUE(group_members("no_such_group_here").empty());
}

}  // namespace
}  // namespace scheduler
