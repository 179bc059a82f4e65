// SPDX-License-Identifier: Apache-2.0
#include "trainer/replica.h"

#include <torch/utils.h>

#include <cmath>

#include "trainer/ema.h"
#include "trainer/layout.h"
#include "trainer/sync_norm.h"

namespace trainer {

namespace {

constexpr double kGradientNormMax = 10;

std::shared_ptr<DetectionModel> make_model(const contract::Architecture& architecture,
                                           int class_count, const std::vector<int>& frozen_layers,
                                           torch::Device device) {
  auto model = std::make_shared<DetectionModel>(architecture, class_count);
  model->to(device);
  freeze_layers(*model, frozen_layers);
  put_channels_last(*model);
  return model;
}

std::vector<torch::Tensor> tensors_of(const torch::nn::Module& module) {
  std::vector<torch::Tensor> tensors;
  for (auto& [name, tensor] : state_tensors(module)) tensors.push_back(tensor);
  return tensors;
}

}  // namespace

Replica::Replica(const contract::Architecture& architecture, int class_count, OptimizerKind kind,
                 double weight_decay, torch::Device device, Communicator& communicator,
                 const std::vector<int>& frozen_layers,
                 const GradientReducer::Options& reducer_options)
    : communicator_(communicator),
      model_(make_model(architecture, class_count, frozen_layers, device)),
      average_(make_model(architecture, class_count, {}, device)),
      optimizer_(*model_, kind, weight_decay) {
  for (torch::Tensor& parameter : average_->parameters()) parameter.set_requires_grad(false);
  average_->eval();
  copy_matching(state_tensors(*model_), *average_);
  std::vector<torch::Tensor> trained, statistics;
  for (const torch::Tensor& parameter : model_->parameters()) {
    if (parameter.requires_grad()) trained.push_back(parameter);
  }
  for (const auto& item : model_->named_buffers()) {
    // Frozen ones are equal already, and a mean of equal numbers may round.
    if (model_->is_frozen(item.key())) continue;
    if (item.value().is_floating_point()) statistics.push_back(item.value());
  }
  reducer_.emplace(communicator, std::move(trained), reducer_options);
  statistics_.emplace(communicator, statistics);
  gradient_norm_ = torch::zeros({}, torch::TensorOptions(device));
}

void Replica::synchronise_norms() {
  trainer::synchronise_norms(*model_, communicator_);
  // They are equal on all ranks now, and a mean of equal numbers may round.
  statistics_.emplace(communicator_, std::vector<torch::Tensor>());
}

void Replica::backward(const torch::Tensor& loss, Backward what) {
  if (what == Backward::kStepFollows) {
    statistics_->start();  // The forward pass has moved them, and nothing does until the next.
    reducer_->arm();
  }
  if (loss_scale_) {
    (loss * loss_scale_->factor).backward();
  } else {
    loss.backward();
  }
}

void Replica::share(std::int64_t steps) {
  broadcast_tensors(communicator_, tensors_of(*model_));
  share_average();
  gradient_norm_ = torch::zeros_like(gradient_norm_);
  const auto moments = optimizer_.state();
  std::vector<torch::Tensor> tensors;
  for (const auto& [name, tensor] : moments) tensors.push_back(tensor);
  broadcast_tensors(communicator_, tensors);
  optimizer_.load_state(moments, steps);
  if (communicator_.rank() != 0) optimizer_.zero_grad();
}

void Replica::share_average() {
  broadcast_tensors(communicator_, tensors_of(*average_));
}

void Replica::reduce() {
  if (!statistics_->is_under_way()) statistics_->start();
  reducer_->reduce();
  statistics_->finish_mean();
}

bool Replica::is_finite() const {
  return std::isfinite(gradient_norm_.item<double>());
}

// After the gradients of a scaled loss were summed and had the factor taken out. All ranks have the
// same sums, and so find the same.
bool Replica::is_overflown() {
  if (is_finite()) {
    const double before = loss_scale_->factor;
    loss_scale_->note_step();
    rescale_residual(loss_scale_->factor / before);
    return false;
  }
  if (!loss_scale_->can_shrink()) return false;
  loss_scale_->note_overflow();
  gradient_norm_ = torch::zeros_like(gradient_norm_);
  reducer_->load_wire_state({});  // What rounding left over is not finite either.
  return true;
}

void Replica::rescale_residual(double factor) {
  torch::NoGradGuard no_grad;
  if (factor != 1 && reducer_->residual().defined()) reducer_->residual().mul_(factor);
}

void Replica::rescale_gradients(double factor) {
  if (factor == 1) return;
  optimizer_.scale_gradients(factor);
  rescale_residual(factor);
}

void Replica::step(const StepRates& rates, std::int64_t ema_updates, const StageDone& done) {
  const auto tell = [&done](StepStage stage) {
    if (done) done(stage);
  };
  reduce();
  tell(StepStage::kReduce);
  if (loss_scale_) optimizer_.scale_gradients(1 / loss_scale_->factor);
  gradient_norm_ = optimizer_.clip_gradients(kGradientNormMax);
  if (!loss_scale_ || !is_overflown()) optimizer_.step(rates);
  optimizer_.zero_grad();
  tell(StepStage::kOptimizer);
  update_ema(*average_, *model_, ema_updates);
  tell(StepStage::kAverage);
}

void Replica::settle() {
  reduce();
  gradient_norm_ = optimizer_.gradient_norm();
  // Not to be saved: what was accumulated is left out, as a step would be.
  if (loss_scale_ && !is_finite() && is_overflown()) optimizer_.zero_grad();
  if (communicator_.rank() != 0) optimizer_.zero_grad();
}

void Replica::check() {
  std::vector<torch::Tensor> all = tensors_of(*model_);
  for (const torch::Tensor& tensor : tensors_of(*average_)) all.push_back(tensor);
  check_replicas(communicator_, all);
}

}  // namespace trainer
