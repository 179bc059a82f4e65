// SPDX-License-Identifier: GPL-3.0-or-later
//
// What a run carries from batch to batch, and the files of tensors that hold it.
#include <gtest/gtest.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/conv.h>
#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>
#include <torch/optim/sgd.h>
#include <torch/utils.h>

#include <random>

#include "tests/trainer/reference_numbers.h"
#include "tests/trainer/temp_folder.h"
#include "trainer/durable_file.h"
#include "trainer/ema.h"
#include "trainer/model.h"
#include "trainer/optimizer.h"
#include "trainer/schedule.h"
#include "trainer/tensor_file.h"
#include "trainer/tensor_header.h"

namespace trainer {
namespace {

namespace fs = std::filesystem;

class ScheduleCase : public testing::TestWithParam<const char*> {};

TEST_P(ScheduleCase, FollowsTheReferenceBatchByBatch) {
  SKIP_WITHOUT_REFERENCE("schedule.json");
  const nlohmann::json run = reference::json("schedule.json").at(GetParam());
  contract::TrainArgs args;
  for (const auto& [key, value] : run.at("args").items()) {
    const std::string text = value.is_string() ? value.get<std::string>() : value.dump();
    static_cast<void>(contract::set_train_arg(args, key, text));  // Some are not ours.
  }
  args.batch = 2;
  constexpr int kClasses = 1;
  const OptimizerChoice choice = choose_optimizer(args, kClasses, run.at("n_train"));
  const std::int64_t batches = run.at("nb");
  ScheduleOptions options = schedule_options(args, choice, batches, args.epochs);
  // As recorded, where warm-up took 100 batches at least, however short the run was: compared is the
  // schedule for a given warm-up. Ours takes half of a short run at most (docs/fidelity.md).
  options.warmup_batches = std::max<std::int64_t>(0, run.at("nw").get<std::int64_t>());
  EXPECT_EQ(name_of(choice.kind), run.at("optimizer").get<std::string>());
  EXPECT_NEAR(scaled_weight_decay(args), run.at("groups").at(1).at("weight_decay"), 1e-12);

  std::int64_t pending = 0, updates = 0;
  for (std::size_t i = 0; i < run.at("iters").size(); ++i) {
    SCOPED_TRACE(i);
    const nlohmann::json expected = run.at("iters").at(i);
    const BatchPlan plan =
        plan_batch(options, static_cast<std::int64_t>(i), expected.at("epoch"), args.epochs);
    if (++pending >= plan.accumulate) {
      ++updates;
      pending = 0;
    }
    for (std::size_t group = 0; group < kGroupCount; ++group) {
      EXPECT_WITHIN("schedule, learning rates",
                    std::abs(plan.rates.lr[group] - expected.at("lr").at(group).get<double>()),
                    1e-9);
    }
    EXPECT_WITHIN("schedule, momentum",
                  std::abs(plan.rates.momentum - expected.at("momentum").at(0).get<double>()),
                  1e-9);
    EXPECT_EQ(plan.accumulate, expected.at("accumulate"));
    EXPECT_EQ(updates, expected.at("ema_updates"));
    EXPECT_WITHIN("EMA, decay", std::abs(ema_decay(updates) - expected.at("ema_d").get<double>()),
                  1e-12);
  }
}
INSTANTIATE_TEST_SUITE_P(Reference, ScheduleCase,
                         testing::Values("sgd_linear", "sgd_cos", "adamw_linear", "auto", "nowarm"),
                         [](const auto& each) { return std::string(each.param); });

TEST(Schedule, WarmUpTakesAtMostHalfOfTheRun) {
  const contract::TrainArgs args;

  EXPECT_EQ(warmup_batches(args, 1000, 100), 3000);
  EXPECT_EQ(warmup_batches(args, 13, 60), 100);
  EXPECT_EQ(warmup_batches(args, 1000, 1), 500);
  EXPECT_EQ(warmup_batches(args, 10, 0.5), 2);
}

TEST(Schedule, ShorterPlansBendTheCurveDown) {
  const ScheduleOptions options;

  EXPECT_DOUBLE_EQ(decay_factor(options, 0, 100), 1.0);
  EXPECT_GT(decay_factor(options, 5, 100), decay_factor(options, 5, 10));
  EXPECT_DOUBLE_EQ(decay_factor(options, 10, 10), 0.01);
  EXPECT_DOUBLE_EQ(decay_factor(options, 12, 10), 0.01);
}

TEST(Optimizer, AutoTakesSgdForLongRuns) {
  contract::TrainArgs args;

  EXPECT_EQ(choose_optimizer(args, 3, 205).kind, OptimizerKind::kAdamW);
  EXPECT_DOUBLE_EQ(choose_optimizer(args, 3, 205).lr0, 0.001429);
  EXPECT_EQ(choose_optimizer(args, 3, 64 * 101).kind, OptimizerKind::kSgd);
}

struct Vector : torch::nn::Module {
  Vector() : weight(register_parameter("weight", torch::tensor({{0.5F, -1.0F, 2.0F}}))) {}
  torch::Tensor weight;
};

struct KinCase {
  const char* name;
  OptimizerKind kind;
  std::array<double, 3> after_3, after_12;
};

// Numbers of torch.optim 1.13: lr 0.01, betas or momentum 0.9, weight decay 0.0005, with the
// gradients (0.1 t, -0.2, 0.05 (-1)^t t) at step t. Those of NAdam are of the paper's formula in
// double precision, as PyTorch 2 has it: 1.13 multiplies one momentum too many into its product.
TEST(Optimizer, TheKinOfAdamStepAsPyTorchs) {
  const KinCase cases[] = {
      // Not in torch: computed in double precision from the papers. One row is a matrix of rank 1,
      // whose singular value goes the way of one number.
      {"MuSGD",
       OptimizerKind::kMuSgd,
       {0.482897313, -0.980725414, 2.002105026},
       {0.154802827, -0.868328822, 1.995791411}},
      {"Adamax",
       OptimizerKind::kAdamax,
       {0.475462437, -0.969999671, 2.0094564},
       {0.417987049, -0.8799932, 2.00825238}},
      {"NAdam",
       OptimizerKind::kNAdam,
       {0.470191981, -0.974276694, 2.010229445},
       {0.369398565, -0.901901565, 2.001019794}},
      {"RAdam",
       OptimizerKind::kRAdam,
       {0.495396107, -0.993985057, 2.00055146},
       {0.486482114, -0.986958504, 2.00052261}},
      {"RMSProp",
       OptimizerKind::kRmsProp,
       {-0.0213843696, -0.536324799, 2.17989635},
       {-3.49561715, 1.98113394, 2.36113071}},
  };
  for (const KinCase& each : cases) {
    SCOPED_TRACE(each.name);
    contract::TrainArgs args;
    args.optimizer = each.name;
    ASSERT_EQ(choose_optimizer(args, 3, 100).kind, each.kind);
    EXPECT_EQ(name_of(each.kind), each.name);

    Vector module;
    auto optimizer = std::make_unique<Optimizer>(module, each.kind, 0.0005);
    for (int step = 1; step <= 12; ++step) {
      const float sign = step % 2 == 0 ? 1 : -1;
      module.weight.mutable_grad() = torch::tensor(
          {{0.1F * static_cast<float>(step), -0.2F, 0.05F * sign * static_cast<float>(step)}});
      optimizer->step({.lr = {0.01, 0.01, 0.01}, .momentum = 0.9});
      if (step == 3 || step == 12) {
        for (int i = 0; i < 3; ++i) {
          const double expected =
              (step == 3 ? each.after_3 : each.after_12).at(static_cast<std::size_t>(i));
          EXPECT_NEAR(module.weight[0][i].item<double>(), expected, 2e-6) << step;
        }
      }
      if (step == 5) {  // Resumed from its state, it goes on as if never stopped.
        NamedTensors state;
        for (const auto& [name, tensor] : optimizer->state()) {
          state.emplace_back(name, tensor.clone());
        }
        optimizer = std::make_unique<Optimizer>(module, each.kind, 0.0005);
        optimizer->load_state(state, 5);
      }
    }
  }
}

// A kernel of 6 filters of 2 x 3 x 3, a gain a filter, and a bias.
struct Filters : torch::nn::Module {
  Filters()
      : weight(register_parameter("weight", torch::zeros({6, 2, 3, 3}))),
        gain(register_parameter("gain", torch::zeros({6, 1, 1}))),
        bias(register_parameter("bias", torch::zeros({6}))) {}
  torch::Tensor weight, gain, bias;
};

// The first step from zero is 0.1 x 1.9 gradients of SGD, and for kernels 0.1 x 0.2 of a matrix
// with the gradient's singular vectors and singular values near 1.
TEST(Optimizer, MuSgdAddsAnOrthogonalStepToKernelsAlone) {
  torch::manual_seed(3);
  Filters module;
  Optimizer optimizer(module, OptimizerKind::kMuSgd, 0);
  for (torch::Tensor* each : {&module.weight, &module.gain, &module.bias}) {
    each->mutable_grad() = torch::randn_like(*each);
  }
  constexpr double kLr = 0.1, kMomentum = 0.9, kPart = 0.2;

  optimizer.step({.lr = {kLr, kLr, kLr}, .momentum = kMomentum});

  torch::NoGradGuard no_grad;
  const auto sgd = [&](const torch::Tensor& gradient) { return gradient * -kLr * (1 + kMomentum); };
  EXPECT_TRUE(torch::allclose(module.gain, sgd(module.gain.grad())));
  EXPECT_TRUE(torch::allclose(module.bias, sgd(module.bias.grad())));
  const torch::Tensor gradient = module.weight.grad();
  const torch::Tensor muon = (module.weight - sgd(gradient)).reshape({6, 18}) / (-kLr * kPart);
  const auto [u, values, v] = torch::svd(gradient.reshape({6, 18}));
  const torch::Tensor turned = u.t().mm(muon).mm(v);  // Diagonal, if the vectors are the same.
  EXPECT_LE((turned - torch::diag(turned.diag())).abs().max().item<double>(), 1e-3);
  EXPECT_GE(turned.diag().min().item<double>(), 0.6);
  EXPECT_LE(turned.diag().max().item<double>(), 1.3);
  EXPECT_GT(values.max().item<double>(), 2 * values.min().item<double>());  // They were not equal.
}

// Twelve steps of random gradients beside libtorch's own optimizers, in which nothing is grouped.
TEST(Optimizer, SgdAdamAndAdamWStepAsLibtorchs) {
  torch::manual_seed(5);
  for (const OptimizerKind kind :
       {OptimizerKind::kSgd, OptimizerKind::kAdam, OptimizerKind::kAdamW}) {
    SCOPED_TRACE(name_of(kind));
    Vector module;
    torch::Tensor other = module.weight.detach().clone().requires_grad_(true);
    Optimizer optimizer(module, kind, 0.05);
    std::unique_ptr<torch::optim::Optimizer> libtorchs;
    const std::vector<torch::Tensor> parameters = {other};
    if (kind == OptimizerKind::kSgd) {
      libtorchs = std::make_unique<torch::optim::SGD>(
          parameters,
          torch::optim::SGDOptions(0.01).momentum(0.9).nesterov(true).weight_decay(0.05));
    } else if (kind == OptimizerKind::kAdam) {
      libtorchs = std::make_unique<torch::optim::Adam>(
          parameters, torch::optim::AdamOptions(0.01).weight_decay(0.05));
    } else {
      libtorchs = std::make_unique<torch::optim::AdamW>(
          parameters, torch::optim::AdamWOptions(0.01).weight_decay(0.05));
    }
    for (int step = 0; step < 12; ++step) {
      const torch::Tensor gradient = torch::randn_like(other);
      module.weight.mutable_grad() = gradient.clone();
      other.mutable_grad() = gradient.clone();
      optimizer.step({.lr = {0.01, 0.01, 0.01}, .momentum = 0.9});
      libtorchs->step();
      EXPECT_LE((module.weight - other).abs().max().item<double>(), 1e-6) << step;
    }
  }
}

TEST(Optimizer, GroupsAreThoseOfTheReference) {
  const DetectionModel model("yolov8n", 80);
  const Optimizer optimizer(model, OptimizerKind::kSgd, 5e-4);

  EXPECT_EQ(optimizer.group_size(kBiases), 63U);
  EXPECT_EQ(optimizer.group_size(kWeights), 63U);  // The reference counts the constant one as well.
  EXPECT_EQ(optimizer.group_size(kNorms), 57U);
}

TEST(Ema, FollowsTheReference) {
  SKIP_WITHOUT_REFERENCE("ema.json");
  const nlohmann::json run = reference::json("ema.json");
  for (const auto& [x, decay] : run.at("values").items()) {
    EXPECT_NEAR(ema_decay(std::stoll(x)), decay, 1e-12);
  }
  torch::NoGradGuard no_grad;
  const auto make = [] {
    torch::nn::Sequential module(torch::nn::Conv2d(1, 2, 1), torch::nn::BatchNorm2d(2));
    for (const auto& [name, tensor] : state_tensors(*module)) {
      if (tensor.is_floating_point()) {
        tensor.copy_(reference::uniform("ema." + name, tensor.sizes().vec()));
      }
    }
    return module;
  };
  torch::nn::Sequential model = make(), average = make();

  for (const nlohmann::json& step : run.at("trace")) {
    const int number = step.at("step");
    for (const auto& [name, tensor] : state_tensors(*model)) {
      if (!tensor.is_floating_point()) continue;
      const std::string key = "ema.step" + std::to_string(number - 1) + "." + name;
      tensor.add_((0.1 * reference::uniform(key, tensor.sizes().vec())).to(torch::kFloat));
    }
    update_ema(*average, *model, number);

    for (const auto& [name, tensor] : state_tensors(*average)) {
      if (!step.at("ema").contains(name)) continue;
      SCOPED_TRACE(name);
      const auto expected = step.at("ema").at(name).get<std::vector<float>>();
      const torch::Tensor flat = tensor.flatten();
      for (std::size_t i = 0; i < expected.size(); ++i) {
        EXPECT_WITHIN(
            "EMA, elements",
            std::abs(flat[static_cast<std::int64_t>(i)].item<double>() - double{expected[i]}),
            1e-6);
      }
    }
  }
}

TEST(TensorFile, KeepsEveryTypeAndShape) {
  const TempFolder folder;
  TensorFile file;
  file.metadata = {{"a", "b\n\"c\""}};
  file.tensors = {
      {"bool", torch::tensor({true, false, true})}, {"half", torch::rand({3, 5}).to(torch::kHalf)},
      {"scalar", torch::tensor(7, torch::kLong)},   {"empty", torch::zeros({0, 4})},
      {"strided", torch::rand({4, 6}).t()},         {"double", torch::rand({2}, torch::kDouble)}};

  write_tensor_file(folder.at("t.safetensors"), file);
  const TensorFile read = read_tensor_file(folder.at("t.safetensors"));

  EXPECT_EQ(read.metadata, file.metadata);
  ASSERT_EQ(read.tensors.size(), file.tensors.size());
  const std::map<std::string, torch::Tensor> by_name(read.tensors.begin(), read.tensors.end());
  for (const auto& [name, tensor] : file.tensors) {
    SCOPED_TRACE(name);
    EXPECT_TRUE(torch::equal(by_name.at(name), tensor));
    EXPECT_EQ(by_name.at(name).scalar_type(), tensor.scalar_type());
  }
}

TEST(TensorHeader, SaysWhatIsWrongOfWhichTensor) {
  const struct {
    const char *header, *fault;
  } cases[] = {
      {"[]", "header: not a JSON object"},
      {R"({"w": {"dtype": "F8", "shape": [4], "data_offsets": [0, 16]}})",
       "tensor w: its type F8 is not known"},
      {R"({"w": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}})",
       "tensor w: its shape has -4, no count"},
      {R"({"w": {"dtype": "F32", "shape": [2.5], "data_offsets": [0, 16]}})",
       "tensor w: its shape has 2.5, no count"},
      {R"({"w": {"dtype": "F32", "shape": [5], "data_offsets": [0, 16]}})",
       "tensor w: its shape [5] is larger than the 16 bytes of data"},
      {R"({"w": {"dtype": "F32", "shape": [0,9223372036854775807], "data_offsets": [0, 0]}})",
       "tensor w: its shape [0,9223372036854775807] is too large"},
      {R"({"w": {"dtype": "F32", "shape": [1,1,1,1,1,1,1,1,1], "data_offsets": [0, 4]}})",
       "tensor w: its shape is no list of at most 8 sides"},
      {R"({"w": {"dtype": "F32", "shape": [3], "data_offsets": [0, 16]}})",
       "tensor w: it has the bytes 0 to 16 of 16, where its shape and type take 12"},
      {R"({"w": {"dtype": "F32", "shape": [2], "data_offsets": [12, 20]}})",
       "tensor w: it has the bytes 12 to 20 of 16, where its shape and type take 8"},
      {R"({"v": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
           "w": {"dtype": "U8", "shape": [5], "data_offsets": [0, 5]}})",
       "tensors w and v share bytes from 4 on"},
  };
  for (const auto& [header, fault] : cases) {
    SCOPED_TRACE(header);
    std::string bytes(kTensorHeaderLengthBytes, '\0');
    bytes[0] = static_cast<char>(std::string(header).size());
    bytes += header + std::string(16, '\0');
    try {
      static_cast<void>(parse_tensor_header(bytes));
      ADD_FAILURE() << "taken";
    } catch (const std::runtime_error& error) {
      EXPECT_STREQ(error.what(), fault);
    }
  }
}

TEST(TensorFile, RefusesDamageAndNeverReadsBeyondTheEnd) {
  const TempFolder folder;
  write_tensor_file(folder.at("t"), {.metadata = {}, .tensors = {{"x", torch::rand({16})}}});
  const std::string whole = read_file(folder.at("t"));
  ASSERT_NO_THROW(static_cast<void>(parse_tensor_file(whole)));

  for (std::size_t length = 0; length < whole.size(); ++length) {
    SCOPED_TRACE(length);
    EXPECT_THROW(static_cast<void>(parse_tensor_file(whole.substr(0, length))), std::runtime_error);
  }
  std::mt19937 random(1);
  for (int i = 0; i < 5000; ++i) {
    std::string bytes = whole;
    bytes[random() % bytes.size()] ^= static_cast<char>(1 << random() % 8);
    try {
      static_cast<void>(parse_tensor_file(bytes));
    } catch (const std::runtime_error&) {
      // Either is fine; what counts is that nothing else happens.
    }
  }
}

}  // namespace
}  // namespace trainer
