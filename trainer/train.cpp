// SPDX-License-Identifier: Apache-2.0
#include "trainer/train.h"

#include <fmt/format.h>
#include <torch/utils.h>
#include <torch/version.h>

#include <algorithm>
#include <map>
#include <span>
#include <vector>

#include "trainer/amp.h"
#include "trainer/auto_batch.h"
#include "trainer/class_weights.h"
#include "trainer/contract/json_text.h"
#include "trainer/device.h"
#include "trainer/durable_file.h"
#include "trainer/launch.h"
#include "trainer/preflight.h"
#include "trainer/sampler.h"
#include "trainer/start_watch.h"
#include "trainer/train_run.h"
#include "trainer/weights_file.h"

namespace trainer {

using contract::ExitCode;

namespace {

constexpr std::uint64_t kReloadSeedStep = 1'000'003;

// Of the files alone: a data set that was moved is the same.
std::string checksum_of_names(const std::vector<contract::ImageEntry>& images) {
  std::string names;
  for (const contract::ImageEntry& image : images) {
    names += image.path.substr(image.path.rfind('/') + 1) + '\n';
  }
  return fmt::format("{:08x}", crc32_of(names));
}

}  // namespace

TrainingRun::TrainingRun(const contract::TrainSpec& spec, const Surroundings& around)
    : around_(around),
      communicator_(around.communicator),
      console_(around.communicator.rank() == 0 ? around.output : Surroundings::Output::kNone),
      folder_(spec.run_dir),
      own_owner_(spec.run_dir),
      owner_(around.owner != nullptr ? *around.owner : own_owner_),
      run_id_(spec.run_id),
      input_(prepare_input(spec.args, communicator_)),
      args_(input_.args),
      device_(take_device(communicator_.local_rank())),
      deadline_{around.deadline, around.is_last},
      pictures_(folder_.path(), input_.class_names, args_.plots && is_first_rank(),
                [this](const std::string& problem) { console_.print(problem); }) {}

Pace TrainingRun::pace() const {
  Pace pace{.batch_s = progress_.batch_seconds,
            .validation_s = progress_.validation_seconds,
            .save_s = progress_.save_seconds,
            .is_each_epoch_validated = args_.val,
            .is_best_unmeasured = progress_.best_epoch > 0 && !best_validation_};
  if (pace.validation_s <= 0) {
    pace.validation_s = guess_validation_seconds(
        pace, args_.batch, static_cast<std::int64_t>(input_.dataset.val.size()));
  }
  return pace;
}

// Of a timed run: is the deadline its end, inside which it closes and finishes? Where nobody says
// which attempt is the last, a deadline that leaves only a little of the hours is the end: another
// allocation for the rest would cost more than it trains.
bool TrainingRun::ends_at_deadline(double now) const {
  constexpr double kRestSecondsMin = 300;
  constexpr double kRestShareMin = 0.05;
  if (!is_timed() || deadline_.time <= 0) return false;
  const double rest = hours_left_s(now) - (deadline_.time - now);
  const bool is_rest_small = rest < std::max(kRestSecondsMin, kRestShareMin * *args_.time_h * 3600);
  return deadline_.is_last.value_or(is_rest_small);
}

// Of a timed run.
double TrainingRun::seconds_left(double now) const {
  const double left = hours_left_s(now);
  return ends_at_deadline(now) ? std::min(left, deadline_.time - now) : left;
}

// The run can be left after an optimiser step and at the end of an epoch. So many batches after
// `done` more lies the next such place; `done` is 0, or 1 that makes a step or ends the epoch.
std::int64_t TrainingRun::batches_to_exit(std::int64_t done) const {
  const std::int64_t whole = progress_.batches_per_epoch;
  const std::int64_t in_epoch = whole - (progress_.epoch_batch + done) % whole;
  std::int64_t pending = done > 0 ? 0 : progress_.pending_batches;
  std::int64_t batches = 1;
  while (batches < in_epoch &&
         ++pending <
             plan_of_batch(progress_.step + done + batches - 1, epoch_position()).accumulate) {
    ++batches;
  }
  return batches;
}

// Rank 0's word after the forward pass of a batch: is this the last place from which everything is
// saved in time? A validation that the deadline would cut short is left to the next attempt, like
// the row of results; where the deadline may yet move it is begun, and given up if it does not.
bool TrainingRun::is_deadline_near(double now) const {
  if (deadline_.time <= 0) return false;
  if (ends_at_deadline(now)) return now >= deadline_.time;
  const bool is_epoch_over = progress_.epoch_batch + 1 == progress_.batches_per_epoch;
  double needed_s = saving_seconds(pace(), 1 + (is_epoch_over ? 0 : batches_to_exit(1)));
  if (is_epoch_over && args_.val && !may_deadline_move()) needed_s = closing_seconds(pace());
  return now + needed_s >= deadline_.time;
}

// Rank 0's word between two epochs.
bool TrainingRun::is_step_beyond_deadline() const {
  if (deadline_.time <= 0) return false;
  const double now = around_.now();
  const double saved_s = saving_seconds(pace(), batches_to_exit(0));
  return !ends_at_deadline(now) && now + saved_s >= deadline_.time;
}

void TrainingRun::build() {
  torch::set_num_threads(around_.threads);
  if (args_.deterministic) {
    at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/true);
    at::globalContext().setDeterministicCuDNN(true);
  }
  torch::manual_seed(static_cast<std::uint64_t>(args_.seed));
  const auto class_count = static_cast<int>(input_.class_names.size());
  const std::optional<Progress> begun = begun_with();
  const contract::Architecture architecture = choose_architecture(begun);
  if (args_.has_auto_batch()) choose_batch(architecture, class_count, begun);
  choice_ = choose(begun);
  if (args_.cls_pw > 0) {
    const std::vector<double> weights =
        class_weights(count_labels(input_.dataset.train, class_count), args_.cls_pw);
    class_weights_ = torch::tensor(at::ArrayRef<double>(weights)).to(device_, torch::kFloat);
  }
  replica_.emplace(architecture, class_count, choice_.kind, scaled_weight_decay(args_), device_,
                   communicator_, args_.freeze,
                   GradientReducer::Options{
                       .wire = args_.wire == "bf16" ? Wire::kBfloat16 : Wire::kFloat32});
  if (has_loss_scale(args_.amp)) replica_->scale_loss({});
  if (args_.sync_bn) replica_->synchronise_norms();
  using WithoutMemory = BatchStep::Options::WithoutMemory;
  batch_step_.emplace(*replica_, communicator_,
                      BatchStep::Options{.loss = loss_options(),
                                         .global_batch = args_.batch,
                                         .amp_type = amp_type(args_.amp, device_),
                                         .without_memory = args_.sync_bn && communicator_.size() > 1
                                                               ? WithoutMemory::kFails
                                                               : WithoutMemory::kSplits,
                                         .before_forward = around_.before_forward});
  const int threads = loader_threads();
  val_loader_ = std::make_unique<ValLoader>(input_.dataset.val, args_.imgsz,
                                            val_batch(), threads, args_.single_cls,
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
  agree_on_input(communicator_, [&] {
    const std::string problem = loader_->why_unusable();
    if (problem.empty()) return;
    throw BadInput(fmt::format("{}: train: {}\nAll: trainyard-trainer check {} --images",
                               args_.data, problem, args_.data));
  });
  if (agreed(around_.is_traced)) trace_.emplace(communicator_, folder_.path());

  progress_.model = contract::as_read_back(args_.model);
  progress_.model_yaml = architecture.is_known ? std::string() : architecture.yaml;
  progress_.class_count = class_count;
  progress_.optimizer = name_of(choice_.kind);
  progress_.batch = args_.batch;
  progress_.freeze = args_.freeze;
  progress_.arguments = arguments_used();
  progress_.train_images = checksum_of_names(input_.dataset.train);
  progress_.batches_per_epoch = loader_->batches_per_epoch();
  progress_.epochs_planned = args_.epochs;
}

// What the run's folder says, where it began before this attempt.
std::optional<Progress> TrainingRun::begun_with() {
  std::string text;
  if (is_first_rank()) {
    if (const auto saved = read_progress(folder_.weights())) text = to_json_text(*saved);
  }
  text = first_ranks(text);
  return text.empty() ? std::nullopt : std::optional(parse_progress(text));
}

// A description that an earlier attempt began with counts: the file may have changed since.
contract::Architecture TrainingRun::choose_architecture(const std::optional<Progress>& begun) {
  if (!contract::is_model_file(args_.model)) return contract::load_architecture(args_.model);
  std::string yaml;
  agree_on_input(communicator_, [&] {
    if (!is_first_rank()) return;
    yaml = begun && begun->model == contract::as_read_back(args_.model) &&
                   !begun->model_yaml.empty()
               ? begun->model_yaml
               : contract::load_architecture(args_.model).yaml;
  });
  return contract::parse_architecture(first_ranks(yaml), contract::model_name(args_.model),
                                      args_.model);
}

// One rank (train_input.h). A run that has begun keeps its batch, whatever is free now.
void TrainingRun::choose_batch(const contract::Architecture& architecture, int class_count,
                               const std::optional<Progress>& begun) {
  int batch = kAutoBatchDefault;
  if (begun && begun->batch > 0) {
    batch = begun->batch;
  } else if (device_.is_cuda()) {
    batch = find_batch(architecture, class_count, args_.imgsz, args_.batch_share, device_.index(),
                       args_.amp);
  }
  input_.args.batch = input_.batch_per_rank = batch;
  input_.warnings.push_back(fmt::format("batch = {}: {}", batch,
                                        begun ? "as the run began"
                                        : device_.is_cuda()
                                            ? "found by trial"
                                            : "the default, there is no GPU to try it on"));
  warn_of_large_batch(input_);
}

// What "auto" chose once stays, however many epochs or images there are now: a state of one
// optimiser is none of another.
OptimizerChoice TrainingRun::choose(const std::optional<Progress>& begun) const {
  contract::TrainArgs args = args_;
  if (args.optimizer == "auto" && begun && begun->arguments.contains("optimizer") &&
      begun->arguments.at("optimizer") == "auto") {
    args.optimizer = begun->optimizer;
    args.lr0 = std::stod(begun->arguments.at("lr0"));
    args.momentum = std::stod(begun->arguments.at("momentum"));
    args.warmup_bias_lr = std::stod(begun->arguments.at("warmup_bias_lr"));
  }
  return choose_optimizer(args, static_cast<int>(input_.class_names.size()),
                          static_cast<std::int64_t>(input_.dataset.train.size()));
}

// Of Progress. Left out is what another attempt may have otherwise without another training: where
// its images lie, its request, its threads.
std::map<std::string, std::string> TrainingRun::arguments_used() const {
  contract::TrainArgs args = args_;
  args.lr0 = choice_.lr0;
  args.momentum = choice_.momentum;
  args.warmup_bias_lr = choice_.warmup_bias_lr;
  std::map<std::string, std::string> used;
  for (const auto& [name, text] : contract::to_texts(args)) {
    used.emplace(name, contract::as_read_back(text));
  }
  for (const char* name : {"data", "epochs", "time", "workers"}) used.erase(name);
  return used;
}

void TrainingRun::make_loader() {
  const int threads = loader_threads();
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

void TrainingRun::resume_or_start() {
  leave_if_taken_over();
  LoadReport report;
  std::string pretrained;
  agree_on_input(communicator_, [&] {
    if (!is_first_rank()) return;
    report = load_state();
    if (!report.is_found && !args_.pretrained.empty()) {
      pretrained = load_pretrained(args_.pretrained, replica_->model());
      copy_matching(state_tensors(replica_->model()), replica_->average());
    }
  });
  for (const std::string& warning : report.warnings) console_.print(warning);
  for (const std::string& change : report.changes) {
    console_.print(fmt::format("not as before: {}", change));
  }
  share_state();
  // An attempt that was killed has used what it did after its last checkpoint, too.
  const double recorded = first_ranks(report.is_found ? folder_.seconds_recorded() : 0);
  seconds_before_ = std::max({progress_.seconds_used, around_.seconds_used_before, recorded});
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

// Where this attempt asks for more than the one before, the end is another one: the plan, the last
// epochs without mosaic and patience count anew.
void TrainingRun::take_request() {
  // Hours set no number of epochs: more than it has made are more.
  const int epochs_before =
      progress_.hours_requested > 0 ? progress_.epoch : progress_.epochs_requested;
  const bool is_extended =
      progress_.step > 0 && (is_timed() ? *args_.time_h > progress_.hours_requested
                                        : args_.epochs > epochs_before);
  progress_.epochs_requested = args_.epochs;
  progress_.hours_requested = args_.time_h.value_or(0);
  if (!is_extended) return;
  progress_.is_finished = false;
  progress_.is_mosaic_closed = false;
  progress_.patience_from = progress_.epoch;
  if (is_timed() && progress_.batch_seconds > 0) {
    progress_.epochs_planned = first_ranks(epochs_in_time(around_.now()));
  }
}

// Of a timed run whose pace is known.
double TrainingRun::epochs_in_time(double now) const {
  return std::max(epoch_position(), plan_epochs(epoch_position(), seconds_left(now), pace(),
                                                progress_.batches_per_epoch));
}

// Rank 0's state on every rank.
void TrainingRun::share_state() {
  const std::string text = first_ranks(to_json_text(progress_));
  if (!is_first_rank()) progress_ = parse_progress(text);
  note_position();
  replica_->share(progress_.optimizer_steps);
  replica_->load_wire_state(wire_state_);
  wire_state_.clear();
  // Gradients between two steps are those of the loss times the factor that it had.
  const double before = progress_.loss_scale > 0 ? progress_.loss_scale : 1;
  if (replica_->loss_scale() && progress_.loss_scale > 0) {
    replica_->scale_loss({progress_.loss_scale, progress_.loss_scale_steps});
  }
  const double now = replica_->loss_scale() ? replica_->loss_scale()->factor : 1;
  replica_->rescale_gradients(now / before);
}

// Every rank's host once, in the order of the ranks, with how many stand on it: "n1 (2), n2 (2)".
std::string TrainingRun::gather_hosts() {
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

// Ranks of the same words once: "CPUs: ranks 0-1: 2 threads (...) on CPUs 0-3; ...".
std::string TrainingRun::gather_cpus() {
  const std::string own =
      around_.cpu_report.empty()
          ? std::string()
          : fmt::format("{}, {} for loading", around_.cpu_report, loader_threads());
  std::map<std::string, std::vector<int>> ranks_of;
  std::vector<std::string> order;
  int rank = 0;
  for (const std::vector<std::byte>& bytes :
       communicator_.all_gather(std::as_bytes(std::span(own)))) {
    const std::string text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    if (!ranks_of.contains(text)) order.push_back(text);
    ranks_of[text].push_back(rank++);
  }
  if (ranks_of.contains("")) return {};
  std::string line;
  for (const std::string& text : order) {
    line += fmt::format("{}rank{} {}: {}", line.empty() ? "" : "; ",
                        ranks_of[text].size() == 1 ? "" : "s", to_ranges(ranks_of[text]), text);
  }
  return line;
}

void TrainingRun::announce() {
  hosts_ = gather_hosts();
  const std::string cpus = gather_cpus();
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
  if (!around_.launch_report.empty()) console_.print(around_.launch_report);
  if (!cpus.empty()) console_.print(cpus);
  if (is_timed()) {
    console_.print(fmt::format("timed run: {:.0f} s left of {} h", seconds_left(around_.now()),
                               *args_.time_h));
  }
  for (const std::string& warning : input_.warnings) console_.print(warning);
  if (!is_first_rank()) return;
  folder_.write_args(args_);
  pictures_.draw_labels(input_.dataset.train);
}

// A collective; nothing where all is well or nobody asked. It ends in time: the watch of the ranks
// names who is missing, and where there is none this process watches itself, more patiently.
std::optional<contract::PreflightReport> TrainingRun::look_at_nodes() {
  if (!agreed(around_.preflight.has_value())) return std::nullopt;
  const PreflightPlace place{folder_.path(), around_.segment, around_.attempt};
  const StartWatch own({.limit_s = 2 * around_.preflight_s,
                        .exit_code = static_cast<int>(ExitCode::kStalled),
                        .last_words =
                            [this, place](const LastWords& words) {
                              if (owner_.why_lost().empty()) {
                                leave_unfinished_preflight(place, words);
                              }
                              if (around_.last_words) around_.last_words(words);
                            },
                        .what = "for the preflight to end"});
  communicator_.limit_waits(around_.preflight_s, static_cast<int>(ExitCode::kBadNode));
  contract::PreflightReport report =
      preflight({.place = place,
                 .device = device_.str(),
                 .versions = fmt::format("{}, libtorch {}", around_.version, TORCH_VERSION),
                 .limits = around_.preflight.value_or(contract::PreflightLimits()),
                 .now = around_.now},
                communicator_);
  communicator_.limit_waits(0, 0);
  console_.print(contract::describe(report));
  if (report.faults.empty()) return std::nullopt;
  return report;
}

TrainOutcome TrainingRun::run() {
  try {
    return train_to_end();
  } catch (const TakenOver&) {
    console_.print(taken_over_);
    communicator_.barrier();
    return {ExitCode::kEnvironment, taken_over_, progress_.epoch, progress_.step};
  }
}

TrainOutcome TrainingRun::train_to_end() {
  owner_.take(communicator_);
  if (is_first_rank()) folder_.remove_exit_record();
  if (const auto report = look_at_nodes()) {
    const Reached before = saved_position(folder_.path());
    progress_.epoch = before.epoch;
    progress_.step = before.step;
    return leave(ExitCode::kBadNode, contract::describe_faults(*report),
                 contract::bad_nodes(*report));
  }
  build();
  resume_or_start();
  announce();
  record("start", {{"ranks", communicator_.size()}, {"threads", around_.threads}},
         fmt::format("{} on {}", run_id_, hosts_));
  saved_at_ = around_.now();
  if (is_first_rank()) look_at_files(saved_at_);

  take_request();
  bool is_finished = progress_.is_finished;
  while (!is_finished) {
    if (const std::optional<ExitCode> code = train_epoch()) {
      if (*code == ExitCode::kOutOfMemory) return leave(*code, fmt::format(
                               "out of memory at epoch {}, batch {} with {} image{} at a time. Use "
                               "a smaller imgsz or model.",
                               progress_.epoch + 1, progress_.epoch_batch + 1,
                               input_.batch_per_rank / batch_step_->parts(),
                               input_.batch_per_rank == batch_step_->parts() ? "" : "s"));
      if (*code != ExitCode::kNotANumber) {
        return leave(*code, std::string(contract::describe(*code)));
      }
      const std::string why_not = why_no_reload();
      if (!why_not.empty()) {
        return leave(*code, fmt::format("the loss is not a number at epoch {}, batch {}; {}",
                                        progress_.epoch + 1, progress_.epoch_batch, why_not));
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

Reached saved_position(const std::string& run_dir) {
  try {
    const auto saved = read_progress(fmt::format("{}/{}", run_dir, contract::kWeightsFolder));
    return saved ? Reached{saved->epoch, saved->step} : Reached();
  } catch (const std::exception&) {
    return {};  // Something else has failed already, and is to be told.
  }
}

std::string TrainingRun::describe_out_of_memory(const std::exception& error) const {
  const std::string_view text = error.what();
  std::string where = "at the start";
  if (is_validating_) {
    where = fmt::format("validating after epoch {}", progress_.epoch);
  } else if (batch_under_way_ > 0) {
    where = fmt::format("at epoch {}, batch {}", progress_.epoch + 1, batch_under_way_);
  }
  return fmt::format("out of memory {}: {}. Use a smaller batch, imgsz or model.", where,
                     text.substr(0, text.find('\n')));
}

TrainOutcome train(const contract::TrainSpec& spec, const Surroundings& around) {
  TrainingRun run(spec, around);
  try {
    return run.run();
  } catch (const std::exception& error) {
    if (is_out_of_memory(error)) throw OutOfMemory(run.describe_out_of_memory(error));
    throw;
  }
}

}  // namespace trainer
