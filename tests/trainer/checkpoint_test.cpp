// SPDX-License-Identifier: GPL-3.0-or-later
//
// What of a run survives on disk: checkpoints, weights, tables.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <torch/utils.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>

#include "tests/trainer/reference_numbers.h"
#include "tests/trainer/temp_folder.h"
#include "trainer/checkpoint.h"
#include "trainer/console.h"
#include "trainer/durable_file.h"
#include "trainer/optimizer.h"
#include "trainer/run_folder.h"
#include "trainer/weights_file.h"

namespace trainer {
namespace {

namespace fs = std::filesystem;

// A run's state with everything in it, made once: filling it is the slow part.
struct Saved {
  explicit Saved(std::uint64_t seed) {
    torch::NoGradGuard no_grad;
    torch::manual_seed(seed);
    model = std::make_shared<DetectionModel>("yolov8n", 3);
    average = std::make_shared<DetectionModel>("yolov8n", 3);
    optimizer.emplace(*model, OptimizerKind::kSgd, 5e-4);
    for (const torch::Tensor& gradient : optimizer->gradients()) gradient.normal_();
    progress = {.model = "yolov8n",
                .class_count = 3,
                .optimizer = "SGD",
                .batches_per_epoch = 13,
                .batch = 16,
                .epoch = static_cast<int>(seed),
                .step = 13,
                .pending_batches = 1};
  }
  void step() {
    StepRates rates;
    rates.lr.fill(0.01);
    optimizer->step(rates);
    progress.optimizer_steps = optimizer->steps();
  }
  TrainState state() { return {*model, *average, *optimizer, progress}; }
  std::uint64_t sum() {
    double sum = 0;
    for (const auto& [name, tensor] : state_tensors(*model))
      sum += tensor.to(torch::kDouble).sum().item<double>();
    for (const auto& [name, tensor] : optimizer->state())
      sum += tensor.to(torch::kDouble).sum().item<double>();
    for (const torch::Tensor& gradient : optimizer->gradients())
      sum += gradient.to(torch::kDouble).sum().item<double>();
    std::uint64_t bits = 0;
    std::memcpy(&bits, &sum, sizeof bits);
    return bits;
  }

  std::shared_ptr<DetectionModel> model, average;
  std::optional<Optimizer> optimizer;
  Progress progress;
};

TEST(Checkpoint, RestoresEverything) {
  const TempFolder folder;
  Saved saved(1);
  saved.step();
  save_checkpoint(folder.at("weights"), saved.state());

  Saved other(2);
  const LoadReport report = load_checkpoint(folder.at("weights"), other.state());

  EXPECT_TRUE(report.is_found);
  EXPECT_TRUE(report.warnings.empty());
  EXPECT_EQ(other.sum(), saved.sum());
  EXPECT_EQ(to_json_text(other.progress), to_json_text(saved.progress));
  EXPECT_EQ(other.optimizer->steps(), 1);
}

TEST(Checkpoint, AnEmptyFolderIsNoCheckpoint) {
  const TempFolder folder;
  Saved saved(1);

  EXPECT_FALSE(load_checkpoint(folder.at("weights"), saved.state()).is_found);
  EXPECT_FALSE(read_progress(folder.at("weights")).has_value());
}

TEST(Checkpoint, FallsBackWhereTheNewestIsDamagedAndSaysSo) {
  const TempFolder folder;
  const std::string weights = folder.at("weights");
  Saved saved(1);
  for (const int epoch : {1, 2, 3}) {
    saved.progress.epoch = epoch;
    save_checkpoint(weights, saved.state());
  }
  EXPECT_FALSE(fs::exists(weights + "/last-000001.ckpt"));  // Two generations are kept.
  ASSERT_TRUE(fs::exists(weights + "/last-000002.ckpt"));
  std::string bytes = read_file(weights + "/last-000003.ckpt");
  bytes[bytes.size() / 2] ^= 1;
  write_durably(weights + "/last-000003.ckpt", bytes);

  const LoadReport report = load_checkpoint(weights, saved.state());

  ASSERT_EQ(report.warnings.size(), 1U);
  EXPECT_NE(report.warnings[0].find("checkpoint last-000003.ckpt: checksum mismatch (recorded "),
            std::string::npos);
  EXPECT_NE(report.warnings[0].find("Using last-000002.ckpt."), std::string::npos);
  EXPECT_EQ(saved.progress.epoch, 2);

  save_checkpoint(weights, saved.state());
  EXPECT_TRUE(fs::exists(weights + "/last-000002.ckpt"));  // The whole one counts, not the damaged.
  EXPECT_TRUE(load_checkpoint(weights, saved.state()).warnings.empty());
}

// Before the file, before the pointer, before the older ones are removed.
TEST(Checkpoint, OfAFolderThatIsLostInTheMiddleOfASaveNothingOfOthersIsTouched) {
  const TempFolder folder;
  const std::string weights = folder.at("weights");
  Saved saved(1);
  save_checkpoint(weights, saved.state());
  save_checkpoint(weights, saved.state());
  // Before anything, with the part of the file open, before the pointer, and before what it no longer
  // names is removed.
  for (const int lost_at : {1, 2, 3, 4}) {
    SCOPED_TRACE(lost_at);
    const std::string pointer = read_file(weights + "/last.json");
    TrainState state = saved.state();
    int looks = 0;
    state.check_owner = [&] {
      if (++looks == lost_at) throw std::runtime_error("lost");
    };

    EXPECT_THROW(save_checkpoint(weights, state), std::runtime_error);

    EXPECT_EQ(read_file(weights + "/last.json") == pointer, lost_at < 4);
    for (const char* name : {"/last-000001.ckpt", "/last-000002.ckpt"}) {
      EXPECT_TRUE(fs::exists(weights + name)) << name;
    }
  }
}

TEST(Checkpoint, ATornFileIsNotUsedAndNoneLeftIsAnError) {
  const TempFolder folder;
  const std::string weights = folder.at("weights");
  Saved saved(1);
  save_checkpoint(weights, saved.state());
  fs::resize_file(weights + "/last-000001.ckpt", 1000);

  try {
    static_cast<void>(load_checkpoint(weights, saved.state()));
    FAIL() << "loaded";
  } catch (const std::runtime_error& error) {
    EXPECT_NE(std::string(error.what()).find("last-000001.ckpt: 1000 bytes (recorded "),
              std::string::npos)
        << error.what();
  }
}

TEST(Checkpoint, OfAnotherRunIsRefused) {
  const TempFolder folder;
  Saved saved(1);
  save_checkpoint(folder.at("weights"), saved.state());
  saved.progress.batch = 8;

  EXPECT_THROW(static_cast<void>(load_checkpoint(folder.at("weights"), saved.state())),
               std::invalid_argument);
}

TEST(Checkpoint, AKillWhileSavingLeavesAWholeOne) {
  const TempFolder folder;
  const std::string weights = folder.at("weights");
  Saved saved(1);
  saved.progress.pending_batches = 0;
  save_checkpoint(weights, saved.state());
  std::mt19937 random(7);

  int last_epoch = 0;
  for (int round = 0; round < 6; ++round) {
    SCOPED_TRACE(round);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      for (int epoch = last_epoch + 1;; ++epoch) {
        saved.progress.epoch = epoch;
        save_checkpoint(weights, saved.state());
      }
    }
    usleep(50'000 + random() % 400'000);
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);

    const LoadReport report = load_checkpoint(weights, saved.state());

    EXPECT_TRUE(report.is_found);
    EXPECT_TRUE(report.warnings.empty());
    EXPECT_GE(saved.progress.epoch, last_epoch);
    last_epoch = saved.progress.epoch;
  }
}

// Three saves of the epochs 1 to 3, of which two are kept.
void save_three(const std::string& weights, Saved& saved) {
  for (const int epoch : {1, 2, 3}) {
    saved.progress.epoch = epoch;
    save_checkpoint(weights, saved.state());
  }
}

TEST(Checkpoint, WithoutAUsablePointerTheNewestWholeFileIsTakenAndNamed) {
  for (const std::string damage : {"missing", "cut", "empty"}) {
    SCOPED_TRACE(damage);
    const TempFolder folder;
    const std::string weights = folder.at("weights");
    Saved saved(1);
    save_three(weights, saved);
    const std::string pointer = weights + "/last.json";
    if (damage == "missing") fs::remove(pointer);
    if (damage == "cut") fs::resize_file(pointer, fs::file_size(pointer) / 2);
    if (damage == "empty") {
      write_durably(pointer, R"({"format": "trainyard-checkpoint-1", "generations": []})");
    }
    ASSERT_TRUE(read_progress(weights).has_value());
    EXPECT_EQ(read_progress(weights)->epoch, 3);
    fs::resize_file(weights + "/last-000003.ckpt", 1000);

    const LoadReport report = load_checkpoint(weights, saved.state());

    EXPECT_TRUE(report.is_found);
    EXPECT_EQ(report.file, "last-000002.ckpt");
    EXPECT_EQ(saved.progress.epoch, 2);
    ASSERT_EQ(report.warnings.size(), 1U);
    EXPECT_NE(report.warnings[0].find("last.json"), std::string::npos) << report.warnings[0];
    EXPECT_NE(report.warnings[0].find("checkpoint last-000003.ckpt: "), std::string::npos);
    EXPECT_NE(report.warnings[0].find("Using last-000002.ckpt."), std::string::npos);

    EXPECT_TRUE(load_checkpoint(weights, saved.state()).warnings.empty()) << "named again";
    save_checkpoint(weights, saved.state());
    EXPECT_TRUE(fs::exists(weights + "/last-000002.ckpt"));
    EXPECT_TRUE(fs::exists(weights + "/last-000004.ckpt"));
  }
}

TEST(Checkpoint, WithoutAPointerABitThatFlippedIsNoticed) {
  const TempFolder folder;
  const std::string weights = folder.at("weights");
  Saved saved(1);
  save_three(weights, saved);
  const std::string path = weights + "/last-000003.ckpt";
  const std::string whole = read_file(path);
  const auto found = [&whole](const char* text) { return whole.find(text); };
  // In a tensor, in the progress, in the names that say that there is a seal, and in the seal.
  for (const std::size_t place :
       {whole.size() / 2, found(R"(\"step\":)") + 9, found(R"("crc32":"of)") + 1,
        found(R"("crc32":{)") + 1, whole.size() - 1}) {
    SCOPED_TRACE(place);
    ASSERT_LT(place, whole.size());
    std::string bytes = whole;
    bytes[place] ^= 1;
    write_durably(path, bytes);
    fs::remove(weights + "/last.json");

    const LoadReport report = load_checkpoint(weights, saved.state());

    EXPECT_EQ(report.file, "last-000002.ckpt");
    EXPECT_EQ(saved.progress.epoch, 2);
    ASSERT_EQ(report.warnings.size(), 1U);
    EXPECT_NE(report.warnings[0].find("checkpoint last-000003.ckpt: checksum mismatch (recorded "),
              std::string::npos)
        << report.warnings[0];
  }
}

TEST(Checkpoint, WithoutAPointerAndAWholeFileNothingIsRemoved) {
  const TempFolder folder;
  const std::string weights = folder.at("weights");
  Saved saved(1);
  save_checkpoint(weights, saved.state());
  fs::remove(weights + "/last.json");
  fs::resize_file(weights + "/last-000001.ckpt", 1000);

  EXPECT_THROW(static_cast<void>(load_checkpoint(weights, saved.state())), std::runtime_error);
  EXPECT_TRUE(fs::exists(weights + "/last-000001.ckpt"));

  write_durably(weights + "/last.json", R"({"format": "trainyard-checkpoint-9"})");
  EXPECT_THROW(static_cast<void>(load_checkpoint(weights, saved.state())), std::runtime_error);
}

TEST(Checkpoint, APointerThatIsLostBetweenTwoSavesStopsNoRun) {
  const TempFolder folder;
  const std::string weights = folder.at("weights");
  Saved saved(1);
  save_three(weights, saved);
  write_durably(weights + "/last.json", "{");

  saved.progress.epoch = 4;
  save_checkpoint(weights, saved.state());

  EXPECT_TRUE(fs::exists(weights + "/last-000004.ckpt"));
  EXPECT_TRUE(load_checkpoint(weights, saved.state()).warnings.empty());
  EXPECT_EQ(saved.progress.epoch, 4);
}

TEST(Checkpoint, NamesWhatTheNextAttemptWasGivenOtherwise) {
  const TempFolder folder;
  Saved saved(1);
  saved.progress.arguments = {{"seed", "0"}, {"imgsz", "64"}, {"lr0", "0.01"}, {"box", "7.5"}};
  saved.progress.train_images = "9f2c1a07";
  saved.progress.epoch_batch = 4;
  save_checkpoint(folder.at("weights"), saved.state());

  EXPECT_TRUE(load_checkpoint(folder.at("weights"), saved.state()).changes.empty());
  saved.progress.arguments = {
      {"seed", "3"}, {"imgsz", "96"}, {"lr0", "0.001"}, {"box", "7.5"}, {"unheard_of", "1"}};
  saved.progress.train_images = "11d0b3e2";
  const LoadReport report = load_checkpoint(folder.at("weights"), saved.state());

  EXPECT_EQ(report.changes,
            (std::vector<std::string>{
                "imgsz = 96 (was 64)", "lr0 = 0.001 (was 0.01)", "seed = 3 (was 0)",
                "the training images are others, or in another order",
                "batches 5 to 13 of epoch 2 come from another order than those before: some images "
                "may be seen twice in it and others not at all"}));
  EXPECT_EQ(saved.progress.arguments.at("seed"), "3") << "what the next checkpoint is made with";
  EXPECT_EQ(saved.progress.epoch_batch, 4);
}

TEST(Checkpoint, OfTheFirstVersionsSaysNothingOfArgumentsImagesAndALossScale) {
  nlohmann::json old = nlohmann::json::parse(to_json_text(Progress()));
  for (const char* name : {"arguments", "train_images", "loss_scale", "loss_scale_steps"}) {
    ASSERT_EQ(old.erase(name), 1U);
  }

  const Progress progress = parse_progress(old.dump());

  EXPECT_TRUE(progress.arguments.empty());
  EXPECT_TRUE(progress.train_images.empty());
  EXPECT_EQ(progress.loss_scale, 0);
}

TEST(Epoch, ThatWasNotValidatedHasNoMetrics) {
  const TempFolder folder;
  const double none = std::nan("");
  const ResultsRow row{.epoch = 1,
                       .time_s = 2,
                       .train_losses = {1, 1, 1},
                       .precision = none,
                       .recall = none,
                       .map50 = none,
                       .map50_95 = none,
                       .val_losses = {none, none, none}};
  RunFolder(folder.at("run")).add_results(row);
  testing::internal::CaptureStdout();
  Console(Surroundings::Output::kLog).print_epoch(row, 3, 10, 1);
  const std::string printed = testing::internal::GetCapturedStdout();

  EXPECT_NE(read_file(folder.at("run/results.csv"))
                .find("\n1,2,1.00000,1.00000,1.00000,,,,,,,,0,0,0\n"),
            std::string::npos);
  EXPECT_NE(printed.find("P -  R -  mAP50 -  mAP50-95 -  best: epoch 1"), std::string::npos)
      << printed;
}

TEST(WeightsFile, MakesTheModelAgain) {
  const TempFolder folder;
  const Saved saved(1);
  save_weights(folder.at("best.safetensors"), *saved.model,
               {.class_names = {"a", "b", "c"}, .imgsz = 320, .epoch = 4, .fitness = 0.5});

  const LoadedModel loaded = load_model(folder.at("best.safetensors"));
  DetectionModel other("yolov8n", 80);

  EXPECT_EQ(loaded.info.class_names, (std::vector<std::string>{"a", "b", "c"}));
  EXPECT_EQ(loaded.info.imgsz, 320);
  EXPECT_TRUE(torch::equal(loaded.model->parameters()[0], saved.model->parameters()[0]));
  EXPECT_EQ(load_pretrained(folder.at("best.safetensors"), other),
            "kept 319 of 355 tensors; new: model.22.cv3.* (3 -> 80 classes)");
  EXPECT_THROW(static_cast<void>(load_pretrained(folder.at("missing"), other)),
               std::invalid_argument);
}

TEST(RunFolder, AResumedRunHasNoEpochTwice) {
  const TempFolder folder;
  RunFolder run(folder.at("run"));
  for (const int epoch : {1, 2, 3}) run.add_results({.epoch = epoch, .time_s = 10.0 * epoch});

  run.add_results({.epoch = 2, .time_s = 99});
  const std::string text = read_file(folder.at("run/results.csv"));
  run.trim_results(1);

  EXPECT_EQ(text.substr(0, 15), "epoch,time,trai");
  EXPECT_NE(text.find("\n1,10,"), std::string::npos);
  EXPECT_NE(text.find("\n2,99,"), std::string::npos);
  EXPECT_EQ(text.find("\n3,"), std::string::npos);
  EXPECT_EQ(read_file(folder.at("run/results.csv")).find("\n2,"), std::string::npos);
}

TEST(RunFolder, TheExitRecordIsThatOfTheDocumentation) {
  const TempFolder folder;
  RunFolder run(folder.at("run"));

  run.write_exit_record(
      {.code = contract::ExitCode::kStopped, .message = "m", .epoch = 12, .step = 164});
  const auto json = nlohmann::json::parse(read_file(folder.at("run/exit.json")));
  run.remove_exit_record();

  EXPECT_EQ(json, nlohmann::json({{"code", 10},
                                  {"reason", "stopped"},
                                  {"message", "m"},
                                  {"epoch", 12},
                                  {"step", 164},
                                  {"attempt", 0},
                                  {"asked_by", "signal"}}));
  EXPECT_FALSE(fs::exists(folder.at("run/exit.json")));
}

}  // namespace
}  // namespace trainer
