// SPDX-License-Identifier: GPL-3.0-or-later
#include "trainer/bench.h"

#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "tests/trainer/temp_folder.h"
#include "trainer/scenes.h"
#include "trainer/train.h"

namespace trainer {
namespace {

// Every look at the clock takes a second, so that all times are known.
BenchReport measure(const BenchOptions& options) {
  double seconds = 0;
  const auto local = make_local_communicator();
  return bench(options, *local, [&seconds] { return seconds += 1; });
}

BenchOptions small_options(const TempFolder& folder) {
  make_scenes({.out = folder.at("scenes"), .train = 6, .val = 1, .size = 64});
  BenchOptions options;
  options.args.data = folder.at("scenes/data.yaml");
  options.args.imgsz = 64;
  options.args.batch = 4;
  options.args.nbs = 8;
  options.batches = 4;
  options.warmup = 2;
  return options;
}

TEST(Bench, GivesEachStageTheTimeUntilItsEnd) {
  const TempFolder folder;
  const BenchReport report = measure(small_options(folder));

  std::map<std::string, StageTime> stages;
  for (const StageTime& stage : report.stages) stages[stage.name] = stage;
  EXPECT_EQ(report.stages.size(), kBenchStageNames.size());
  for (const std::string name : {"wait", "copy", "forward", "loss", "backward"}) {
    SCOPED_TRACE(name);
    EXPECT_EQ(stages[name].times, 4);
    EXPECT_DOUBLE_EQ(stages[name].median_ms, 1000);
    EXPECT_DOUBLE_EQ(stages[name].batch_ms, 1000);
  }
  for (const std::string name : {"reduce", "optimizer", "average"}) {
    SCOPED_TRACE(name);
    EXPECT_EQ(stages[name].times, 2);  // Two batches to a step.
    EXPECT_DOUBLE_EQ(stages[name].median_ms, 1000);
    EXPECT_DOUBLE_EQ(stages[name].batch_ms, 500);
  }
  EXPECT_DOUBLE_EQ(report.batch_ms, 6500);
  EXPECT_DOUBLE_EQ(report.images_per_s, 4 / 6.5);
  EXPECT_GT(report.memory_mb, 10);
}

TEST(Bench, MeasuresTheLoaderAlone) {
  const TempFolder folder;
  BenchOptions options = small_options(folder);
  options.scope = BenchScope::kLoaderOnly;

  const BenchReport report = measure(options);

  ASSERT_EQ(report.stages.size(), 1U);
  EXPECT_EQ(report.stages[0].name, "wait");
  EXPECT_DOUBLE_EQ(report.images_per_s, 4);
}

TEST(Bench, NamesAMissingDataSet) {
  BenchOptions options;
  options.args.data = "/nowhere/data.yaml";
  try {
    static_cast<void>(measure(options));
    FAIL() << "accepted";
  } catch (const BadInput& error) {
    EXPECT_NE(std::string(error.what()).find("/nowhere/data.yaml"), std::string::npos);
  }
}

TEST(Bench, ReportsTheSameAsTableAndAsJson) {
  const BenchReport report{.model = "yolov8n",
                           .device = "cpu",
                           .imgsz = 320,
                           .batch = 16,
                           .ranks = 1,
                           .threads = 2,
                           .accumulate = 4,
                           .batches = 20,
                           .stages = {{"forward", 20, 250.5, 251}, {"optimizer", 5, 8, 2}},
                           .batch_ms = 502,
                           .images_per_s = 31.87,
                           .memory_mb = 1500};

  EXPECT_EQ(to_table(report),
            "yolov8n 320 px, batch 16 on 1 x cpu (2 threads); 20 batches, a step every 4\n"
            "stage        times   median ms  ms a batch   share\n"
            "forward         20      250.50      251.00   50.0%\n"
            "optimizer        5        8.00        2.00    0.4%\n"
            "all             20                  502.00\n"
            "31.9 images/s, 1500 MB resident at most\n");
  const auto json = nlohmann::json::parse(to_json_text(report));
  EXPECT_EQ(json.at("stages").at(1).at("times"), 5);
  EXPECT_DOUBLE_EQ(json.at("images_per_s").get<double>(), 31.87);
}

}  // namespace
}  // namespace trainer
