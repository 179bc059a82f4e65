// SPDX-License-Identifier: GPL-3.0-or-later
#include "trainer/train_input.h"

#include <gtest/gtest.h>

#include <memory>
#include <numeric>

#include "temp_folder.h"
#include "trainer/class_weights.h"
#include "trainer/scenes.h"
#include "trainer/train.h"

namespace {

using trainer::TrainInput;

class Input : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = std::make_unique<TempFolder>();
    trainer::make_scenes(
        {.out = folder_->at("yard"), .seed = 1, .train = 20, .val = 5, .size = 64});
  }
  static void TearDownTestSuite() { folder_.reset(); }

  void SetUp() override { args_.data = folder_->at("yard/data.yaml"); }

  [[nodiscard]] TrainInput prepare() const {
    const auto alone = trainer::make_local_communicator();
    return trainer::prepare_input(args_, *alone);
  }
  [[nodiscard]] std::string refusal() const {
    try {
      static_cast<void>(prepare());
      return "accepted";
    } catch (const trainer::BadInput& error) {
      return error.what();
    }
  }

  contract::TrainArgs args_;
  static std::unique_ptr<TempFolder> folder_;
};

std::unique_ptr<TempFolder> Input::folder_;

TEST_F(Input, AFractionIsAPartOrACount) {
  struct Case {
    double fraction;
    std::size_t images;
  };
  for (const auto& [fraction, images] :
       {Case{1, 20}, Case{0.5, 10}, Case{0.13, 3}, Case{0.001, 1}, Case{7, 7}, Case{500, 20}}) {
    SCOPED_TRACE(fraction);
    args_.fraction = fraction;
    const TrainInput input = prepare();
    EXPECT_EQ(input.dataset.train.size(), images);
    EXPECT_EQ(input.dataset.val.size(), 5U);
  }
}

TEST_F(Input, AFractionOfTheValidationImagesIsTheFirstOfThem) {
  const TrainInput all = prepare();
  args_.fraction_val = 0.4;
  const TrainInput some = prepare();
  ASSERT_EQ(some.dataset.val.size(), 2U);
  EXPECT_EQ(some.dataset.train.size(), all.dataset.train.size());
  EXPECT_EQ(some.dataset.val[1].path, all.dataset.val[1].path);
}

TEST_F(Input, ClassesKeepOnlyTheirLabelsAndTheirNumbers) {
  const TrainInput all = prepare();
  const auto class_count = static_cast<int>(all.class_names.size());
  ASSERT_GE(class_count, 3);
  const auto counts = trainer::count_labels(all.dataset.train, class_count);
  args_.classes = {1};

  const TrainInput some = prepare();

  std::vector<std::int64_t> expected(counts.size(), 0);
  expected[1] = counts[1];
  ASSERT_GT(counts[1], 0);
  EXPECT_EQ(trainer::count_labels(some.dataset.train, class_count), expected);
  EXPECT_EQ(some.dataset.train.size(), all.dataset.train.size());
  EXPECT_EQ(some.class_names, all.class_names);
  const auto val = trainer::count_labels(some.dataset.val, class_count);
  EXPECT_EQ(val[1], std::accumulate(val.begin(), val.end(), std::int64_t{0}));
}

TEST_F(Input, ClassesComeBeforeOneClassForAll) {
  const TrainInput all = prepare();
  const auto counts =
      trainer::count_labels(all.dataset.train, static_cast<int>(all.class_names.size()));
  args_.classes = {1};
  args_.single_cls = true;

  const TrainInput some = prepare();

  EXPECT_EQ(trainer::count_labels(some.dataset.train, 1), std::vector<std::int64_t>{counts[1]});
  EXPECT_EQ(some.class_names, std::vector<std::string>{"item"});
}

TEST_F(Input, ABatchOfMoreThanAllImagesIsWorthAWarning) {
  args_.batch = 20;
  EXPECT_TRUE(prepare().warnings.empty());
  args_.fraction = 12;

  const TrainInput input = prepare();

  EXPECT_EQ(input.warnings,
            std::vector<std::string>{
                "batch = 20, but there are 12 training images: batches are filled up, so each of "
                "them has images more than once. Use at most 12."});
}

TEST_F(Input, AClassThatTheDataSetHasNotIsRefused) {
  args_.classes = {0, 99};

  EXPECT_NE(refusal().find("classes = 99 is not below the "), std::string::npos) << refusal();
}

}  // namespace
