// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <torch/utils.h>

#include <algorithm>
#include <cmath>
#include <span>

#include "trainer/layout.h"
#include "trainer/sampler.h"
#include "trainer/train_run.h"

namespace trainer {

using contract::ExitCode;

namespace {

constexpr double kCheckpointIntervalSeconds = 600;  // Inside long epochs.
constexpr double kStopFilePollSeconds = 1;

// The losses of a batch, and whether they and the step before it are numbers. The host waits for
// the device here and nowhere else in a batch of one rank.
struct Numbers {
  std::array<double, 3> losses{};
  bool are_finite = false;
};

Numbers read(const BatchStep::Result& result) {
  const torch::Tensor host =
      torch::cat({result.items, result.gradient_norm.view(1)}).to(torch::kCPU, torch::kDouble);
  const std::span<const double> values(host.data_ptr<double>(), 4);
  if (!std::all_of(values.begin(), values.end(), [](double each) { return std::isfinite(each); })) {
    return {};
  }
  return {{values[0], values[1], values[2]}, true};
}

// Of the time in which gradients travelled: what of it nobody waited for. NaN where none did.
double hidden_share(const GradientReducer::Totals& before, const GradientReducer::Totals& now) {
  const double under_way_s = now.under_way_s - before.under_way_s;
  if (!(under_way_s > 0)) return std::nan("");
  return std::max(0.0, 1 - (now.exposed_s - before.exposed_s) / under_way_s);
}

}  // namespace

// One epoch, or what is left of it. Nothing: done; the epoch is closed and saved.
std::optional<ExitCode> TrainingRun::train_epoch() {
  // The epoch before is saved: rather that than a step which is lost. An attempt that has done
  // nothing yet tries, or it would get nowhere again and again.
  if (batches_this_attempt_ > 0 && agreed(is_first_rank() && is_step_beyond_deadline())) {
    if (!args_.save) save();
    return ExitCode::kDeadline;
  }
  const int epochs = epochs_shown();
  const bool is_end_known = !is_timed() || progress_.batch_seconds > 0;
  if (is_end_known && args_.close_mosaic > 0 && epochs >= args_.close_mosaic &&
      progress_.epoch >= epochs - args_.close_mosaic) {
    progress_.is_mosaic_closed = true;
  }
  if (progress_.epoch_batch < progress_.batches_per_epoch) {
    loader_->start_epoch(progress_.epoch, progress_.epoch_batch, !progress_.is_mosaic_closed);
  }
  // A stop after the last batch of an epoch leaves its row of results to this attempt.
  if (progress_.epoch_batch == progress_.batches_per_epoch) {
    const double before = 1.0 / static_cast<double>(progress_.batches_per_epoch);
    last_rates_ = plan_of_batch(progress_.step - 1, epoch_position() - before).rates;
  }
  replica_->model().train();
  epoch_started_ = batch_started_ = around_.now();
  epoch_first_batch_ = progress_.epoch_batch;
  epoch_reduced_ = replica_->reduced();

  bool is_time_up = false;
  while (progress_.epoch_batch < progress_.batches_per_epoch && !is_time_up) {
    batch_under_way_ = progress_.epoch_batch + 1;
    const Batch batch = loader_->next();
    pictures_.draw_training(batch, progress_.step);
    const BatchPlan plan = plan_of_batch(progress_.step, epoch_position());

    const bool is_step_due = progress_.pending_batches + 1 >= plan.accumulate;
    const Signals signals = forward_and_backward(
        batch, is_step_due ? Replica::Backward::kStepFollows : Replica::Backward::kMoreFollows);
    if (signals.not_a_number > 0) return ExitCode::kNotANumber;
    if (signals.out_of_memory > 0) return ExitCode::kOutOfMemory;
    if (trace_) trace_->note(progress_, batch, plan, signals.losses);
    if (auto code = after_batch(signals, plan)) return code;
    is_time_up = signals.time_is_up > 0;
  }
  warn_unreadable();
  const std::optional<ExitCode> code = finish_epoch(is_time_up);
  if (code || args_.save || progress_.is_finished) save();
  return code;
}

// `position` in epochs; a run that is not timed has the same rates all through an epoch.
BatchPlan TrainingRun::plan_of_batch(std::int64_t step, double position) const {
  const ScheduleOptions schedule =
      schedule_options(args_, choice_, progress_.batches_per_epoch, progress_.epochs_planned);
  return plan_batch(schedule, step, is_timed() ? position : progress_.epoch,
                    progress_.epochs_planned);
}

// The gradients of a batch. Where a rank has no memory for its share, all do theirs again in parts
// half as large: the global batch stays what it was.
Signals TrainingRun::forward_and_backward(const Batch& batch, Replica::Backward what) {
  const torch::Tensor images = resized(network_input(batch.images, device_));
  for (;;) {
    Signals signals = agree(batch_step_->forward(images, batch.targets));
    if (signals.not_a_number > 0) return signals;
    if (signals.out_of_memory == 0 && batch_step_->backward(what)) return signals;
    if (!batch_step_->split_further(images.size(0))) {
      signals.out_of_memory = 1;
      return signals;
    }
    console_.print(fmt::format(
        "out of memory at epoch {}, batch {}: {} images in {} parts from here on, the global batch "
        "stays {}",
        progress_.epoch + 1, progress_.epoch_batch + 1, images.size(0), batch_step_->parts(),
        args_.batch));
  }
}

// multi_scale: another size for each batch, the same on all ranks and after every resume. Boxes are
// in parts of the image and stay.
torch::Tensor TrainingRun::resized(const torch::Tensor& images) const {
  const int side = batch_size_pixels(static_cast<std::uint64_t>(args_.seed), progress_.epoch,
                                     progress_.epoch_batch, args_.imgsz, args_.multi_scale);
  if (side == args_.imgsz) return images;
  return torch::upsample_bilinear2d(images, {side, side}, /*align_corners=*/false);
}

// Counts the batch, makes an optimiser step where one is due, and leaves where the ranks agreed to.
std::optional<ExitCode> TrainingRun::after_batch(const Signals& signals, const BatchPlan& plan) {
  ++progress_.step;
  ++progress_.epoch_batch;
  ++progress_.pending_batches;
  note_position();
  progress_.epochs_planned = signals.epochs_planned;
  for (std::size_t i = 0; i < 3; ++i) progress_.loss_sums[i] += signals.losses[i];
  ++progress_.loss_batches;
  last_rates_ = plan.rates;

  const bool is_step_due = progress_.pending_batches >= plan.accumulate;
  const bool is_epoch_over =
      progress_.epoch_batch == progress_.batches_per_epoch || signals.time_is_up > 0;
  const bool is_leaving =
      signals.stop > 0 || (signals.deadline > 0 && signals.time_is_up == 0);
  if (is_step_due) step_optimizer(plan.rates);
  // Otherwise the next batch tells. Nothing is validated or saved before that is known.
  if (is_step_due && (is_epoch_over || is_leaving || signals.save > 0) && !replica_->is_finite()) {
    return ExitCode::kNotANumber;
  }
  if (!is_step_due && is_epoch_over) {
    replica_->settle();
    if (!replica_->is_finite()) return ExitCode::kNotANumber;
  }
  report_batch(signals);
  // Between two steps the gradients lie in parts on the ranks: nothing is saved there.
  if (!is_step_due && !is_epoch_over) return std::nullopt;
  if (is_leaving) {
    save();
    return signals.stop > 0 ? ExitCode::kStopped : ExitCode::kDeadline;
  }
  if (signals.save > 0) save();
  return std::nullopt;
}

Signals TrainingRun::agree(const BatchStep::Result& result) {
  Signals signals;
  signals.out_of_memory = result.is_out_of_memory ? 1 : 0;
  if (!result.is_out_of_memory) {
    const Numbers numbers = read(result);
    signals.not_a_number = numbers.are_finite ? 0 : 1;
    if (is_first_rank()) signals.losses = numbers.losses;
  }
  signals.stop = around_.stop_requested.load() ? 1 : 0;
  if (is_first_rank()) {
    const double now = around_.now();
    look_at_files(now);
    if (stop_file_seen_) signals.stop += 1;
    if (around_.stop_at_step > 0 && progress_.step + 1 >= around_.stop_at_step) signals.stop += 1;
    signals.deadline = is_deadline_near(now) ? 1 : 0;
    signals.save = args_.save && now - saved_at_ >= kCheckpointIntervalSeconds ? 1 : 0;
    signals.taken_over = taken_over_.empty() ? 0 : 1;
    signals.epochs_planned = progress_.epochs_planned;
    if (is_timed()) {
      signals.time_is_up = seconds_left(now) <= closing_seconds(pace()) ? 1 : 0;
      if (progress_.batch_seconds > 0) signals.epochs_planned = epochs_in_time(now);
    }
  }
  communicator_.all_reduce_sum(
      std::span<double>(reinterpret_cast<double*>(&signals), sizeof signals / sizeof(double)));
  if (signals.taken_over > 0) throw TakenOver();
  is_stopped_by_file_ = is_persons_stop_ && signals.stop > 0;
  return signals;
}

// Rank 0's alone: has somebody left a word in the folder?
void TrainingRun::look_at_files(double now) {
  if (now - polled_at_ < kStopFilePollSeconds) return;
  polled_at_ = now;
  stop_file_seen_ = folder_.stop_file_exists();
  is_persons_stop_ = stop_file_seen_ && !folder_.is_stop_file_of_a_signal();
  if (around_.deadline_file.empty()) return;
  if (const auto said = read_deadline(around_.deadline_file)) {
    deadline_.time = said->time;
    if (said->is_last) deadline_.is_last = said->is_last;
  }
}

// Agreed by all ranks: is what is under way to be given up? `needed_s`: for what has to follow it.
TrainingRun::Interruption TrainingRun::interrupted(double needed_s) {
  std::array<double, 3> words{around_.stop_requested.load() ? 1.0 : 0.0, 0, 0};
  if (is_first_rank()) {
    const double now = around_.now();
    look_at_files(now);
    if (stop_file_seen_) words[0] += 1;
    if (deadline_.time > 0 && now + needed_s >= deadline_.time) words[1] = 1;
    if (is_timed() && seconds_left(now) <= needed_s) words[2] = 1;
  }
  communicator_.all_reduce_sum(std::span<double>(words));
  is_stopped_by_file_ = is_persons_stop_ && words[0] > 0;
  if (words[0] > 0) return Interruption::kStop;
  if (words[2] > 0) return Interruption::kTimeIsUp;
  return words[1] > 0 ? Interruption::kDeadline : Interruption::kNone;
}

void TrainingRun::step_optimizer(const StepRates& rates) {
  if (around_.before_step) around_.before_step();
  replica_->step(rates, progress_.ema_updates + 1);
  ++progress_.ema_updates;
  progress_.pending_batches = 0;
  progress_.optimizer_steps = replica_->optimizer().steps();
}

// Empty: it can be tried. Only rank 0 looks, and has found what it says on all ranks.
std::string TrainingRun::why_no_reload() {
  if (progress_.reloads >= kReloadsMax) return fmt::format("{} reloads", progress_.reloads);
  std::string why;
  if (is_first_rank()) {
    try {
      if (!read_progress(folder_.weights())) why = "there is no checkpoint yet";
    } catch (const std::runtime_error& error) {
      why = error.what();
    }
  }
  return first_ranks(why);
}

void TrainingRun::reload() {
  leave_if_taken_over();
  const int reloads = progress_.reloads + 1;
  console_.print(
      fmt::format("the loss is not a number at epoch {}, batch {}: loading the last "
                  "checkpoint again, {} of {}",
                  progress_.epoch + 1, progress_.epoch_batch, reloads, kReloadsMax));
  agree_on_input(communicator_, [&] {
    if (is_first_rank()) static_cast<void>(load_state());
  });
  share_state();
  // The request is of this attempt, whatever the checkpoint was made for.
  if (!is_timed()) progress_.epochs_planned = args_.epochs;
  take_request();
  progress_.reloads = reloads;  // The same images in the same order would lead to the same place.
  make_loader();
}

// Rank 0's number for all.
double TrainingRun::first_ranks(double own) {
  double word = is_first_rank() ? own : 0;
  communicator_.all_reduce_sum(std::span<double>(&word, 1));
  return word;
}

std::string TrainingRun::first_ranks(const std::string& own) {
  const std::string sent = is_first_rank() ? own : std::string();
  const auto all = communicator_.all_gather(std::as_bytes(std::span(sent)));
  return {reinterpret_cast<const char*>(all.front().data()), all.front().size()};
}

// Rank 0's word for all.
bool TrainingRun::agreed(bool first_rank_says) {
  return first_ranks(first_rank_says ? 1 : 0) > 0;
}

// Nothing: given up, see interruption_.
std::optional<Validation> TrainingRun::validate_average() {
  constexpr double kAskSeconds = 1;
  interruption_ = Interruption::kNone;
  ValidationOptions options;
  options.batches_to_ask = static_cast<std::int64_t>(
      first_ranks(std::clamp(kAskSeconds / std::max(1e-9, progress_.batch_seconds), 1.0, 100.0)));
  const auto images = static_cast<std::int64_t>(input_.dataset.val.size());
  const std::int64_t images_max = (images + communicator_.size() - 1) / communicator_.size();
  options.batches_max = (images_max + val_batch() - 1) / val_batch();
  options.is_given_up = [this] {
    interruption_ = interrupted(kAskSeconds + saving_seconds(pace(), 1));
    return interruption_ != Interruption::kNone;
  };
  options.nms = {.iou = args_.iou, .max_det = args_.max_det};
  options.loss = loss_options();
  options.class_names = input_.class_names;
  pictures_.start_validation();
  options.before_forward = around_.before_validation;
  options.on_batch = [this](const Batch& batch, const std::vector<torch::Tensor>& detections) {
    pictures_.add(batch, detections);
  };
  is_validating_ = true;
  std::optional<Validation> validation =
      validate(replica_->average(), *val_loader_, options, device_, communicator_);
  is_validating_ = false;
  warn_unreadable();
  return validation;
}

// Validates, writes the row and the weights; progress_.is_finished tells whether the run is at its
// end. A code: the validation was given up, and the epoch is as its last batch left it.
std::optional<ExitCode> TrainingRun::finish_epoch(bool is_time_up) {
  replica_->check();

  const double trained = around_.now();
  const double images =
      static_cast<double>(progress_.epoch_batch - epoch_first_batch_) * args_.batch;
  const double images_per_s = images / std::max(1e-9, trained - epoch_started_);
  ++progress_.epoch;
  note_position();
  bool is_last = progress_.epoch >= args_.epochs;
  bool has_time = true;
  const double planned = progress_.epochs_planned;
  if (is_timed()) {
    const double left = seconds_left(trained);
    is_last =
        agreed(is_time_up || !is_worth_another_epoch(left - pace().each_epoch_s(), pace(),
                                                     progress_.batches_per_epoch));
    has_time = agreed(left > pace().validation_s + pace().save_s);
    if (is_last) progress_.epochs_planned = progress_.epoch;
  }

  std::optional<Validation> validation;  // None: not measured.
  bool is_best = progress_.best_fitness < 0;  // Of what is not measured the last.
  if ((args_.val || is_last) && has_time) {
    validation = validate_average();
    if (!validation && interruption_ != Interruption::kTimeIsUp) {
      --progress_.epoch;
      note_position();
      progress_.epochs_planned = planned;
      return interruption_ == Interruption::kStop ? ExitCode::kStopped : ExitCode::kDeadline;
    }
  }
  if (validation) {
    progress_.validation_seconds = around_.now() - trained;
    is_best = note_fitness(validation->metrics.fitness());
    if (is_best) {
      best_validation_ = validation;
      pictures_.keep_validation();
    }
  } else {
    if (interruption_ == Interruption::kTimeIsUp) {
      is_last = true;
      progress_.epochs_planned = progress_.epoch;
    }
    if (is_best) progress_.best_epoch = progress_.epoch;
  }
  const int gained = std::max(progress_.best_epoch, progress_.patience_from);
  if (args_.val && args_.patience > 0 && progress_.epoch - gained >= args_.patience) {
    console_.print(fmt::format("no gain for {} epochs: stopping early", args_.patience));
    is_last = true;
  }

  const ResultsRow row = results_row(validation);
  const double overlap = hidden_share(epoch_reduced_, replica_->reduced());
  change_folder([&] {
    folder_.add_results(row);
    save_weights_of_epoch(is_best, validation ? validation->metrics.fitness() : 0);
  });
  progress_.epoch_batch = 0;
  progress_.loss_sums = {};
  progress_.loss_batches = 0;
  console_.print_epoch(row, epochs_shown(), images_per_s, progress_.best_epoch);
  record("epoch", {{"train/box_loss", row.train_losses[0]},
                   {"train/cls_loss", row.train_losses[1]},
                   {"train/dfl_loss", row.train_losses[2]},
                   {"metrics/precision(B)", row.precision},
                   {"metrics/recall(B)", row.recall},
                   {"metrics/mAP50(B)", row.map50},
                   {"metrics/mAP50-95(B)", row.map50_95},
                   {"val/box_loss", row.val_losses[0]},
                   {"val/cls_loss", row.val_losses[1]},
                   {"val/dfl_loss", row.val_losses[2]},
                   {"lr/pg0", row.lr[0]},
                   {"lr/pg1", row.lr[1]},
                   {"lr/pg2", row.lr[2]},
                   {"fitness", validation ? validation->metrics.fitness() : std::nan("")},
                   {"best_epoch", progress_.best_epoch},
                   {"images_per_s", images_per_s},
                   {"overlap", overlap},
                   {"validation_s", progress_.validation_seconds},
                   {"save_s", progress_.save_seconds}});
  progress_.is_finished = is_last;
  return std::nullopt;
}

// The same fitness again is a gain, as to the reference: a start that finds nothing for a while, at
// 0, shall not use up the patience.
bool TrainingRun::note_fitness(double fitness) {
  if (progress_.best_epoch > 0 && !(fitness >= progress_.best_fitness)) return false;
  progress_.best_fitness = fitness;
  progress_.best_epoch = progress_.epoch;
  return true;
}

}  // namespace trainer
