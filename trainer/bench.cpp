// SPDX-License-Identifier: Apache-2.0
#include "trainer/bench.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <torch/utils.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <optional>
#include <span>

#include "trainer/amp.h"
#include "trainer/contract/architecture.h"
#include "trainer/device.h"
#include "trainer/layout.h"
#include "trainer/loader.h"
#include "trainer/loss.h"
#include "trainer/replica.h"
#include "trainer/schedule.h"
#include "trainer/train.h"
#include "trainer/train_input.h"

namespace trainer {

namespace {

// Gives each stretch of time to the stage that ended with it.
class StageClock {
 public:
  StageClock(const std::function<double()>& now, torch::Device device)
      : now_(now), device_(device) {}

  // From here on; what was measured before is forgotten.
  void restart() {
    for (auto& each : seconds_) each.clear();
    started_ = last_ = now_();
  }

  void lap(BenchStage stage) {
    finish_stream(device_);  // Else the work goes on. Gradients on their way are not waited for.
    const double now = now_();
    seconds_.at(static_cast<std::size_t>(stage)).push_back(now - last_);
    last_ = now;
  }

  [[nodiscard]] double seconds() const { return last_ - started_; }

  [[nodiscard]] std::vector<StageTime> stages(std::int64_t batches) const {
    std::vector<StageTime> stages;
    for (std::size_t i = 0; i < seconds_.size(); ++i) {
      std::vector<double> times = seconds_[i];
      if (times.empty()) continue;
      std::sort(times.begin(), times.end());
      const double sum = std::accumulate(times.begin(), times.end(), 0.0);
      stages.push_back(
          {.name = std::string(kBenchStageNames[i]),
           .times = static_cast<std::int64_t>(times.size()),
           .median_ms = 500 * (times[(times.size() - 1) / 2] + times[times.size() / 2]),
           .batch_ms = 1e3 * sum / static_cast<double>(batches)});
    }
    return stages;
  }

 private:
  const std::function<double()>& now_;
  torch::Device device_;
  std::array<std::vector<double>, kBenchStageNames.size()> seconds_;
  double started_ = 0, last_ = 0;
};

BenchStage stage_of(StepStage stage) {
  switch (stage) {
    case StepStage::kReduce:
      return BenchStage::kReduce;
    case StepStage::kOptimizer:
      return BenchStage::kOptimizer;
    case StepStage::kAverage:
      return BenchStage::kAverage;
  }
  throw std::logic_error("A stage of no name.");
}

double peak_memory_mb() {
  struct rusage usage {};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / 1024;  // Linux counts in units of 1024 bytes.
}

class Bench {
 public:
  Bench(const BenchOptions& options, const TrainInput& input, Communicator& communicator,
        const std::function<double()>& now)
      : input_(input),
        args_(input.args),
        communicator_(communicator),
        reducer_options_{.wire = options.wire},
        device_(take_device(communicator.local_rank())),
        clock_(now, device_),
        loader_(input.dataset.train, args_,
                {.batch_per_rank = input.batch_per_rank,
                 .imgsz = args_.imgsz,
                 .threads = std::clamp(args_.workers, 1, std::max(1, options.threads)),
                 .seed = static_cast<std::uint64_t>(args_.seed)},
                {communicator.rank(), communicator.size()}) {
    if (options.bucket_bytes_max > 0) reducer_options_.bucket_bytes_max = options.bucket_bytes_max;
    if (options.scope == BenchScope::kStep) make_replica();
  }

  // What training does, without looking at the loss.
  void run_batch() {
    const Batch batch = next_batch();
    clock_.lap(BenchStage::kWait);
    if (!replica_) return;
    const torch::Tensor images = network_input(batch.images, device_);
    clock_.lap(BenchStage::kCopy);
    DetectionModel& model = replica_->model();
    std::vector<torch::Tensor> features;
    {
      const Autocast scope(device_, amp_type(args_.amp, device_));
      features = model.forward(images);
    }
    for (torch::Tensor& map : features) map = map.to(torch::kFloat);
    clock_.lap(BenchStage::kForward);
    const LossValue loss = detection_loss(
        features, model.strides(), batch.targets, {.box = args_.box, .cls = args_.cls, .dfl = args_.dfl},
        args_.batch,
        [this](const torch::Tensor& own) { return sum_of_ranks(communicator_, own); });
    clock_.lap(BenchStage::kLoss);
    const bool is_step_due = ++pending_ >= accumulate_;
    replica_->backward(loss.total, is_step_due ? Replica::Backward::kStepFollows
                                               : Replica::Backward::kMoreFollows);
    clock_.lap(BenchStage::kBackward);
    if (!is_step_due) return;
    pending_ = 0;
    replica_->step(rates_, ++steps_, [this](StepStage s) { clock_.lap(stage_of(s)); });
    if (!replica_->is_finite()) throw std::runtime_error("bench: the gradients are not finite.");
  }

  void start_measuring() {
    communicator_.barrier();
    if (replica_) before_ = replica_->reduced();
    clock_.restart();
  }

  [[nodiscard]] BenchReport report(std::int64_t batches, int threads) const {
    const double batch_s = clock_.seconds() / static_cast<double>(batches);
    BenchReport report{.model = replica_ ? contract::model_name(args_.model) : "loader",
            .device = device_.str(),
            .imgsz = args_.imgsz,
            .batch = args_.batch,
            .ranks = communicator_.size(),
            .threads = threads,
            .accumulate = accumulate_,
            .batches = batches,
            .stages = clock_.stages(batches),
            .batch_ms = 1e3 * batch_s,
            .images_per_s = args_.batch / batch_s,
            .memory_mb = peak_memory_mb()};
    if (!replica_) return report;
    const GradientReducer::Totals& all = replica_->reduced();
    const double steps = std::max<double>(1, static_cast<double>(all.steps - before_.steps));
    report.gradient_mb = (all.sum_bytes - before_.sum_bytes) / steps / (1 << 20);
    report.under_way_ms = 1e3 * (all.under_way_s - before_.under_way_s) / steps;
    report.exposed_ms = 1e3 * (all.exposed_s - before_.exposed_s) / steps;
    return report;
  }

 private:
  void make_replica() {
    torch::manual_seed(static_cast<std::uint64_t>(args_.seed));
    const auto class_count = static_cast<int>(input_.class_names.size());
    const OptimizerChoice choice = choose_optimizer(
        args_, class_count, static_cast<std::int64_t>(input_.dataset.train.size()));
    replica_.emplace(contract::load_architecture(args_.model), class_count, choice.kind, scaled_weight_decay(args_), device_,
                     communicator_, /*frozen_layers=*/std::vector<int>(), reducer_options_);
    replica_->share(0);
    replica_->model().train();
    accumulate_ = full_accumulation(args_.batch, args_.nbs);
    // A rate at which random weights stay finite, whatever the arguments are.
    constexpr double kRate = 1e-4;
    rates_.lr.fill(kRate);
    rates_.momentum = choice.momentum;
  }

  Batch next_batch() {
    if (left_ == 0) {
      loader_.start_epoch(epoch_++, 0, args_.mosaic > 0);
      left_ = loader_.batches_per_epoch();
    }
    --left_;
    return loader_.next();
  }

  const TrainInput& input_;
  const contract::TrainArgs& args_;
  Communicator& communicator_;
  GradientReducer::Options reducer_options_;
  GradientReducer::Totals before_;  // What is measured.
  torch::Device device_;
  StageClock clock_;
  TrainLoader loader_;
  std::optional<Replica> replica_;
  StepRates rates_;
  int accumulate_ = 1, pending_ = 0;
  std::int64_t steps_ = 0, epoch_ = 0, left_ = 0;
};

}  // namespace

BenchReport bench(const BenchOptions& options, Communicator& communicator,
                  const std::function<double()>& now) {
  torch::set_num_threads(options.threads);
  const TrainInput input = prepare_input(options.args, communicator);
  Bench measured(options, input, communicator, now);
  for (int i = 0; i < options.warmup; ++i) measured.run_batch();
  measured.start_measuring();
  for (int i = 0; i < options.batches; ++i) measured.run_batch();
  return measured.report(options.batches, options.threads);
}

}  // namespace trainer
