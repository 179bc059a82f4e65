// SPDX-License-Identifier: GPL-3.0-or-later
//
// Batch norm over the batches of all ranks. Runs under mpirun; every rank also computes what one
// process gives for the global batch and compares.
#include <gtest/gtest.h>
#include <torch/utils.h>

#include "tests/trainer/ranks.h"
#include "tests/trainer/ranks_gradients.h"
#include "tests/trainer/reference_numbers.h"
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
  SharedBatch batch;
  batch.model.train();
  const std::vector<torch::Tensor> expected = batch.whole();
  synchronise_norms(batch.model, *world);

  const std::vector<torch::Tensor> gradients = batch.shared_by(*world);

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
