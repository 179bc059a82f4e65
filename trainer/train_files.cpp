// SPDX-License-Identifier: Apache-2.0
// What a run leaves behind: checkpoints, weights, records, tables and pictures.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "trainer/train_run.h"

namespace trainer {

using contract::ExitCode;

namespace {

constexpr double kStepRecordSeconds = 1;

}  // namespace

// Rank 0's look; others know nothing.
bool TrainingRun::is_taken_over() {
  if (taken_over_.empty() && is_first_rank()) taken_over_ = owner_.why_lost();
  return !taken_over_.empty();
}

// A collective.
void TrainingRun::leave_if_taken_over() {
  if (agreed(is_taken_over())) throw TakenOver();
}

// Rank 0 writes, where the folder is still this run's. Where it is not, nothing happens: the ranks
// learn of it when they next agree on something.
void TrainingRun::change_folder(const std::function<void()>& change) {
  if (!is_first_rank() || is_taken_over()) return;
  try {
    change();
  } catch (const std::runtime_error&) {
    if (!is_taken_over()) throw;  // Else the new owner has removed what this one was writing.
  }
}

ResultsRow TrainingRun::results_row(const std::optional<Validation>& validation) const {
  ResultsRow row{.epoch = progress_.epoch, .time_s = seconds_used(around_.now())};
  const double batches = static_cast<double>(std::max<std::int64_t>(1, progress_.loss_batches));
  for (std::size_t i = 0; i < 3; ++i) row.train_losses[i] = progress_.loss_sums[i] / batches;
  if (validation) {
    row.precision = validation->metrics.precision;
    row.recall = validation->metrics.recall;
    row.map50 = validation->metrics.map50;
    row.map50_95 = validation->metrics.map50_95;
    row.val_losses = validation->losses;
  } else {
    row.precision = row.recall = row.map50 = row.map50_95 = std::nan("");
    row.val_losses.fill(std::nan(""));
  }
  row.lr = last_rates_.lr;
  return row;
}

void TrainingRun::save_newest_weights(bool is_best, double fitness) {
  const WeightsInfo info = weights_info(fitness);
  const auto save = [&](const std::string& name) {
    save_weights(folder_.weights() + name, replica_->average(), info, state().check_owner);
  };
  if (args_.save) save("/last.safetensors");
  if (is_best) save("/best.safetensors");
}

void TrainingRun::save_weights_of_epoch(bool is_best, double fitness) {
  save_newest_weights(is_best, fitness);
  if (args_.save_period > 0 && progress_.epoch % args_.save_period == 0) {
    save_weights(fmt::format("{}/epoch{}.safetensors", folder_.weights(), progress_.epoch),
                 replica_->average(), weights_info(fitness), state().check_owner);
  }
}

// Rank 0. The best weights are written before the checkpoint: where that was lost, or the one
// before is taken, they are of a later epoch than the state knows. They stay what is to be
// surpassed: the file counts, and where there is none the next epoch makes one.
LoadReport TrainingRun::load_state() {
  LoadReport report = load_checkpoint(folder_.weights(), state());
  if (!report.is_found) return report;
  WeightsInfo best;
  try {
    best = read_weights_info(folder_.weights() + "/best.safetensors");
  } catch (const std::runtime_error&) {
  }
  if (best.epoch == progress_.best_epoch) return report;
  if (best.epoch == 0 && progress_.is_finished) {  // No epoch follows.
    save_newest_weights(/*is_best=*/true, /*fitness=*/0);
    report.warnings.push_back("best.safetensors is gone: it is made again, of the last epoch.");
    best.epoch = progress_.epoch;
  }
  progress_.best_epoch = best.epoch;
  progress_.best_fitness = best.fitness > 0 ? best.fitness : Progress().best_fitness;
  return report;
}

void TrainingRun::save() {
  const double started = around_.now();
  progress_.seconds_used = seconds_used(started);
  wire_state_ = replica_->wire_state();
  const auto& scale = replica_->loss_scale();
  progress_.loss_scale = scale ? scale->factor : 0;
  progress_.loss_scale_steps = scale ? scale->clean_steps : 0;
  change_folder([&] {
    // Where no epoch is finished yet: a run that ends with this checkpoint leaves a model.
    if (progress_.best_epoch == 0) save_newest_weights(/*is_best=*/true, /*fitness=*/0);
    save_checkpoint(folder_.weights(), state());
    progress_.save_seconds = around_.now() - started;
    record("checkpoint", {{"save_s", progress_.save_seconds}});
  });
  wire_state_.clear();
  saved_at_ = batch_started_ = around_.now();
}

void TrainingRun::record(std::string kind, std::map<std::string, double> values, std::string text) {
  change_folder([&] {
    const double now = around_.now();
    folder_.append_metrics({.kind = std::move(kind),
                            .time = now,
                            .epoch = std::min(progress_.epoch + (progress_.epoch_batch > 0 ? 1 : 0),
                                              std::max(1, epochs_shown())),
                            .epochs = epochs_shown(),
                            .step = progress_.step,
                            .steps_per_epoch = progress_.batches_per_epoch,
                            .train_seconds = seconds_used(now),
                            .values = std::move(values),
                            .text = std::move(text)});
  });
}

// Measures the pace and tells people and files, at most once a second.
void TrainingRun::report_batch(const Signals& signals) {
  constexpr std::int64_t kSlowBatches = 2;  // The first ones fill caches.
  const double now = around_.now();
  const double seconds = now - batch_started_;
  batch_started_ = now;
  if (++batches_this_attempt_ > kSlowBatches || progress_.batch_seconds == 0) {
    const bool is_first = progress_.batch_seconds == 0 || batches_this_attempt_ == kSlowBatches + 1;
    progress_.batch_seconds = is_first ? seconds : mean_with(progress_.batch_seconds, seconds);
  }
  if (now - recorded_at_ < kStepRecordSeconds) return;
  recorded_at_ = now;
  const double images_per_s = args_.batch / std::max(1e-9, progress_.batch_seconds);
  console_.print_step({.epoch = progress_.epoch + 1,
                       .epochs = epochs_shown(),
                       .batch = progress_.epoch_batch,
                       .batches = progress_.batches_per_epoch,
                       .losses = signals.losses,
                       .images_per_s = images_per_s});
  record("step", {{"train/box_loss", signals.losses[0]},
                  {"train/cls_loss", signals.losses[1]},
                  {"train/dfl_loss", signals.losses[2]},
                  {"lr/pg0", last_rates_.lr[0]},
                  {"lr/pg1", last_rates_.lr[1]},
                  {"lr/pg2", last_rates_.lr[2]},
                  {"batch", static_cast<double>(progress_.epoch_batch)},
                  {"images_per_s", images_per_s}});
}

// Each image once.
void TrainingRun::warn_unreadable() {
  for (const std::string& problem : loader_->take_unreadable()) {
    fmt::print(stderr, "rank {}: {} Another image takes its place.\n", communicator_.rank(),
               problem);
  }
  for (const std::string& problem : val_loader_->take_unreadable()) {
    fmt::print(stderr, "rank {}: {} It is left out of the validation.\n", communicator_.rank(),
               problem);
  }
  for (const std::vector<std::string>& odd : {loader_->take_odd(), val_loader_->take_odd()}) {
    for (const std::string& note : odd) {
      fmt::print(stderr, "rank {}: {} It is used all the same.\n", communicator_.rank(), note);
    }
  }
}

// The table of the best weights. Those of an earlier attempt are read and measured again.
void TrainingRun::evaluate_best() {
  leave_if_taken_over();
  const std::string best = folder_.weights() + "/best.safetensors";
  const double needed_s = may_deadline_move() ? 0 : measuring_seconds(pace());
  if (!best_validation_ && interrupted(needed_s) == Interruption::kNone) {
    if (is_first_rank()) {
      copy_matching(state_tensors(*load_model(best).model), replica_->average());
    }
    replica_->share_average();
    best_validation_ = validate_average();
    if (best_validation_) pictures_.keep_validation();
  }
  if (best_validation_) {
    constexpr std::size_t kClassesMax = 100;
    console_.print(fmt::format("best weights, epoch {}: {}", progress_.best_epoch, best));
    console_.print(to_table(best_validation_->metrics, args_.verbose ? kClassesMax : 0));
  }
  constexpr double kDrawingSeconds = 2;  // Inside the hours, or not at all.
  const Interruption late = interrupted(kDrawingSeconds);
  if (late == Interruption::kNone || late == Interruption::kStop) {
    pictures_.draw_results();
    if (best_validation_) pictures_.finish(*best_validation_);
  }
}

TrainOutcome TrainingRun::leave(ExitCode code, std::string message,
                                std::vector<std::string> bad_nodes) {
  leave_if_taken_over();
  record("end", {}, std::string(reason_of(code)));
  TrainOutcome outcome{code, std::move(message), progress_.epoch, progress_.step,
                       std::move(bad_nodes)};
  change_folder([&] {
    folder_.remove_stop_file();  // It is obeyed: the next attempt shall not stop at once.
    folder_.write_exit_record(
        {code, outcome.message, outcome.epoch, outcome.step, around_.attempt, outcome.bad_nodes,
         is_stopped_by_file_});
  });
  console_.print(outcome.message);
  // A rank that leaves with a code may end the others: not before everything is written.
  communicator_.barrier();
  return outcome;
}

}  // namespace trainer
