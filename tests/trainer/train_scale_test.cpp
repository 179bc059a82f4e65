// SPDX-License-Identifier: GPL-3.0-or-later
//
// Runs whose loss is scaled for gradients in float16. On CPUs the factor is all there is of it:
// a power of two, which leaves no trace. Runs under mpirun with 1 and 2 ranks.
#include "tests/trainer/train_fixture.h"

#include <cmath>

#include "trainer/contract/architecture.h"
#include "trainer/loss_scale.h"
#include "trainer/replica.h"

namespace trainer {
namespace {

class ScaledLoss : public TrainTest {
 protected:
  void SetUp() override {
    TrainTest::SetUp();
    use_small_model();
    args_.nbs = 12;  // A step is made of three batches, an epoch of five.
    args_.warmup_epochs = 0;
  }
  // All that a step changes, of the newest checkpoint.
  std::uint32_t trained(const std::string& name) const {
    const auto pointer = nlohmann::json::parse(read(name + "/weights/last.json"));
    const TensorFile file = read_tensor_file(
        root_ + name + "/weights/" + pointer.at("generations").at(0).at("file").get<std::string>());
    std::vector<torch::Tensor> all;
    for (const auto& [key, tensor] : file.tensors) {
      if (!key.starts_with("gradient/") && !key.starts_with("wire/")) all.push_back(tensor);
    }
    return checksum(all);
  }
};

TEST_F(ScaledLoss, TrainsTheSameWeights) {
  ASSERT_EQ(run("plain").code, contract::ExitCode::kFinished);
  args_.amp = "fp16";
  ASSERT_EQ(run("scaled").code, contract::ExitCode::kFinished);

  if (world->rank() != 0) return;
  EXPECT_EQ(progress("plain").loss_scale, 0);
  EXPECT_EQ(progress("scaled").loss_scale, 65536);
  EXPECT_EQ(progress("scaled").loss_scale_steps, 3);
  EXPECT_EQ(trained("scaled"), trained("plain"));
}

// The first epoch ends between two steps: what lies in its checkpoint is scaled or not, gradients and
// with bf16 what rounding has left over.
TEST_F(ScaledLoss, GoesOnFromWhatWasSavedWithoutAFactorAndTheOtherWayRound) {
  for (const auto& [first, wire] : {std::pair("fp16", "fp32"), std::pair("false", "fp32"),
                                    std::pair("fp16", "bf16"), std::pair("false", "bf16")}) {
    SCOPED_TRACE(std::string(first) + ", " + wire);
    args_.wire = wire;
    const std::string plain = std::string("plain-") + wire;
    args_.amp = "false";
    args_.epochs = 1;
    ASSERT_EQ(run(plain).code, contract::ExitCode::kFinished);
    args_.epochs = 2;
    ASSERT_EQ(run(plain).code, contract::ExitCode::kFinished);
    const std::string name = std::string(wire) + "-first-" + first;
    args_.amp = first;
    args_.epochs = 1;
    ASSERT_EQ(run(name).code, contract::ExitCode::kFinished);
    if (world->rank() == 0) {
      EXPECT_EQ(progress(name).pending_batches, 2);
    }
    args_.amp = args_.amp == "fp16" ? "false" : "fp16";
    args_.epochs = 2;
    ASSERT_EQ(run(name).code, contract::ExitCode::kFinished);

    if (world->rank() != 0) continue;
    EXPECT_EQ(progress(name).loss_scale, args_.amp == "fp16" ? 65536 : 0);
    EXPECT_EQ(trained(name), trained(plain));
  }
}

TEST_F(ScaledLoss, LeavesOutStepsThatOverflowUntilTheFactorFits) {
  constexpr double kTooLarge = 0x1p126;
  args_.amp = "fp16";
  args_.epochs = 12;
  args_.nbs = 4;  // A step a batch.
  args_.wire = "bf16";
  ASSERT_EQ(run("run", {.stop_at_step = 1}).code, contract::ExitCode::kStopped);
  change_progress("run", [](Progress& changed) { changed.loss_scale = kTooLarge; });

  const TrainOutcome outcome = run("run");

  EXPECT_EQ(outcome.code, contract::ExitCode::kFinished);
  if (world->rank() != 0) return;
  const Progress end = progress("run");
  EXPECT_EQ(end.reloads, 0);
  EXPECT_LT(end.loss_scale, kTooLarge);
  EXPECT_GT(end.loss_scale, 65536);
  const std::int64_t left_out = end.step - end.optimizer_steps;
  EXPECT_EQ(end.loss_scale, std::ldexp(kTooLarge, -static_cast<int>(left_out)));
  EXPECT_GT(end.optimizer_steps, 1);
}

torch::Tensor sum_of_weights(Replica& replica) {
  torch::Tensor sum = torch::zeros({});
  for (const torch::Tensor& each : replica.model().parameters()) {
    if (each.requires_grad()) sum = sum + each.sum();
  }
  return sum;
}

// Without images: the last rank adds `gradient` to that of each weight.
TEST(Replica, LeavesOutAStepWhoseGradientsOverflowUnlessTheFactorIsGone) {
  torch::manual_seed(1);
  const contract::Architecture small = contract::parse_architecture(
      "nc: 2\n"
      "backbone:\n"
      "  - [-1, 1, Conv, [8, 3, 2]]\n"
      "  - [-1, 1, Conv, [8, 3, 2]]\n"
      "  - [-1, 1, Conv, [16, 3, 2]]\n"
      "head:\n"
      "  - [[0, 1, 2], 1, Detect, [nc]]\n",
      "small", "small");
  Replica replica(small, 2, OptimizerKind::kSgd, 0, torch::kCPU, *world, {}, {.wire = Wire::kBfloat16});
  replica.share(0);
  const auto step_with = [&](double gradient) {
    const torch::Tensor sum = sum_of_weights(replica);
    StepRates rates;
    rates.lr.fill(0.01);
    const torch::Tensor loss = sum * (world->rank() == world->size() - 1 ? gradient : 1);
    replica.backward(loss, Replica::Backward::kStepFollows);
    replica.step(rates, 1);
  };
  const auto weight = [&] { return replica.model().parameters().front().detach().clone(); };
  const torch::Tensor before = weight();

  replica.scale_loss({.factor = 2, .clean_steps = 7});
  step_with(HUGE_VAL);
  EXPECT_TRUE(replica.is_finite());
  EXPECT_TRUE(weight().equal(before));
  EXPECT_EQ(replica.optimizer().steps(), 0);
  EXPECT_EQ(replica.loss_scale()->factor, 1);
  EXPECT_EQ(replica.loss_scale()->clean_steps, 0);

  step_with(1);
  EXPECT_TRUE(replica.is_finite());
  EXPECT_FALSE(weight().equal(before));
  EXPECT_TRUE(weight().isfinite().all().item<bool>());
  EXPECT_EQ(replica.loss_scale()->clean_steps, 1);
  EXPECT_NO_THROW(replica.check());

  replica.scale_loss({.factor = 2});
  replica.backward(sum_of_weights(replica) * HUGE_VAL, Replica::Backward::kMoreFollows);
  replica.settle();
  EXPECT_TRUE(replica.is_finite());
  EXPECT_EQ(replica.loss_scale()->factor, 1);
  EXPECT_EQ(replica.optimizer().gradient_norm().item<double>(), 0);

  step_with(HUGE_VAL);
  EXPECT_FALSE(replica.is_finite());
}

TEST(LossScale, GrowsAfterManyCleanStepsAndNotForEver) {
  LossScale scale;
  for (int i = 0; i < 1999; ++i) scale.note_step();
  EXPECT_EQ(scale.factor, 65536);
  scale.note_step();
  EXPECT_EQ(scale.factor, 131072);
  EXPECT_EQ(scale.clean_steps, 0);
  scale.note_overflow();
  EXPECT_EQ(scale.factor, 65536);
  for (int i = 0; i < 100 * 2000; ++i) scale.note_step();
  EXPECT_EQ(scale.factor, 16777216);
  EXPECT_FALSE((LossScale{1, 0}.can_shrink()));
}

}  // namespace
}  // namespace trainer
