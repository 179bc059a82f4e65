// SPDX-License-Identifier: Apache-2.0
// trainer/train_run.h
//
// One attempt of a run, for train*.cpp alone: train.cpp sets it up and says how it ends,
// train_loop.cpp makes the epochs, train_files.cpp writes what is left of them.
#pragma once

#include <torch/types.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>

#include "trainer/batch_step.h"
#include "trainer/checkpoint.h"
#include "trainer/console.h"
#include "trainer/contract/architecture.h"
#include "trainer/image_cache.h"
#include "trainer/loader.h"
#include "trainer/loss.h"
#include "trainer/optimizer.h"
#include "trainer/replica.h"
#include "trainer/run_folder.h"
#include "trainer/run_owner.h"
#include "trainer/run_pictures.h"
#include "trainer/schedule.h"
#include "trainer/step_trace.h"
#include "trainer/tensor_file.h"
#include "trainer/time_budget.h"
#include "trainer/train.h"
#include "trainer/train_input.h"
#include "trainer/validate.h"
#include "trainer/weights_file.h"

namespace trainer {

// The folder is another process' by now. Raised on all ranks alike.
class TakenOver : public std::exception {};

inline constexpr int kReloadsMax = 3;  // After a loss that is not a number.

// What the ranks tell each other after the forward pass of a batch, summed.
struct Signals {
  std::array<double, 3> losses{};  // Rank 0's, which are those of the global batch.
  double not_a_number = 0;         // From here on: how many ranks say so.
  double out_of_memory = 0;
  double stop = 0;
  double deadline = 0;
  double time_is_up = 0;  // Only rank 0 looks at the clock.
  double save = 0;
  double taken_over = 0;      // Only rank 0 looks whose the folder is.
  double epochs_planned = 0;  // Rank 0's.
};
static_assert(sizeof(Signals) == 11 * sizeof(double), "Signals travel as an array of doubles.");

class TrainingRun {
 public:
  TrainingRun(const contract::TrainSpec& spec, const Surroundings& around);

  TrainOutcome run();
  // Where the run was when `error`, an allocator's, rose from it.
  std::string describe_out_of_memory(const std::exception& error) const;

 private:
  bool is_first_rank() const { return communicator_.rank() == 0; }
  bool is_timed() const { return args_.time_h.has_value(); }
  // All at `now`, a look at the clock (Surroundings::now).
  double seconds_used(double now) const { return seconds_before_ + now - around_.allocation_start; }
  double hours_left_s(double now) const {
    return args_.time_h.value_or(0) * 3600 - seconds_used(now);
  }
  bool ends_at_deadline(double now) const;
  double seconds_left(double now) const;
  bool may_deadline_move() const { return !around_.deadline_file.empty() && !is_timed(); }
  std::int64_t batches_to_exit(std::int64_t done) const;
  bool is_deadline_near(double now) const;
  bool is_step_beyond_deadline() const;
  double epochs_in_time(double now) const;
  double epoch_position() const {
    return progress_.epoch + static_cast<double>(progress_.epoch_batch) /
                                 static_cast<double>(progress_.batches_per_epoch);
  }
  int epochs_shown() const { return static_cast<int>(std::ceil(progress_.epochs_planned - 1e-9)); }
  TrainState state() {
    return {replica_->model(), replica_->average(), replica_->optimizer(), progress_, &wire_state_,
            [this] { if (is_taken_over()) throw std::runtime_error(taken_over_); }};
  }
  Pace pace() const;

  // To the end, whatever it is, or to TakenOver.
  TrainOutcome train_to_end();

  // Before the loop.
  std::optional<contract::PreflightReport> look_at_nodes();  // Where something is wrong.
  void build();
  std::optional<Progress> begun_with();
  contract::Architecture choose_architecture(const std::optional<Progress>& begun);
  OptimizerChoice choose(const std::optional<Progress>& begun) const;
  std::map<std::string, std::string> arguments_used() const;
  void resume_or_start();
  LoadReport load_state();
  void take_request();
  void share_state();
  void choose_batch(const contract::Architecture& architecture, int class_count,
                    const std::optional<Progress>& begun);
  void make_loader();
  void announce();
  std::string gather_hosts();
  std::string gather_cpus();
  int loader_threads() const {
    return std::clamp(args_.workers, 1, std::max(1, around_.threads));
  }

  int val_batch() const { return 2 * input_.batch_per_rank; }

  // The loop.
  std::optional<contract::ExitCode> train_epoch();
  std::optional<contract::ExitCode> after_batch(const Signals& signals, const BatchPlan& plan);
  torch::Tensor resized(const torch::Tensor& images) const;
  LossOptions loss_options() const {
    return {.box = args_.box, .cls = args_.cls, .dfl = args_.dfl, .class_weights = class_weights_};
  }
  BatchPlan plan_of_batch(std::int64_t step, double position) const;
  Signals forward_and_backward(const Batch& batch, Replica::Backward what);
  Signals agree(const BatchStep::Result& result);
  void step_optimizer(const StepRates& rates);
  std::string why_no_reload();
  void reload();
  std::optional<contract::ExitCode> finish_epoch(bool is_time_up);
  void look_at_files(double now);
  enum class Interruption { kNone, kStop, kDeadline, kTimeIsUp };
  Interruption interrupted(double needed_s);
  double first_ranks(double own);
  bool agreed(bool first_rank_says);
  std::string first_ranks(const std::string& own);
  std::optional<Validation> validate_average();
  bool note_fitness(double fitness);
  ResultsRow results_row(const std::optional<Validation>& validation) const;

  // For those who say how it ended without the training itself.
  void note_position() const {
    if (around_.position == nullptr) return;
    around_.position->step = progress_.step;
    around_.position->epoch = progress_.epoch;
  }

  // Files.
  bool is_taken_over();
  void leave_if_taken_over();
  void change_folder(const std::function<void()>& change);
  void save();
  WeightsInfo weights_info(double fitness) const {
    return {.class_names = input_.class_names,
            .imgsz = args_.imgsz,
            .epoch = progress_.epoch,
            .fitness = fitness};
  }
  void save_newest_weights(bool is_best, double fitness);
  void save_weights_of_epoch(bool is_best, double fitness);
  void record(std::string kind, std::map<std::string, double> values, std::string text = {});
  void report_batch(const Signals& signals);
  void warn_unreadable();
  TrainOutcome leave(contract::ExitCode code, std::string message,
                     std::vector<std::string> bad_nodes = {});
  void evaluate_best();

  const Surroundings& around_;
  Communicator& communicator_;
  Console console_;
  RunFolder folder_;
  RunOwner own_owner_;  // Where the surroundings bring none.
  RunOwner& owner_;
  std::string taken_over_;  // By whom, as rank 0 has seen; empty: by nobody.
  std::string run_id_;
  TrainInput input_;
  const contract::TrainArgs& args_;
  torch::Device device_;

  std::string hosts_;  // Of all ranks.
  torch::Tensor class_weights_;  // cls_pw; undefined: all classes alike.
  OptimizerChoice choice_;
  std::optional<Replica> replica_;
  NamedTensors wire_state_;  // wire=bf16: as the checkpoint has it (GradientReducer).
  std::optional<BatchStep> batch_step_;
  std::optional<StepTrace> trace_;
  Progress progress_;
  HostCache image_cache_;  // Empty without cache=ram or disk.
  std::unique_ptr<TrainLoader> loader_;
  std::unique_ptr<ValLoader> val_loader_;

  Deadline deadline_;          // Rank 0's: around_.deadline, or what its file says.
  double seconds_before_ = 0;  // Used by earlier attempts.
  StepRates last_rates_;
  std::int64_t batches_this_attempt_ = 0;
  double batch_started_ = 0;
  double epoch_started_ = 0;
  std::int64_t epoch_first_batch_ = 0;
  GradientReducer::Totals epoch_reduced_;  // As the epoch began here.
  double saved_at_ = 0, polled_at_ = 0, recorded_at_ = 0;
  bool stop_file_seen_ = false, is_persons_stop_ = false;
  bool is_stopped_by_file_ = false;  // Rank 0's: a person's.
  Interruption interruption_ = Interruption::kNone;  // Of the last validation.
  std::int64_t batch_under_way_ = 0;  // Of the epoch, from 1; 0: none yet.
  bool is_validating_ = false;
  std::optional<Validation> best_validation_;  // Where this attempt made the best epoch.
  RunPictures pictures_;
};
}  // namespace trainer
