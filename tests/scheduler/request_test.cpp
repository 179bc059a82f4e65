// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/request.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <optional>

#include "tests/scheduler/files.h"

namespace scheduler {
namespace {

const std::filesystem::path kRequests = test::kSource / "tests/scheduler/requests";

std::string json_text(const TrainingRequest& request) {
  return nlohmann::json(request).dump();
}

RequestOutcome read_settings(const std::vector<Setting>& settings) {
  return read_request("", settings, "/work");
}

// What is wrong with one setting beside a good data set.
std::string faults_of(const std::string& key, const std::string& value) {
  return to_text(
      read_settings({{"data=", "data", "/data/a.yaml"}, {key + "=", key, value}}).faults);
}

TEST(Request, EveryInvalidFileNamesItsFaults) {
  const auto files = test::files_in(kRequests / "invalid", ".toml");
  ASSERT_GE(files.size(), 25u);

  for (const std::filesystem::path& file : files) {
    SCOPED_TRACE(file.filename());

    const RequestOutcome outcome =
        read_request(file.filename().string(), {}, file.parent_path().string());

    EXPECT_FALSE(outcome.faults.empty());
    test::expect_golden(std::filesystem::path(file).replace_extension(".expected"),
                        to_text(outcome.faults));
  }
}

TEST(Request, EveryValidFileIsReadAndSurvivesTheWayThroughTomlAndJson) {
  const test::Folder folder;
  auto files = test::files_in(kRequests / "valid", ".toml");
  for (const std::filesystem::path& example :
       test::files_in(test::kSource / "docs/examples", ".toml")) {
    if (!example.filename().string().starts_with("site")) files.push_back(example);
  }
  ASSERT_GE(files.size(), 9u);

  for (const std::filesystem::path& file : files) {
    SCOPED_TRACE(file.filename());

    const RequestOutcome first = read_request(file.string(), {}, "/work");
    test::write_file(folder.path() / "again.toml", to_toml(first.request));
    const RequestOutcome again = read_request((folder.path() / "again.toml").string(), {}, "/");
    TrainingRequest from_json;
    nlohmann::json::parse(json_text(first.request)).get_to(from_json);

    EXPECT_EQ(to_text(first.faults), "");
    EXPECT_EQ(to_text(again.faults), "") << to_toml(first.request);
    EXPECT_EQ(json_text(again.request), json_text(first.request));
    EXPECT_EQ(json_text(from_json), json_text(first.request));
  }
}

TEST(Request, TheExamplesOfItsPageAreValid) {
  const test::Folder folder;
  const auto blocks = test::blocks_of(test::kSource / "docs/formats/request.md", "toml");
  ASSERT_GE(blocks.size(), 1u);

  for (const std::string& block : blocks) {
    SCOPED_TRACE(block);
    test::write_file(folder.path() / "train.toml", block);

    const RequestOutcome outcome = read_request("train.toml", {}, folder.path().string());

    EXPECT_EQ(to_text(outcome.faults), "");
  }
}

TEST(Request, HoldsWhatTheFileSays) {
  const RequestOutcome outcome =
      read_request((kRequests / "valid/timed.toml").string(), {}, "/work");

  EXPECT_EQ(outcome.request.args.model, "yolov8m");
  EXPECT_EQ(outcome.request.args.time_h, 2.0);
  EXPECT_EQ(outcome.request.args.batch, 64);
  EXPECT_EQ(outcome.request.resources.gpus, 4);
  EXPECT_EQ(outcome.request.resources.nodes, 2);
  EXPECT_EQ(outcome.request.resources.fund, "group:vision");
}

TEST(Request, TheCommandLineWinsOverTheFile) {
  const RequestOutcome outcome = read_request(
      (kRequests / "valid/timed.toml").string(),
      {{"--gpus", "gpus", "2"}, {"batch=", "batch", "32"}, {"slurm.nice=", "slurm.nice", "5"}},
      "/work");

  EXPECT_EQ(to_text(outcome.faults), "");
  EXPECT_EQ(outcome.request.resources.gpus, 2);
  EXPECT_EQ(outcome.request.resources.nodes, 2);
  EXPECT_EQ(outcome.request.args.batch, 32);
  EXPECT_EQ(outcome.request.resources.slurm.at("nice"), "5");
}

TEST(Request, AListOfDataSetsIsNoPath) {
  EXPECT_NE(to_text(read_settings({{"data=", "data", "[a.yaml, b.yaml]"}}).faults)
                .find("data=: data is a list, to Ultralytics one training after the other."),
            std::string::npos);
}

TEST(Request, TakesTheReferencesWordsForWhereARunLiesAndComputes) {
  const RequestOutcome outcome = read_settings({{"data=", "data", "/data/a.yaml"},
                                                {"project=", "project", "p"},
                                                {"name=", "name", "n"},
                                                {"device=", "device", "[0, 1]"},
                                                {"exist_ok=", "exist_ok", "True"},
                                                {"resume=", "resume", "False"}});
  EXPECT_EQ(to_text(outcome.faults), "");
  EXPECT_EQ(outcome.request.resources.gpus, 2);
  EXPECT_TRUE(outcome.request.resources.runs.starts_with('/'));
  EXPECT_TRUE(outcome.request.resources.runs.ends_with("/p"));
  EXPECT_EQ(outcome.request.resources.name, "n");
  EXPECT_EQ(read_settings({{"project=", "project", "~/p"}}).request.resources.runs, "~/p");
  EXPECT_NE(faults_of("save_dir", "/x").find("every run has a folder of its own"),
            std::string::npos);
  EXPECT_NE(faults_of("resume", "True").find("trainyard resume RUN"), std::string::npos);
  EXPECT_EQ(faults_of("device", "mps"),
            "device=: device = \"mps\" is neither cpu nor GPU numbers such as 0 or [0, 1].\n");
}

TEST(Request, ARangeOfGpusIsOneWord) {
  const RequestOutcome outcome =
      read_settings({{"data=", "data", "/data/a.yaml"}, {"--gpus", "gpus", "2-4"}});
  EXPECT_EQ(to_text(outcome.faults), "");
  EXPECT_EQ(outcome.request.resources.gpus, 4);
  EXPECT_EQ(outcome.request.resources.gpus_min, 2);

  const TrainingRequest read = nlohmann::json(outcome.request).get<TrainingRequest>();
  EXPECT_EQ(read.resources.gpus_min, 2);
  EXPECT_NE(to_toml(outcome.request).find("gpus = \"2-4\"\n"), std::string::npos);

  EXPECT_FALSE(read_settings({{"--gpus", "gpus", "3-3"}}).request.resources.gpus_min.has_value());
  EXPECT_EQ(faults_of("gpus", "4-2"), "gpus=: gpus = 4-2: the least comes first.\n");
  EXPECT_EQ(faults_of("gpus", "0-2"), "gpus=: gpus = 0 is below the smallest allowed value 1.\n");
  EXPECT_EQ(faults_of("gpus", "-2"), "gpus=: gpus = -2 is below the smallest allowed value 1.\n");
  EXPECT_EQ(faults_of("gpus", "2-"), "gpus=: gpus = \"2-\" is not a whole number.\n");
}

TEST(Request, RelativePathsStartAtTheFileOrAtTheWorkFolder) {
  const test::Folder folder;
  test::write_file(folder.path() / "train.toml",
                   "[train]\ndata = \"../sets/a.yaml\"\npretrained = \"w.safetensors\"\n");

  const RequestOutcome from_file = read_request("train.toml", {}, folder.path().string());
  const RequestOutcome from_line =
      read_request((folder.path() / "train.toml").string(),
                   {{"data=", "data", "sets/b.yaml"}, {"--runs", "runs", "./runs"}}, "/home/ada");

  EXPECT_EQ(from_file.request.args.data, (folder.path().parent_path() / "sets/a.yaml").string());
  EXPECT_EQ(from_file.request.args.pretrained, (folder.path() / "w.safetensors").string());
  EXPECT_EQ(from_line.request.args.data, "/home/ada/sets/b.yaml");
  EXPECT_EQ(from_line.request.args.pretrained, (folder.path() / "w.safetensors").string());
  EXPECT_EQ(from_line.request.resources.runs, "/home/ada/runs");
}

TEST(Request, AMissingFileIsItsOnlyFault) {
  const RequestOutcome outcome = read_request("none.toml", {}, "/nowhere");

  EXPECT_EQ(to_text(outcome.faults), "none.toml: cannot be read: No such file or directory.\n");
}

TEST(Request, ASettingIsFaultedWhereItStood) {
  const RequestOutcome outcome = read_settings({{"data=", "data", ""},
                                                {"--gpus", "gpus", "two"},
                                                {"time=", "time", "2.5"},
                                                {"--time-limit", "time_limit", "2h"},
                                                {"epohcs=", "epohcs", "3"},
                                                {"save_dir=", "save_dir", "x"}});

  EXPECT_EQ(to_text(outcome.faults),
            "--gpus: gpus = \"two\" is not a whole number.\n"
            "epohcs=: epohcs is not known. Did you mean \"epochs\"?\n"
            "save_dir=: save_dir is not needed: every run has a folder of its own. Choose where with "
            "--runs FOLDER and name it with --name NAME (trainyard), or give --run FOLDER "
            "(trainyard-trainer).\n"
            "data=: data is missing. Give data=FILE.yaml.\n"
            "--time-limit: time = 2.5 sets the length of the run already. Leave time_limit out.\n");
}

TEST(Request, WithoutAFileTheMissingDataSetIsNamedAsASetting) {
  EXPECT_EQ(to_text(read_settings({}).faults), "data=: data is missing. Give data=FILE.yaml.\n");
}

TEST(Request, AMisspeltResourceIsRecognisedOnTheCommandLine) {
  EXPECT_EQ(faults_of("gpu", "2"), "gpu=: gpu is not known. Did you mean \"gpus\"?\n");
  EXPECT_EQ(faults_of("partiton", "x"),
            "partiton=: partiton is not known. Did you mean \"partition\"?\n");
}

TEST(Request, TextsThatOthersCouldMisreadAreFaults) {
  EXPECT_NE(faults_of("name", "a\nb"), "");
  EXPECT_NE(faults_of("name", std::string("a\0b", 3)), "");
  EXPECT_NE(faults_of("name", "\xc0\xaf"), "");          // Overlong.
  EXPECT_NE(faults_of("name", "\xed\xa0\x80"), "");      // A surrogate.
  EXPECT_NE(faults_of("name", "\xf4\x90\x80\x80"), "");  // Beyond U+10FFFF.
  EXPECT_NE(faults_of("name", "\xe2\x82"), "");          // Cut off.
  EXPECT_NE(faults_of("account", "--uid=0"), "");
  EXPECT_NE(faults_of("slurm.constraint", "a\nb"), "");
  EXPECT_NE(faults_of("data", std::string(5'000, 'a')), "");
  EXPECT_EQ(faults_of("name", "\xf0\x9f\x9a\x82 and \xe2\x82\xac"), "");
}

TEST(Request, EveryReservedSlurmOptionIsRefusedAndNoneIsPassable) {
  EXPECT_EQ(faults_of("slurm.time", "2:00:00"),
            "slurm.time=: slurm.time is set by Trainyard; use time= or --time-limit.\n");
  for (const std::string& key : reserved_slurm_keys()) {
    SCOPED_TRACE(key);
    EXPECT_NE(faults_of("slurm." + key, "1").find("is set by Trainyard"), std::string::npos);
    for (const std::string& passable : passable_slurm_keys()) EXPECT_NE(key, passable);
  }
}

TEST(Request, EveryPassableSlurmOptionIsPassed) {
  for (const std::string& key : passable_slurm_keys()) {
    SCOPED_TRACE(key);
    const std::string value = key == "exclusive" ? "true" : key == "mail-type" ? "END" : "1";

    const RequestOutcome outcome = read_settings(
        {{"data=", "data", "/data/a.yaml"}, {"slurm." + key + "=", "slurm." + key, value}});

    EXPECT_EQ(to_text(outcome.faults), "");
    EXPECT_EQ(outcome.request.resources.slurm.at(key), value);
  }
}

TEST(Request, DurationsAreReadAsPeopleAndSlurmWriteThem) {
  struct Row {
    const char* text;
    std::optional<std::int64_t> seconds;
  };
  const std::vector<Row> rows = {{"90", 90},
                                 {"90s", 90},
                                 {"15m", 900},
                                 {"2h", 7'200},
                                 {"3d", 259'200},
                                 {"30:00", 1'800},
                                 {"90:00", 5'400},
                                 {"1:30:00", 5'400},
                                 {"100:00:00", 360'000},
                                 {"1-12", 129'600},
                                 {"1-12:30", 131'400},
                                 {"1-12:00:00", 129'600},
                                 {"0-00:01:00", 60},
                                 {"3660d", 316'224'000},
                                 {"", {}},
                                 {"0", {}},
                                 {"0h", {}},
                                 {"-5", {}},
                                 {"+5", {}},
                                 {"1.5h", {}},
                                 {"h", {}},
                                 {"5x", {}},
                                 {" 5", {}},
                                 {"1:75:00", {}},
                                 {"1:2:3:4", {}},
                                 {":30", {}},
                                 {"30:", {}},
                                 {"1-", {}},
                                 {"-12", {}},
                                 {"1-24:00:00", {}},
                                 {"1-12-3", {}},
                                 {"3661d", {}},
                                 {"99999999999d", {}},
                                 {"999999999d", {}},
                                 {"999999999:59:59", {}}};

  for (const Row& row : rows) {
    SCOPED_TRACE(row.text);
    EXPECT_EQ(parse_duration_s(row.text), row.seconds);
  }
}

TEST(Request, JsonThatNoParserWouldHaveMadeIsRefused) {
  const TrainingRequest good = read_settings({{"data=", "data", "/data/a.yaml"}}).request;
  const std::vector<nlohmann::json> patches = {{{"resources", {{"gpus", 0}}}},
                                               {{"resources", {{"gpus", 2.5}}}},
                                               {{"resources", {{"fund", "vision"}}}},
                                               {{"resources", {{"name", "a\nb"}}}},
                                               {{"resources", {{"colour", "red"}}}},
                                               {{"slurm", {{"time", "1"}}}},
                                               {{"slurm", {{"constraint", "a\nb"}}}},
                                               {{"train", {{"epochs", -1}}}},
                                               {{"train", {{"data", "a\nb"}}}},
                                               {{"train", 3}},
                                               {{"resources", "x"}},
                                               {{"slurm", nullptr}}};

  for (const nlohmann::json& patch : patches) {
    SCOPED_TRACE(patch.dump());
    nlohmann::json json = good;
    json.merge_patch(patch);
    TrainingRequest request;

    EXPECT_THROW(json.get_to(request), std::exception);
  }
}

TEST(Request, ListsComeFromArraysNumbersAndTexts) {
  const RequestOutcome outcome = read_request((kRequests / "valid/lists.toml").string(),
                                              {{"freeze=", "freeze", "[4, 5]"}}, "/work");

  EXPECT_EQ(to_text(outcome.faults), "");
  EXPECT_EQ(outcome.request.args.freeze, (std::vector<int>{4, 5}));
  EXPECT_EQ(outcome.request.args.classes, (std::vector<int>{0, 2}));
  EXPECT_TRUE(outcome.request.args.has_auto_batch());
  EXPECT_EQ(outcome.request.args.fraction, 200);
  EXPECT_EQ(outcome.request.args.amp, "false");
}

TEST(Request, ItsTomlHoldsEveryTrainArgument) {
  const std::string text = to_toml(read_settings({{"data=", "data", "/data/a.yaml"},
                                                  {"time=", "time", "2"},
                                                  {"freeze=", "freeze", "10"},
                                                  {"classes=", "classes", "0,2"},
                                                  {"pretrained=", "pretrained", "/w"}})
                                       .request);

  for (const contract::ArgInfo& info : contract::train_arg_table()) {
    EXPECT_NE(text.find("\n" + info.name + " = "), std::string::npos) << info.name;
  }
}

}  // namespace
}  // namespace scheduler
