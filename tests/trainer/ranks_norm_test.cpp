// SPDX-License-Identifier: GPL-3.0-or-later
//
// Batch norm over the batches of all ranks. Runs under mpirun; every rank also computes what one
// process gives for the global batch and compares.
#include <gtest/gtest.h>
#include <torch/utils.h>

#include "tests/trainer/ranks.h"
#include "tests/trainer/reference_numbers.h"
#include "trainer/gradient_reducer.h"
#include "trainer/loss.h"
#include "trainer/model.h"
#include "trainer/norm_act.h"
#include "trainer/sync_norm.h"

namespace trainer {
namespace {

constexpr std::int64_t kImagesEach = 2, kChannels = 5;

struct Way {
  const char* name;
  torch::ScalarType type;
  bool is_activated;
  double tolerance;
};
void PrintTo(const Way& way, std::ostream* out) {
  *out << way.name;
}

class SyncedNorm : public testing::TestWithParam<Way> {
 protected:
  SyncNorm make() const {
    SyncNorm norm(torch::nn::BatchNorm2dOptions(kChannels).eps(1e-3).momentum(0.03));
    torch::NoGradGuard no_grad;
    norm->weight.copy_(torch::linspace(0.5, 1.5, kChannels));
    norm->bias.copy_(torch::linspace(-0.4, 0.6, kChannels));
    norm->to(GetParam().type);
    return norm;
  }
  torch::Tensor apply(SyncNorm& norm, const torch::Tensor& x) const {
    return GetParam().is_activated ? norm_act(*norm, x) : norm(x);
  }
};

TEST_P(SyncedNorm, GivesEachRankItsPartOfWhatOneProcessGives) {
  torch::manual_seed(11);
  const std::int64_t ranks = world->size(), first = world->rank() * kImagesEach;
  // Images differ in mean and spread, so that a rank's own statistics would be others.
  const torch::Tensor level =
      torch::arange(ranks * kImagesEach, GetParam().type).view({-1, 1, 1, 1});
  const torch::Tensor x =
      (torch::randn({ranks * kImagesEach, kChannels, 6, 7}).to(GetParam().type) * (1 + level) +
       3 * level);
  const torch::Tensor slope = torch::randn_like(x);
  torch::Tensor whole = x.clone().set_requires_grad(true);
  torch::Tensor part = x.narrow(0, first, kImagesEach).clone().set_requires_grad(true);
  SyncNorm alone = make(), synced = make();
  synchronise_norms(*synced, *world);

  const torch::Tensor expected = apply(alone, whole), y = apply(synced, part);
  expected.backward(slope);
  y.backward(slope.narrow(0, first, kImagesEach).clone());
  std::vector<torch::Tensor> summed;
  for (const torch::Tensor& gradient : {synced->weight.grad(), synced->bias.grad()}) {
    torch::Tensor sum = gradient.to(torch::kDouble).contiguous();
    world->all_reduce_sum(std::span<double>(sum.data_ptr<double>(), kChannels));
    summed.push_back(sum);
  }

  const double tolerance = GetParam().tolerance;
  const auto part_of = [&](const torch::Tensor& all) { return all.narrow(0, first, kImagesEach); };
  EXPECT_LT(reference::difference(y, part_of(expected)), tolerance);
  EXPECT_LT(reference::difference(part.grad(), part_of(whole.grad())), tolerance);
  EXPECT_LT(reference::difference(summed[0], alone->weight.grad().to(torch::kDouble)), tolerance);
  EXPECT_LT(reference::difference(summed[1], alone->bias.grad().to(torch::kDouble)), tolerance);
  EXPECT_LT(reference::difference(synced->running_mean, alone->running_mean), tolerance);
  EXPECT_LT(reference::difference(synced->running_var, alone->running_var), tolerance);
}

INSTANTIATE_TEST_SUITE_P(Ways, SyncedNorm,
                         testing::Values(Way{"fused", torch::kFloat, true, 2e-5},
                                         Way{"plain", torch::kFloat, false, 2e-5},
                                         Way{"plain of doubles", torch::kDouble, true, 1e-10}));

TEST(SyncedNorms, GiveTheFirstGradientsOfOneProcessToRounding) {
  constexpr std::int64_t kGlobalBatch = 4;
  torch::manual_seed(3);
  DetectionModel model("yolov8n", 3);
  model.train();
  const torch::Tensor images = torch::rand({kGlobalBatch, 3, 64, 64});
  // Image 2 has nothing on it, the others one to three objects.
  const torch::Tensor targets = torch::tensor({{0.F, 0.F, .5F, .5F, .4F, .6F},
                                               {1.F, 1.F, .3F, .4F, .5F, .5F},
                                               {1.F, 2.F, .7F, .6F, .3F, .4F},
                                               {3.F, 2.F, .5F, .5F, .8F, .8F},
                                               {3.F, 1.F, .2F, .2F, .3F, .3F},
                                               {3.F, 0.F, .8F, .8F, .3F, .2F}});
  std::vector<torch::Tensor> parameters;
  for (const torch::Tensor& parameter : model.parameters()) {
    if (parameter.requires_grad()) parameters.push_back(parameter);
  }
  const auto gradients_of = [&](std::int64_t first, std::int64_t count, Communicator* ranks) {
    torch::Tensor own = targets.clone();
    own = own.index({(own.select(1, 0) >= first) & (own.select(1, 0) < first + count)}).clone();
    own.select(1, 0).sub_(first);
    std::optional<GradientReducer> reducer;
    for (torch::Tensor& parameter : parameters) parameter.mutable_grad().reset();
    if (ranks != nullptr) {
      synchronise_norms(model, *ranks);
      reducer.emplace(*ranks, parameters);
    }
    const LossValue loss =
        detection_loss(model.forward(images.narrow(0, first, count)), model.strides(), own, {},
                       kGlobalBatch, [&](double value) {
                         if (ranks != nullptr) ranks->all_reduce_sum(std::span<double>(&value, 1));
                         return value;
                       });
    if (reducer) reducer->arm();
    loss.total.backward();
    if (reducer) reducer->reduce();
    std::vector<torch::Tensor> gradients;
    for (const torch::Tensor& parameter : parameters) gradients.push_back(parameter.grad().clone());
    return gradients;
  };
  const std::vector<torch::Tensor> expected = gradients_of(0, kGlobalBatch, nullptr);
  const std::int64_t share = kGlobalBatch / world->size();

  const std::vector<torch::Tensor> gradients = gradients_of(world->rank() * share, share, world);

  // Of all gradients together: norms of a hundred layers make rounding larger on the way back.
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    difference += (gradients[i] - expected[i]).square().sum().item<double>();
    size += expected[i].square().sum().item<double>();
  }
  EXPECT_LT(std::sqrt(difference / size), 1e-3);
}

}  // namespace
}  // namespace trainer
