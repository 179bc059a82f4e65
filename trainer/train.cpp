// SPDX-License-Identifier: Apache-2.0
#include "trainer/train.h"

#include <fmt/format.h>
#include <torch/cuda.h>
#include <torch/utils.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "trainer/checkpoint.h"
#include "trainer/class_weights.h"
#include "trainer/console.h"
#include "trainer/contract/architecture.h"
#include "trainer/image_cache.h"
#include "trainer/layout.h"
#include "trainer/loader.h"
#include "trainer/loss.h"
#include "trainer/model.h"
#include "trainer/optimizer.h"
#include "trainer/replica.h"
#include "trainer/run_folder.h"
#include "trainer/sampler.h"
#include "trainer/schedule.h"
#include "trainer/time_budget.h"
#include "trainer/train_input.h"
#include "trainer/validate.h"
#include "trainer/weights_file.h"

namespace trainer {

namespace {

using contract::ExitCode;

constexpr int kReloadsMax = 3;                      // After a loss that is not a number.
constexpr double kCheckpointIntervalSeconds = 600;  // Inside long epochs.
constexpr double kStopFilePollSeconds = 1;
constexpr double kStepRecordSeconds = 1;
constexpr std::uint64_t kReloadSeedStep = 1'000'003;

// What the ranks tell each other after the forward pass of a batch, summed.
struct Signals {
  std::array<double, 3> losses{};  // Of the global batch.
  double not_a_number = 0;         // From here on: how many ranks say so.
  double stop = 0;
  double deadline = 0;
  double time_is_up = 0;  // Only rank 0 looks at the clock.
  double save = 0;
  double epochs_planned = 0;  // Rank 0's.
};
static_assert(sizeof(Signals) == 9 * sizeof(double), "Signals travel as an array of doubles.");

torch::Device pick_device(int local_rank) {
  if (!torch::cuda::is_available()) return torch::kCPU;
  const auto count = static_cast<int>(torch::cuda::device_count());
  return {torch::kCUDA, static_cast<c10::DeviceIndex>(local_rank % count)};
}

std::array<double, 3> to_array(const torch::Tensor& items) {
  const torch::Tensor host = items.to(torch::kCPU, torch::kDouble);
  const auto* values = host.data_ptr<double>();
  return {values[0], values[1], values[2]};
}

class Run {
 public:
  Run(const contract::TrainSpec& spec, const Surroundings& around)
      : around_(around),
        communicator_(around.communicator),
        console_(around.communicator.rank() == 0 ? around.output : Surroundings::Output::kNone),
        folder_(spec.run_dir),
        run_id_(spec.run_id),
        input_(prepare_input(spec.args, communicator_)),
        args_(input_.args),
        device_(pick_device(communicator_.local_rank())) {}

  TrainOutcome run();

 private:
  bool is_first_rank() const { return communicator_.rank() == 0; }
  bool is_timed() const { return args_.time_h.has_value(); }
  double seconds_used() const { return seconds_before_ + around_.now() - around_.allocation_start; }
  double seconds_left() const;
  double epoch_position() const {
    return progress_.epoch + static_cast<double>(progress_.epoch_batch) /
                                 static_cast<double>(progress_.batches_per_epoch);
  }
  int epochs_shown() const { return static_cast<int>(std::ceil(progress_.epochs_planned - 1e-9)); }
  TrainState state() {
    return {replica_->model(), replica_->average(), replica_->optimizer(), progress_};
  }
  Pace pace() const;

  // Before the loop.
  void build();
  contract::Architecture choose_architecture();
  void resume_or_start();
  void share_state();
  void make_loader();
  void announce();
  std::string gather_hosts();

  // The loop.
  std::optional<ExitCode> train_epoch();
  std::optional<ExitCode> after_batch(const Signals& signals, const BatchPlan& plan);
  torch::Tensor resized(const torch::Tensor& images) const;
  LossOptions loss_options() const {
    return {.box = args_.box, .cls = args_.cls, .dfl = args_.dfl, .class_weights = class_weights_};
  }
  Signals agree(const LossValue& loss);
  bool step_optimizer(const StepRates& rates);
  void reload();
  bool finish_epoch(bool is_time_up);
  bool agreed(bool first_rank_says);
  Validation validate_average();
  bool note_fitness(double fitness);
  ResultsRow results_row(const Validation& validation) const;

  // Files.
  void save();
  void save_weights_of_epoch(bool is_best);
  void record(std::string kind, std::map<std::string, double> values, std::string text = {});
  void report_batch(const Signals& signals);
  void warn_unreadable();
  TrainOutcome leave(ExitCode code, std::string message);
  void evaluate_best();

  const Surroundings& around_;
  Communicator& communicator_;
  Console console_;
  RunFolder folder_;
  std::string run_id_;
  TrainInput input_;
  const contract::TrainArgs& args_;
  torch::Device device_;

  std::string hosts_;  // Of all ranks.
  torch::Tensor class_weights_;  // cls_pw; undefined: all classes alike.
  OptimizerChoice choice_;
  std::optional<Replica> replica_;
  Progress progress_;
  HostCache image_cache_;  // Empty without cache=ram or disk.
  std::unique_ptr<TrainLoader> loader_;
  std::unique_ptr<ValLoader> val_loader_;

  double seconds_before_ = 0;  // Used by earlier attempts.
  StepRates last_rates_;
  std::int64_t batches_this_attempt_ = 0;
  double batch_started_ = 0;
  double epoch_started_ = 0;
  std::int64_t epoch_first_batch_ = 0;
  double saved_at_ = 0, polled_at_ = 0, recorded_at_ = 0;
  bool stop_file_seen_ = false;
  std::optional<EvalMetrics> best_metrics_;  // Where this attempt made the best epoch.
};

Pace Run::pace() const {
  Pace pace{progress_.batch_seconds, progress_.validation_seconds, progress_.save_seconds};
  if (pace.validation_s <= 0) {
    pace.validation_s = guess_validation_seconds(
        pace, args_.batch, static_cast<std::int64_t>(input_.dataset.val.size()));
  }
  return pace;
}

// Of a timed run. A deadline that leaves only a little of the hours is the end of the run: another
// allocation for the rest would cost more than it trains.
double Run::seconds_left() const {
  constexpr double kRestSecondsMin = 300;
  constexpr double kRestShareMin = 0.05;
  const double hours_s = args_.time_h.value_or(0) * 3600;
  const double left = hours_s - seconds_used();
  if (around_.deadline <= 0) return left;
  const double until_deadline = around_.deadline - around_.now();
  const bool is_rest_small =
      left - until_deadline < std::max(kRestSecondsMin, kRestShareMin * hours_s);
  return is_rest_small ? std::min(left, until_deadline) : left;
}

void Run::build() {
  torch::set_num_threads(around_.threads);
  if (args_.deterministic) {
    at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/true);
    at::globalContext().setDeterministicCuDNN(true);
  }
  torch::manual_seed(static_cast<std::uint64_t>(args_.seed));
  const auto class_count = static_cast<int>(input_.class_names.size());
  choice_ =
      choose_optimizer(args_, class_count, static_cast<std::int64_t>(input_.dataset.train.size()));
  if (args_.cls_pw > 0) {
    const std::vector<double> weights =
        class_weights(count_labels(input_.dataset.train, class_count), args_.cls_pw);
    class_weights_ = torch::tensor(at::ArrayRef<double>(weights)).to(device_, torch::kFloat);
  }
  const contract::Architecture architecture = choose_architecture();
  replica_.emplace(architecture, class_count, choice_.kind, scaled_weight_decay(args_), device_,
                   communicator_, args_.freeze);
  const int threads = std::clamp(args_.workers, 1, std::max(1, around_.threads));
  val_loader_ = std::make_unique<ValLoader>(input_.dataset.val, args_.imgsz,
                                            2 * input_.batch_per_rank, threads, args_.single_cls,
                                            Shard{communicator_.rank(), communicator_.size()},
                                            ValFrame::kRect);
  if (args_.cache != "false") {
    constexpr std::size_t kChannels = 3;
    const auto side = static_cast<std::size_t>(args_.imgsz);
    image_cache_ = make_host_cache(
        communicator_, std::ssize(input_.dataset.train), kChannels * side * side,
        args_.cache == "disk" ? ImageCache::Medium::kDisk : ImageCache::Medium::kMemory);
    if (!image_cache_.note.empty()) input_.warnings.push_back(image_cache_.note);
  }
  make_loader();

  progress_.model = args_.model;
  progress_.model_yaml = architecture.is_known ? std::string() : architecture.yaml;
  progress_.class_count = class_count;
  progress_.optimizer = name_of(choice_.kind);
  progress_.batch = args_.batch;
  progress_.batches_per_epoch = loader_->batches_per_epoch();
  progress_.epochs_planned = args_.epochs;
}

// A description that an earlier attempt began with counts: the file may have changed since.
contract::Architecture Run::choose_architecture() {
  if (!contract::is_model_file(args_.model)) return contract::load_architecture(args_.model);
  std::string yaml;
  agree_on_input(communicator_, [&] {
    if (!is_first_rank()) return;
    const std::optional<Progress> saved = read_progress(folder_.weights());
    yaml = saved && saved->model == args_.model && !saved->model_yaml.empty()
               ? saved->model_yaml
               : contract::load_architecture(args_.model).yaml;
  });
  const auto all = communicator_.all_gather(std::as_bytes(std::span(yaml)));
  const std::string_view first(reinterpret_cast<const char*>(all.front().data()),
                               all.front().size());
  return contract::parse_architecture(first, contract::model_name(args_.model), args_.model);
}

void Run::make_loader() {
  const int threads = std::clamp(args_.workers, 1, std::max(1, around_.threads));
  loader_.reset();  // The old one's memory first.
  loader_ = std::make_unique<TrainLoader>(
      input_.dataset.train, args_,
      TrainLoader::Options{.batch_per_rank = input_.batch_per_rank,
                           .imgsz = args_.imgsz,
                           .threads = threads,
                           .seed = static_cast<std::uint64_t>(args_.seed) +
                                   kReloadSeedStep * static_cast<std::uint64_t>(progress_.reloads),
                           .cache = image_cache_.cache},
      Shard{communicator_.rank(), communicator_.size()});
}

void Run::resume_or_start() {
  LoadReport report;
  std::string pretrained;
  agree_on_input(communicator_, [&] {
    if (!is_first_rank()) return;
    report = load_checkpoint(folder_.weights(), state());
    if (!report.is_found && !args_.pretrained.empty()) {
      pretrained = load_pretrained(args_.pretrained, replica_->model());
      copy_matching(state_tensors(replica_->model()), replica_->average());
    }
  });
  for (const std::string& warning : report.warnings) console_.print(warning);
  share_state();
  seconds_before_ = std::max(progress_.seconds_used, around_.seconds_used_before);
  if (progress_.reloads > 0) make_loader();
  if (!is_timed()) progress_.epochs_planned = args_.epochs;

  if (is_first_rank()) folder_.trim_results(progress_.epoch);
  if (!pretrained.empty()) {
    console_.print(fmt::format("pretrained {}: {}", args_.pretrained, pretrained));
  }
  if (progress_.step > 0) {
    console_.print(fmt::format("resuming {} at epoch {}, batch {} of {} ({:.0f} s used)",
                               report.file, progress_.epoch + 1, progress_.epoch_batch,
                               progress_.batches_per_epoch, seconds_before_));
  }
}

// Rank 0's state on every rank.
void Run::share_state() {
  const std::string text = is_first_rank() ? to_json_text(progress_) : std::string();
  const auto all = communicator_.all_gather(std::as_bytes(std::span(text)));
  const std::string first(reinterpret_cast<const char*>(all.front().data()), all.front().size());
  if (!is_first_rank()) progress_ = parse_progress(first);
  replica_->share(progress_.optimizer_steps);
}

// Every rank's host once, in the order of the ranks, with how many stand on it: "n1 (2), n2 (2)".
std::string Run::gather_hosts() {
  const std::string own = communicator_.host();
  std::string text;
  std::string last;
  int count = 0;
  const auto close = [&] {
    if (count > 0) text += fmt::format("{}{} ({})", text.empty() ? "" : ", ", last, count);
  };
  for (const std::vector<std::byte>& bytes :
       communicator_.all_gather(std::as_bytes(std::span(own)))) {
    const std::string host(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    if (host != last) {
      close();
      last = host;
      count = 0;
    }
    ++count;
  }
  close();
  return text;
}

void Run::announce() {
  hosts_ = gather_hosts();
  console_.print_configuration(args_);
  std::int64_t parameters = 0;
  for (const torch::Tensor& parameter : replica_->model().parameters())
    parameters += parameter.numel();
  const int accumulate = full_accumulation(args_.batch, args_.nbs);
  console_.print(fmt::format(
      "{}: {} parameters, {} classes; {} training and {} validation images; {} on {} rank{}, {} "
      "thread{} each; {}",
      args_.model, parameters, input_.class_names.size(), input_.dataset.train.size(),
      input_.dataset.val.size(), device_.str(), communicator_.size(),
      communicator_.size() == 1 ? "" : "s", around_.threads, around_.threads == 1 ? "" : "s",
      hosts_));
  console_.print(fmt::format(
      "global batch {} = {} rank{} x {}, accumulate {} -> nominal {}; {} batches an epoch; {} lr0 "
      "{} momentum {} weight decay {:.3g}",
      args_.batch, communicator_.size(), communicator_.size() == 1 ? "" : "s",
      input_.batch_per_rank, accumulate, accumulate * args_.batch, progress_.batches_per_epoch,
      name_of(choice_.kind), choice_.lr0, choice_.momentum, scaled_weight_decay(args_)));
  if (is_timed()) {
    console_.print(fmt::format("timed run: {:.0f} s left of {} h", seconds_left(), *args_.time_h));
  }
  for (const std::string& warning : input_.warnings) console_.print(warning);
  if (!is_first_rank()) return;
  folder_.write_args(args_);
}

TrainOutcome Run::run() {
  if (is_first_rank()) folder_.remove_exit_record();
  build();
  resume_or_start();
  announce();
  record("start", {{"ranks", communicator_.size()}, {"threads", around_.threads}},
         fmt::format("{} on {}", run_id_, hosts_));
  saved_at_ = around_.now();

  const bool is_extended = is_timed() ? *args_.time_h > progress_.hours_requested
                                      : args_.epochs > progress_.epochs_requested;
  progress_.epochs_requested = args_.epochs;
  progress_.hours_requested = args_.time_h.value_or(0);
  bool is_finished = progress_.is_finished && !is_extended;
  if (progress_.is_finished && is_extended) progress_.is_mosaic_closed = false;
  progress_.is_finished = is_finished;
  while (!is_finished) {
    if (const std::optional<ExitCode> code = train_epoch()) {
      if (*code != ExitCode::kNotANumber) {
        return leave(*code, std::string(contract::describe(*code)));
      }
      if (progress_.reloads >= kReloadsMax ||
          !agreed(read_progress(folder_.weights()).has_value())) {
        return leave(*code,
                     fmt::format("the loss is not a number at epoch {}, batch {}; {} reloads",
                                 progress_.epoch + 1, progress_.epoch_batch, progress_.reloads));
      }
      reload();
    } else {
      is_finished = progress_.is_finished;
    }
  }
  evaluate_best();
  return leave(ExitCode::kFinished, fmt::format("finished after {} epochs; best: epoch {}",
                                                progress_.epoch, progress_.best_epoch));
}

// One epoch, or what is left of it. Nothing: done; the epoch is closed and saved.
std::optional<ExitCode> Run::train_epoch() {
  const int epochs = epochs_shown();
  if (epochs > args_.close_mosaic && progress_.epoch >= epochs - args_.close_mosaic) {
    progress_.is_mosaic_closed = true;
  }
  if (progress_.epoch_batch < progress_.batches_per_epoch) {
    loader_->start_epoch(progress_.epoch, progress_.epoch_batch, !progress_.is_mosaic_closed);
  }
  replica_->model().train();
  epoch_started_ = batch_started_ = around_.now();
  epoch_first_batch_ = progress_.epoch_batch;

  bool is_time_up = false;
  while (progress_.epoch_batch < progress_.batches_per_epoch && !is_time_up) {
    const Batch batch = loader_->next();
    const ScheduleOptions schedule =
        schedule_options(args_, choice_, progress_.batches_per_epoch, progress_.epochs_planned);
    const BatchPlan plan =
        plan_batch(schedule, progress_.step, is_timed() ? epoch_position() : progress_.epoch,
                   progress_.epochs_planned);

    const torch::Tensor images = resized(network_input(batch.images, device_));
    const LossValue loss = detection_loss(
        replica_->model().forward(images), replica_->model().strides(), batch.targets.to(device_),
        loss_options(), args_.batch, [this](double own) {
          communicator_.all_reduce_sum(std::span<double>(&own, 1));
          return own;
        });
    const Signals signals = agree(loss);
    if (signals.not_a_number > 0) return ExitCode::kNotANumber;
    loss.total.backward();
    if (auto code = after_batch(signals, plan)) return code;
    is_time_up = signals.time_is_up > 0;
  }
  warn_unreadable();
  progress_.is_finished = finish_epoch(is_time_up);
  if (args_.save || progress_.is_finished) save();
  return std::nullopt;
}

// multi_scale: another size for each batch, the same on all ranks and after every resume. Boxes are
// in parts of the image and stay.
torch::Tensor Run::resized(const torch::Tensor& images) const {
  const int side = batch_size_pixels(static_cast<std::uint64_t>(args_.seed), progress_.epoch,
                                     progress_.epoch_batch, args_.imgsz, args_.multi_scale);
  if (side == args_.imgsz) return images;
  return torch::upsample_bilinear2d(images, {side, side}, /*align_corners=*/false);
}

// Counts the batch, makes an optimiser step where one is due, and leaves where the ranks agreed to.
std::optional<ExitCode> Run::after_batch(const Signals& signals, const BatchPlan& plan) {
  ++progress_.step;
  ++progress_.epoch_batch;
  ++progress_.pending_batches;
  progress_.epochs_planned = signals.epochs_planned;
  for (std::size_t i = 0; i < 3; ++i) progress_.loss_sums[i] += signals.losses[i];
  ++progress_.loss_batches;
  last_rates_ = plan.rates;

  const bool is_step_due = progress_.pending_batches >= plan.accumulate;
  const bool is_epoch_over =
      progress_.epoch_batch == progress_.batches_per_epoch || signals.time_is_up > 0;
  if (is_step_due && !step_optimizer(plan.rates)) return ExitCode::kNotANumber;
  if (!is_step_due && is_epoch_over) {
    replica_->settle();
  }
  report_batch(signals);
  // Between two steps the gradients lie in parts on the ranks: nothing is saved there.
  if (!is_step_due && !is_epoch_over) return std::nullopt;
  if (signals.stop > 0 || (signals.deadline > 0 && signals.time_is_up == 0)) {
    save();
    return signals.stop > 0 ? ExitCode::kStopped : ExitCode::kDeadline;
  }
  if (signals.save > 0) save();
  return std::nullopt;
}

Signals Run::agree(const LossValue& loss) {
  Signals signals;
  signals.losses = to_array(loss.items);
  signals.not_a_number = std::all_of(signals.losses.begin(), signals.losses.end(),
                                     [](double each) { return std::isfinite(each); })
                             ? 0
                             : 1;
  if (signals.not_a_number > 0) signals.losses = {};
  signals.stop = around_.stop_requested.load() ? 1 : 0;
  if (is_first_rank()) {
    const double now = around_.now();
    if (now - polled_at_ >= kStopFilePollSeconds) {
      polled_at_ = now;
      stop_file_seen_ = folder_.stop_file_exists();
    }
    if (stop_file_seen_) signals.stop += 1;
    signals.deadline = around_.deadline > 0 && now >= around_.deadline ? 1 : 0;
    signals.save = args_.save && now - saved_at_ >= kCheckpointIntervalSeconds ? 1 : 0;
    signals.epochs_planned = progress_.epochs_planned;
    if (is_timed()) {
      signals.time_is_up = seconds_left() <= closing_seconds(pace()) ? 1 : 0;
      if (progress_.batch_seconds > 0) {
        signals.epochs_planned = std::max(
            epoch_position(),
            plan_epochs(epoch_position(), seconds_left(), pace(), progress_.batches_per_epoch));
      }
    }
  }
  communicator_.all_reduce_sum(
      std::span<double>(reinterpret_cast<double*>(&signals), sizeof signals / sizeof(double)));
  return signals;
}

bool Run::step_optimizer(const StepRates& rates) {
  if (!replica_->step(rates, progress_.ema_updates + 1)) return false;
  ++progress_.ema_updates;
  progress_.pending_batches = 0;
  progress_.optimizer_steps = replica_->optimizer().steps();
  return true;
}

void Run::reload() {
  const int reloads = progress_.reloads + 1;
  console_.print(
      fmt::format("the loss is not a number at epoch {}, batch {}: loading the last "
                  "checkpoint again, {} of {}",
                  progress_.epoch + 1, progress_.epoch_batch, reloads, kReloadsMax));
  agree_on_input(communicator_, [&] {
    if (is_first_rank()) static_cast<void>(load_checkpoint(folder_.weights(), state()));
  });
  share_state();
  progress_.reloads = reloads;  // The same images in the same order would lead to the same place.
  make_loader();
}

// Rank 0's word for all.
bool Run::agreed(bool first_rank_says) {
  double word = is_first_rank() && first_rank_says ? 1 : 0;
  communicator_.all_reduce_sum(std::span<double>(&word, 1));
  return word > 0;
}

Validation Run::validate_average() {
  ValidationOptions options;
  options.nms = {.iou = args_.iou, .max_det = args_.max_det};
  options.loss = loss_options();
  options.class_names = input_.class_names;
  return validate(replica_->average(), *val_loader_, options, device_, communicator_);
}

// Validates, writes the row and the weights. True: the run is at its end.
bool Run::finish_epoch(bool is_time_up) {
  replica_->check();

  const double trained = around_.now();
  const double images =
      static_cast<double>(progress_.epoch_batch - epoch_first_batch_) * args_.batch;
  const double images_per_s = images / std::max(1e-9, trained - epoch_started_);
  ++progress_.epoch;
  bool is_last = progress_.epoch >= args_.epochs;
  bool has_time = true;
  if (is_timed()) {
    const double left = seconds_left();
    is_last =
        agreed(is_time_up || !is_worth_another_epoch(left - pace().validation_s - pace().save_s,
                                                     pace(), progress_.batches_per_epoch));
    has_time = agreed(left > pace().validation_s + pace().save_s);
    if (is_last) progress_.epochs_planned = progress_.epoch;
  }

  Validation validation;
  bool is_best = progress_.best_epoch == 0;
  if ((args_.val || is_last) && has_time) {
    validation = validate_average();
    progress_.validation_seconds = around_.now() - trained;
    is_best = note_fitness(validation.metrics.fitness());
    if (is_best) best_metrics_ = validation.metrics;
  } else if (is_best) {
    progress_.best_epoch = progress_.epoch;  // Unmeasured, and the only one there is.
  }
  if (args_.val && args_.patience > 0 && progress_.epoch - progress_.best_epoch >= args_.patience) {
    console_.print(fmt::format("no gain for {} epochs: stopping early", args_.patience));
    is_last = true;
  }

  const ResultsRow row = results_row(validation);
  if (is_first_rank()) {
    folder_.add_results(row);
    save_weights_of_epoch(is_best);
  }
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
                   {"fitness", validation.metrics.fitness()},
                   {"best_epoch", progress_.best_epoch},
                   {"images_per_s", images_per_s},
                   {"validation_s", progress_.validation_seconds},
                   {"save_s", progress_.save_seconds}});
  return is_last;
}

bool Run::note_fitness(double fitness) {
  if (progress_.best_epoch > 0 && fitness <= progress_.best_fitness) return false;
  progress_.best_fitness = fitness;
  progress_.best_epoch = progress_.epoch;
  return true;
}

ResultsRow Run::results_row(const Validation& validation) const {
  ResultsRow row{.epoch = progress_.epoch, .time_s = seconds_used()};
  const double batches = static_cast<double>(std::max<std::int64_t>(1, progress_.loss_batches));
  for (std::size_t i = 0; i < 3; ++i) row.train_losses[i] = progress_.loss_sums[i] / batches;
  row.precision = validation.metrics.precision;
  row.recall = validation.metrics.recall;
  row.map50 = validation.metrics.map50;
  row.map50_95 = validation.metrics.map50_95;
  row.val_losses = validation.losses;
  row.lr = last_rates_.lr;
  return row;
}

void Run::save_weights_of_epoch(bool is_best) {
  const WeightsInfo info{.class_names = input_.class_names,
                         .imgsz = args_.imgsz,
                         .epoch = progress_.epoch,
                         .fitness = is_best ? progress_.best_fitness : 0};
  if (args_.save) save_weights(folder_.weights() + "/last.safetensors", replica_->average(), info);
  if (is_best) save_weights(folder_.weights() + "/best.safetensors", replica_->average(), info);
  if (args_.save_period > 0 && progress_.epoch % args_.save_period == 0) {
    save_weights(fmt::format("{}/epoch{}.safetensors", folder_.weights(), progress_.epoch),
                 replica_->average(), info);
  }
}

void Run::save() {
  progress_.seconds_used = seconds_used();
  const double started = around_.now();
  if (is_first_rank()) {
    save_checkpoint(folder_.weights(), state());
    progress_.save_seconds = around_.now() - started;
    record("checkpoint", {{"save_s", progress_.save_seconds}});
  }
  saved_at_ = batch_started_ = around_.now();
}

void Run::record(std::string kind, std::map<std::string, double> values, std::string text) {
  if (!is_first_rank()) return;
  folder_.append_metrics({.kind = std::move(kind),
                          .time = around_.now(),
                          .epoch = std::min(progress_.epoch + (progress_.epoch_batch > 0 ? 1 : 0),
                                            std::max(1, epochs_shown())),
                          .epochs = epochs_shown(),
                          .step = progress_.step,
                          .steps_per_epoch = progress_.batches_per_epoch,
                          .train_seconds = seconds_used(),
                          .values = std::move(values),
                          .text = std::move(text)});
}

// Measures the pace and tells people and files, at most once a second.
void Run::report_batch(const Signals& signals) {
  constexpr std::int64_t kSlowBatches = 2;  // The first ones fill caches.
  constexpr double kMemory = 0.9;
  const double now = around_.now();
  const double seconds = now - batch_started_;
  batch_started_ = now;
  if (++batches_this_attempt_ > kSlowBatches || progress_.batch_seconds == 0) {
    const double before = progress_.batch_seconds == 0 || batches_this_attempt_ == kSlowBatches + 1
                              ? seconds
                              : progress_.batch_seconds;
    progress_.batch_seconds = kMemory * before + (1 - kMemory) * seconds;
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

void Run::warn_unreadable() {
  for (const std::string& path : loader_->take_unreadable()) {
    fmt::print(stderr, "rank {}: {} cannot be decoded; another image takes its place\n",
               communicator_.rank(), path);
  }
}

// The table of the best weights. Those of an earlier attempt are read and measured again.
void Run::evaluate_best() {
  const std::string best = folder_.weights() + "/best.safetensors";
  const bool has_time = agreed(!is_timed() || seconds_left() > closing_seconds(pace()));
  if (!best_metrics_ && has_time) {
    if (is_first_rank()) {
      copy_matching(state_tensors(*load_model(best).model), replica_->average());
    }
    replica_->share_average();
    best_metrics_ = validate_average().metrics;
  }
  if (!best_metrics_) return;
  constexpr std::size_t kClassesMax = 100;
  console_.print(fmt::format("best weights, epoch {}: {}", progress_.best_epoch, best));
  console_.print(to_table(*best_metrics_, args_.verbose ? kClassesMax : 0));
}

TrainOutcome Run::leave(ExitCode code, std::string message) {
  record("end", {}, std::string(reason_of(code)));
  TrainOutcome outcome{code, std::move(message), progress_.epoch, progress_.step};
  if (is_first_rank()) {
    folder_.remove_stop_file();  // It is obeyed: the next attempt shall not stop at once.
    folder_.write_exit_record(
        {code, outcome.message, outcome.epoch, outcome.step, around_.attempt});
  }
  console_.print(outcome.message);
  // A rank that leaves with a code may end the others: not before everything is written.
  communicator_.barrier();
  return outcome;
}

}  // namespace

TrainOutcome train(const contract::TrainSpec& spec, const Surroundings& around) {
  return Run(spec, around).run();
}

}  // namespace trainer
