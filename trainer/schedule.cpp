// SPDX-License-Identifier: Apache-2.0
#include "trainer/schedule.h"

#include <algorithm>
#include <cmath>

namespace trainer {

namespace {

// Linear from `from` at 0 to `to` at `span`, constant after it.
double ramp(double x, double span, double from, double to) {
  return x >= span ? to : from + (to - from) * x / span;
}

}  // namespace

std::int64_t warmup_batches(const contract::TrainArgs& args, std::int64_t batches_per_epoch,
                            double epochs_planned) {
  constexpr std::int64_t kBatchesMin = 100;
  if (args.warmup_epochs <= 0) return 0;
  const auto batches = static_cast<double>(batches_per_epoch);
  const auto wanted = static_cast<std::int64_t>(std::lround(args.warmup_epochs * batches));
  const auto half = static_cast<std::int64_t>(epochs_planned * batches / 2);
  return std::min(std::max(wanted, kBatchesMin), half);
}

ScheduleOptions schedule_options(const contract::TrainArgs& args, const OptimizerChoice& choice,
                                 std::int64_t batches_per_epoch, double epochs_planned) {
  return {.optimizer = choice,
          .lrf = args.lrf,
          .is_cosine = args.cos_lr,
          .warmup_momentum = args.warmup_momentum,
          .warmup_batches = warmup_batches(args, batches_per_epoch, epochs_planned),
          .batch = args.batch,
          .nominal_batch = args.nbs};
}

double decay_factor(const ScheduleOptions& options, double epoch, double epochs) {
  const double progress = epochs > 0 ? std::clamp(epoch / epochs, 0.0, 1.0) : 1.0;
  const double left = options.is_cosine ? (1 + std::cos(progress * M_PI)) / 2 : 1 - progress;
  return left * (1 - options.lrf) + options.lrf;
}

int full_accumulation(int batch, int nominal_batch) {
  return std::max(1, static_cast<int>(std::nearbyint(static_cast<double>(nominal_batch) / batch)));
}

double scaled_weight_decay(const contract::TrainArgs& args) {
  return args.weight_decay * args.batch * full_accumulation(args.batch, args.nbs) / args.nbs;
}

BatchPlan plan_batch(const ScheduleOptions& options, std::int64_t batch_index, double epoch,
                     double epochs) {
  BatchPlan plan;
  const double lr = options.optimizer.lr0 * decay_factor(options, epoch, epochs);
  plan.rates.lr.fill(lr);
  plan.rates.momentum = options.optimizer.momentum;
  plan.accumulate = full_accumulation(options.batch, options.nominal_batch);
  if (options.warmup_batches > 0 && batch_index <= options.warmup_batches) {
    const auto x = static_cast<double>(batch_index);
    const auto span = static_cast<double>(options.warmup_batches);
    plan.rates.lr[kBiases] = ramp(x, span, options.optimizer.warmup_bias_lr, lr);
    plan.rates.lr[kWeights] = plan.rates.lr[kNorms] = ramp(x, span, 0.0, lr);
    if (has_momentum(options.optimizer.kind)) {
      plan.rates.momentum = ramp(x, span, options.warmup_momentum, options.optimizer.momentum);
    }
    const double batches_full = static_cast<double>(options.nominal_batch) / options.batch;
    plan.accumulate =
        std::max(1, static_cast<int>(std::nearbyint(ramp(x, span, 1.0, batches_full))));
  }
  return plan;
}

}  // namespace trainer
