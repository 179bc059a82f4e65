// SPDX-License-Identifier: GPL-3.0-or-later
//
// The gradient reducer under mpirun: against plain sums of integers, which are exact in floats, and
// bit for bit between ranks.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <torch/utils.h>

#include <chrono>
#include <optional>
#include <random>
#include <thread>

#include "tests/trainer/forwarding_ranks.h"
#include "tests/trainer/ranks.h"
#include "trainer/bfloat16.h"
#include "trainer/gradient_reducer.h"
#include "trainer/loss.h"
#include "trainer/replica.h"

namespace trainer {
namespace {

// The same numbers on all ranks, or others on each, by the seed.
class Dice {
 public:
  explicit Dice(unsigned seed) : engine_(seed) {}
  std::int64_t roll(std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(engine_);
  }
  torch::Tensor integers(at::IntArrayRef sizes) {
    torch::Tensor tensor = torch::empty(sizes);
    auto* values = tensor.data_ptr<float>();
    for (std::int64_t i = 0; i < tensor.numel(); ++i) values[i] = static_cast<float>(roll(-9, 9));
    return tensor;
  }

 private:
  std::mt19937 engine_;
};

// Parameters of random shapes, some with their channels last.
std::vector<torch::Tensor> random_parameters(Dice& dice) {
  std::vector<torch::Tensor> parameters;
  const std::int64_t count = dice.roll(1, 12);
  for (std::int64_t i = 0; i < count; ++i) {
    torch::Tensor values = dice.roll(0, 1) == 0
                               ? dice.integers({dice.roll(1, 40)})
                               : dice.integers({dice.roll(1, 9), dice.roll(1, 9), 3, 3});
    if (values.dim() == 4 && dice.roll(0, 1) == 1) {
      values = values.contiguous(torch::MemoryFormat::ChannelsLast);
    }
    parameters.push_back(values.set_requires_grad(true));
  }
  return parameters;
}

// Its gradient is `factor`, which the ranks choose differently.
torch::Tensor add_to_loss(torch::Tensor loss, const torch::Tensor& parameter,
                          const torch::Tensor& factor) {
  return loss + (parameter * factor).sum();
}

torch::Tensor plain_sum(const torch::Tensor& mine) {
  torch::Tensor sum = mine.contiguous().clone();
  world->all_reduce_sum(
      std::span<float>(sum.data_ptr<float>(), static_cast<std::size_t>(sum.numel())));
  return sum;
}

// A model, bucket size and wire; then steps of one to three backward passes each, in which every
// rank leaves out other parameters, in an order of its own.
void compare_with_plain_sums(unsigned seed) {
  SCOPED_TRACE(fmt::format("seed {}", seed));
  Dice shared(seed), own(1000 * seed + static_cast<unsigned>(world->rank()));
  const std::vector<torch::Tensor> parameters = random_parameters(shared);
  GradientReducer reducer(*world, parameters,
                          {.bucket_bytes_max = static_cast<std::size_t>(shared.roll(4, 3000))});
  for (int step = 0; step < 4; ++step) {
    const std::int64_t passes = shared.roll(1, 3);
    const bool is_armed = shared.roll(0, 3) > 0;
    std::vector<torch::Tensor> mine;
    for (torch::Tensor parameter : parameters) {
      if (parameter.grad().defined()) parameter.mutable_grad().zero_();
      mine.push_back(torch::zeros_like(parameter).detach());
    }
    for (std::int64_t pass = 0; pass < passes; ++pass) {
      torch::Tensor loss = torch::zeros({}, torch::requires_grad());
      for (std::size_t i = 0; i < parameters.size(); ++i) {
        if (own.roll(0, 3) == 0) continue;
        const torch::Tensor factor = own.integers(parameters[i].sizes());
        loss = add_to_loss(loss, parameters[i], factor);
        mine[i] += factor;
      }
      if (is_armed && pass + 1 == passes) reducer.arm();
      loss.backward();
    }
    reducer.reduce();

    for (std::size_t i = 0; i < parameters.size(); ++i) {
      const torch::Tensor sum = plain_sum(mine[i]);
      if (world->size() == 1 && !parameters[i].grad().defined()) continue;
      ASSERT_TRUE(torch::equal(parameters[i].grad(), sum)) << "step " << step << ", " << i;
      ASSERT_EQ(parameters[i].grad().strides(), parameters[i].strides());
    }
  }
}

TEST(GradientReducer, EqualsAPlainSumExactly) {
  constexpr unsigned kModels = 40;
  for (unsigned seed = 1; seed <= kModels; ++seed) compare_with_plain_sums(seed);
}

TEST(GradientReducer, CountsBucketsFromTheEndSoThatTheLastIsSmall) {
  if (world->size() == 1) return;
  const std::vector<torch::Tensor> parameters = {torch::zeros({1 << 18}, torch::requires_grad()),
                                                 torch::zeros({1 << 19}, torch::requires_grad()),
                                                 torch::zeros({1 << 19}, torch::requires_grad())};

  EXPECT_EQ(GradientReducer(*world, parameters).bucket_count(), 2U);  // 2 + 2 MiB, and 1 MiB.
  EXPECT_EQ(GradientReducer(*world, parameters, {.bucket_bytes_max = 4}).bucket_count(), 3U);
}

class CountingRanks : public ForwardingRanks {
 public:
  using ForwardingRanks::ForwardingRanks;
  Ticket start_sum(const SumRequest& request) override {
    ++sums;
    return ForwardingRanks::start_sum(request);
  }
  int sums = 0;
};

// Several backward passes to a step: only the last one sends.
TEST(GradientReducer, SendsNothingWhileItAccumulates) {
  if (world->size() == 1) return;
  CountingRanks ranks(*world);
  const torch::Tensor parameter = torch::ones({8}, torch::requires_grad());
  GradientReducer reducer(ranks, {parameter});
  for (int step = 1; step <= 2; ++step) {
    parameter.grad().zero_();
    for (int pass = 0; pass < 3; ++pass) parameter.sum().backward();
    EXPECT_EQ(ranks.sums, step - 1);
    reducer.arm();
    parameter.sum().backward();
    reducer.reduce();
    EXPECT_EQ(ranks.sums, step);
    EXPECT_TRUE(torch::equal(parameter.grad(), torch::full({8}, 4.0F * static_cast<float>(world->size()))));
  }
}

// A bucket of two gradients is under way before the first layer's gradient exists.
TEST(GradientReducer, SendsWhileTheBackwardPassRuns) {
  if (world->size() == 1) return;
  const torch::Tensor first = torch::ones({8}, torch::requires_grad());
  const torch::Tensor second = torch::ones({8}, torch::requires_grad());
  GradientReducer reducer(*world, {first, second}, {.bucket_bytes_max = 4});
  double second_when_first_comes = 0;
  // Behind the node of `first` lies everything that comes later in the backward pass.
  torch::Tensor scaled = first * 1;
  scaled.register_hook([&](const torch::Tensor&) {
    // Rank 0 waits for the sum of the other bucket in the middle of its backward pass.
    for (int look = 0; look < 20'000 && second_when_first_comes < world->size(); ++look) {
      world->advance();
      std::this_thread::sleep_for(std::chrono::microseconds(100));
      second_when_first_comes = static_cast<volatile float*>(second.grad().data_ptr<float>())[7];
    }
  });
  const torch::Tensor loss = (scaled * second).sum();
  const torch::Tensor later = loss + (second * 0).sum();
  reducer.arm();

  later.backward();
  reducer.reduce();

  EXPECT_EQ(second_when_first_comes, world->size());
}

TEST(GradientReducer, Bfloat16LosesNothingOverTheSteps) {
  if (world->size() == 1) return;
  constexpr int kSteps = 50;
  torch::Tensor parameter = torch::zeros({100}, torch::requires_grad());
  GradientReducer reducer(*world, {parameter}, {.wire = Wire::kBfloat16});
  // 1.001 is 1 in bfloat16: without feedback the thousandth would never arrive.
  constexpr float kGradient = 1.001F;
  double sum = 0;
  for (int step = 0; step < kSteps; ++step) {
    parameter.mutable_grad().zero_();
    reducer.arm();
    (parameter * kGradient).sum().backward();
    reducer.reduce();
    const torch::Tensor grad = parameter.grad();
    ASSERT_TRUE(torch::equal(grad, grad.to(torch::kBFloat16).to(torch::kFloat)));
    ASSERT_NO_THROW(check_replicas(*world, {grad}));
    sum += grad[world->rank()].item<double>();
  }
  // What is not delivered yet is less than one rounding of one step a rank and one of the sum.
  EXPECT_NEAR(sum, kSteps * world->size() * static_cast<double>(kGradient), 0.02 * world->size());
}

// The gradients of four steps, in one go or with another reducer from the second step on.
std::vector<torch::Tensor> sums_of_steps(int steps_of_first) {
  Dice shared(31);
  std::vector<torch::Tensor> parameters;
  for (int i = 0; i < 5; ++i) parameters.push_back(torch::zeros({50 + i}).set_requires_grad(true));
  const GradientReducer::Options options{.bucket_bytes_max = 300, .wire = Wire::kBfloat16};
  std::optional<GradientReducer> reducer;
  reducer.emplace(*world, parameters, options);
  std::vector<torch::Tensor> sums;
  for (int step = 0; step < 4; ++step) {
    if (step == steps_of_first) {
      const auto state = reducer->wire_state();
      reducer.emplace(*world, parameters, options);
      reducer->load_wire_state(state);
    }
    torch::Tensor loss = torch::zeros({});
    for (const std::size_t i : {3, 0, 4, 1, 2}) {  // Not the order of the parameters.
      const torch::Tensor factor = shared.integers({50 + static_cast<std::int64_t>(i)}) / 7 +
                                   world->rank() * 0.013;
      loss = add_to_loss(loss, parameters[i], factor);
    }
    reducer->arm();
    loss.backward();
    reducer->reduce();
    for (torch::Tensor& parameter : parameters) {
      sums.push_back(parameter.grad().clone());
      parameter.mutable_grad().zero_();
    }
  }
  return sums;
}

TEST(GradientReducer, GoesOnFromTheStateOfItsWireBitForBit) {
  const std::vector<torch::Tensor> whole = sums_of_steps(-1);
  for (const int steps : {1, 2, 3}) {
    SCOPED_TRACE(steps);
    const std::vector<torch::Tensor> parts = sums_of_steps(steps);
    for (std::size_t i = 0; i < whole.size(); ++i) EXPECT_TRUE(torch::equal(parts[i], whole[i]));
  }
}

TEST(Bfloat16, RoundsToNearestEvenAndKeepsWhatIsNoNumber) {
  for (const float value : {0.F, -0.F, 1.F, 1.00390625F, 1.01171875F, 3.3e38F, 1e-40F, -7.7F,
                            std::numeric_limits<float>::infinity()}) {
    const torch::Tensor theirs = torch::tensor(value).to(torch::kBFloat16).to(torch::kFloat);
    EXPECT_EQ(from_bfloat16(to_bfloat16(value)), theirs.item<float>()) << value;
  }
  EXPECT_TRUE(std::isnan(from_bfloat16(to_bfloat16(std::nanf("1")))));
}

TEST(Sums, MayGoOnBesideOtherCallsInAnyOrder) {
  std::vector<float> first(100'000, 1), second(7, static_cast<float>(world->rank()));
  const Communicator::Ticket one = world->start_sum({.values = first});
  if (world->rank() % 2 == 0) world->barrier();  // Others come later, with the second under way.
  const Communicator::Ticket two = world->start_sum({.values = second});
  if (world->rank() % 2 == 1) world->barrier();
  world->wait(two);
  world->wait(one);

  const int ranks = world->size();
  EXPECT_EQ(first, std::vector<float>(100'000, static_cast<float>(ranks)));
  EXPECT_EQ(second, std::vector<float>(7, static_cast<float>(ranks * (ranks - 1) / 2)));
}

// Rounding depends on the order of the terms alone, not on what lies beside an element.
TEST(Sums, HaveTheSameBitsWhereverTheyTravel) {
  torch::manual_seed(7 + world->rank());
  const torch::Tensor values = torch::randn({1000});
  torch::Tensor together = values.clone(), shifted = values.clone();
  const auto span = [](torch::Tensor& tensor, std::size_t from, std::size_t count) {
    return std::span<float>(tensor.data_ptr<float>() + from, count);
  };
  world->wait(world->start_sum({.values = span(together, 0, 1000)}));
  for (std::size_t at = 0; at < 1000; at += 125) {
    world->wait(world->start_sum({.values = span(shifted, at, 125)}));
  }
  EXPECT_TRUE(torch::equal(together, shifted));
}

// An error between a sum's start and its end takes the tensors away. What comes to lie in their place
// is not the sum's.
TEST(Sums, KeepTheirMemoryWhenWhoStartedThemIsGone) {
  const std::int64_t kLength = 16'384;
  const bool is_first = world->rank() == 0;
  const auto start = [&](auto finish) {
    FlatSum sum(*world, {torch::ones({kLength})});
    sum.start();
    finish(sum);
  };
  std::vector<torch::Tensor> next;
  if (is_first) {
    start([](FlatSum&) {});
    for (int i = 0; i < 8; ++i) next.push_back(torch::full({kLength}, 7));
  }
  world->barrier();
  if (!is_first) start([](FlatSum& sum) { sum.finish_mean(); });
  std::vector<float> after(1, 1);
  world->wait(world->start_sum({.values = after}));

  for (const torch::Tensor& each : next) EXPECT_TRUE((each == 7).all().item<bool>());
}

TEST(Replica, IsTheSameOnAllRanksAfterAHundredSteps) {
  torch::manual_seed(world->rank());
  const contract::Architecture small = contract::parse_architecture(
      "nc: 2\n"
      "backbone:\n"
      "  - [-1, 1, Conv, [8, 3, 2]]\n"
      "  - [-1, 1, Conv, [8, 3, 2]]\n"
      "  - [-1, 1, Conv, [16, 3, 2]]\n"
      "  - [-1, 1, Conv, [16, 3, 2]]\n"
      "  - [-1, 1, Conv, [16, 3, 2]]\n"
      "head:\n"
      "  - [[2, 3, 4], 1, Detect, [nc]]\n",
      "small", "small");
  Replica replica(small, 2, OptimizerKind::kSgd, 5e-4, torch::kCPU, *world, {},
                  {.bucket_bytes_max = 20'000});
  replica.share(0);
  replica.model().train();
  StepRates rates;
  rates.lr.fill(0.01);
  const torch::Tensor targets = torch::tensor({{0.F, 1.F, .5F, .5F, .4F, .6F}});
  for (int step = 0; step < 100; ++step) {
    const LossValue loss =
        detection_loss(replica.model().forward(torch::rand({1, 3, 64, 64})),
                       replica.model().strides(), targets, {}, world->size(),
                       [](const torch::Tensor& own) { return sum_of_ranks(*world, own); });
    replica.backward(loss.total, Replica::Backward::kStepFollows);
    replica.step(rates, step + 1);
    ASSERT_TRUE(replica.is_finite());
  }
  EXPECT_NO_THROW(replica.check());
}

}  // namespace
}  // namespace trainer
