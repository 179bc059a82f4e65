// SPDX-License-Identifier: GPL-3.0-or-later
#include "trainer/class_weights.h"

#include <gtest/gtest.h>

namespace {

using trainer::class_weights;

TEST(ClassWeights, AreInverseFrequenciesToAPowerWithMeanOne) {
  const std::vector<std::int64_t> counts = {100, 25, 4};

  const std::vector<double> inverse = class_weights(counts, 1);
  const std::vector<double> root = class_weights(counts, 0.5);

  // 1 : 4 : 25 and 1 : 2 : 5.
  EXPECT_DOUBLE_EQ(inverse[0], 3 * 1.0 / 30);
  EXPECT_DOUBLE_EQ(inverse[1], 3 * 4.0 / 30);
  EXPECT_DOUBLE_EQ(inverse[2], 3 * 25.0 / 30);
  EXPECT_DOUBLE_EQ(root[0], 3 * 1.0 / 8);
  EXPECT_DOUBLE_EQ(root[2], 3 * 5.0 / 8);
  EXPECT_EQ(class_weights(counts, 0), (std::vector<double>{1, 1, 1}));
}

TEST(ClassWeights, AClassWithoutLabelsWeighsLikeOneWithASingleLabel) {
  const std::vector<std::int64_t> counts = {3, 0};

  const std::vector<double> weights = class_weights(counts, 1);

  EXPECT_DOUBLE_EQ(weights[0], 0.5);
  EXPECT_DOUBLE_EQ(weights[1], 1.5);
}

TEST(ClassWeights, CountEveryLabelOfEveryImage) {
  const std::vector<contract::ImageEntry> images = {
      {"a", {{0, 0, 0, 0, 0}, {2, 0, 0, 0, 0}}}, {"b", {}}, {"c", {{2, 0, 0, 0, 0}}}};

  EXPECT_EQ(trainer::count_labels(images, 4), (std::vector<std::int64_t>{1, 0, 2, 0}));
}

}  // namespace
