// SPDX-License-Identifier: GPL-3.0-or-later
#include "trainer/bench_collectives.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "trainer/bfloat16.h"

namespace trainer {
namespace {

// Each sum rounded to bfloat16, as NCCL makes it, and in both orders.
TEST(BenchCollectives, SumsOfManyRanksAreExactInBfloat16) {
  const auto rounded = [](float value) { return from_bfloat16(to_bfloat16(value)); };
  for (const int ranks : {1, 2, 8, 80, 81, 86, 256, 1'000}) {
    SCOPED_TRACE(ranks);
    const std::vector<float> sums = bench_sums(ranks);
    std::vector<int> sent(static_cast<std::size_t>(ranks));  // Places at which a rank sends anything.
    int wrong = 0;
    for (std::size_t i = 0; i < 2 * sums.size(); ++i) {
      float upwards = 0, downwards = 0, exact = 0;
      for (int rank = 0; rank < ranks; ++rank) {
        const float value = bench_value(rank, i, ranks);
        exact += value;
        upwards = rounded(upwards + value);
        downwards = rounded(downwards + bench_value(ranks - 1 - rank, i, ranks));
        if (value > 0) ++sent[static_cast<std::size_t>(rank)];
      }
      const float sum = sums[i % sums.size()];
      if (upwards != sum || downwards != sum || exact != sum) ++wrong;
    }
    EXPECT_EQ(wrong, 0);
    EXPECT_GT(*std::min_element(sent.begin(), sent.end()), 0);  // No rank may be left out unnoticed.
  }
}

}  // namespace
}  // namespace trainer
