// SPDX-License-Identifier: Apache-2.0
#include "trainer/optimizer.h"

#include <torch/utils.h>
#include <torch/version.h>

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

// The tensors of one group, each list in the same order. All steps below work on whole lists: on a
// GPU a few kernels for all parameters, on a CPU the same loops and bits as one by one.
struct Lists {
  std::vector<torch::Tensor> parameters, gradients, first, second;
};

// `factor` is a tensor of no dimensions beside them.
void scale(const std::vector<torch::Tensor>& tensors, const torch::Tensor& factor) {
#if TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 2)
  torch::_foreach_mul_(tensors, factor);
#else  // A list and a number only, which the host would have to read.
  for (const torch::Tensor& tensor : tensors) tensor.mul_(factor);
#endif
}

void step_sgd(const Lists& group, double lr, double momentum) {
  torch::_foreach_mul_(group.first, momentum);
  torch::_foreach_add_(group.first, group.gradients);
  torch::_foreach_sub_(group.parameters,
                       torch::_foreach_add(group.gradients, group.first, momentum), lr);
}

// The nearest orthogonal matrix, roughly: every singular value goes to between 0.7 and 1.2, the
// singular vectors stay. Newton-Schulz iterations with the quintic of Jordan and others, "Muon"
// (2024).
torch::Tensor orthogonal(const torch::Tensor& matrix) {
  constexpr double kFirst = 3.4445, kThird = -4.7750, kFifth = 2.0315;
  constexpr int kSteps = 5;
  constexpr double kTiny = 1e-7;
  const bool is_tall = matrix.size(0) > matrix.size(1);
  torch::Tensor x = is_tall ? matrix.t() : matrix;
  x = x / (x.norm() + kTiny);
  for (int step = 0; step < kSteps; ++step) {
    const torch::Tensor gram = x.mm(x.t());
    x = torch::addmm(x, torch::addmm(gram, gram, gram, kThird, kFifth), x, kFirst);
  }
  return is_tall ? x.t() : x;
}

// The same paper: matrices, and kernels as matrices of a row a filter, move along the orthogonal
// matrix of their momentum. Ultralytics' MuSGD adds 0.2 of this to a whole step of SGD.
void step_muon(const Lists& group, double lr, double momentum) {
  constexpr double kPart = 0.2;
  for (std::size_t i = 0; i < group.parameters.size(); ++i) {
    const torch::Tensor& parameter = group.parameters[i];
    if (parameter.dim() != 2 && parameter.dim() != 4) continue;
    group.second[i].mul_(momentum).add_(group.gradients[i]);
    const torch::Tensor matrix =
        group.gradients[i].add(group.second[i], momentum).reshape({parameter.size(0), -1});
    const double rows = static_cast<double>(matrix.size(0)) / static_cast<double>(matrix.size(1));
    parameter.sub_(orthogonal(matrix).reshape(parameter.sizes()),
                   lr * kPart * std::sqrt(std::max(1.0, rows)));
  }
}

// Of Adam and its kin.
struct AdamStep {
  double lr, beta1;
  double step;  // From 1.
  [[nodiscard]] double mean_bias() const { return 1 - std::pow(beta1, step); }
  [[nodiscard]] double square_bias() const { return 1 - std::pow(kBeta2, step); }
};

void average(const Lists& group, const AdamStep& now) {
  torch::_foreach_mul_(group.first, now.beta1);
  torch::_foreach_add_(group.first, group.gradients, 1 - now.beta1);
  torch::_foreach_mul_(group.second, kBeta2);
  torch::_foreach_addcmul_(group.second, group.gradients, group.gradients, 1 - kBeta2);
}

// Kingma and Ba 2015.
void step_adam(const Lists& group, const AdamStep& now) {
  average(group, now);
  const std::vector<torch::Tensor> divisors = torch::_foreach_sqrt(group.second);
  torch::_foreach_div_(divisors, std::sqrt(now.square_bias()));
  torch::_foreach_add_(divisors, kEpsilon);
  torch::_foreach_addcdiv_(group.parameters, group.first, divisors, -now.lr / now.mean_bias());
}

// The same paper, section 7.1: the largest gradient, which decays, instead of the mean square.
void step_adamax(const Lists& group, const AdamStep& now) {
  torch::_foreach_mul_(group.first, now.beta1);
  torch::_foreach_add_(group.first, group.gradients, 1 - now.beta1);
  const std::vector<torch::Tensor> sizes = torch::_foreach_abs(group.gradients);
  torch::_foreach_add_(sizes, kEpsilon);
  torch::_foreach_mul_(group.second, kBeta2);
  torch::_foreach_maximum_(group.second, sizes);
  torch::_foreach_addcdiv_(group.parameters, group.first, group.second, -now.lr / now.mean_bias());
}

// Of NAdam at a step: rises to beta1. The constants are the paper's and PyTorch's.
double nadam_momentum(double beta1, double step) {
  constexpr double kBase = 0.96, kDecay = 0.004;
  return beta1 * (1 - 0.5 * std::pow(kBase, step * kDecay));
}

// Dozat 2016: Nesterov's look ahead inside Adam. `product`: of all momenta up to this step.
void step_nadam(const Lists& group, const AdamStep& now, double product) {
  average(group, now);
  const double momentum = nadam_momentum(now.beta1, now.step);
  const double next = nadam_momentum(now.beta1, now.step + 1);
  const std::vector<torch::Tensor> divisors = torch::_foreach_div(group.second, now.square_bias());
  torch::_foreach_sqrt_(divisors);
  torch::_foreach_add_(divisors, kEpsilon);
  torch::_foreach_addcdiv_(group.parameters, group.gradients, divisors,
                           -now.lr * (1 - momentum) / (1 - product));
  torch::_foreach_addcdiv_(group.parameters, group.first, divisors,
                           -now.lr * next / (1 - product * next));
}

// Liu and others 2020: plain momentum until the mean square rests on enough steps to be trusted.
void step_radam(const Lists& group, const AdamStep& now) {
  constexpr double kTrusted = 5;
  average(group, now);
  const double longest = 2 / (1 - kBeta2) - 1;
  const double length = longest - 2 * now.step * std::pow(kBeta2, now.step) / now.square_bias();
  const double rate = now.lr / now.mean_bias();
  if (length <= kTrusted) {
    torch::_foreach_sub_(group.parameters, group.first, rate);
    return;
  }
  const double rectified =
      std::sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length));
  const std::vector<torch::Tensor> divisors = torch::_foreach_sqrt(group.second);
  torch::_foreach_add_(divisors, kEpsilon);
  torch::_foreach_addcdiv_(group.parameters, group.first, divisors,
                           -rate * rectified * std::sqrt(now.square_bias()));
}

// Hinton's lecture 6e, with momentum.
void step_rmsprop(const Lists& group, double lr, double momentum) {
  constexpr double kKept = 0.99;
  torch::_foreach_mul_(group.second, kKept);
  torch::_foreach_addcmul_(group.second, group.gradients, group.gradients, 1 - kKept);
  const std::vector<torch::Tensor> divisors = torch::_foreach_sqrt(group.second);
  torch::_foreach_add_(divisors, kEpsilon);
  torch::_foreach_mul_(group.first, momentum);
  torch::_foreach_addcdiv_(group.first, group.gradients, divisors);
  torch::_foreach_sub_(group.parameters, group.first, lr);
}

constexpr std::array<std::pair<std::string_view, OptimizerKind>, 8> kKinds = {
    {{"SGD", OptimizerKind::kSgd},
     {"MuSGD", OptimizerKind::kMuSgd},
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
  return kind == OptimizerKind::kSgd || kind == OptimizerKind::kMuSgd ||
         kind == OptimizerKind::kRmsProp;
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

torch::Tensor Optimizer::gradient_norm() {
  torch::NoGradGuard no_grad;
  const std::vector<torch::Tensor> all = gradients();
  if (all.empty()) return torch::zeros({});
  return torch::stack(torch::_foreach_norm(all)).norm();
}

void Optimizer::scale_gradients(double factor) {
  torch::NoGradGuard no_grad;
  const std::vector<torch::Tensor> all = gradients();
  if (!all.empty()) torch::_foreach_mul_(all, factor);
}

torch::Tensor Optimizer::clip_gradients(double norm_max) {
  torch::NoGradGuard no_grad;
  const std::vector<torch::Tensor> all = gradients();
  if (all.empty()) return torch::zeros({});
  const torch::Tensor norm = gradient_norm();
  scale(all, (norm_max / (norm.to(torch::kDouble) + 1e-6)).clamp_max(1).to(norm.scalar_type()));
  return norm;
}

void Optimizer::step(const StepRates& rates) {
  torch::NoGradGuard no_grad;
  ++steps_;
  for (const Group group : {kBiases, kWeights, kNorms}) {
    step_group(group, rates.lr[group], rates.momentum);
  }
}

void Optimizer::step_group(Group group, double lr, double momentum) {
  Lists own;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    if (groups_[i] != group || !parameters_[i].grad().defined()) continue;
    own.parameters.push_back(parameters_[i]);
    own.gradients.push_back(parameters_[i].grad());
    own.first.push_back(first_[i]);
    if (!second_.empty()) own.second.push_back(second_[i]);
  }
  if (own.parameters.empty()) return;
  const std::vector<torch::Tensor> undecayed = own.gradients;
  if (const double decay = group == kWeights ? weight_decay_ : 0.0; decay != 0) {
    if (kind_ == OptimizerKind::kAdamW) {
      torch::_foreach_mul_(own.parameters, 1 - lr * decay);  // Decoupled from the moments.
    } else {
      own.gradients = torch::_foreach_add(own.gradients, own.parameters, decay);
    }
  }
  const AdamStep now{.lr = lr, .beta1 = momentum, .step = static_cast<double>(steps_)};
  switch (kind_) {
    case OptimizerKind::kSgd:
      return step_sgd(own, lr, momentum);
    case OptimizerKind::kMuSgd:
      step_sgd(own, lr, momentum);
      own.gradients = undecayed;
      return group == kWeights ? step_muon(own, lr, momentum) : void();
    case OptimizerKind::kAdam:
    case OptimizerKind::kAdamW:
      return step_adam(own, now);
    case OptimizerKind::kAdamax:
      return step_adamax(own, now);
    case OptimizerKind::kNAdam:
      return step_nadam(own, now, nadam_product(momentum));
    case OptimizerKind::kRAdam:
      return step_radam(own, now);
    case OptimizerKind::kRmsProp:
      return step_rmsprop(own, lr, momentum);
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
                             : kind_ == OptimizerKind::kMuSgd  ? "muon."
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
