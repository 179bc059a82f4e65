// SPDX-License-Identifier: GPL-3.0-or-later
#include "trainer/confusion.h"

#include <gtest/gtest.h>

#include <stdexcept>
#include <vector>

namespace {

using trainer::Box;
using trainer::ConfusionMatrix;
using trainer::Detection;
using trainer::TrueBox;

constexpr int kBackground = 3;
const Box kHere{0, 0, 10, 10}, kThere{100, 100, 110, 110};

TEST(Confusion, CountsHitsMixUpsFalseFindsAndMisses) {
  ConfusionMatrix matrix(3);

  matrix.add({{kHere, .9F, 0}, {kThere, .8F, 1}}, {{kHere, 0}, {kThere, 2}});
  matrix.add({{kHere, .9F, 2}}, {{kThere, 1}});
  matrix.add({{kHere, .9F, 1}}, {});
  matrix.add({}, {{kHere, 2}});

  EXPECT_EQ(matrix.at(0, 0), 1) << "a hit";
  EXPECT_EQ(matrix.at(1, 2), 1) << "class 2 taken for class 1";
  EXPECT_EQ(matrix.at(2, kBackground), 1) << "a false find";
  EXPECT_EQ(matrix.at(1, kBackground), 1) << "a false find in an image without boxes";
  EXPECT_EQ(matrix.at(kBackground, 1), 1) << "a miss";
  EXPECT_EQ(matrix.at(kBackground, 2), 1) << "a miss in an image without detections";
  EXPECT_DOUBLE_EQ(matrix.share(1, 2), .5);
  EXPECT_DOUBLE_EQ(matrix.share(0, kBackground), 0);
}

TEST(Confusion, LooksAtCertainDetectionsThatOverlapEnough) {
  ConfusionMatrix matrix(3);

  matrix.add({{kHere, .25F, 0}}, {{kHere, 0}});            // Not above the confidence.
  matrix.add({{{0, 0, 10, 4.5F}, .9F, 0}}, {{kHere, 0}});  // IoU .45: not above it.
  matrix.add({{{0, 0, 10, 4.6F}, .9F, 0}}, {{kHere, 0}});

  EXPECT_EQ(matrix.at(0, 0), 1);
  EXPECT_EQ(matrix.at(kBackground, 0), 2);
  EXPECT_EQ(matrix.at(0, kBackground), 1);
}

TEST(Confusion, GivesABoxToOneDetectionOnly) {
  ConfusionMatrix matrix(3);

  // Two want the same box: the one that covers it better has it, whatever their scores.
  matrix.add({{{0, 0, 10, 8}, .9F, 1}, {{0, 0, 10, 9}, .5F, 0}}, {{kHere, 0}});
  // A detection takes its best box; the other box is missed.
  matrix.add({{kThere, .9F, 2}}, {{{100, 100, 110, 109}, 2}, {kThere, 2}});

  EXPECT_EQ(matrix.at(0, 0), 1);
  EXPECT_EQ(matrix.at(1, kBackground), 1);
  EXPECT_EQ(matrix.at(2, 2), 1);
  EXPECT_EQ(matrix.at(kBackground, 2), 1);
}

TEST(Confusion, AddsTheCountsOfOtherRanks) {
  ConfusionMatrix matrix(1), other(1);
  matrix.add({{kHere, .9F, 0}}, {{kHere, 0}});
  other.add({}, {{kHere, 0}});

  matrix.merge(other.cells());

  using Cell = ConfusionMatrix::Cell;
  EXPECT_EQ(matrix.cells(), (std::vector<Cell>{{0, 0, 1}, {1, 0, 1}}));
  EXPECT_DOUBLE_EQ(matrix.share(0, 0), .5);
  EXPECT_THROW(matrix.merge({{0, 0, 1}, {2, 0, 1}}), std::runtime_error);
  EXPECT_EQ(matrix.at(0, 0), 1) << "nothing of what does not fit is added";
}

// A data set may have 65,536 of them: a table of cells would take 32 GiB.
TEST(Confusion, OfManyClassesHoldsWhatWasCounted) {
  constexpr int kClasses = 65'536;
  ConfusionMatrix matrix(kClasses);

  matrix.add({{kHere, .9F, 65'535}}, {{kHere, 65'535}, {kThere, 4}});

  EXPECT_EQ(matrix.at(65'535, 65'535), 1);
  EXPECT_EQ(matrix.at(kClasses, 4), 1);
  EXPECT_EQ(matrix.cells().size(), 2U);
}

}  // namespace
