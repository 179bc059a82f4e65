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

struct AdamStep {
  double lr, beta1, decay;
  bool is_decoupled;  // AdamW: the decay does not enter the moments.
  std::int64_t step;  // From 1.
};

void step_adam(const torch::Tensor& parameter, torch::Tensor gradient, const torch::Tensor& mean,
               const torch::Tensor& square, const AdamStep& now) {
  if (now.decay != 0 && now.is_decoupled) parameter.mul_(1 - now.lr * now.decay);
  if (now.decay != 0 && !now.is_decoupled) gradient = gradient.add(parameter, now.decay);
  mean.mul_(now.beta1).add_(gradient, 1 - now.beta1);
  square.mul_(kBeta2).addcmul_(gradient, gradient, 1 - kBeta2);
  const auto step = static_cast<double>(now.step);
  const double mean_bias = 1 - std::pow(now.beta1, step);
  const double square_bias = 1 - std::pow(kBeta2, step);
  const torch::Tensor divisor = (square.sqrt() / std::sqrt(square_bias)).add_(kEpsilon);
  parameter.addcdiv_(mean, divisor, -now.lr / mean_bias);
}

}  // namespace

OptimizerChoice choose_optimizer(const contract::TrainArgs& args, int class_count,
                                 std::int64_t train_images) {
  if (args.optimizer != "auto") {
    const OptimizerKind kind = args.optimizer == "SGD"    ? OptimizerKind::kSgd
                               : args.optimizer == "Adam" ? OptimizerKind::kAdam
                                                          : OptimizerKind::kAdamW;
    return {kind, args.lr0, args.momentum, args.warmup_bias_lr};
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
  switch (kind) {
    case OptimizerKind::kSgd:
      return "SGD";
    case OptimizerKind::kAdam:
      return "Adam";
    case OptimizerKind::kAdamW:
      return "AdamW";
  }
  return "";
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
    const torch::Tensor& gradient = parameters_[i].grad();
    if (!gradient.defined()) continue;
    const double lr = rates.lr[groups_[i]];
    const double decay = groups_[i] == kWeights ? weight_decay_ : 0.0;
    if (kind_ == OptimizerKind::kSgd) {
      step_sgd(parameters_[i], gradient, first_[i], lr, rates.momentum, decay);
    } else {
      step_adam(parameters_[i], gradient, first_[i], second_[i],
                {.lr = lr,
                 .beta1 = rates.momentum,
                 .decay = decay,
                 .is_decoupled = kind_ == OptimizerKind::kAdamW,
                 .step = steps_});
    }
  }
}

std::size_t Optimizer::group_size(Group group) const {
  return static_cast<std::size_t>(std::count(groups_.begin(), groups_.end(), group));
}

std::vector<std::pair<std::string, torch::Tensor>> Optimizer::state() const {
  std::vector<std::pair<std::string, torch::Tensor>> state;
  const std::string first = kind_ == OptimizerKind::kSgd ? "momentum." : "exp_avg.";
  for (std::size_t i = 0; i < names_.size(); ++i) state.emplace_back(first + names_[i], first_[i]);
  for (std::size_t i = 0; i < second_.size(); ++i) {
    state.emplace_back("exp_avg_sq." + names_[i], second_[i]);
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
