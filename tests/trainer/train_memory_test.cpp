// SPDX-License-Identifier: GPL-3.0-or-later
//
// What a run does without memory. Runs under mpirun with 1 and 2 ranks.
#include "tests/trainer/train_fixture.h"

namespace trainer {
namespace {

// An allocator that takes so many images at a time; on the last rank only.
TEST_F(TrainTest, WithoutMemoryABatchIsDoneInParts) {
  use_small_model();
  args_.batch = 8;
  const std::int64_t share = args_.batch / world->size();
  std::vector<std::int64_t> sizes;
  const TrainOutcome outcome = run(
      "parts", {.before_forward = [&](at::Tensor& images) {
        sizes.push_back(images.size(0));
        if (images.size(0) > share / 2 && world->rank() == world->size() - 1) {
          TORCH_CHECK_WITH(OutOfMemoryError, false, "no memory for ", images.size(0), " images");
        }
      }});

  EXPECT_EQ(outcome.code, contract::ExitCode::kFinished);
  EXPECT_EQ(outcome.step, 6);  // Of ceil(18 / 8) batches in each of two epochs, as ever.
  ASSERT_GT(sizes.size(), 2U);
  EXPECT_EQ(sizes.front(), share);
  for (std::size_t i = 1; i < sizes.size(); ++i) EXPECT_EQ(sizes[i], share / 2);

  const TrainOutcome none = run("none", {.before_forward = [&](at::Tensor&) {
                                  TORCH_CHECK_WITH(OutOfMemoryError, false, "no memory at all");
                                }});
  EXPECT_EQ(none.code, contract::ExitCode::kOutOfMemory);
  if (world->rank() == 0) {
    EXPECT_EQ(exit_record("none").at("reason"), "out_of_memory");
  }
}

// As where one rank has a GPU and another none.
TEST_F(TrainTest, RanksOfWhichOneReckonsWithoutMemoryKeepInStep) {
  use_small_model();
  args_.epochs = 1;
  const std::int64_t share = args_.batch / world->size();
  Ways ways;
  if (world->rank() == world->size() - 1) {
    ways.before_forward = [share](at::Tensor& images) {
      if (images.size(0) == share && share > 1) {
        TORCH_CHECK_WITH(OutOfMemoryError, false, "no memory");
      }
    };
  }

  const TrainOutcome outcome = run("run", ways);

  EXPECT_EQ(outcome.code, contract::ExitCode::kFinished);
  EXPECT_EQ(outcome.step, 5);
}

// The allocator gives up at the end of a backward pass, when the gradients of the other ranks have
// travelled: all that the batch left is taken back, as after a forward pass that gave up.
TEST_F(TrainTest, WithoutMemoryForTheBackwardPassABatchIsDoneAgainInParts) {
  use_small_model();
  args_.batch = 8;
  const std::int64_t share = args_.batch / world->size();
  int forwards = 0;  // Not in the first: the order of the gradients is learnt there.
  const auto is_too_large = [&](const at::Tensor& images) {
    return ++forwards > 1 && images.size(0) > share / 2 && world->rank() == world->size() - 1;
  };
  for (const char* wire : {"fp32", "bf16"}) {  // The latter owes what its rounding has left over.
    SCOPED_TRACE(wire);
    args_.wire = wire;
    const std::string forward = fmt::format("forward-{}", wire);
    const std::string backward = fmt::format("backward-{}", wire);
    forwards = 0;
    run(forward, {.before_forward = [&](at::Tensor& images) {
          if (is_too_large(images)) TORCH_CHECK_WITH(OutOfMemoryError, false, "no memory");
        }});
    int failures = 0;
    forwards = 0;
    const TrainOutcome outcome = run(backward, {.before_forward = [&](at::Tensor& images) {
                                       if (!is_too_large(images)) return;
                                       images = images.detach().clone().requires_grad_();
                                       images.register_hook([&failures](const at::Tensor&) {
                                         ++failures;
                                         TORCH_CHECK_WITH(OutOfMemoryError, false, "no memory");
                                       });
                                     }});

    EXPECT_EQ(outcome.code, contract::ExitCode::kFinished);
    EXPECT_EQ(outcome.step, 6);
    EXPECT_EQ(failures, world->rank() == world->size() - 1 ? 1 : 0);
    if (world->rank() != 0) continue;
    EXPECT_EQ(tensors(backward), tensors(forward));
    EXPECT_EQ(results(backward), results(forward));
  }
}

// What the ranks cannot do in parts ends the run and names itself; a library's word for it counts
// too.
TEST_F(TrainTest, WithoutMemoryForAStepOrOneImageOfAValidationTheReasonIsSaid) {
  use_small_model();
  const auto reason = [this](const Ways& ways) {
    try {
      static_cast<void>(run("run", ways));
    } catch (const OutOfMemory& error) {
      return std::string(error.what());
    }
    return std::string("none");
  };

  EXPECT_EQ(reason({.before_step = [] { TORCH_CHECK(false, "CUBLAS_STATUS_ALLOC_FAILED"); }}),
            "out of memory at epoch 1, batch 1: CUBLAS_STATUS_ALLOC_FAILED. Use a smaller batch, "
            "imgsz or model.");
  EXPECT_EQ(reason({.before_validation =
                        [](at::Tensor&) {
                          TORCH_CHECK_WITH(OutOfMemoryError, false, "no memory\nat all");
                        }}),
            "out of memory validating after epoch 1: no memory. Use a smaller batch, imgsz or "
            "model.");
}

}  // namespace
}  // namespace trainer
