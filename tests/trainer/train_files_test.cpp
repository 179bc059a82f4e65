// SPDX-License-Identifier: GPL-3.0-or-later
//
// What a run validates, writes and says. Runs under mpirun with 1 and 2 ranks.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <set>

#include "tests/trainer/image_bytes.h"
#include "tests/trainer/train_fixture.h"
#include "trainer/contract/architecture.h"
#include "trainer/weights_file.h"

namespace trainer {
namespace {

class Files : public TrainTest {
 protected:
  // A network that finds the whole of every image, as class 0, and learns next to nothing; and
  // validation images of which that is true.
  void find_everything() {
    use_small_model();
    args_.pretrained = root_ + "eager.safetensors";
    args_.lr0 = 1e-5;
    args_.warmup_epochs = 0;
    if (world->rank() == 0) {
      DetectionModel model(contract::load_architecture(args_.model), 4);
      torch::NoGradGuard no_grad;
      for (auto& [name, tensor] : state_tensors(model)) {
        if (name.find(".cv3.") == std::string::npos || !name.ends_with(".2.bias")) continue;
        tensor.copy_(torch::tensor({6.F, -6.F, -6.F, -6.F}));
      }
      save_weights(args_.pretrained, model, {.class_names = {"a", "b", "c", "d"}});
      for (const std::string& file : files_in("scenes/labels/val")) {
        write_durably(file, "0 0.5 0.5 1 1\n");
      }
    }
    world->barrier();
  }
  std::vector<std::string> files_in(const std::string& name) const {
    std::set<std::string> paths;
    for (const auto& entry : std::filesystem::directory_iterator(root_ + name)) {
      paths.insert(entry.path().string());
    }
    return {paths.begin(), paths.end()};
  }
  // A column of results.csv, by its number.
  std::vector<double> column(const std::string& name, int number) const {
    std::istringstream lines(read(name + "/results.csv"));
    std::vector<double> values;
    std::string line;
    for (std::getline(lines, line); std::getline(lines, line);) {
      std::istringstream cells(line);
      std::string cell;
      for (int i = 0; i <= number; ++i) std::getline(cells, cell, ',');
      values.push_back(cell.empty() ? std::nan("") : std::stod(cell));
    }
    return values;
  }
};

constexpr int kMap50 = 7, kMap50To95 = 8, kValClsLoss = 10;

TEST_F(Files, WeightsOfEveryEpochCarryItsOwnFitness) {
  find_everything();
  args_.epochs = 1;
  ASSERT_EQ(run("run").code, contract::ExitCode::kFinished);
  change_progress("run", [](Progress& changed) { changed.best_fitness = 2; });
  args_.epochs = 2;
  args_.save_period = 2;
  ASSERT_EQ(run("run").code, contract::ExitCode::kFinished);
  if (world->rank() != 0) return;

  const std::string weights = root_ + "run/weights/";
  const double fitness =
      0.1 * column("run", kMap50).at(1) + 0.9 * column("run", kMap50To95).at(1);
  ASSERT_GT(fitness, 0);
  EXPECT_EQ(load_model(weights + "best.safetensors").info.epoch, 1);
  for (const char* name : {"last.safetensors", "epoch2.safetensors"}) {
    SCOPED_TRACE(name);
    const WeightsInfo info = load_model(weights + name).info;
    EXPECT_EQ(info.epoch, 2);
    EXPECT_NEAR(info.fitness, fitness, 1e-4);
  }
}

TEST_F(Files, WithoutValidationOnlyTheLastEpochIsMeasured) {
  find_everything();
  args_.val = false;
  args_.epochs = 3;
  args_.patience = 1;  // Of what is not measured nothing is expected.

  const TrainOutcome outcome = run("run");

  EXPECT_EQ(outcome.epoch, 3);
  if (world->rank() != 0) return;
  for (const int number : {kMap50To95, kValClsLoss}) {
    const std::vector<double> values = column("run", number);
    ASSERT_EQ(values.size(), 3U);
    EXPECT_TRUE(std::isnan(values[0]));
    EXPECT_TRUE(std::isnan(values[1]));
    EXPECT_GT(values[2], 0);
  }
  std::vector<bool> measured;
  std::istringstream lines(read("run/metrics.jsonl"));
  for (std::string line; std::getline(lines, line);) {
    const auto record = nlohmann::json::parse(line);
    if (record.at("kind") != "epoch") continue;
    measured.push_back(!record.at("values").at("metrics/mAP50-95(B)").is_null());
    EXPECT_EQ(record.at("values").at("fitness").is_null(), !measured.back());
  }
  EXPECT_EQ(measured, (std::vector<bool>{false, false, true}));
  EXPECT_EQ(progress("run").best_epoch, 3);
  EXPECT_EQ(load_model(root_ + "run/weights/best.safetensors").info.epoch, 3);
  EXPECT_GT(load_model(root_ + "run/weights/best.safetensors").info.fitness, 0);
}

TEST_F(Files, WithoutMemoryAValidationIsDoneInPartsAndFindsTheSame) {
  find_everything();
  args_.epochs = 1;
  args_.batch = 8;
  ASSERT_EQ(run("whole").code, contract::ExitCode::kFinished);
  std::vector<std::int64_t> sizes;
  const TrainOutcome outcome = run("parts", {.before_validation = [&](at::Tensor& images) {
                                     sizes.push_back(images.size(0));
                                     if (images.size(0) > 1)
                                       TORCH_CHECK_WITH(OutOfMemoryError, false, "no memory");
                                   }});

  EXPECT_EQ(outcome.code, contract::ExitCode::kFinished);
  const std::int64_t share = 4 / world->size();  // Of the validation images.
  EXPECT_EQ(sizes.front(), share);
  EXPECT_EQ(std::count(sizes.begin(), sizes.end(), 1), share);
  if (world->rank() != 0) return;
  EXPECT_GT(column("whole", kMap50To95).at(0), 0);
  EXPECT_EQ(column("parts", kMap50To95), column("whole", kMap50To95));
  EXPECT_NEAR(column("parts", kValClsLoss).at(0), column("whole", kValClsLoss).at(0), 0.01);
}

TEST_F(Files, WithoutValidationTheLastEpochIsTheBestSoFar) {
  use_small_model();
  args_.val = false;
  args_.epochs = 4;

  ASSERT_EQ(run("run", {.stop_at_step = 12}).epoch, 2);

  if (world->rank() != 0) return;
  EXPECT_EQ(progress("run").best_epoch, 2);
  EXPECT_EQ(load_model(root_ + "run/weights/best.safetensors").info.epoch, 2);
}

// As an epoch that was the best leaves it whose checkpoint was lost, and which is another the
// second time: on other ranks, or from other images.
TEST_F(Files, TheBestWeightsAndTheStateNeverDisagree) {
  find_everything();
  ASSERT_EQ(run("run").epoch, 2);
  change_progress("run", [](Progress& changed) { changed.best_fitness = 2; });
  const std::string best = root_ + "run/weights/best.safetensors";
  if (world->rank() == 0) {
    const auto model = load_model(best).model;
    save_weights(best, *model, {.class_names = {"a", "b", "c", "d"}, .epoch = 3, .fitness = 3});
  }
  args_.epochs = 4;

  ASSERT_EQ(run("run").epoch, 4);

  if (world->rank() != 0) return;
  const WeightsInfo info = load_model(best).info;
  EXPECT_EQ(info.epoch, progress("run").best_epoch);
  EXPECT_EQ(info.fitness, progress("run").best_fitness);
}

TEST_F(Files, BestWeightsThatAreGoneAreMadeAgain) {
  find_everything();
  ASSERT_EQ(run("run", {.stop_at_step = 7}).epoch, 1);
  change_progress("run", [](Progress& changed) { changed.best_fitness = 2; });
  const std::string best = root_ + "run/weights/best.safetensors";
  if (world->rank() == 0) std::filesystem::remove(best);

  EXPECT_EQ(run("run").code, contract::ExitCode::kFinished);

  if (world->rank() != 0) return;
  EXPECT_EQ(load_model(best).info.epoch, 2);
  EXPECT_EQ(progress("run").best_epoch, 2);
}

TEST_F(Files, SavePeriodKeepsTheWeightsOfEveryNthEpoch) {
  use_small_model();
  args_.epochs = 5;
  args_.save_period = 2;
  ASSERT_EQ(run("run").code, contract::ExitCode::kFinished);
  if (world->rank() != 0) return;

  for (const int epoch : {1, 2, 3, 4, 5}) {
    SCOPED_TRACE(epoch);
    const std::string path = fmt::format("{}run/weights/epoch{}.safetensors", root_, epoch);
    ASSERT_EQ(std::filesystem::exists(path), epoch % 2 == 0);
    if (epoch % 2 == 0) {
      EXPECT_EQ(load_model(path).info.epoch, epoch);
    }
  }
  EXPECT_EQ(load_model(root_ + "run/weights/last.safetensors").info.epoch, 5);
}

TEST_F(Files, ImagesThatCannotBeDecodedAreNamedOnceForEachUse) {
  use_small_model();
  args_.close_mosaic = 2;  // No mosaic: each image is read where it is due.
  std::string broken;
  std::vector<std::string> cut;
  if (world->rank() == 0) {
    for (const std::string split : {"train", "val"}) {
      const std::vector<std::string> paths = files_in("scenes/images/" + split);
      write_durably(paths.front(), png_header(64, 64));
      broken = paths.front();
      std::string bytes = read_file(paths.back());
      bytes.resize(bytes.size() - 30);
      write_durably(paths.back(), bytes);
      cut.push_back(paths.back());
    }
  }
  testing::internal::CaptureStderr();
  const TrainOutcome outcome = run("run");
  const std::string own = testing::internal::GetCapturedStderr();

  EXPECT_EQ(outcome.code, contract::ExitCode::kFinished);
  std::string said;
  for (const std::vector<std::byte>& part : world->all_gather(std::as_bytes(std::span(own)))) {
    said.append(reinterpret_cast<const char*>(part.data()), part.size());
  }
  if (world->rank() != 0) return;
  EXPECT_NE(said.find("/train/"), std::string::npos) << said;
  EXPECT_NE(said.find(": is no PNG that can be decoded. Another image takes its place.\n"),
            std::string::npos)
      << said;
  const std::string line =
      broken + ": is no PNG that can be decoded. It is left out of the validation.\n";
  const std::size_t first = said.find(line);
  ASSERT_NE(first, std::string::npos) << said;
  EXPECT_EQ(said.find(line, first + 1), std::string::npos) << "twice:\n" << said;
  for (const std::string& path : cut) {
    const std::size_t named = said.find(path + ": is cut short: ");
    ASSERT_NE(named, std::string::npos) << said;
    EXPECT_NE(said.find("It is used all the same.\n", named), std::string::npos);
  }
}

TEST_F(Files, WhereNoTrainingImageCanBeDecodedAllRanksSayWhich) {
  use_small_model();
  if (world->rank() == 0) {
    for (const std::string& path : files_in("scenes/images/train")) {
      write_durably(path, png_header(64, 64));
    }
  }
  world->barrier();
  try {
    static_cast<void>(run("run"));
    FAIL();
  } catch (const BadInput& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("train: none of 18 images can be read:\n"), std::string::npos) << text;
    EXPECT_NE(text.find("/train/"), std::string::npos) << text;
    EXPECT_NE(text.find(": is no PNG that can be decoded.\n"), std::string::npos) << text;
  }
}

}  // namespace
}  // namespace trainer
