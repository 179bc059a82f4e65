// SPDX-License-Identifier: GPL-3.0-or-later
//
// What a loss that is not a number leaves of a run: all ranks go on from the last checkpoint as a
// run that begins there. Runs under mpirun with 1 and 2 ranks.
#include <cmath>
#include <filesystem>

#include "tests/trainer/train_fixture.h"

namespace trainer {
namespace {

class Reloading : public TrainTest {
 protected:
  void SetUp() override {
    TrainTest::SetUp();
    use_small_model();
    args_.warmup_epochs = 0;  // As many batches a step from the first one on.
  }

  // Runs `name` with one loss that is not a number, in the forward pass `fault` of the last rank.
  // In `name`-again lies then a run that begins where this one went back to.
  TrainOutcome run_with_fault(const std::string& name, int fault) {
    int calls = 0;
    return run(name, {.before_forward = [&, this](at::Tensor& images) {
                 if (++calls != fault) return;
                 if (world->rank() == world->size() - 1) images = images * std::nan("");
                 if (world->rank() == 0) {
                   std::filesystem::copy(root_ + name, root_ + name + "-again",
                                         std::filesystem::copy_options::recursive);
                 }
                 change_progress(name + "-again", [](Progress& changed) { changed.reloads = 1; });
               }});
  }
  void expect_same(const std::string& name) {
    ASSERT_EQ(run(name + "-again").code, contract::ExitCode::kFinished);
    if (world->rank() != 0) return;
    EXPECT_EQ(progress(name).reloads, 1);
    EXPECT_EQ(tensors(name), tensors(name + "-again"));
    EXPECT_EQ(results(name), results(name + "-again"));
  }
};

// Its moments are zero on all ranks again, and its gradients are rank 0's alone. That ranks differ
// in nothing is checked at the end of each epoch.
TEST_F(Reloading, FromBeforeTheFirstStepForgetsTheStepsThatWereMade) {
  args_.epochs = 4;  // Of five batches each; the first step is made of sixteen.
  args_.nbs = 64;
  for (const std::string optimizer : {"SGD", "AdamW"}) {
    SCOPED_TRACE(optimizer);
    args_.optimizer = optimizer;

    const TrainOutcome outcome = run_with_fault(optimizer, 18);

    EXPECT_EQ(outcome.code, contract::ExitCode::kFinished);
    EXPECT_EQ(outcome.step, 20);
    if (world->rank() == 0) {
      EXPECT_EQ(progress(optimizer).optimizer_steps, 1);
    }
    expect_same(optimizer);
  }
}

TEST_F(Reloading, RestoresTheResidualsOfTheWire) {
  args_.epochs = 3;
  // As which the checkpoint was made.
  for (const std::string before : {"bf16", "fp32"}) {
    SCOPED_TRACE(before);
    args_.wire = before;
    ASSERT_EQ(run(before, {.stop_at_step = 6}).code, contract::ExitCode::kStopped);
    args_.wire = "bf16";

    const TrainOutcome outcome = run_with_fault(before, 4);

    EXPECT_EQ(outcome.code, contract::ExitCode::kFinished);
    EXPECT_EQ(outcome.step, 15);
    expect_same(before);
  }
}

// The checkpoint knows nothing of what this attempt asks for.
TEST_F(Reloading, TheRequestOfTheAttemptStands) {
  args_.lr0 = 1e-5;  // Nothing is ever found, every fitness is 0.
  args_.epochs = 1;
  args_.patience = 2;
  args_.close_mosaic = 1;
  ASSERT_EQ(run("run").epoch, 1);
  change_progress("run", [](Progress& changed) { changed.best_fitness = 0.9; });
  args_.epochs = 2;
  ASSERT_EQ(run("run").epoch, 2);
  args_.epochs = 30;

  const TrainOutcome outcome = run_with_fault("run", 1);

  EXPECT_EQ(outcome.epoch, 4) << "patience counts from where more was asked for";
  if (world->rank() != 0) return;
  EXPECT_EQ(progress("run").epochs_planned, 30);
  EXPECT_FALSE(progress("run").is_mosaic_closed);
}

TEST_F(Reloading, WithoutAWholeCheckpointTheReasonIsSaidOnAllRanks) {
  int calls = 0;

  const TrainOutcome outcome =
      run("run", {.before_forward = [&](at::Tensor& images) {
            if (++calls != 7) return;  // In the second epoch.
            images = images * std::nan("");
            if (world->rank() == 0) write_durably(root_ + "run/weights/last-000001.ckpt", "torn");
            world->barrier();
          }});

  EXPECT_EQ(outcome.code, contract::ExitCode::kNotANumber);
  if (world->rank() != 0) return;
  EXPECT_EQ(exit_record("run").at("code"), 21);
  EXPECT_NE(outcome.message.find("; checkpoint last-000001.ckpt: 4 bytes (recorded "),
            std::string::npos)
      << outcome.message;
}

TEST_F(Reloading, TheHoursOfTheAttemptStand) {
  args_.time_h = 0.05;
  const TrainOutcome first = run("run", {.seconds_per_look = 1});
  ASSERT_EQ(first.code, contract::ExitCode::kFinished);
  args_.time_h = 1;
  int calls = 0;

  const TrainOutcome more = run("run", {.seconds_per_look = 1,
                                        .before_forward =
                                            [&](at::Tensor& images) {
                                              if (++calls == 1) images = images * std::nan("");
                                            },
                                        .stop_at_step = first.step + 1});

  EXPECT_EQ(more.code, contract::ExitCode::kStopped);
  if (world->rank() != 0) return;
  EXPECT_EQ(progress("run").reloads, 1);
  EXPECT_EQ(progress("run").hours_requested, 1);
  EXPECT_FALSE(progress("run").is_mosaic_closed);
  EXPECT_GT(progress("run").epochs_planned, first.epoch + 5);
}

}  // namespace
}  // namespace trainer
