// SPDX-License-Identifier: GPL-3.0-or-later
//
// When runs are at their end, and how they go on where more is asked for. Runs under mpirun with 1
// and 2 ranks.
#include <map>

#include "tests/trainer/train_fixture.h"
#include "trainer/weights_file.h"

namespace trainer {
namespace {

class Extending : public TrainTest {
 protected:
  // Weights that hardly move: nothing is ever found, every fitness is 0.
  void find_nothing() {
    use_small_model();
    args_.lr0 = 1e-5;
    args_.warmup_epochs = 0;
  }
};

TEST_F(Extending, AFitnessOfZeroUsesUpNoPatience) {
  find_nothing();
  args_.epochs = 4;
  args_.patience = 2;

  const TrainOutcome outcome = run("run");

  EXPECT_EQ(outcome.epoch, 4);
  if (world->rank() != 0) return;
  EXPECT_EQ(progress("run").best_fitness, 0);
  EXPECT_EQ(progress("run").best_epoch, 4);
}

TEST_F(Extending, PatienceCountsFromTheBestEpochAndFromEachExtension) {
  find_nothing();
  args_.epochs = 1;
  args_.patience = 2;
  ASSERT_EQ(run("run").epoch, 1);
  change_progress("run", [](Progress& changed) { changed.best_fitness = 0.9; });

  args_.epochs = 30;
  EXPECT_EQ(run("run").epoch, 3);
  EXPECT_EQ(run("run").epoch, 3) << "finished";
  args_.epochs = 40;
  EXPECT_EQ(run("run").epoch, 5);
  // A stop and a resume inside: the count goes on.
  args_.epochs = 50;
  const TrainOutcome stopped = run("run", {.stop_at_step = 5 * 5 + 7});
  EXPECT_EQ(stopped.code, contract::ExitCode::kStopped);
  EXPECT_EQ(stopped.epoch, 6);
  EXPECT_EQ(run("run").epoch, 7);
  if (world->rank() != 0) return;
  EXPECT_EQ(progress("run").best_epoch, 1);
}

TEST_F(Extending, MosaicIsClosedForTheLastEpochsAlsoWhereTheyAreAll) {
  use_small_model();
  struct Case {
    int close_mosaic;
    bool is_closed;  // In the first of two epochs.
  };
  for (const auto& [close_mosaic, is_closed] :
       {Case{0, false}, Case{1, false}, Case{2, true}, Case{3, false}}) {
    SCOPED_TRACE(close_mosaic);
    args_.close_mosaic = close_mosaic;
    const std::string name = fmt::format("close{}", close_mosaic);
    ASSERT_EQ(run(name, {.stop_at_step = 1}).code, contract::ExitCode::kStopped);
    if (world->rank() == 0) {
      EXPECT_EQ(progress(name).is_mosaic_closed, is_closed);
    }
  }
}

TEST_F(Extending, AnUnfinishedRunOfMoreEpochsHasMosaicAgain) {
  use_small_model();
  args_.epochs = 3;
  args_.close_mosaic = 2;
  const TrainOutcome first = run("run", {.stop_at_step = 7});
  ASSERT_EQ(first.code, contract::ExitCode::kStopped);
  ASSERT_EQ(first.epoch, 1);
  if (world->rank() == 0) {
    EXPECT_TRUE(progress("run").is_mosaic_closed);
  }

  args_.epochs = 5;
  ASSERT_EQ(run("run", {.stop_at_step = first.step + 1}).code, contract::ExitCode::kStopped);
  if (world->rank() == 0) {
    EXPECT_FALSE(progress("run").is_mosaic_closed);
  }
  EXPECT_EQ(run("run").step, 5 * 5);
  if (world->rank() == 0) {
    EXPECT_TRUE(progress("run").is_mosaic_closed);
  }
}

TEST_F(Extending, AFinishedTimedRunOfMoreHoursHasMosaicAgain) {
  use_small_model();
  args_.time_h = 0.05;
  args_.close_mosaic = 1;
  const TrainOutcome first = run("run", {.seconds_per_look = 1});
  ASSERT_EQ(first.code, contract::ExitCode::kFinished);

  args_.time_h = 1;
  const TrainOutcome more =
      run("run", {.seconds_per_look = 1, .stop_at_step = first.step + 1});
  EXPECT_EQ(more.code, contract::ExitCode::kStopped);
  if (world->rank() != 0) return;
  EXPECT_FALSE(progress("run").is_mosaic_closed);
  EXPECT_GT(progress("run").epochs_planned, first.epoch + 5);
}

TEST_F(Extending, AFinishedTimedRunGoesOnByEpochsAndOneOfEpochsByHours) {
  use_small_model();
  args_.time_h = 0.05;
  const TrainOutcome timed = run("run", {.seconds_per_look = 1});
  ASSERT_EQ(timed.code, contract::ExitCode::kFinished);
  ASSERT_LT(timed.epoch, 50);

  args_.time_h.reset();
  args_.epochs = timed.epoch + 2;
  const TrainOutcome by_epochs = run("run");
  EXPECT_EQ(by_epochs.code, contract::ExitCode::kFinished);
  EXPECT_EQ(by_epochs.epoch, timed.epoch + 2);

  args_.time_h = 0.5;
  const TrainOutcome by_hours =
      run("run", {.seconds_per_look = 1, .stop_at_step = by_epochs.step + 1});
  EXPECT_EQ(by_hours.code, contract::ExitCode::kStopped);
}

// It is measured again and drawn inside the hours, though no later epoch was better.
TEST_F(Extending, ATimedRunWhoseBestEpochIsAnEarlierAttemptsEndsWithItsPictures) {
  use_small_model();
  args_.time_h = 0.02;
  args_.plots = true;
  ASSERT_EQ(run("run", {.seconds_per_look = 0.05, .stop_at_step = 30}).code,
            contract::ExitCode::kStopped);
  change_progress("run", [](Progress& changed) { changed.best_fitness = 0.99; });

  EXPECT_EQ(run("run", {.seconds_per_look = 0.05}).code, contract::ExitCode::kFinished);

  if (world->rank() != 0) return;
  EXPECT_LE(clock_, 1000 + 72);
  EXPECT_EQ(progress("run").best_fitness, 0.99);
  for (const char* picture : {"results.png", "PR_curve.png", "confusion_matrix.png"}) {
    EXPECT_TRUE(std::filesystem::exists(root_ + "run/" + picture)) << picture;
  }
}

TEST_F(Extending, BestWeightsOfAFinishedRunThatAreGoneAreMadeAgain) {
  use_small_model();
  args_.epochs = 2;
  ASSERT_EQ(run("run").code, contract::ExitCode::kFinished);
  if (world->rank() == 0) std::filesystem::remove(root_ + "run/weights/best.safetensors");
  world->barrier();

  EXPECT_EQ(run("run").code, contract::ExitCode::kFinished);

  if (world->rank() != 0) return;
  EXPECT_NO_THROW(static_cast<void>(load_model(root_ + "run/weights/best.safetensors")));
}

// As many epochs as are without mosaic at the end, by an argument that the hours replace.
TEST_F(Extending, ATimedRunHasMosaicUntilItsEndIsKnown) {
  use_small_model();
  args_.time_h = 1;
  args_.epochs = args_.close_mosaic = 3;

  ASSERT_EQ(run("run", {.seconds_per_look = 0.1, .stop_at_step = 2}).code,
            contract::ExitCode::kStopped);

  if (world->rank() != 0) return;
  EXPECT_FALSE(progress("run").is_mosaic_closed);
}

TEST_F(Extending, ATimedRunThatIsStoppedAndExtendedCountsAllItsSeconds) {
  use_small_model();
  constexpr double kLook = 0.25;
  const auto seconds = [this] { return clock_ - 1000; };  // Of the attempt, as rank 0 counts.
  args_.time_h = 0.05;
  ASSERT_EQ(run("run", {.seconds_per_look = kLook, .stop_at_step = 30}).code,
            contract::ExitCode::kStopped);
  const double before = world->rank() == 0 ? progress("run").seconds_used : 0;

  const TrainOutcome first = run("run", {.seconds_per_look = kLook});
  EXPECT_EQ(first.code, contract::ExitCode::kFinished);
  double used = 0;
  if (world->rank() == 0) {
    EXPECT_GT(before, 20);
    EXPECT_LE(before + seconds(), 180);
    EXPECT_GE(before + seconds(), 180 * 0.8);
    used = progress("run").seconds_used;
    EXPECT_GT(used, before);
    EXPECT_LE(used, before + seconds());
  }

  args_.time_h = 0.1;
  const TrainOutcome more = run("run", {.seconds_per_look = kLook});
  EXPECT_EQ(more.code, contract::ExitCode::kFinished);
  EXPECT_GT(more.epoch, first.epoch);
  if (world->rank() != 0) return;
  EXPECT_LE(used + seconds(), 360);
  EXPECT_GE(used + seconds(), 360 * 0.8);
  EXPECT_GT(progress("run").seconds_used, used);
}

// Of 9 batches an epoch: 10,000 iterations are more than 1,111 epochs.
TEST_F(Extending, WhatTheOptimizerAutoChoseStays) {
  use_small_model();
  args_.optimizer = "auto";
  args_.batch = args_.nbs = 2;
  struct Case {
    const char* chosen;
    int before, after;
  };
  for (const auto& [chosen, before, after] : {Case{"AdamW", 1, 2000}, Case{"SGD", 2000, 1}}) {
    SCOPED_TRACE(chosen);
    args_.epochs = before;
    const TrainOutcome first = run(chosen, {.stop_at_step = 3});
    ASSERT_EQ(first.code, contract::ExitCode::kStopped);
    std::map<std::string, std::string> arguments;
    if (world->rank() == 0) arguments = progress(chosen).arguments;

    args_.epochs = after;
    const TrainOutcome more = run(chosen, {.stop_at_step = 5});

    EXPECT_EQ(more.code, contract::ExitCode::kStopped);
    EXPECT_EQ(more.step, 5);
    if (world->rank() != 0) continue;
    EXPECT_EQ(progress(chosen).optimizer, chosen);
    EXPECT_EQ(progress(chosen).arguments, arguments);
    EXPECT_EQ(arguments.at("lr0"), std::string(chosen) == "SGD" ? "0.01" : "0.00125");
  }
}

// Before the first validation its length is a guess: one batch, of five that an epoch has.
TEST_F(Extending, ATimedRunWithoutValidationPlansMoreEpochs) {
  use_small_model();
  args_.time_h = 1;
  std::map<bool, double> planned;
  for (const bool val : {true, false}) {
    args_.val = val;
    const std::string name = val ? "with" : "without";
    ASSERT_EQ(run(name, {.seconds_per_look = 1, .stop_at_step = 4}).code,
              contract::ExitCode::kStopped);
    if (world->rank() == 0) planned[val] = progress(name).epochs_planned;
  }
  if (world->rank() != 0) return;
  EXPECT_NEAR(planned[false] / planned[true], 6.0 / 5, 0.02);
}

}  // namespace
}  // namespace trainer
