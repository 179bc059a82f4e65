// SPDX-License-Identifier: GPL-3.0-or-later
#include "trainer/norm_act.h"

#include <gtest/gtest.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/utils.h>

#include <limits>

#include "trainer/norm_act_kernels.h"

namespace trainer {
namespace {

struct Shape {
  std::int64_t images, channels, height, width;
};

void PrintTo(const Shape& shape, std::ostream* out) {
  *out << shape.images << "x" << shape.channels << "x" << shape.height << "x" << shape.width;
}

// Largest difference over the largest value.
double difference(const torch::Tensor& a, const torch::Tensor& b) {
  return (a - b).abs().max().item<double>() / std::max(1e-9, b.abs().max().item<double>());
}

class NormAct : public testing::TestWithParam<Shape> {
 protected:
  NormAct() {
    torch::manual_seed(7);
    torch::NoGradGuard no_grad;
    const std::int64_t channels = GetParam().channels;
    const auto options = torch::nn::BatchNorm2dOptions(channels).eps(1e-3).momentum(0.03);
    ours_ = SyncNorm(options);
    torchs_ = torch::nn::BatchNorm2d(options);
    ours_->weight.uniform_(0.5, 1.5);
    ours_->bias.uniform_(-0.5, 0.5);
    ours_->running_mean.uniform_(-0.2, 0.2);
    ours_->running_var.uniform_(0.5, 1.5);
    torchs_->weight.copy_(ours_->weight);
    torchs_->bias.copy_(ours_->bias);
    torchs_->running_mean.copy_(ours_->running_mean);
    torchs_->running_var.copy_(ours_->running_var);
    // Far from zero: a mean that is large against the deviation.
    x_ = torch::randn({GetParam().images, channels, GetParam().height, GetParam().width}) * 2 + 9;
  }

  // Rounding differs by the order of the sums and by the last bits of the exponential.
  void expect_the_same() {
    torch::Tensor a = x_.clone().set_requires_grad(true), b = x_.clone().set_requires_grad(true);
    const torch::Tensor ours = norm_act(*ours_, a), theirs = torch::silu(torchs_(b));
    const torch::Tensor slope = torch::randn_like(x_);
    ours.backward(slope);
    theirs.backward(slope);

    EXPECT_LT(difference(ours, theirs), 1e-5);
    EXPECT_LT(difference(a.grad(), b.grad()), 2e-5);
    EXPECT_LT(difference(ours_->weight.grad(), torchs_->weight.grad()), 2e-5);
    EXPECT_LT(difference(ours_->bias.grad(), torchs_->bias.grad()), 2e-5);
    EXPECT_LT(difference(ours_->running_mean, torchs_->running_mean), 1e-6);
    EXPECT_LT(difference(ours_->running_var, torchs_->running_var), 1e-5);
    EXPECT_TRUE(torch::equal(ours_->num_batches_tracked, torchs_->num_batches_tracked));
  }

  SyncNorm ours_{nullptr};
  torch::nn::BatchNorm2d torchs_{nullptr};
  torch::Tensor x_;
};

TEST_P(NormAct, TrainsAsTorchsOperatorsDo) {
  expect_the_same();
}

TEST_P(NormAct, WithFrozenStatisticsToo) {
  ours_->eval();
  torchs_->eval();
  expect_the_same();
}

TEST_P(NormAct, WithoutGradientsToo) {
  torch::NoGradGuard no_grad;
  ours_->eval();
  torchs_->eval();
  const torch::Tensor theirs = torch::silu(torchs_(x_));

  EXPECT_LT(difference(norm_act(*ours_, x_.clone()), theirs), 1e-5);
}

INSTANTIATE_TEST_SUITE_P(Shapes, NormAct,
                         testing::Values(Shape{2, 16, 9, 7}, Shape{1, 3, 5, 5},
                                         Shape{4, 80, 40, 40}, Shape{1, 1, 4, 5}));

TEST(NormAct, GivesTheSameBitsWithAnyNumberOfThreads) {
  SyncNorm norm(torch::nn::BatchNorm2dOptions(16));
  const torch::Tensor x = torch::randn({4, 16, 80, 80});
  const int before = torch::get_num_threads();
  std::vector<torch::Tensor> results;
  for (const int threads : {1, 2, 3}) {
    torch::set_num_threads(threads);
    torch::Tensor input = x.clone().set_requires_grad(true);
    norm_act(*norm, input).square().sum().backward();
    results.push_back(input.grad());
  }
  torch::set_num_threads(before);

  EXPECT_TRUE(torch::equal(results[0], results[1]));
  EXPECT_TRUE(torch::equal(results[0], results[2]));
}

TEST(NormAct, KeepsWhatIsNotANumberVisible) {
  SyncNorm norm(torch::nn::BatchNorm2dOptions(2));
  torch::Tensor x = torch::randn({1, 2, 4, 4});
  x[0][1][2][2] = std::numeric_limits<float>::quiet_NaN();

  const torch::Tensor y = norm_act(*norm, x);

  EXPECT_FALSE(y.select(1, 0).isnan().any().item<bool>());
  EXPECT_TRUE(y.select(1, 1).isnan().all().item<bool>());
}

TEST(NormActKernels, AreRightFarOutAndInPlace) {
  const float scale = 1, shift = 0;
  std::vector<float> values = {-1000, -100, -20, -1, 0, 1, 20, 100, 1000};
  const torch::Tensor expected =
      torch::silu(torch::tensor(at::ArrayRef<float>(values)).to(torch::kDouble));

  kernels::scale_shift_silu(values.data(), values.size(), 1, &scale, &shift, values.data());

  for (std::size_t i = 0; i < values.size(); ++i) {
    const double right = expected[static_cast<std::int64_t>(i)].item<double>();
    EXPECT_NEAR(values[i], right, 1e-6 * std::abs(right) + 1e-22) << i;
  }
}

}  // namespace
}  // namespace trainer
