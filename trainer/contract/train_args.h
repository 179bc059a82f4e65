// SPDX-License-Identifier: Apache-2.0
// trainer/contract/train_args.h
//
// The train arguments, with Ultralytics' names, defaults and ranges. One table makes the parser, the
// help text and the checks, for `trainyard train`, request files and the trainer alike.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace contract {

struct TrainArgs {
  std::string data;                 // Path of the data set's YAML file, or of a ZIP with one in it.
  std::string model = "yolov8n";    // One of known_models(), or a description: a .yaml file.
  int epochs = 100;
  std::optional<double> time_h;     // "time": hours; overrides epochs.
  int patience = 100;               // Epochs without gain before an early stop; 0: off.
  int batch = 16;                   // Global: over all ranks. 0: auto, see batch_share.
  double batch_share = 0;           // Of the GPU's memory that an auto batch may fill: 0..1.
  int imgsz = 640;                  // Square, multiple of 32.
  int workers = 8;                  // Loader threads a rank, at most; the plan owns the CPUs.
  int seed = 0;
  bool deterministic = true;
  bool val = true;                  // Validate after each epoch.
  bool save = true;
  int save_period = -1;             // Keep weights every N epochs; -1: only last and best.
  bool verbose = true;
  bool plots = true;         // Pictures in the run's folder.
  std::string amp = "true";  // bfloat16 on GPUs; "bf16": on CPUs too.
  std::string wire = "fp32"; // As what gradients travel between ranks; bf16 with error feedback.
  bool sync_bn = false;      // Batch norm over the batches of all ranks together.
  std::vector<int> freeze;   // Layers that keep their weights; their batch norms stay as they are.
  std::string cache = "false";      // "ram", "disk" or "false".
  std::string pretrained;           // A weights file, or empty: random initialisation.
  bool single_cls = false;
  double fraction = 1.0;     // Of the training images; above 1: how many.
  double fraction_val = 1.0; // Of the validation images; the second number of "fraction".
  std::vector<int> classes;  // Only labels of these are kept; empty: all.
  bool rect = false;         // Batches of images of like shape with little padding.
  // Optimiser and schedule.
  std::string optimizer = "auto";   // auto, or a name of optimizer.h's kinds
  double lr0 = 0.01, lrf = 0.01;
  bool cos_lr = false;
  double momentum = 0.937, weight_decay = 0.0005;
  double warmup_epochs = 3.0, warmup_momentum = 0.8, warmup_bias_lr = 0.1;
  int nbs = 64;                     // Nominal batch: gradients are accumulated up to it.
  // Loss gains.
  double box = 7.5, cls = 0.5, dfl = 1.5;
  double cls_pw = 0;  // Power of the inverse frequency that weighs classes; 0: alike.
  // Validation.
  int max_det = 300;
  double iou = 0.7;
  // Augmentation.
  double hsv_h = 0.015, hsv_s = 0.7, hsv_v = 0.4;
  double degrees = 0, translate = 0.1, scale = 0.5, shear = 0, perspective = 0;
  double flipud = 0, fliplr = 0.5, mosaic = 1.0;
  int close_mosaic = 10;            // Mosaic is off for the last N epochs.
  double mixup = 0, bgr = 0;        // Probabilities.
  double multi_scale = 0;           // The batch's side is drawn from imgsz * (1 +/- this).

  [[nodiscard]] bool has_auto_batch() const { return batch == 0; }
};

// A fault of one argument; the caller knows where it stood (command line, file and line).
struct ArgFault {
  std::string key;
  std::string message;  // "epochs = -3 is below the smallest allowed value 1."
};

struct ArgInfo {
  std::string name;          // "epochs", "time"
  std::string type;          // "int", "float", "bool", "string", "list" (of int, or one int)
  std::string default_text;
  std::string range;         // "1..10000", "one of auto, SGD", "" where any.
  std::string help;          // One line.
  std::string group;         // "run", "optimizer", "loss", "augmentation", "validation", "data"
};

// In the order of the help text. The table holds every field of TrainArgs.
[[nodiscard]] const std::vector<ArgInfo>& train_arg_table();

// Sets one argument from text ("epochs", "30"; "classes", "0,2" or "[0, 2]"). A fault (unknown key
// with the nearest known name, an argument that Trainyard has something else for, wrong type, out
// of range with both numbers) leaves `args` unchanged.
[[nodiscard]] std::optional<ArgFault> set_train_arg(TrainArgs& args, std::string_view key,
                                                    std::string_view text);
// The arguments as texts that set_train_arg takes, all of them, in the table's order.
[[nodiscard]] std::vector<std::pair<std::string, std::string>> to_texts(const TrainArgs& args);
// Faults that lie between arguments (data missing). Empty: fine.
[[nodiscard]] std::vector<ArgFault> check_train_args(const TrainArgs& args);

// A fault where `model` names a description that cannot be read or makes no network. Reads the file,
// which a resumed run no longer needs: not part of check_train_args.
[[nodiscard]] std::optional<ArgFault> check_model(const TrainArgs& args);

// "Did you mean ...": the nearest of `known` within edit distance 3, or nothing.
[[nodiscard]] std::optional<std::string> nearest_name(std::string_view word,
                                                      const std::vector<std::string>& known);

// How many of `images` a fraction keeps: so many, or a part, at least one of any.
[[nodiscard]] std::int64_t images_kept(double fraction, std::int64_t images);

// JSON object with typed values under the Ultralytics names ("time": null where unset).
void to_json(nlohmann::json& json, const TrainArgs& args);
// Throws std::invalid_argument naming the key.
void from_json(const nlohmann::json& json, TrainArgs& args);

}  // namespace contract
