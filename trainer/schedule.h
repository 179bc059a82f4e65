// SPDX-License-Identifier: Apache-2.0
// trainer/schedule.h
//
// Learning rate, momentum and accumulation of a batch as a function of where training stands. Pure:
// a timed run asks with another number of planned epochs each time and the curve follows.
#pragma once

#include <cstdint>

#include "trainer/contract/train_args.h"
#include "trainer/optimizer.h"

namespace trainer {

struct ScheduleOptions {
  OptimizerChoice optimizer;
  double lrf = 0.01;
  bool is_cosine = false;
  double warmup_momentum = 0.8;
  std::int64_t warmup_batches = 0;
  int batch = 16;  // Global.
  int nominal_batch = 64;
};

// Warm-up takes warmup_epochs, at least 100 batches, at most half of the run.
[[nodiscard]] std::int64_t warmup_batches(const contract::TrainArgs& args,
                                          std::int64_t batches_per_epoch, double epochs_planned);

[[nodiscard]] ScheduleOptions schedule_options(const contract::TrainArgs& args,
                                               const OptimizerChoice& choice,
                                               std::int64_t batches_per_epoch,
                                               double epochs_planned);

// The part of the initial learning rate that is left after `epoch` of `epochs` (both may lie
// between epochs: timed runs move along the curve continuously).
[[nodiscard]] double decay_factor(const ScheduleOptions& options, double epoch, double epochs);

struct BatchPlan {
  StepRates rates;
  int accumulate = 1;  // Batches to an optimiser step.
};
// `batch_index` counts from the start of the run.
[[nodiscard]] BatchPlan plan_batch(const ScheduleOptions& options, std::int64_t batch_index,
                                   double epoch, double epochs);

// Batches to an optimiser step after the warm-up, and the weight decay that goes with it.
[[nodiscard]] int full_accumulation(int batch, int nominal_batch);
[[nodiscard]] double scaled_weight_decay(const contract::TrainArgs& args);

}  // namespace trainer
