// SPDX-License-Identifier: Apache-2.0
#include "trainer/time_budget.h"

#include <algorithm>

namespace trainer {

namespace {

constexpr double kLeavingSeconds = 3;  // Final files, MPI_Finalize, the end of the job step.
constexpr double kMargin = 1.2;        // Validation and saving vary from one time to the next.

}  // namespace

double closing_seconds(const Pace& pace) {
  const double best_s = pace.is_best_unmeasured ? pace.validation_s : 0;
  return kMargin * (pace.validation_s + best_s + pace.save_s) + 2 * pace.batch_s + kLeavingSeconds;
}

double measuring_seconds(const Pace& pace) {
  return kMargin * pace.validation_s;
}

double mean_with(double mean, double batch_s) {
  constexpr double kMemory = 0.9, kLongest = 5;
  return kMemory * mean + (1 - kMemory) * std::min(batch_s, kLongest * mean);
}

double saving_seconds(const Pace& pace, std::int64_t batches) {
  return kMargin * (static_cast<double>(batches) * pace.batch_s + pace.save_s);
}

double guess_validation_seconds(const Pace& pace, std::int64_t train_images_per_batch,
                                std::int64_t val_images) {
  if (train_images_per_batch <= 0) return 0;
  return pace.batch_s * static_cast<double>(val_images) /
         static_cast<double>(train_images_per_batch);
}

double plan_epochs(double epochs_done, double remaining_s, const Pace& pace,
                   std::int64_t batches_per_epoch) {
  const double epoch_s =
      static_cast<double>(batches_per_epoch) * pace.batch_s + pace.each_epoch_s();
  const double usable_s = std::max(0.0, remaining_s - closing_seconds(pace));
  if (epoch_s <= 0) return epochs_done;
  // The last epoch's own is in the reserve already.
  return epochs_done + (usable_s + pace.each_epoch_s()) / epoch_s;
}

bool is_worth_another_epoch(double remaining_s, const Pace& pace, std::int64_t batches_per_epoch) {
  constexpr double kShareMin = 0.1;
  const double wanted = std::max(1.0, kShareMin * static_cast<double>(batches_per_epoch));
  return remaining_s - closing_seconds(pace) > wanted * pace.batch_s;
}

}  // namespace trainer
