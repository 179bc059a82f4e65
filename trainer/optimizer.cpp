// SPDX-License-Identifier: Apache-2.0
#include "trainer/optimizer.h"

#include <torch/utils.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <stdexcept>

namespace trainer {

namespace {

constexpr double kBeta2 = 0.999;
constexpr double kEpsilon = 1e-8;

Group group_of(const std::string& name, const torch::Tensor& parameter) {
  if (name.ends_with(".bias")) return kBiases;
  return parameter.dim() == 1 ? kNorms : kWeights;
}

void step_sgd(const torch::Tensor& parameter, const torch::Tensor& gradient,
              const torch::Tensor& velocity, double lr, double momentum, double decay) {
  const torch::Tensor slope = decay == 0 ? gradient : gradient.add(parameter, decay);
  velocity.mul_(momentum).add_(slope);
  parameter.sub_(slope.add(velocity, momentum), lr);
}

// Of Adam and its kin.
struct AdamStep {
  double lr, beta1;
  double step;  // From 1.
  [[nodiscard]] double mean_bias() const { return 1 - std::pow(beta1, step); }
  [[nodiscard]] double square_bias() const { return 1 - std::pow(kBeta2, step); }
};

void average(const torch::Tensor& gradient, const torch::Tensor& mean, const torch::Tensor& square,
             const AdamStep& now) {
  mean.mul_(now.beta1).add_(gradient, 1 - now.beta1);
  square.mul_(kBeta2).addcmul_(gradient, gradient, 1 - kBeta2);
}

// Kingma and Ba 2015.
void step_adam(const torch::Tensor& parameter, const torch::Tensor& gradient,
               const torch::Tensor& mean, const torch::Tensor& square, const AdamStep& now) {
  average(gradient, mean, square, now);
  const torch::Tensor divisor = (square.sqrt() / std::sqrt(now.square_bias())).add_(kEpsilon);
  parameter.addcdiv_(mean, divisor, -now.lr / now.mean_bias());
}

// The same paper, section 7.1: the largest gradient, which decays, instead of the mean square.
void step_adamax(const torch::Tensor& parameter, const torch::Tensor& gradient,
                 const torch::Tensor& mean, const torch::Tensor& largest, const AdamStep& now) {
  mean.mul_(now.beta1).add_(gradient, 1 - now.beta1);
  largest.copy_(torch::maximum(largest.mul(kBeta2), gradient.abs().add_(kEpsilon)));
  parameter.addcdiv_(mean, largest, -now.lr / now.mean_bias());
}

// Of NAdam at a step: rises to beta1. The constants are the paper's and PyTorch's.
double nadam_momentum(double beta1, double step) {
  constexpr double kBase = 0.96, kDecay = 0.004;
  return beta1 * (1 - 0.5 * std::pow(kBase, step * kDecay));
}

// Dozat 2016: Nesterov's look ahead inside Adam. `product`: of all momenta up to this step.
void step_nadam(const torch::Tensor& parameter, const torch::Tensor& gradient,
                const torch::Tensor& mean, const torch::Tensor& square, const AdamStep& now,
                double product) {
  average(gradient, mean, square, now);
  const double momentum = nadam_momentum(now.beta1, now.step);
  const double next = nadam_momentum(now.beta1, now.step + 1);
  const torch::Tensor divisor = (square / now.square_bias()).sqrt_().add_(kEpsilon);
  parameter.addcdiv_(gradient, divisor, -now.lr * (1 - momentum) / (1 - product));
  parameter.addcdiv_(mean, divisor, -now.lr * next / (1 - product * next));
}

// Liu and others 2020: plain momentum until the mean square rests on enough steps to be trusted.
void step_radam(const torch::Tensor& parameter, const torch::Tensor& gradient,
                const torch::Tensor& mean, const torch::Tensor& square, const AdamStep& now) {
  constexpr double kTrusted = 5;
  average(gradient, mean, square, now);
  const double longest = 2 / (1 - kBeta2) - 1;
  const double length = longest - 2 * now.step * std::pow(kBeta2, now.step) / now.square_bias();
  const double rate = now.lr / now.mean_bias();
  if (length <= kTrusted) {
    parameter.sub_(mean, rate);
    return;
  }
  const double rectified =
      std::sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length));
  parameter.addcdiv_(mean, square.sqrt().add_(kEpsilon),
                     -rate * rectified * std::sqrt(now.square_bias()));
}

// Hinton's lecture 6e, with momentum.
void step_rmsprop(const torch::Tensor& parameter, const torch::Tensor& gradient,
                  const torch::Tensor& velocity, const torch::Tensor& square, double lr,
                  double momentum) {
  constexpr double kKept = 0.99;
  square.mul_(kKept).addcmul_(gradient, gradient, 1 - kKept);
  velocity.mul_(momentum).addcdiv_(gradient, square.sqrt().add_(kEpsilon));
  parameter.sub_(velocity, lr);
}

constexpr std::array<std::pair<std::string_view, OptimizerKind>, 7> kKinds = {
    {{"SGD", OptimizerKind::kSgd},
     {"Adam", OptimizerKind::kAdam},
     {"AdamW", OptimizerKind::kAdamW},
     {"Adamax", OptimizerKind::kAdamax},
     {"NAdam", OptimizerKind::kNAdam},
     {"RAdam", OptimizerKind::kRAdam},
     {"RMSProp", OptimizerKind::kRmsProp}}};

}  // namespace

OptimizerChoice choose_optimizer(const contract::TrainArgs& args, int class_count,
                                 std::int64_t train_images) {
  if (args.optimizer != "auto") {
    for (const auto& [name, kind] : kKinds) {
      if (args.optimizer == name) return {kind, args.lr0, args.momentum, args.warmup_bias_lr};
    }
    throw std::invalid_argument("optimizer = " + args.optimizer + " is not known.");
  }
  constexpr double kIterationsLong = 10'000;
  const double iterations =
      std::ceil(static_cast<double>(train_images) / std::max(args.batch, args.nbs)) * args.epochs;
  if (iterations > kIterationsLong) {
    return {OptimizerKind::kSgd, /*lr0=*/0.01, /*momentum=*/0.9, /*warmup_bias_lr=*/0.0};
  }
  const double lr = std::round(0.002 * 5 / (4 + class_count) * 1e6) / 1e6;
  return {OptimizerKind::kAdamW, lr, /*momentum=*/0.9, /*warmup_bias_lr=*/0.0};
}

std::string_view name_of(OptimizerKind kind) {
  for (const auto& [name, known] : kKinds) {
    if (kind == known) return name;
  }
  return "";
}

bool has_momentum(OptimizerKind kind) {
  return kind == OptimizerKind::kSgd || kind == OptimizerKind::kRmsProp;
}

Optimizer::Optimizer(const torch::nn::Module& module, OptimizerKind kind, double weight_decay)
    : kind_(kind), weight_decay_(weight_decay) {
  torch::NoGradGuard no_grad;
  for (const auto& item : module.named_parameters()) {
    if (!item.value().requires_grad()) continue;
    names_.push_back(item.key());
    parameters_.push_back(item.value());
    groups_.push_back(group_of(item.key(), item.value()));
    first_.push_back(torch::zeros_like(item.value()));
    if (kind != OptimizerKind::kSgd) {
      second_.push_back(torch::zeros_like(item.value()));
    }
  }
}

void Optimizer::zero_grad() {
  for (torch::Tensor& parameter : parameters_) {
    if (parameter.grad().defined()) parameter.mutable_grad().zero_();
  }
}

std::vector<torch::Tensor> Optimizer::gradients() {
  std::vector<torch::Tensor> gradients;
  for (torch::Tensor& parameter : parameters_) {
    if (!parameter.grad().defined()) parameter.mutable_grad() = torch::zeros_like(parameter);
    gradients.push_back(parameter.mutable_grad());
  }
  return gradients;
}

double Optimizer::clip_gradients(double norm_max) {
  torch::NoGradGuard no_grad;
  const std::vector<torch::Tensor> all = gradients();
  std::vector<torch::Tensor> norms;
  for (const torch::Tensor& gradient : all) norms.push_back(gradient.norm());
  const double norm = torch::stack(norms).norm().item<double>();
  const double factor = norm_max / (norm + 1e-6);
  if (factor < 1) {
    for (const torch::Tensor& gradient : all) gradient.mul_(factor);
  }
  return norm;
}

void Optimizer::step(const StepRates& rates) {
  torch::NoGradGuard no_grad;
  ++steps_;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    if (parameters_[i].grad().defined()) step_one(i, rates.lr[groups_[i]], rates.momentum);
  }
}

void Optimizer::step_one(std::size_t i, double lr, double momentum) {
  const torch::Tensor& parameter = parameters_[i];
  torch::Tensor gradient = parameter.grad();
  const double decay = groups_[i] == kWeights ? weight_decay_ : 0.0;
  if (kind_ == OptimizerKind::kSgd) {
    step_sgd(parameter, gradient, first_[i], lr, momentum, decay);
    return;
  }
  if (decay != 0 && kind_ == OptimizerKind::kAdamW) {
    parameter.mul_(1 - lr * decay);  // Decoupled: the decay does not enter the moments.
  } else if (decay != 0) {
    gradient = gradient.add(parameter, decay);
  }
  const AdamStep now{.lr = lr, .beta1 = momentum, .step = static_cast<double>(steps_)};
  switch (kind_) {
    case OptimizerKind::kAdamax:
      return step_adamax(parameter, gradient, first_[i], second_[i], now);
    case OptimizerKind::kNAdam:
      return step_nadam(parameter, gradient, first_[i], second_[i], now, nadam_product(momentum));
    case OptimizerKind::kRAdam:
      return step_radam(parameter, gradient, first_[i], second_[i], now);
    case OptimizerKind::kRmsProp:
      return step_rmsprop(parameter, gradient, first_[i], second_[i], lr, momentum);
    default:
      return step_adam(parameter, gradient, first_[i], second_[i], now);
  }
}

// After a resume, or should beta1 change, from the first step on.
double Optimizer::nadam_product(double beta1) {
  if (product_.beta1 != beta1 || product_.steps > steps_) product_ = {0, beta1, 1};
  while (product_.steps < steps_) {
    product_.value *= nadam_momentum(beta1, static_cast<double>(++product_.steps));
  }
  return product_.value;
}

std::size_t Optimizer::group_size(Group group) const {
  return static_cast<std::size_t>(std::count(groups_.begin(), groups_.end(), group));
}

std::vector<std::pair<std::string, torch::Tensor>> Optimizer::state() const {
  std::vector<std::pair<std::string, torch::Tensor>> state;
  const std::string first = has_momentum(kind_) ? "momentum." : "exp_avg.";
  const std::string second = kind_ == OptimizerKind::kRmsProp  ? "square_avg."
                             : kind_ == OptimizerKind::kAdamax ? "exp_inf."
                                                               : "exp_avg_sq.";
  for (std::size_t i = 0; i < names_.size(); ++i) state.emplace_back(first + names_[i], first_[i]);
  for (std::size_t i = 0; i < second_.size(); ++i) {
    state.emplace_back(second + names_[i], second_[i]);
  }
  return state;
}

void Optimizer::load_state(const std::vector<std::pair<std::string, torch::Tensor>>& saved,
                           std::int64_t steps) {
  torch::NoGradGuard no_grad;
  std::map<std::string, torch::Tensor> found(saved.begin(), saved.end());
  for (const auto& [name, tensor] : state()) {
    const auto source = found.find(name);
    if (source == found.end() || source->second.sizes() != tensor.sizes()) {
      throw std::invalid_argument("optimizer state: " + name + " is missing or of another shape.");
    }
    tensor.copy_(source->second);
  }
  steps_ = steps;
}

}  // namespace trainer
