// SPDX-License-Identifier: GPL-3.0-or-later
//
// How runs stop, go on and end. Runs under mpirun with 1, 2 and 4 ranks.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <random>
#include <span>

#include "tests/trainer/train_fixture.h"
#include "trainer/durable_file.h"
#include "trainer/model.h"
#include "trainer/weights_file.h"

namespace trainer {
namespace {

TEST_F(TrainTest, StoppedAndResumedIsBitForBitTheSame) {
  const TrainOutcome whole = run("whole");
  ASSERT_EQ(whole.code, contract::ExitCode::kFinished);
  EXPECT_EQ(whole.epoch, 2);
  EXPECT_EQ(whole.step, 10);
  const std::int64_t looks = looks_;

  int stops = 0;
  for (const std::int64_t part : {5, 2}) {
    const TrainOutcome outcome = run("parts", {.stop_at_call = looks / part});
    if (outcome.code == contract::ExitCode::kStopped) ++stops;
    if (world->rank() == 0 && outcome.code == contract::ExitCode::kStopped) {
      EXPECT_EQ(exit_record("parts").at("reason"), "stopped");
      EXPECT_EQ(exit_record("parts").at("step"), outcome.step);
    }
  }
  const TrainOutcome parts = run("parts");

  EXPECT_GE(stops, 1);
  EXPECT_EQ(parts.code, contract::ExitCode::kFinished);
  EXPECT_EQ(parts.step, whole.step);
  if (world->rank() == 0) {
    EXPECT_EQ(tensors("parts"), tensors("whole"));
    EXPECT_EQ(results("parts"), results("whole"));
    EXPECT_EQ(read("parts/weights/last.safetensors"), read("whole/weights/last.safetensors"));
  }
}

// Each stop somewhere else, also in the middle of a validation or of an accumulation.
TEST_F(TrainTest, AStopAtAnyOfTwentyRandomPointsChangesNoBit) {
  use_small_model();
  constexpr int kStops = 20;
  constexpr unsigned kSeed = 12;
  constexpr int kThreads = 2;  // Of which both load images.
  std::int64_t last_look = 0;  // Before the ranks ask the last time whether to stop.
  const auto note_look = [&](at::Tensor&) { last_look = looks_; };
  ASSERT_EQ(run("whole", {.before_forward = note_look, .threads = kThreads}).code,
            contract::ExitCode::kFinished);
  std::mt19937 random(kSeed);
  std::uniform_int_distribution<std::int64_t> any_look(2, last_look);

  for (int i = 0; i < kStops; ++i) {
    const std::int64_t look = any_look(random);
    SCOPED_TRACE(fmt::format("stop {} at look {} of {}", i, look, last_look));
    const std::string name = fmt::format("stop{}", i);
    ASSERT_EQ(run(name, {.stop_at_call = look, .threads = kThreads}).code,
              contract::ExitCode::kStopped);
    ASSERT_EQ(run(name, {.threads = kThreads}).code, contract::ExitCode::kFinished);
    if (world->rank() == 0) {
      EXPECT_EQ(tensors(name), tensors("whole"));
      EXPECT_EQ(results(name), results("whole"));
      std::filesystem::remove_all(root_ + name);
    }
  }
}

TEST_F(TrainTest, ResidualsOfTheWireSurviveAStopBitForBit) {
  use_small_model();
  args_.wire = "bf16";
  ASSERT_EQ(run("whole").code, contract::ExitCode::kFinished);

  for (const std::int64_t step : {1, 4, 7}) {
    SCOPED_TRACE(step);
    const std::string name = fmt::format("stopped{}", step);
    ASSERT_EQ(run(name, {.stop_at_step = step}).code, contract::ExitCode::kStopped);
    ASSERT_EQ(run(name).code, contract::ExitCode::kFinished);
    if (world->rank() != 0) continue;
    EXPECT_EQ(tensors(name), tensors("whole"));
    EXPECT_EQ(results(name), results("whole"));
  }

  // Another wire gives other weights, or the test would show nothing.
  args_.wire = "fp32";
  run("wide");
  if (world->rank() == 0 && world->size() > 1) {
    EXPECT_NE(read("wide/weights/last.safetensors"), read("whole/weights/last.safetensors"));
  }
}

TEST_F(TrainTest, ThePreflightNamesNodesThatCannotTrain) {
  use_small_model();
  args_.epochs = 1;
  contract::PreflightLimits limits;
  limits.memory_min_b = limits.disk_min_b = 1;
  ASSERT_EQ(run("good", {.seconds_per_look = 1, .preflight = limits}).code, contract::ExitCode::kFinished);
  limits.disk_min_b = std::int64_t{1} << 62;

  const TrainOutcome outcome = run("bad", {.preflight = limits});

  EXPECT_EQ(outcome.code, contract::ExitCode::kBadNode);
  EXPECT_EQ(outcome.step, 0);
  if (world->rank() != 0) return;
  const auto good = contract::parse_preflight(read("good/preflight.json"));
  EXPECT_EQ(good.ranks.size(), static_cast<std::size_t>(world->size()));
  EXPECT_TRUE(good.faults.empty());
  EXPECT_GT(good.duration_s, good.sum_s);
  EXPECT_EQ(good.ranks.back().rank, world->size() - 1);
  EXPECT_EQ(exit_record("bad").at("reason"), "bad_node");
  EXPECT_NE(exit_record("bad").at("message").get<std::string>().find(world->host() + " (rank 0)"),
            std::string::npos);
  EXPECT_EQ(exit_record("bad").at("bad_nodes"), world->host());
  EXPECT_FALSE(contract::parse_preflight(read("bad/preflight.json")).faults.empty());
}

TEST_F(TrainTest, EachAttemptKeepsItsPreflight) {
  use_small_model();
  args_.epochs = 1;
  contract::PreflightLimits limits;
  limits.memory_min_b = 1;
  limits.disk_min_b = std::int64_t{1} << 62;
  ASSERT_EQ(run("run", {.preflight = limits, .segment = 3}).code, contract::ExitCode::kBadNode);
  limits.disk_min_b = 1;
  ASSERT_EQ(run("run", {.preflight = limits, .segment = 3, .attempt = 1}).code,
            contract::ExitCode::kFinished);

  if (world->rank() != 0) return;
  EXPECT_FALSE(contract::parse_preflight(read("run/preflight-3-0.json")).faults.empty());
  EXPECT_TRUE(contract::parse_preflight(read("run/preflight-3-1.json")).faults.empty());
  EXPECT_EQ(read("run/preflight.json"), read("run/preflight-3-1.json"));
}

TEST_F(TrainTest, RanksOfDifferentArgumentsAreRefusedByName) {
  if (world->size() == 1) return;
  if (world->rank() == 1) {
    args_.imgsz = 96;
    args_.model = "yolov8s";
  }
  try {
    run("different");
    ADD_FAILURE() << "accepted";
  } catch (const BadInput& error) {
    EXPECT_STREQ(error.what(),
                 "rank 1: The ranks were started with different arguments: imgsz = 96 here and 64 "
                 "on rank 0; model = \"yolov8s\" here and \"yolov8n\" on rank 0. Start all of "
                 "them with the same.");
  }
}

TEST_F(TrainTest, ACacheOfDecodedImagesChangesNothing) {
  use_small_model();
  run("plain");
  for (const char* cache : {"ram", "disk"}) {
    SCOPED_TRACE(cache);
    args_.cache = cache;
    run(cache);
    EXPECT_EQ(tensors(cache), tensors("plain"));
    EXPECT_EQ(results(cache), results("plain"));
  }
}

TEST_F(TrainTest, AFinishedRunStaysFinishedUntilMoreIsAskedFor) {
  args_.epochs = 1;
  ASSERT_EQ(run("run").step, 5);

  EXPECT_EQ(run("run").step, 5);
  args_.epochs = 2;
  EXPECT_EQ(run("run").step, 10);
}

TEST_F(TrainTest, AnyNumberOfRanksGoesOn) {
  ASSERT_EQ(run("run", {.is_stopped_at_once = true}).code, contract::ExitCode::kStopped);

  if (world->rank() == 0) {
    const auto alone = make_local_communicator();
    const TrainOutcome outcome = run("run", Ways{}, *alone);
    EXPECT_EQ(outcome.code, contract::ExitCode::kFinished);
    EXPECT_EQ(outcome.step, 10);
  }
}

TEST_F(TrainTest, ASignalStopsWithinOneStep) {
  const TrainOutcome outcome = run("run", {.is_stopped_at_once = true});

  EXPECT_EQ(outcome.code, contract::ExitCode::kStopped);
  EXPECT_EQ(outcome.step, 1);
  if (world->rank() == 0) {
    EXPECT_EQ(exit_record("run").at("asked_by"), "signal");
  }
}

TEST_F(TrainTest, TheStopFileStopsAndIsRemoved) {
  if (world->rank() == 0) {
    std::filesystem::create_directories(root_ + "run");
    write_durably(root_ + "run/stop", "");
  }

  const TrainOutcome outcome = run("run");

  EXPECT_EQ(outcome.code, contract::ExitCode::kStopped);
  EXPECT_EQ(outcome.step, 1);
  if (world->rank() == 0) {
    EXPECT_FALSE(std::filesystem::exists(root_ + "run/stop"));
    EXPECT_EQ(exit_record("run").at("asked_by"), "file");
  }
}

TEST_F(TrainTest, TheDeadlineSavesAndLeaves) {
  const TrainOutcome outcome = run("run", {.deadline = 999});

  EXPECT_EQ(outcome.code, contract::ExitCode::kDeadline);
  EXPECT_EQ(outcome.step, 1);
  if (world->rank() == 0) {
    EXPECT_EQ(exit_record("run").at("code"), 11);
  }
}

TEST_F(TrainTest, ATimedRunEndsInsideItsHours) {
  use_small_model();
  args_.time_h = 0.1;

  const TrainOutcome outcome = run("run", {.seconds_per_look = 1});

  EXPECT_EQ(outcome.code, contract::ExitCode::kFinished);
  EXPECT_GE(outcome.epoch, 2);
  if (world->rank() == 0) {
    EXPECT_LE(clock_, 1000 + 360);
    EXPECT_GE(clock_, 1000 + 360 * 0.7);
    EXPECT_TRUE(std::filesystem::exists(root_ + "run/weights/best.safetensors"));
  }
}

// The rest of the hours is small: without the word it would be no attempt's.
TEST_F(TrainTest, ATimedRunGoesOnAfterTheDeadlineOfAnAttemptThatIsNotItsLast) {
  use_small_model();
  args_.time_h = 0.1;

  const TrainOutcome first =
      run("run", {.deadline = 1000 + 120, .is_last = false, .seconds_per_look = 1});
  EXPECT_EQ(first.code, contract::ExitCode::kDeadline);
  const TrainOutcome second =
      run("run", {.deadline = 1000 + 150, .is_last = true, .seconds_per_look = 0.5});

  EXPECT_EQ(second.code, contract::ExitCode::kFinished);
  EXPECT_GT(second.step, first.step);
  if (world->rank() != 0) return;
  EXPECT_LE(clock_, 1000 + 150);
  EXPECT_GE(clock_, 1000 + 150 * 0.7);
  EXPECT_TRUE(std::filesystem::exists(root_ + "run/weights/best.safetensors"));
}

// By its own clock most of the hours are left: others were lost with a node.
TEST_F(TrainTest, ATimedRunEndsAtTheDeadlineOfItsLastAttempt) {
  use_small_model();
  args_.time_h = 1;

  const TrainOutcome outcome =
      run("run", {.deadline = 1000 + 100, .is_last = true, .seconds_per_look = 0.1});

  EXPECT_EQ(outcome.code, contract::ExitCode::kFinished);
  if (world->rank() == 0) {
    EXPECT_LE(clock_, 1000 + 100);
    EXPECT_TRUE(std::filesystem::exists(root_ + "run/weights/best.safetensors"));
  }
}

TEST_F(TrainTest, AValidationThatTheDeadlineWouldCutShortIsLeftToTheNextAttempt) {
  use_small_model();
  args_.epochs = 3;
  constexpr int kBatches = 5;  // Of an epoch.
  ASSERT_EQ(run("whole", {.seconds_per_look = 1, .stop_at_step = kBatches}).code,
            contract::ExitCode::kStopped);
  const double deadline = clock_ + 3;  // Rank 0's counts.

  const TrainOutcome outcome = run("run", {.deadline = deadline, .seconds_per_look = 1});

  EXPECT_EQ(outcome.code, contract::ExitCode::kDeadline);
  EXPECT_EQ(outcome.step, kBatches);
  EXPECT_EQ(outcome.epoch, 0);
  if (world->rank() == 0) {
    EXPECT_LE(clock_, deadline);
    EXPECT_EQ(progress("run").epoch_batch, kBatches);
  }
  EXPECT_EQ(run("run").step, 3 * kBatches);
  if (world->rank() != 0) return;
  const std::string rows = results("run");
  EXPECT_EQ(std::count(rows.begin(), rows.end(), '\n'), 1 + 3) << rows;
}

TEST_F(TrainTest, ATimedRunShorterThanAnEpochLeavesAModel) {
  args_.time_h = 0.1;

  // Start-up took all but 14 of the 360 seconds.
  const TrainOutcome outcome = run("run", {.seconds_per_look = 0.5, .started = 1000 + 346});

  EXPECT_EQ(outcome.code, contract::ExitCode::kFinished);
  EXPECT_EQ(outcome.epoch, 1);
  EXPECT_LT(outcome.step, 5);
  if (world->rank() == 0) {
    EXPECT_LE(clock_, 1000 + 360);
    EXPECT_NO_THROW(static_cast<void>(load_model(root_ + "run/weights/best.safetensors")));
  }
}

// 200 s from one look at the clock to the next: ten minutes are over before the epoch is.
TEST_F(TrainTest, AnEpochThatTakesLongIsSavedInsideIt) {
  use_small_model();
  args_.epochs = 1;
  for (const double seconds_per_look : {0.001, 200.0}) {
    SCOPED_TRACE(seconds_per_look);
    const std::string name = fmt::format("run{}", seconds_per_look);
    ASSERT_EQ(run(name, {.seconds_per_look = seconds_per_look}).code,
              contract::ExitCode::kFinished);
    if (world->rank() != 0) continue;
    std::vector<int> steps;  // After which it was saved.
    nlohmann::json overlap = "no epoch";
    std::istringstream lines(read(name + "/metrics.jsonl"));
    for (std::string line; std::getline(lines, line);) {
      const auto record = nlohmann::json::parse(line);
      if (record.at("kind") == "checkpoint") steps.push_back(record.at("step").get<int>());
      if (record.at("kind") == "epoch") overlap = record.at("values").at("overlap");
    }
    // Of the time of its messages, what nobody waited for; one rank has none.
    ASSERT_TRUE(overlap.is_number() || overlap.is_null()) << overlap;
    EXPECT_EQ(overlap.is_number(), world->size() > 1);
    if (overlap.is_number()) {
      EXPECT_GE(overlap.get<double>(), 0);
      EXPECT_LE(overlap.get<double>(), 1);
    }
    if (seconds_per_look < 1) {
      EXPECT_EQ(steps, std::vector<int>{5}) << "the end of the epoch";
    } else {
      EXPECT_GT(steps.size(), 1U);
      EXPECT_LT(steps.empty() ? 5 : steps.front(), 5);
    }
  }
}

// The hours are those that two epochs take, as a longer run shows.
TEST_F(TrainTest, ATimedRunOfTwoEpochsMakesTwoWholeOnes) {
  use_small_model();
  args_.time_h = 1;
  ASSERT_EQ(run("long", {.seconds_per_look = 10, .stop_at_step = 12}).code,
            contract::ExitCode::kStopped);
  double hours = 0;
  if (world->rank() == 0) {
    std::vector<double> batches;  // When each was done.
    std::istringstream lines(read("long/metrics.jsonl"));
    for (std::string line; std::getline(lines, line);) {
      const auto record = nlohmann::json::parse(line);
      if (record.at("kind") == "step") {
        batches.push_back(record.at("train_seconds").get<double>());
      }
      if (record.at("kind") != "epoch" || record.at("epoch") != 2) continue;
      const auto& values = record.at("values");
      const double batch_s = batches.at(8) - batches.at(7);
      hours = (batches.at(9) + 1.2 * values.at("validation_s").get<double>() +
               1.2 * values.at("save_s").get<double>() + 2.5 * batch_s + 3) /
              3600;
    }
  }
  world->all_reduce_sum(std::span<double>(&hours, 1));
  ASSERT_GT(hours, 0);
  args_.time_h = hours;

  const TrainOutcome outcome = run("two", {.seconds_per_look = 10});

  EXPECT_EQ(outcome.code, contract::ExitCode::kFinished);
  EXPECT_EQ(outcome.epoch, 2);
  EXPECT_EQ(outcome.step, 10);
  if (world->rank() != 0) return;
  EXPECT_LE(clock_, 1000 + 3600 * hours);
  EXPECT_EQ(progress("two").epochs_planned, 2);
  const std::string rows = results("two");
  EXPECT_EQ(std::count(rows.begin(), rows.end(), '\n'), 3) << rows;
  EXPECT_EQ(load_model(root_ + "two/weights/last.safetensors").info.epoch, 2);
}

TEST_F(TrainTest, ALossThatIsNotANumberEndsARunWithoutACheckpoint) {
  args_.pretrained = root_ + "nan.safetensors";
  if (world->rank() == 0) {
    torch::NoGradGuard no_grad;
    DetectionModel broken("yolov8n", 4);
    broken.parameters()[0].fill_(std::nan(""));
    save_weights(args_.pretrained, broken, {.class_names = {"a", "b", "c", "d"}});
  }

  const TrainOutcome outcome = run("run");

  EXPECT_EQ(outcome.code, contract::ExitCode::kNotANumber);
  if (world->rank() == 0) {
    EXPECT_EQ(exit_record("run").at("reason"), "not_a_number");
  }
}

// One rank sees it, all go back to the end of the first epoch.
TEST_F(TrainTest, ALossThatIsNotANumberIsTriedAgainThreeTimes) {
  use_small_model();
  for (const int faults : {3, 4}) {
    SCOPED_TRACE(faults);
    const std::string name = fmt::format("faults{}", faults);
    int calls = 0, broken = 0;
    const TrainOutcome outcome = run(name, {.before_forward = [&](at::Tensor& images) {
      // The second batch of the second epoch, of whichever try.
      const bool is_due = ++calls >= 7 && calls % 2 == 1 && broken < faults;
      if (!is_due) return;
      ++broken;
      if (world->rank() == world->size() - 1) images = images * std::nan("");
    }});

    EXPECT_EQ(outcome.code, faults == 3 ? contract::ExitCode::kFinished
                                        : contract::ExitCode::kNotANumber);
    EXPECT_EQ(broken, faults);
    if (world->rank() == 0 && faults == 3) {
      EXPECT_EQ(outcome.step, 10);
      EXPECT_EQ(read_progress(root_ + name + "/weights")->reloads, 3);
      EXPECT_EQ(results(name).find("nan"), std::string::npos);
    }
  }
}

// A last layer whose loss a float still holds, and whose gradient's square it does not.
TEST_F(TrainTest, AStepOfAGradientThatIsNotANumberIsNeitherSavedNorValidated) {
  args_.pretrained = root_ + "steep.safetensors";
  if (world->rank() == 0) {
    torch::NoGradGuard no_grad;
    DetectionModel steep("yolov8n", 4);
    steep.named_parameters()["model.22.cv3.0.2.weight"].mul_(1e30);
    save_weights(args_.pretrained, steep, {.class_names = {"a", "b", "c", "d"}});
  }
  struct Case {
    const char* found;
    int batch;
    std::int64_t stop_at_step;
    int batches_a_step = 1;
  };
  args_.warmup_epochs = 0;
  for (const Case& each : {Case{"by the next batch", 4, 0}, Case{"before the stop is obeyed", 4, 1},
                           Case{"before the epoch is closed", 18, 0},
                           Case{"before an epoch is closed between two steps", 18, 0, 2}}) {
    SCOPED_TRACE(each.found);
    args_.batch = each.batch;
    args_.nbs = each.batch * each.batches_a_step;
    const std::string name =
        fmt::format("overflow{}{}{}", each.batch, each.stop_at_step, each.batches_a_step);

    const TrainOutcome outcome = run(name, {.stop_at_step = each.stop_at_step});

    EXPECT_EQ(outcome.code, contract::ExitCode::kNotANumber);
    EXPECT_EQ(outcome.step, 1);
    if (world->rank() != 0) continue;
    EXPECT_EQ(exit_record(name).at("reason"), "not_a_number");
    EXPECT_FALSE(read_progress(root_ + name + "/weights").has_value());
    EXPECT_FALSE(std::filesystem::exists(root_ + name + "/weights/best.safetensors"));
    EXPECT_EQ(read(name + "/metrics.jsonl").find(R"("kind":"epoch")"), std::string::npos);
  }
}

TEST_F(TrainTest, FrozenLayersKeepTheirWeightsAndOthersDoNot) {
  args_.freeze = {0, 1};
  args_.epochs = 1;
  ASSERT_EQ(run("run").code, contract::ExitCode::kFinished);
  args_.freeze = {0};
  try {
    static_cast<void>(run("run"));
    ADD_FAILURE() << "another freeze was taken";
  } catch (const BadInput& error) {
    EXPECT_NE(std::string(error.what()).find("freeze [0, 1]; these arguments make"),
              std::string::npos)
        << error.what();
  }
  if (world->rank() != 0) return;

  torch::manual_seed(static_cast<std::uint64_t>(args_.seed));
  DetectionModel fresh("yolov8n", 4);
  const auto trained = load_model(root_ + "run/weights/last.safetensors").model;
  const auto now = trained->named_parameters();
  for (const auto& item : fresh.named_parameters()) {
    const bool is_frozen = item.key().rfind("model.0.", 0) == 0 || item.key().rfind("model.1.", 0) == 0;
    if (is_frozen) {
      EXPECT_TRUE(torch::equal(item.value(), now[item.key()])) << item.key();
    }
  }
  EXPECT_FALSE(torch::equal(fresh.named_parameters()["model.2.cv1.conv.weight"],
                            now["model.2.cv1.conv.weight"]));
}

TEST_F(TrainTest, SizesWeightsAndPrecisionReachTheTraining) {
  use_small_model();
  run("plain");
  const std::string plain = results("plain");
  args_.multi_scale = 0.5;
  std::vector<std::int64_t> sides;
  run("sizes", {.before_forward = [&](at::Tensor& images) { sides.push_back(images.size(2)); }});
  EXPECT_NE(*std::min_element(sides.begin(), sides.end()),
            *std::max_element(sides.begin(), sides.end()));
  for (const std::int64_t side : sides) EXPECT_EQ(side % 32, 0) << side;
  args_.multi_scale = 0;

  args_.cls_pw = 1;
  run("weights");
  args_.cls_pw = 0;
  args_.amp = "bf16";
  ASSERT_EQ(run("bf16").code, contract::ExitCode::kFinished);
  if (world->rank() != 0) return;
  EXPECT_NE(results("weights"), plain);
  EXPECT_NE(results("bf16"), plain);
}

TEST_F(TrainTest, PicturesLieInTheFolderAndAFullOneEndsNothing) {
  use_small_model();
  args_.plots = true;
  const std::vector<std::string> names = {
      "labels.png", "train_batch0.png", "train_batch2.png", "val_batch0_labels.png",
      "val_batch0_pred.png", "results.png", "PR_curve.png", "F1_curve.png", "P_curve.png",
      "R_curve.png", "confusion_matrix.png", "confusion_matrix_normalized.png"};
  // A folder where the picture is to lie: it cannot be replaced.
  if (world->rank() == 0) std::filesystem::create_directories(root_ + "blocked/labels.png/x");

  ASSERT_EQ(run("run").code, contract::ExitCode::kFinished);
  ASSERT_EQ(run("blocked").code, contract::ExitCode::kFinished);

  if (world->rank() != 0) return;
  for (const std::string& name : names) {
    EXPECT_TRUE(std::filesystem::is_regular_file(root_ + "run/" + name)) << name;
    EXPECT_EQ(std::filesystem::is_regular_file(root_ + "blocked/" + name), name != "labels.png");
  }
}

TEST_F(TrainTest, BadInputIsRaisedOnAllRanks) {
  args_.data = root_ + "missing.yaml";
  EXPECT_THROW(static_cast<void>(run("run")), BadInput);

  SetUp();
  args_.epochs = 0;
  EXPECT_THROW(static_cast<void>(run("run")), BadInput);

  SetUp();
  args_.batch = 4 * world->size() + 1;
  if (world->size() > 1) {
    EXPECT_THROW(static_cast<void>(run("run")), BadInput);
  }
}

}  // namespace
}  // namespace trainer
