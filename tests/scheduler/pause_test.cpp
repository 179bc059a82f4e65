// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/pause.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

namespace scheduler {
namespace {

TEST(Pause, GrowsWhileNobodyAnswers) {
  Pause pause;
  std::vector<std::int64_t> tried_at;  // In minutes.
  for (std::int64_t minute = 0; minute <= 63; ++minute) {
    if (pause.is_over(Pause::Time{} + std::chrono::minutes(minute))) tried_at.push_back(minute);
  }
  EXPECT_EQ(tried_at, (std::vector<std::int64_t>{0, 1, 3, 7, 15, 31, 47, 63}));
}

}  // namespace
}  // namespace scheduler
