// SPDX-License-Identifier: GPL-3.0-or-later
//
// What several ranks measure together: the speed of their messages, and a model on a split.
#include <gtest/gtest.h>
#include <torch/utils.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "tests/trainer/ranks.h"
#include "tests/trainer/train_fixture.h"
#include "trainer/bench_collectives.h"
#include "trainer/contract/architecture.h"
#include "trainer/train_input.h"
#include "trainer/validate.h"

namespace trainer {
namespace {

CollectiveReport measure_collectives() {
  double seconds = 0;
  // Every look at the clock takes a second: so each size is tried once.
  return bench_collectives({.bytes_min = 8, .bytes_max = 8'192}, *world,
                           [&seconds] { return seconds += 1; });
}

TEST(Collectives, AddUpExactlyInEverySizeAndTellTheirBandwidth) {
  const CollectiveReport report = measure_collectives();

  EXPECT_EQ(report.ranks, world->size());
  EXPECT_EQ(report.rows.size(), 18U);  // Three kinds of six sizes.
  std::set<std::string> names;
  for (const CollectiveRow& row : report.rows) {
    SCOPED_TRACE(row.name + " " + std::to_string(row.bytes));
    names.insert(row.name);
    EXPECT_EQ(row.wrong, 0);
    EXPECT_EQ(row.times, 1);
    EXPECT_DOUBLE_EQ(row.time_us, 1e6);
    const double size = world->size();
    const double factor = row.name == "broadcast" ? 1 : 2 * (size - 1) / size;
    EXPECT_DOUBLE_EQ(row.algorithm_gb_s, 1e-9 * static_cast<double>(row.bytes));
    EXPECT_DOUBLE_EQ(row.bus_gb_s, factor * row.algorithm_gb_s);
  }
  EXPECT_EQ(names, (std::set<std::string>{"gradient_sum", "all_reduce", "broadcast"}));
  EXPECT_NE(report.hosts.find("(" + std::to_string(world->size()) + ")"), std::string::npos)
      << report.hosts;
}

TEST(Collectives, AreATableAndJsonOfTheSameRows) {
  const CollectiveReport report = measure_collectives();

  const std::string table = to_table(report);
  EXPECT_EQ(static_cast<std::size_t>(std::count(table.begin(), table.end(), '\n')),
            report.rows.size() + 2);
  EXPECT_NE(table.find("gradient_sum         8192"), std::string::npos) << table;
  const auto json = nlohmann::json::parse(to_json_text(report));
  EXPECT_EQ(json.at("ranks"), world->size());
  ASSERT_EQ(json.at("rows").size(), report.rows.size());
  EXPECT_EQ(json.at("rows").back().at("name"), report.rows.back().name);
  EXPECT_EQ(json.at("rows").back().at("bytes"), report.rows.back().bytes);
  EXPECT_EQ(json.at("rows").back().at("wrong"), 0);
}

using ValidationOnRanks = TrainTest;

TEST_F(ValidationOnRanks, GivesWhatOneRankAloneFinds) {
  use_small_model();
  args_.batch = world->size();  // It has to divide among them; the validation takes one at a time.
  const TrainInput input = prepare_input(args_, *world);
  torch::manual_seed(3);
  DetectionModel model(contract::load_architecture(args_.model),
                       static_cast<int>(input.class_names.size()));
  ValidationOptions options;
  options.class_names = input.class_names;
  // Random weights are sure of nothing.
  options.nms.confidence = 0;
  options.confusion_confidence = 0;
  const auto measure = [&](Shard shard, Communicator& ranks) {
    ValLoader loader(input.dataset.train, args_.imgsz, /*batch=*/1, /*threads=*/1,
                     /*single_cls=*/false, shard);
    return validate(model, loader, options, torch::kCPU, ranks).value();
  };

  const Validation together = measure({world->rank(), world->size()}, *world);
  const auto local = make_local_communicator();
  const Validation alone = measure({}, *local);

  EXPECT_EQ(together.metrics.images, 18);
  EXPECT_EQ(together.metrics.images, alone.metrics.images);
  EXPECT_EQ(together.metrics.instances, alone.metrics.instances);
  EXPECT_NEAR(together.metrics.map50, alone.metrics.map50, 1e-9);
  EXPECT_NEAR(together.metrics.map50_95, alone.metrics.map50_95, 1e-9);
  EXPECT_NEAR(together.metrics.precision, alone.metrics.precision, 1e-9);
  EXPECT_NEAR(together.metrics.recall, alone.metrics.recall, 1e-9);
  // What was found and what was missed, counted by class: nothing is left out or counted twice.
  EXPECT_EQ(together.confusion.cells(), alone.confusion.cells());
  std::int64_t counted = 0;
  for (const ConfusionMatrix::Cell& cell : alone.confusion.cells()) counted += cell.count;
  EXPECT_GT(counted, alone.metrics.instances);
  for (std::size_t i = 0; i < alone.losses.size(); ++i) {
    SCOPED_TRACE(i);
    EXPECT_NEAR(together.losses[i], alone.losses[i], 1e-9 * std::abs(alone.losses[i]));
  }
}

}  // namespace
}  // namespace trainer
