// SPDX-License-Identifier: Apache-2.0
// trainer/checkpoint.h
//
// The state of a run between two batches, on disk as weights/last-N.ckpt with the pointer file
// weights/last.json (docs/formats/checkpoint.md). Two generations are kept; a checksum decides
// which of them is whole. Where the pointer is lost or damaged, the files themselves count. There
// is one state for all ranks: replicas are equal, and any number of ranks can go on from it.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "trainer/ema.h"
#include "trainer/model.h"
#include "trainer/optimizer.h"

namespace trainer {

// Where a run stands, without its tensors.
struct Progress {
  // What the checkpoint was made with. A resumed run must agree.
  std::string model;
  std::string model_yaml = {};  // Its description, where `model` names a file; else empty.
  int class_count = 0;
  std::string optimizer;
  std::int64_t batches_per_epoch = 0;
  int batch = 0;
  std::vector<int> freeze = {};  // Layers.
  // What may change between two attempts, and is named then. Not in the first checkpoints.
  // The train arguments by name, as texts; a name that is not there: unknown. Of optimizer=auto the
  // others are what it chose.
  std::map<std::string, std::string> arguments = {};
  std::string train_images = {};  // A checksum of their names, in order; empty: unknown.

  int epoch = 0;                 // Finished epochs.
  std::int64_t epoch_batch = 0;  // Batches done in the epoch under way.
  std::int64_t step = 0;         // Batches since the run began.
  int pending_batches = 0;       // Since the last optimiser step.
  std::int64_t optimizer_steps = 0;
  std::int64_t ema_updates = 0;
  double epochs_planned = 0;
  bool is_mosaic_closed = false;
  bool is_finished = false;
  int epochs_requested = 0;    // By the arguments of the attempt that saved; more of either
  double hours_requested = 0;  // goes on with a finished run.
  int reloads = 0;             // After a NaN. Each gives the loader another seed.
  double seconds_used = 0;     // Over all attempts, start-up included.
  double best_fitness = -1;    // -1: the best epoch was not measured.
  int best_epoch = 0;                 // Counted from 1; 0: none yet.
  double loss_scale = 0;              // amp=fp16 (loss_scale.h); 0: none.
  std::int64_t loss_scale_steps = 0;  // Since it changed last.
  int patience_from = 0;              // The epoch at which more was asked for: no gain before it.
  std::array<double, 3> loss_sums{};  // Of the epoch under way.
  std::int64_t loss_batches = 0;
  double batch_seconds = 0;  // Pace as measured last.
  double validation_seconds = 0;
  double save_seconds = 0;
};
[[nodiscard]] std::string to_json_text(const Progress& progress);
[[nodiscard]] Progress parse_progress(const std::string& json_text);  // Throws std::runtime_error.

// What a checkpoint saves and restores.
struct TrainState {
  DetectionModel& model;
  DetectionModel& average;
  Optimizer& optimizer;
  Progress& progress;
  // What rounding on the wire left over (GradientReducer::wire_state): saved as it is, and set by
  // loading. Null: none.
  std::vector<std::pair<std::string, torch::Tensor>>* wire = nullptr;
  // Asked before each change of the folder: throws where it is another's by now. Null: never.
  std::function<void()> check_owner = nullptr;
};

// Makes a new generation in `folder` and removes the oldest. Throws std::system_error, or what
// check_owner throws; the generations that were there stay valid.
void save_checkpoint(const std::string& folder, TrainState state);

struct LoadReport {
  bool is_found = false;  // False: there is no checkpoint; nothing was changed.
  std::string file;
  std::vector<std::string>
      warnings;  // "checkpoint last-7.ckpt: checksum mismatch (...). Using ..."
  std::vector<std::string> changes;  // Arguments and images that are others than before.
};
// Throws std::runtime_error where there are checkpoints and none can be used, or the pointer is of
// another version; std::invalid_argument where the checkpoint is of another run.
LoadReport load_checkpoint(const std::string& folder, TrainState state);

// Reads the progress of the newest usable generation only.
[[nodiscard]] std::optional<Progress> read_progress(const std::string& folder);

}  // namespace trainer
