// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/plan.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>

#include "scheduler/continuation.h"

namespace scheduler {
namespace {

using accounting::Amount;

const accounting::UtcSeconds kNow = *accounting::parse_utc("2026-11-24T08:00:00Z");
constexpr std::int64_t kMargin_s = 30 + 60;  // Of ClusterFacts as they stand.

InstanceType h100() {
  return {.name = "h100",
          .partition = "gpu",
          .gres = "gpu:h100",
          .nodes = 4,
          .gpus_per_node = 4,
          .cpus_per_gpu = 8,
          .memory_per_gpu_mb = 1'500,
          .images_per_s = 100,
          .startup_s = 30,
          .weights = {{0, 1'000}, {kNow + 1'000, 2'500}},
          .line = 31};
}

InstanceType small() {
  return {.name = "small",
          .partition = "cheap",
          .gres = "gpu",
          .nodes = 1,
          .gpus_per_node = 2,
          .images_per_s = 10,
          .startup_s = 60,
          .weights = {{kNow - 10, 125}},
          .line = 44};
}

struct Case {
  TrainingRequest request;
  Site site;
  ClusterFacts facts;
  DataFacts data{.train_images = 3'600, .val_images = 0};
  Progress progress;
  accounting::UtcSeconds now = kNow;

  Case() {
    request.args.data = "/data/coco8.yaml";
    site.path = "site.toml";
    site.limits = {
        .max_gpus = 8, .max_nodes = 2, .max_runs_per_user = 3, .max_time_s = 86'400, .line = 12};
    site.default_type = "h100";
    site.default_account = "science";
    site.default_qos = "normal";
    site.types = {h100(), small()};
  }

  PlanOutcome make() const { return make_plan(request, site, facts, data, progress, "ada", now); }
  Plan plan() const {
    const PlanOutcome outcome = make();
    if (const auto* refusal = std::get_if<Refusal>(&outcome)) {
      for (const std::string& reason : refusal->reasons) ADD_FAILURE() << reason;
      return {};
    }
    return std::get<Plan>(outcome);
  }
  std::vector<std::string> reasons() const {
    const PlanOutcome outcome = make();
    const auto* refusal = std::get_if<Refusal>(&outcome);
    return refusal == nullptr ? std::vector<std::string>() : refusal->reasons;
  }
};

TEST(Plan, OfARangeOfGpusTakesTheMostThatIsSound) {
  Case c;
  c.request.args.batch = 36;
  c.request.args.epochs = 1;
  c.request.resources.gpus = 8;
  c.request.resources.gpus_min = 2;
  EXPECT_EQ(c.plan().gpus, 6);  // 36 is not divided by 8 or 7.
  EXPECT_EQ(c.plan().nodes, 2);

  c.request.resources.gpus = 3;
  EXPECT_EQ(c.plan().gpus, 3);
  EXPECT_EQ(c.plan().batch_per_rank, 12);

  // None: what speaks against the fewest.
  c.request.args.batch = 37;
  EXPECT_EQ(c.reasons(), std::vector<std::string>{
                             "batch = 37 is not divided evenly by 2 GPUs. batch = 36 or 38 would fit."});

  const std::vector<TrainingRequest> each = by_gpus(c.request);
  ASSERT_EQ(each.size(), 2u);
  EXPECT_EQ(each[0].resources.gpus, 3);
  EXPECT_EQ(each[1].resources.gpus, 2);
  EXPECT_FALSE(each[1].resources.gpus_min.has_value());
}

TEST(Plan, FollowsTheSiteWhereTheRequestIsSilent) {
  const Plan plan = Case().plan();

  EXPECT_EQ(plan.type, "h100");
  EXPECT_EQ(plan.partition, "gpu");
  EXPECT_EQ(plan.account, "science");
  EXPECT_EQ(plan.qos, "normal");
  EXPECT_EQ(plan.fund, "user:ada");
  EXPECT_EQ(plan.name, "yolov8n-coco8");
  EXPECT_EQ(plan.tres_per_node, "gres:gpu:h100:1");
  EXPECT_EQ(plan.nodes, 1);
  EXPECT_EQ(plan.gpus, 1);
  EXPECT_EQ(plan.ranks, 1);
  EXPECT_EQ(plan.cpus_per_rank, 8);
  EXPECT_EQ(plan.memory_per_node_mb, 1'500);
  EXPECT_FALSE(plan.is_timed);
}

TEST(Plan, ARunThatGoesOnByItselfAsksForWhatItsPartitionAllows) {
  Case c;
  c.facts.partition_max_s = {{"gpu", 3'600}};
  c.request.resources.auto_resume = true;
  c.request.resources.time_limit_s = 7'200;
  EXPECT_EQ(c.plan().time_limit_s, 3'600);
}

TEST(Plan, TheRequestWinsOverTheSite) {
  Case c;
  c.request.resources.gpus = 2;
  c.request.resources.type = "small";
  c.request.resources.fund = "group:vision";
  c.request.resources.account = "a";
  c.request.resources.qos = "q";
  c.request.resources.name = "1. Versuch: \"Rüben\" & Co";
  c.request.resources.slurm = {{"nice", "5"}};

  const Plan plan = c.plan();

  EXPECT_EQ(plan.type, "small");
  EXPECT_EQ(plan.partition, "cheap");
  EXPECT_EQ(plan.tres_per_node, "gres:gpu:2");
  EXPECT_EQ(plan.fund, "group:vision");
  EXPECT_EQ(plan.account, "a");
  EXPECT_EQ(plan.qos, "q");
  EXPECT_EQ(plan.name, "1.-Versuch-R-ben-Co");
  EXPECT_EQ(plan.memory_per_node_mb, 0);
  EXPECT_EQ(plan.quote.weight_milli, 125);
  EXPECT_EQ(plan.slurm.at("nice"), "5");
}

TEST(Plan, NamesAreFitForSlurmFilesAndShells) {
  struct Row {
    const char *asked, *data, *name;
  };
  for (const Row& row : std::vector<Row>{{"", "/d/my set.v2.yaml", "yolov8n-my-set.v2"},
                                         {"--help", "/d/a.yaml", "help"},
                                         {"..", "/d/a.yaml", "run"},
                                         {"$(id)", "/d/a.yaml", "id-"},
                                         {"a/b", "/d/a.yaml", "a-b"}}) {
    SCOPED_TRACE(row.asked);
    Case c;
    c.request.resources.name = row.asked;
    c.request.args.data = row.data;

    EXPECT_EQ(c.plan().name, row.name);
  }
}

TEST(Plan, TakesAsFewNodesAsHoldTheGpus) {
  struct Row {
    int gpus;
    std::optional<int> nodes_asked;
    int nodes, gpus_per_node;
  };
  for (const Row& row : std::vector<Row>{{1, {}, 1, 1},
                                         {4, {}, 1, 4},
                                         {6, {}, 2, 3},
                                         {3, {}, 1, 3},
                                         {8, {}, 2, 4},
                                         {2, 2, 2, 1},
                                         {4, 2, 2, 2},
                                         {8, 2, 2, 4}}) {
    SCOPED_TRACE(row.gpus);
    Case c;
    c.request.args.batch = 48;
    c.request.resources.gpus = row.gpus;
    c.request.resources.nodes = row.nodes_asked;

    const Plan plan = c.plan();

    EXPECT_EQ(plan.nodes, row.nodes);
    EXPECT_EQ(plan.gpus_per_node, row.gpus_per_node);
    EXPECT_EQ(plan.ranks_per_node, row.gpus_per_node);
    EXPECT_EQ(plan.ranks, row.gpus);
    EXPECT_EQ(plan.batch_per_rank, 48 / row.gpus);
    EXPECT_EQ(plan.memory_per_node_mb, 1'500 * row.gpus_per_node);
  }
}

TEST(Plan, ATimedRunIsHeldAtItsHoursExactly) {
  Case c;
  c.request.args.time_h = 2.5;
  c.request.resources.gpus = 4;

  const Plan plan = c.plan();

  EXPECT_TRUE(plan.is_timed);
  EXPECT_EQ(plan.quote.hold, Amount{4 * 9'000 * 1'000});
  EXPECT_EQ(plan.quote.expected, plan.quote.hold);
  EXPECT_EQ(plan.quote.basis, "hours asked for");
  EXPECT_EQ(plan.time_limit_s, 8'880);  // 9000 - 90, down to the minute.
  EXPECT_LE(plan.time_limit_s + kMargin_s, 9'000);
}

TEST(Plan, ATimedRunGoesOnWithWhatIsLeftOfItsHours) {
  Case c;
  c.request.args.time_h = 2;
  c.progress = {.epochs_done = 5, .allocated_s = 3'601};

  const Plan plan = c.plan();

  EXPECT_EQ(plan.quote.hold, Amount{3'599 * 1'000});
  EXPECT_EQ(plan.time_limit_s, 3'480);
}

TEST(Plan, ATimedRunBeyondTheLongestJobIsMadeOfSeveral) {
  struct Row {
    const char* what;
    double hours;
    std::int64_t allocated_s, partition_max_s;
    std::int64_t time_limit_s, job_limit_s;
  };
  // A job needs 90 s of margin, 30 s of start-up and a minute.
  const std::vector<Row> rows = {
      {"fits", 1, 0, 3'600, 3'480, 0},
      {"just fits", 3'690.0 / 3'600, 0, 3'600, 3'600, 0},
      {"more than fits, not enough for a second", 3'770.0 / 3'600, 0, 3'600, 3'600, 0},
      {"hardly enough for a second", 3'780.0 / 3'600, 0, 3'600, 3'600, 3'600},
      {"many", 100, 0, 3'600, 3'600, 3'600},
      {"not of whole minutes", 100, 0, 3'659, 3'600, 3'600},
      {"the site's longest", 100, 0, 200'000, 86'400, 86'400},
      {"resumed", 100, 360'000 - 7'200, 3'600, 3'600, 3'600},
      {"resumed with the last of it", 100, 360'000 - 3'000, 3'600, 2'880, 0},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(row.what);
    Case c;
    c.request.args.time_h = row.hours;
    c.request.resources.auto_resume = true;
    c.facts.partition_max_s = {{"gpu", row.partition_max_s}};
    c.progress.allocated_s = row.allocated_s;

    const Plan plan = c.plan();

    EXPECT_TRUE(plan.auto_resume);
    EXPECT_EQ(plan.time_limit_s, row.time_limit_s);
    EXPECT_EQ(plan.job_limit_s, row.job_limit_s);
    EXPECT_EQ(plan.job_shortest_s, 90);
    // Held whole, before the first of them.
    const auto left_s = std::llround(row.hours * 3'600) - row.allocated_s;
    EXPECT_EQ(plan.quote.hold, Amount{left_s * 1'000});
    EXPECT_EQ(plan.quote.expected_s, left_s);
    const nlohmann::json json = plan;
    EXPECT_EQ(nlohmann::json(json.get<Plan>()), json);
  }
}

TEST(Plan, AJobThatIsTooShortToTrainInIsNotMadeOneOfMany) {
  Case c;
  c.request.args.time_h = 2;
  c.request.resources.auto_resume = true;
  c.facts.partition_max_s = {{"gpu", 120}};

  EXPECT_EQ(c.reasons(),
            std::vector<std::string>{"a job of partition \"gpu\" lasts 2 min at most, shorter than the "
                                     "3 min that each job of a run needs (start-up 30 s + 2 min)."});
}

TEST(Plan, AnEpochsRunIsLimitedByTheEstimateAndAMargin) {
  Case c;  // 100 epochs x 3600 images / 100 images/s = 3600 s.

  const Plan plan = c.plan();

  EXPECT_EQ(plan.quote.expected_s, 30 + 3'600);
  EXPECT_EQ(plan.time_limit_s, 5'520);  // 30 + 5400 + 60 = 5490, up to the minute.
  EXPECT_EQ(plan.quote.expected, Amount{3'630 * 1'000});
  EXPECT_EQ(plan.quote.hold, Amount{(5'520 + kMargin_s) * 1'000});
  EXPECT_EQ(plan.quote.basis,
            "prior: 100 images/s a GPU for yolov8n at 640 px; 100 x (3600 + 0.0) images");
}

TEST(Plan, TheEstimateFollowsSizeModelGpusValidationAndProgress) {
  struct Row {
    const char* what;
    void (*change)(Case&);
    std::int64_t expected_s;
  };
  const std::vector<Row> rows = {
      {"half the side", [](Case& c) { c.request.args.imgsz = 320; }, 30 + 900},
      {"model m", [](Case& c) { c.request.args.model = "yolov8m"; }, 30 + 32'649},
      {"four GPUs", [](Case& c) { c.request.resources.gpus = 4; }, 30 + 900},
      {"validation", [](Case& c) { c.data.val_images = 900; }, 30 + 3'960},
      {"validation off",
       [](Case& c) {
         c.data.val_images = 900;
         c.request.args.val = false;
       },
       30 + 3'600},
      {"a part of the images", [](Case& c) { c.request.args.fraction = 0.5; }, 30 + 1'800},
      {"60 epochs done", [](Case& c) { c.progress.epochs_done = 60; }, 30 + 1'440},
      {"all epochs done", [](Case& c) { c.progress.epochs_done = 100; }, 30 + 36},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(row.what);
    Case c;
    row.change(c);

    EXPECT_EQ(c.plan().quote.expected_s, row.expected_s);
  }
}

TEST(Plan, TheShortestEstimatedLimitIsTwoMinutes) {
  Case c;
  c.data.train_images = 1;
  c.request.args.epochs = 1;

  EXPECT_EQ(c.plan().time_limit_s, 120);
}

TEST(Plan, AnAskedLimitIsTakenUpToTheMinute) {
  Case c;
  c.request.resources.time_limit_s = 1'801;

  const Plan plan = c.plan();

  EXPECT_EQ(plan.time_limit_s, 1'860);
  EXPECT_EQ(plan.quote.expected_s, 1'860);  // The estimate of 3630 s does not fit.
  EXPECT_EQ(plan.quote.hold, Amount{(1'860 + kMargin_s) * 1'000});
}

TEST(Plan, AnAskedLimitNeedsNoCountOfImages) {
  Case c;
  c.data = {};
  c.request.resources.time_limit_s = 1'800;

  EXPECT_EQ(c.plan().quote.basis, "time limit asked for");
}

TEST(Plan, TheWeightIsTheOneInForceNow) {
  Case c;
  c.now = kNow + 1'000;

  EXPECT_EQ(c.plan().quote.weight_milli, 2'500);
}

TEST(Plan, TheMarginIsTheClustersOwn) {
  Case c;
  c.facts = {.name = "demo", .kill_wait_s = 10, .over_time_limit_s = 300};
  c.request.args.time_h = 1;

  EXPECT_EQ(c.plan().time_limit_s, 3'180);  // 3600 - 370, down to the minute.
}

TEST(Plan, APartitionsOwnOverTimeLimitTakesThePlaceOfTheClusters) {
  Case c;
  c.facts = {.name = "demo", .kill_wait_s = 10, .over_time_limit_s = 300};
  c.facts.partition_over_time_s = {{"gpu", 600}, {"cheap", ClusterFacts::kNoEnd_s}};
  c.request.args.time_h = 1;
  EXPECT_EQ(c.plan().time_limit_s, 2'880);  // 3600 - 670, down to the minute.

  c.request.args.time_h.reset();
  c.request.resources.time_limit_s = 1'800;
  EXPECT_EQ(c.plan().quote.hold, Amount{(1'800 + 670) * 1'000});
  c.facts.partition_over_time_s["gpu"] = 0;  // Also where it is the shorter one.
  EXPECT_EQ(c.plan().quote.hold, Amount{(1'800 + 70) * 1'000});
}

TEST(Plan, RefusesWithBothNumbersAndWhatWouldFit) {
  struct Row {
    const char* reason;
    void (*change)(Case&);
  };
  const std::vector<Row> rows = {
      {"type = \"h200\" is not known. Known types: h100, small (site.toml).",
       [](Case& c) { c.request.resources.type = "h200"; }},
      {"type = \"small\" has no weight at 2026-11-24T07:58:20Z; its first is in force from "
       "2026-11-24T07:59:50Z (site.toml:44).",
       [](Case& c) {
         c.request.resources.type = "small";
         c.now = kNow - 100;
       }},
      {"gpus = 16 exceeds the limit of 8 for a run (site.toml:12). Ask for 8 or fewer.",
       [](Case& c) {
         c.request.resources.gpus = 16;
         c.site.limits.max_nodes = 4;
       }},
      {"nodes = 4 exceeds the limit of 2 for a run (site.toml:12). Ask for 2 or fewer.",
       [](Case& c) {
         c.request.resources.gpus = 4;
         c.request.resources.nodes = 4;
       }},
      {"gpus = 4 exceeds the 2 GPUs of type \"small\" (1 node x 2 GPUs, site.toml:44). Ask for 2 "
       "or fewer.",
       [](Case& c) {
         c.request.resources.gpus = 4;
         c.request.resources.type = "small";
       }},
      {"nodes = 2 exceeds the 1 node of type \"small\" (site.toml:44). Ask for 1 or fewer.",
       [](Case& c) {
         c.request.resources.gpus = 2;
         c.request.resources.nodes = 2;
         c.request.resources.type = "small";
       }},
      {"gpus = 8 on nodes = 1 takes 8 GPUs a node; type \"h100\" has 4 GPUs (site.toml:31). "
       "nodes = 2 would fit.",
       [](Case& c) {
         c.request.resources.gpus = 8;
         c.request.resources.nodes = 1;
       }},
      {"gpus = 5 is not divided evenly by 2 nodes. gpus = 4 or 6 would fit.",
       [](Case& c) {
         c.request.resources.gpus = 5;
         c.request.args.batch = 20;
       }},
      {"gpus = 1 is not divided evenly by 2 nodes. gpus = 2 would fit.",
       [](Case& c) { c.request.resources.nodes = 2; }},
      {"batch = 16 is not divided evenly by 3 GPUs. batch = 15 or 18 would fit.",
       [](Case& c) { c.request.resources.gpus = 3; }},
      {"batch = 2 is not divided evenly by 4 GPUs. batch = 4 would fit.",
       [](Case& c) {
         c.request.resources.gpus = 4;
         c.request.args.batch = 2;
       }},
      {"batch is to be found by trial, which needs one GPU, not 2. Give batch = 32.",
       [](Case& c) {
         c.request.resources.gpus = 2;
         c.request.args.batch = 0;
         c.request.args.batch_share = 0.6;
       }},
      {"time = 48 h exceeds the limit of 24 h for a run (site.toml:12). Ask for fewer hours, or let it "
       "go on in further jobs: --auto-resume.",
       [](Case& c) { c.request.args.time_h = 48; }},
      {"time = 2 min leaves 2 min, shorter than the 3 min that a run needs (margin 90 s + "
       "start-up 30 s + 1 min).",
       [](Case& c) { c.request.args.time_h = 1.0 / 30; }},
      {"time = 2 h, of which 2 h are used, leaves 0 min, shorter than the 3 min that a run needs "
       "(margin 90 s + start-up 30 s + 1 min).",
       [](Case& c) {
         c.request.args.time_h = 2;
         c.progress.allocated_s = 7'200;
       }},
      {"time_limit = 48 h exceeds the limit of 24 h for a run (site.toml:12). Ask for less, or let it "
       "go on in further jobs: --auto-resume.",
       [](Case& c) { c.request.resources.time_limit_s = 2 * 86'400; }},
      {"time_limit = 80 s is shorter than the 90 s that a run needs (start-up 30 s + 1 min).",
       [](Case& c) { c.request.resources.time_limit_s = 80; }},
      {"the limit from the estimate, 150.03 h, exceeds the limit of 24 h for a run (site.toml:12). "
       "Take more GPUs, fewer epochs, or let it go on by itself: --auto-resume.",
       [](Case& c) { c.request.args.epochs = 10'000; }},
      {"time_limit = 2 h exceeds the 60 min of partition \"gpu\" (MaxTime in Slurm). Ask for less, or "
       "let it go on in further jobs: --auto-resume.",
       [](Case& c) {
         c.facts.partition_max_s = {{"gpu", 3'600}, {"cheap", 60}};
         c.request.resources.time_limit_s = 7'200;
       }},
      {"a job of 118 min exceeds the 60 min of partition \"gpu\" (MaxTime in Slurm). Ask for fewer "
       "hours, or let it go on in further jobs: --auto-resume.",
       [](Case& c) {
         c.facts.partition_max_s = {{"gpu", 3'600}};
         c.request.args.time_h = 2;
       }},
      {"partition = \"gpu\": OverTimeLimit is UNLIMITED there in Slurm: no limit ends a job, and no hold "
       "covers it.",
       [](Case& c) { c.facts.partition_over_time_s = {{"gpu", ClusterFacts::kNoEnd_s}}; }},
      {"0 train images: no estimate can be made. Give a time limit.", [](Case& c) { c.data = {}; }},
      {"partition = \"gpu\" is not the \"cheap\" of type \"small\" (site.toml:44), whose GPUs "
       "Slurm "
       "knows by their partition only. Leave partition out or choose another type.",
       [](Case& c) {
         c.request.resources.type = "small";
         c.request.resources.partition = "gpu";
       }},
      {"partition = \"metered\" is that of type \"dear\" (site.toml:50), which has its own weight. Ask "
       "for type = \"dear\", or leave partition out.",
       [](Case& c) {
         InstanceType dear = h100();
         dear.name = "dear";
         dear.partition = "metered";
         dear.weights = {{0, 4'000}};
         dear.line = 50;
         c.site.types.push_back(dear);
         c.request.resources.partition = "metered";
       }},
      {"slurm.exclusive takes all 4 GPUs of a node; this run asks for 2 a node and would hold too "
       "little. gpus = 4 would fit.",
       [](Case& c) {
         c.request.resources.gpus = 2;
         c.request.resources.slurm = {{"exclusive", "true"}};
       }},
  };

  for (const Row& row : rows) {
    SCOPED_TRACE(row.reason);
    Case c;
    row.change(c);

    EXPECT_EQ(c.reasons(), std::vector<std::string>{row.reason});
  }
}

TEST(Plan, TakesMoreNodesWhereFewerWouldHoldTheGpusUnevenly) {
  struct Row {
    int gpus, nodes, gpus_per_node;
  };
  for (const Row& row : std::vector<Row>{{5, 5, 1}, {7, 7, 1}, {9, 3, 3}, {10, 5, 2}, {14, 7, 2}}) {
    SCOPED_TRACE(row.gpus);
    Case c;
    c.site.limits.max_gpus = 16;
    c.site.limits.max_nodes = 8;
    for (InstanceType& type : c.site.types) type.nodes = 8;
    c.request.args.batch = 16 * row.gpus;
    c.request.resources.gpus = row.gpus;

    const Plan plan = c.plan();

    EXPECT_EQ(plan.nodes, row.nodes);
    EXPECT_EQ(plan.gpus_per_node, row.gpus_per_node);
  }
}

TEST(Plan, AllReasonsAreNamedAtOnce) {
  Case c;
  c.request.resources.gpus = 20;
  c.request.resources.nodes = 3;
  c.request.args.time_h = 100;

  EXPECT_EQ(c.reasons().size(), 6u);
}

TEST(Plan, APartitionOfOnesOwnIsFineWhereTheGresNamesTheType) {
  Case c;
  c.request.resources.partition = "long";

  EXPECT_EQ(c.plan().partition, "long");
}

TEST(Plan, AnExclusiveRunOnWholeNodesIsFine) {
  Case c;
  c.request.resources.gpus = 4;
  c.request.resources.slurm = {{"exclusive", "true"}};

  EXPECT_EQ(c.plan().gpus_per_node, 4);
}

TEST(Plan, SurvivesTheWayThroughJson) {
  Case c;
  c.request.args.time_h = 2;
  c.request.resources.gpus = 4;
  c.request.resources.slurm = {{"nice", "5"}};
  const nlohmann::json json = c.plan();

  const auto again = nlohmann::json::parse(json.dump()).get<Plan>();

  EXPECT_EQ(nlohmann::json(again), json);
  EXPECT_EQ(again.quote.hold, c.plan().quote.hold);
  for (const auto& [key, value] : json.items()) {
    // Plans of before runs were measured have none.
    if (key == "image_tenths" || key == "epoch_tenths") continue;
    nlohmann::json torn = json;
    torn.erase(key);
    EXPECT_THROW((void)torn.get<Plan>(), std::exception) << key;
  }
}

TEST(Plan, TheLimitThatFitsIsTheLongestWhoseHoldFits) {
  constexpr std::int64_t kMax = std::numeric_limits<std::int64_t>::max();
  EXPECT_EQ(limit_that_fits_s(Amount{4 * 690 * 1'000}, 4, 1'000, 90), 600);
  EXPECT_EQ(limit_that_fits_s(Amount{4 * 690 * 1'000 - 1}, 4, 1'000, 90), 540);
  EXPECT_EQ(limit_that_fits_s(Amount{149 * 1'000}, 1, 1'000, 90), 0);
  EXPECT_EQ(limit_that_fits_s(Amount{150 * 1'000}, 1, 1'000, 90), 60);
  EXPECT_EQ(limit_that_fits_s(Amount{0}, 1, 1'000, 90), 0);
  EXPECT_EQ(limit_that_fits_s(Amount{-5}, 1, 1'000, 90), 0);
  EXPECT_EQ(limit_that_fits_s(Amount{5}, 0, 1'000, 90), 0);
  EXPECT_EQ(limit_that_fits_s(Amount{kMax}, 1, 1, 90), 366 * 86'400);
  EXPECT_EQ(limit_that_fits_s(Amount{0}, 1, 0, 90), 366 * 86'400);  // Free.
  EXPECT_EQ(limit_that_fits_s(Amount{kMax}, std::numeric_limits<int>::max(), kMax, 90), 0);
  EXPECT_EQ(limit_that_fits_s(Amount{kMax}, 1, 1, kMax), 0);
}

// Edge-biased: small, huge, and plain numbers.
class Dice {
 public:
  explicit Dice(std::uint32_t seed) : random_(seed) {}

  std::int64_t number(std::int64_t low, std::int64_t high) {
    switch (random_() % 8) {
      case 0:
        return low;
      case 1:
        return high;
      case 2:
        return std::min(high, low + 1);
      case 3:
        return std::min(high, low + static_cast<std::int64_t>(random_() % 10));
      default:
        return std::uniform_int_distribution<std::int64_t>(low, high)(random_);
    }
  }
  bool coin() { return random_() % 2 == 0; }

 private:
  std::mt19937 random_;
};

Case any_case(Dice& dice) {
  constexpr std::int64_t kMany = 1'000'000;
  Case c;
  if (dice.coin()) c.site.limits = {};
  for (InstanceType& type : c.site.types) {
    type.nodes = static_cast<int>(dice.number(1, 100'000));
    type.gpus_per_node = static_cast<int>(dice.number(1, 1'024));
    type.images_per_s = 1e-3 * static_cast<double>(dice.number(1, 1'000'000'000'000));
    type.startup_s = dice.number(0, 86'400);
    type.weights = {{0, dice.number(0, kMany)}};
  }
  if (dice.coin()) c.request.resources.gpus = static_cast<int>(dice.number(1, kMany));
  if (dice.coin()) c.request.resources.nodes = static_cast<int>(dice.number(1, kMany));
  if (dice.coin()) c.request.resources.gpus = static_cast<int>(dice.number(1, 8));
  if (dice.coin()) c.request.resources.type = "small";
  c.request.args.batch = static_cast<int>(dice.coin() ? 6'720 : dice.number(1, 8'192));
  c.request.args.epochs = static_cast<int>(dice.number(1, 10'000));
  c.request.args.imgsz = static_cast<int>(dice.number(1, 128)) * 32;
  c.request.resources.auto_resume = dice.coin();
  if (dice.coin()) c.facts.partition_max_s = {{"gpu", dice.number(60, 3'660LL * 86'400)}};
  if (dice.coin()) {
    c.request.args.time_h = 0.1 * static_cast<double>(dice.number(1, 7'200));
  } else if (dice.coin()) {
    c.request.resources.time_limit_s = dice.number(1, 3'660LL * 86'400);
  }
  const std::int64_t images_max = dice.coin() ? std::numeric_limits<std::int64_t>::max() : 100'000;
  c.data = {.train_images = dice.number(0, images_max), .val_images = dice.number(0, images_max)};
  c.progress = {.epochs_done = static_cast<int>(dice.number(0, 10'001)),
                .allocated_s = dice.coin() ? 0 : dice.number(0, 3'000'000)};
  c.facts = {.name = "",
             .kill_wait_s = dice.number(0, 65'535),
             .over_time_limit_s = dice.number(0, 86'400),
             .partition_max_s = c.facts.partition_max_s};
  if (dice.coin()) c.facts.partition_over_time_s = {{"gpu", dice.number(0, 86'400)}};
  return c;
}

TEST(Plan, WhateverIsAskedTheHoldCoversTheLimit) {
  constexpr std::uint32_t kSeed = 20'261'124;
  constexpr int kCases = 20'000;
  Dice dice(kSeed);
  int plans = 0, timed_plans = 0;

  for (int i = 0; i < kCases && !HasFailure(); ++i) {
    SCOPED_TRACE(testing::Message() << "seed " << kSeed << ", case " << i);
    const Case c = any_case(dice);

    const PlanOutcome outcome = c.make();

    const Plan* plan = std::get_if<Plan>(&outcome);
    if (plan == nullptr) {
      EXPECT_FALSE(std::get<Refusal>(outcome).reasons.empty());
      continue;
    }
    ++plans;
    __extension__ using Wide = __int128;
    const Wide rate = Wide{plan->gpus} * plan->quote.weight_milli;
    const std::int64_t margin_s = c.facts.margin_s(plan->partition);
    const std::int64_t covered_s = plan->time_limit_s + margin_s;
    if (plan->is_timed) {
      ++timed_plans;
      const std::int64_t left_s =
          std::llround(*c.request.args.time_h * 3'600) - c.progress.allocated_s;
      EXPECT_TRUE(Wide{plan->quote.hold.milli_gpu_s} == rate * left_s);
      EXPECT_LE(covered_s, left_s);
      EXPECT_LE(plan->job_limit_s, plan->time_limit_s);
      for (std::int64_t rest_s = left_s; plan->job_limit_s > 0;) {
        // Whatever a job takes of its limit, the next one is inside what it leaves.
        rest_s -= dice.number(0, plan->job_limit_s);
        const std::int64_t next_s = timed_limit_s(*plan, rest_s, margin_s);
        if (next_s == 0) break;
        EXPECT_LE(next_s + margin_s, rest_s);
        EXPECT_LE(next_s, plan->job_limit_s);
        EXPECT_GE(next_s, 60);
        const bool is_last = next_s < plan->job_limit_s;
        const bool is_enough = rest_s - next_s >= margin_s + plan->job_shortest_s;
        EXPECT_TRUE(is_last || is_enough) << rest_s;
        if (is_last) break;
      }
    } else {
      EXPECT_TRUE(Wide{plan->quote.hold.milli_gpu_s} == rate * covered_s);
    }
    EXPECT_LE(plan->quote.expected, plan->quote.hold);
    EXPECT_GE(plan->time_limit_s, 60);
    EXPECT_EQ(plan->time_limit_s % 60, 0);
    EXPECT_LE(plan->time_limit_s, c.site.limits.max_time_s.value_or(366 * 86'400));
    EXPECT_EQ(plan->gpus, plan->nodes * plan->gpus_per_node);
    EXPECT_EQ(plan->ranks, plan->nodes * plan->ranks_per_node);
    EXPECT_EQ(plan->batch_per_rank * plan->ranks, c.request.args.batch);
    EXPECT_LE(plan->gpus, c.site.limits.max_gpus.value_or(1'000'000));
    const std::int64_t fits_s = limit_that_fits_s(plan->quote.hold, plan->gpus,
                                                  plan->quote.weight_milli, margin_s);
    EXPECT_GE(fits_s, plan->time_limit_s);
  }
  EXPECT_GT(plans - timed_plans, 100);
  EXPECT_GT(timed_plans, 100);
}

}  // namespace
}  // namespace scheduler
