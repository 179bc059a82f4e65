// SPDX-License-Identifier: Apache-2.0
// trainer/time_budget.h
//
// How a timed run fits into its hours. Pure: seconds go in, decisions come out.
#pragma once

#include <cstdint>

namespace trainer {

// How long things take, as measured so far; 0 where nothing is known yet.
struct Pace {
  double batch_s = 0;  // Training on one batch.
  double validation_s = 0;
  double save_s = 0;
  bool is_each_epoch_validated = true;  // Else the last one alone (val=false).
  bool is_best_unmeasured = false;      // The best weights are an earlier attempt's.

  // What each epoch takes beside its batches.
  [[nodiscard]] double each_epoch_s() const {
    return (is_each_epoch_validated ? validation_s : 0) + save_s;
  }
};

// What has to happen after the last batch: validation, of the best weights too where this attempt has
// not, saving, a margin for leaving. The share of two batches covers the one under way.
[[nodiscard]] double closing_seconds(const Pace& pace);
// A validation, with a margin.
[[nodiscard]] double measuring_seconds(const Pace& pace);

// One batch's seconds in the mean of those before; `mean` is above 0. A batch that was held up (a disk, a
// suspended job) says little of the next ones: it counts as five at most.
[[nodiscard]] double mean_with(double mean, double batch_s);

// How long it takes to train on so many batches and to save, with a margin.
[[nodiscard]] double saving_seconds(const Pace& pace, std::int64_t batches);

// A guess of the validation's pace before the first one: a validation image costs what a training
// image costs (less for the gradient, more for suppression of an untrained model's many boxes).
[[nodiscard]] double guess_validation_seconds(const Pace& pace, std::int64_t train_images_per_batch,
                                              std::int64_t val_images);

// How many epochs the run will have made when its time ends, fractions included. `epochs_done`
// counts fractions too; `remaining_s` is what is left of the hours.
[[nodiscard]] double plan_epochs(double epochs_done, double remaining_s, const Pace& pace,
                                 std::int64_t batches_per_epoch);

// Whether another epoch is worth beginning: at least a tenth of it fits.
[[nodiscard]] bool is_worth_another_epoch(double remaining_s, const Pace& pace,
                                          std::int64_t batches_per_epoch);

}  // namespace trainer
