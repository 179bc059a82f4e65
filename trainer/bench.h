// SPDX-License-Identifier: Apache-2.0
// trainer/bench.h
//
// Where the time of a training step goes, measured on the classes that train: loader, network,
// loss, replica. Nothing is saved.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "trainer/communicator.h"
#include "trainer/contract/train_args.h"

namespace trainer {

// In the order of a step. Reduce, optimizer and average happen once in `accumulate` batches.
enum class BenchStage { kWait, kCopy, kForward, kLoss, kBackward, kReduce, kOptimizer, kAverage };
inline constexpr std::array<std::string_view, 8> kBenchStageNames = {
    "wait", "copy", "forward", "loss", "backward", "reduce", "optimizer", "average"};

enum class BenchScope { kStep, kLoaderOnly };

struct BenchOptions {
  contract::TrainArgs args;  // Model, data, imgsz, batch, workers, cache, augmentation.
  BenchScope scope = BenchScope::kStep;
  int batches = 20;  // Measured.
  int warmup = 3;    // Before, not measured.
  int threads = 1;
  std::size_t bucket_bytes_max = 0;  // Of gradients; 0: as in training.
  Wire wire = Wire::kFloat32;
};

struct StageTime {
  std::string name;
  std::int64_t times = 0;  // How often it happened.
  double median_ms = 0;    // Of those times.
  double batch_ms = 0;     // The sum over all batches, divided by them.
};

struct BenchReport {
  std::string model, device;
  int imgsz = 0, batch = 0, ranks = 1, threads = 1, accumulate = 1;
  std::int64_t batches = 0;
  std::vector<StageTime> stages;
  double batch_ms = 0;      // Wall time of a batch, mean.
  double images_per_s = 0;  // Of all ranks.
  // Of a step: gradients, and for how long some of them travelled; exposed: the step waited.
  double gradient_mb = 0, under_way_ms = 0, exposed_ms = 0;
  double memory_mb = 0;     // Peak resident memory of this process, 2^20 bytes.
};

// A collective. `now` gives seconds. Throws BadInput where arguments or data do not fit.
[[nodiscard]] BenchReport bench(const BenchOptions& options, Communicator& communicator,
                                const std::function<double()>& now);

[[nodiscard]] std::string to_table(const BenchReport& report);
[[nodiscard]] std::string to_json_text(const BenchReport& report);

}  // namespace trainer
