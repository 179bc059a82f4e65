// SPDX-License-Identifier: Apache-2.0
// trainer/optimizer.h
//
// SGD with Nesterov momentum, MuSGD, Adam and its kin, and RMSProp, over three parameter groups.
// Written out instead of taken from libtorch because the state has to be saved and restored under
// the parameters' names, and because libtorch has no Adamax, NAdam, RAdam and Muon.
#pragma once

#include <torch/nn/module.h>
#include <torch/types.h>

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "trainer/contract/train_args.h"

namespace trainer {

enum class OptimizerKind { kSgd, kMuSgd, kAdam, kAdamW, kAdamax, kNAdam, kRAdam, kRmsProp };

// The order is that of the columns lr/pg0, lr/pg1, lr/pg2 of results.csv.
enum Group : std::size_t { kBiases = 0, kWeights = 1, kNorms = 2, kGroupCount = 3 };

// What the schedule sets before each step.
struct StepRates {
  std::array<double, kGroupCount> lr{};
  double momentum = 0.9;  // beta1 of Adam and its kin.
};

// The optimiser that the arguments ask for; "auto" decides by the number of iterations.
struct OptimizerChoice {
  OptimizerKind kind = OptimizerKind::kSgd;
  double lr0 = 0.01;
  double momentum = 0.937;
  double warmup_bias_lr = 0.1;
};
[[nodiscard]] OptimizerChoice choose_optimizer(const contract::TrainArgs& args, int class_count,
                                               std::int64_t train_images);
[[nodiscard]] std::string_view name_of(OptimizerKind kind);
// Whether the warm-up raises the momentum; beta1 of Adam and its kin stays as it is.
[[nodiscard]] bool has_momentum(OptimizerKind kind);

class Optimizer {
 public:
  // Parameters that need no gradient are left alone. `weight_decay` is that of kWeights.
  Optimizer(const torch::nn::Module& module, OptimizerKind kind, double weight_decay);

  void zero_grad();
  // Scales the gradients down to `norm_max`. Returns the norm of all together before that, a
  // number beside them on their device: the host does not wait for it. Where it is not finite, the
  // gradients are worth nothing.
  torch::Tensor clip_gradients(double norm_max);
  // Multiplies them, in place.
  void scale_gradients(double factor);
  // That norm alone.
  [[nodiscard]] torch::Tensor gradient_norm();
  void step(const StepRates& rates);

  // Gradients in the parameters' order, zeros where there are none yet: what the ranks exchange.
  [[nodiscard]] std::vector<torch::Tensor> gradients();
  [[nodiscard]] std::size_t group_size(Group group) const;

  // "momentum.NAME" of SGD, of MuSGD "muon.NAME" too; "exp_avg.NAME" and "exp_avg_sq.NAME", of
  // Adamax "exp_inf.NAME"; of RMSProp "momentum.NAME" and "square_avg.NAME"; and how many steps
  // were made.
  [[nodiscard]] std::vector<std::pair<std::string, torch::Tensor>> state() const;
  [[nodiscard]] std::int64_t steps() const { return steps_; }
  // Throws std::invalid_argument where a tensor is missing or of another shape.
  void load_state(const std::vector<std::pair<std::string, torch::Tensor>>& state,
                  std::int64_t steps);
  [[nodiscard]] const std::vector<std::string>& parameter_names() const { return names_; }

 private:
  void step_group(Group group, double lr, double momentum);
  double nadam_product(double beta1);

  OptimizerKind kind_;
  double weight_decay_;
  std::int64_t steps_ = 0;
  std::vector<std::string> names_;
  std::vector<torch::Tensor> parameters_;
  std::vector<Group> groups_;
  std::vector<torch::Tensor> first_, second_;  // Moments; `second_` is empty for SGD.
  struct {
    std::int64_t steps = 0;
    double beta1 = 0, value = 1;
  } product_;  // Of NAdam's momenta up to `steps`; follows from the other two.
};

}  // namespace trainer
