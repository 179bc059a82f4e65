// SPDX-License-Identifier: Apache-2.0
// trainer/replica.h
//
// A rank's copy of what is trained: model, moving average, optimiser. After every optimiser step
// and every settle() the copies of all ranks are equal to the bit.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "trainer/communicator.h"
#include "trainer/gradient_reducer.h"
#include "trainer/loss_scale.h"
#include "trainer/model.h"
#include "trainer/optimizer.h"

namespace trainer {

// What a step is made of, in this order.
enum class StepStage { kReduce, kOptimizer, kAverage };

class Replica {
 public:
  using StageDone = std::function<void(StepStage)>;

  // Random weights from torch's generator. `communicator` outlives the replica. Throws
  // std::invalid_argument where `frozen_layers` does not fit (freeze_layers).
  Replica(const contract::Architecture& architecture, int class_count, OptimizerKind kind,
          double weight_decay, torch::Device device, Communicator& communicator,
          const std::vector<int>& frozen_layers = {},
          const GradientReducer::Options& reducer_options = {});

  [[nodiscard]] DetectionModel& model() { return *model_; }
  [[nodiscard]] DetectionModel& average() { return *average_; }
  [[nodiscard]] Optimizer& optimizer() { return optimizer_; }
  [[nodiscard]] const GradientReducer::Totals& reduced() const { return reducer_->totals(); }

  // From here on the statistics of a batch are those of all ranks' images (sync_norm.h): forward and
  // backward passes in training are collectives. On all ranks, before the first of them.
  void synchronise_norms();

  // From here on backward passes are those of the loss times this factor, step() takes it out again,
  // and a step whose gradients overflowed is left out: weights stay, the factor shrinks, and
  // gradient_norm() is 0. Only where it cannot shrink any more is such a norm not finite. The host
  // waits for the device once a step. The same on all ranks.
  void scale_loss(const LossScale& scale) { loss_scale_ = scale; }
  [[nodiscard]] const std::optional<LossScale>& loss_scale() const { return loss_scale_; }
  // What is kept from batch to batch and carries the factor, times this: accumulated gradients, and what
  // rounding on the wire left over.
  void rescale_gradients(double factor);

  // Adds the gradients of `loss`. kStepFollows: they are summed over the ranks meanwhile, and step()
  // is called next, on all ranks.
  enum class Backward { kMoreFollows, kStepFollows };
  void backward(const torch::Tensor& loss, Backward what);

  // The rest are collectives.

  // Rank 0's weights, averages and batch statistics on every rank; its moments too where `steps` is
  // positive. Accumulated gradients stay on rank 0 alone: they are summed later.
  void share(std::int64_t steps);
  void share_average();

  // Sums the gradients over the ranks, averages the batch statistics, makes a step and updates the
  // average for the `ema_updates`-th time. The host does not ask whether the gradients were finite:
  // where gradient_norm() is not, the step has spoilt the replica, and share() brings back a whole
  // one. `done` is told after each stage: for measuring.
  void step(const StepRates& rates, std::int64_t ema_updates, const StageDone& done = {});

  // Of all ranks' gradients together, before they were clipped, of the last step or settle()
  // since share(); 0 before it. A number on the device, equal on all ranks.
  [[nodiscard]] const torch::Tensor& gradient_norm() const { return gradient_norm_; }
  // Whether the last step was one. The host waits for the device. Not a collective.
  [[nodiscard]] bool is_finite() const;

  // Instead of step() after a backward pass that some rank could not finish: what has been sent
  // arrives, and the gradients are worth nothing.
  void finish_sums() { reduce(); }

  // Between two steps: rank 0 holds the sum of all gradients accumulated so far, the others none. Where
  // those of a scaled loss overflowed, none has any.
  void settle();

  // GradientReducer's.
  [[nodiscard]] const torch::Tensor& wire_residual() const { return reducer_->residual(); }
  [[nodiscard]] std::vector<std::pair<std::string, torch::Tensor>> wire_state() {
    return reducer_->wire_state();
  }
  void load_wire_state(const std::vector<std::pair<std::string, torch::Tensor>>& state) {
    reducer_->load_wire_state(state);
  }

  // Throws std::runtime_error where a rank's copy differs.
  void check();

 private:
  void reduce();
  bool is_overflown();
  void rescale_residual(double factor);

  Communicator& communicator_;
  std::shared_ptr<DetectionModel> model_, average_;
  Optimizer optimizer_;
  std::optional<GradientReducer> reducer_;
  std::optional<FlatSum> statistics_;  // Of batch norm, where it is trained.
  torch::Tensor gradient_norm_;
  std::optional<LossScale> loss_scale_;
};

}  // namespace trainer
