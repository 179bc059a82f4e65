// SPDX-License-Identifier: GPL-3.0-or-later
//
// The verb val, as a user runs it.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/trainer/program.h"
#include "tests/trainer/reference_weights.h"
#include "tests/trainer/temp_folder.h"
#include "trainer/model.h"
#include "trainer/weights_file.h"

namespace trainer {
namespace {

namespace fs = std::filesystem;

const std::vector<std::string> kCells = {"RBC", "WBC", "Platelets"};

std::string bccd() {
  return (reference::folder() / "bccd" / "data.yaml").string();
}

#define SKIP_WITHOUT_WEIGHTS(name)                                        \
  if (!fs::exists(reference::weights(name))) {                            \
    GTEST_SKIP() << "no reference weights: " << reference::weights(name); \
  }

// What the reference measured with the same weights: its README's table.
struct Expected {
  std::string weights, split, frame;
  double map50, map50_95;
};

class ValOfTheReference : public testing::TestWithParam<Expected> {};

TEST_P(ValOfTheReference, GivesItsNumbers) {
  const Expected& expected = GetParam();
  SKIP_WITHOUT_WEIGHTS(expected.weights);
  const TempFolder folder;
  const std::string path = folder.at("w.safetensors");
  reference::convert_weights(expected.weights, "yolov8n", kCells, 320, path);

  const ProgramRun run = run_trainer(fmt::format("val --weights {} --data {} --split {} {} --json",
                                                 path, bccd(), expected.split, expected.frame));

  ASSERT_EQ(run.code, 0) << run.errors;
  const auto json = nlohmann::json::parse(run.output);
  EXPECT_NEAR(json["map50"].get<double>(), expected.map50, 0.002);
  EXPECT_NEAR(json["map50_95"].get<double>(), expected.map50_95, 0.002);
  EXPECT_EQ(json["images"], expected.split == "val" ? 87 : 72);
}

INSTANTIATE_TEST_SUITE_P(
    Bccd, ValOfTheReference,
    testing::Values(Expected{"bccd_yolov8n_scratch60", "val", "--rect", .805, .522},
                    Expected{"bccd_yolov8n_scratch60", "val", "--no-rect", .808, .521},
                    Expected{"bccd_yolov8n_scratch60", "test", "--rect", .819, .507},
                    Expected{"bccd_yolov8n_scratch60", "test", "--no-rect", .833, .511},
                    Expected{"bccd_yolov8n_ft15", "val", "--rect", .884, .606},
                    Expected{"bccd_yolov8n_ft15", "val", "--no-rect", .872, .599},
                    Expected{"bccd_yolov8n_ft15", "test", "--rect", .903, .615},
                    Expected{"bccd_yolov8n_ft15", "test", "--no-rect", .888, .604}),
    [](const auto& tested) {
      const Expected& expected = tested.param;
      return fmt::format("{}_{}_{}", expected.weights, expected.split,
                         expected.frame == "--rect" ? "rect" : "square");
    });

// An example of docs/formats/results.md.
nlohmann::json documented(const std::string& file) {
  const std::string page = reference::read_text(TRAINYARD_DOCS "/formats/results.md");
  const std::string start = "```json file=" + file + "\n";
  const std::size_t begin = page.find(start);
  if (begin == std::string::npos) throw std::runtime_error(file + " is not documented");
  const std::size_t from = begin + start.size();
  return nlohmann::json::parse(page.substr(from, page.find("```", from) - from));
}

std::vector<std::string> keys(const nlohmann::json& object) {
  std::vector<std::string> names;
  for (const auto& item : object.items()) names.push_back(item.key());
  return names;
}

TEST(Val, LeavesTablesPredictionsAndPlots) {
  SKIP_WITHOUT_WEIGHTS("bccd_yolov8n_ft15");
  const TempFolder folder;
  const std::string path = folder.at("w.safetensors");
  reference::convert_weights("bccd_yolov8n_ft15", "yolov8n", kCells, 320, path);

  const ProgramRun run = run_trainer(fmt::format("val --weights {} --data {} --split test --out {}",
                                                 path, bccd(), folder.at("out")));

  ASSERT_EQ(run.code, 0) << run.errors;
  EXPECT_NE(run.output.find("Platelets"), std::string::npos);
  EXPECT_EQ(reference::read_text(folder.at("out/table.txt")), run.output);
  for (const std::string name :
       {"PR_curve.png", "F1_curve.png", "P_curve.png", "R_curve.png", "confusion_matrix.png",
        "confusion_matrix_normalized.png", "val_batch0_labels.png", "val_batch0_pred.png",
        "val_batch2_pred.png"}) {
    EXPECT_GT(fs::file_size(folder.at("out/" + name)), 10'000U) << name;
  }
  const auto metrics = reference::read_json(folder.at("out/metrics.json"));
  EXPECT_EQ(keys(metrics), keys(documented("metrics.json")));
  EXPECT_EQ(keys(metrics["classes"][0]), keys(documented("metrics.json")["classes"][0]));
  // A column of the matrix has every true box of its class once.
  const auto& counts = metrics["confusion"]["predicted_by_true"];
  for (std::size_t cls = 0; cls < 3; ++cls) {
    int sum = 0;
    for (std::size_t row = 0; row < 4; ++row) sum += counts[row][cls].get<int>();
    EXPECT_EQ(sum, metrics["classes"][cls]["instances"]);
  }
  const auto predictions = reference::read_json(folder.at("out/predictions.json"));
  ASSERT_GT(predictions.size(), 1000U);
  EXPECT_EQ(keys(predictions[0]), keys(documented("predictions.json")[0]));
  EXPECT_EQ(predictions[0]["file_name"], predictions[0]["image_id"].get<std::string>() + ".jpg");
  for (const auto& entry : predictions) {
    const auto box = entry["bbox"].get<std::vector<double>>();
    ASSERT_TRUE(box[0] >= 0 && box[1] >= 0 && box[0] + box[2] <= 640.002 &&
                box[1] + box[3] <= 480.002)
        << entry;
    ASSERT_TRUE(entry["category_id"] >= 1 && entry["category_id"] <= 3);
  }
}

// Weights that know nothing, for what is refused before a network runs.
std::string some_weights(const TempFolder& folder, const std::vector<std::string>& names) {
  const std::string path = folder.at("random.safetensors");
  save_weights(path, DetectionModel("yolov8n", static_cast<int>(names.size())),
               {.class_names = names, .imgsz = 64});
  return path;
}

std::string small_dataset(const TempFolder& folder) {
  const std::string data = folder.at("scenes");
  const ProgramRun run = run_trainer("scenes --train 2 --val 3 --size 96 --out " + data);
  EXPECT_EQ(run.code, 0) << run.errors;
  return data + "/data.yaml";
}

TEST(Val, TakesAllClassesForOne) {
  const TempFolder folder;
  const std::string data = small_dataset(folder);
  const std::string weights = some_weights(folder, {"a", "b", "c", "d"});

  const ProgramRun run =
      run_trainer(fmt::format("val --weights {} --data {} --single-cls --json", weights, data));

  ASSERT_EQ(run.code, 0) << run.errors;
  const auto json = nlohmann::json::parse(run.output);
  ASSERT_EQ(json["classes"].size(), 1U);
  EXPECT_EQ(json["classes"][0]["name"], "item");
  EXPECT_EQ(json["classes"][0]["instances"], json["instances"]);
}

TEST(Val, OfManyClassesListsWhatTheMatrixCounts) {
  const TempFolder folder;
  const std::string data = small_dataset(folder);
  folder.write("scenes/data.yaml", "train: images/train\nval: images/val\nnc: 501\n");
  const std::string weights = some_weights(folder, std::vector<std::string>(501, "a"));

  const ProgramRun run = run_trainer(
      fmt::format("val --weights {} --data {} --json --out {}", weights, data, folder.at("out")));

  ASSERT_EQ(run.code, 0) << run.errors;
  const auto confusion = nlohmann::json::parse(run.output)["confusion"];
  EXPECT_EQ(keys(confusion), (std::vector<std::string>{"cells", "names"}));
  int counted = 0;
  for (const auto& cell : confusion["cells"]) counted += cell[1] < 501 ? cell[2].get<int>() : 0;
  EXPECT_EQ(counted, nlohmann::json::parse(run.output)["instances"]);
  EXPECT_FALSE(fs::exists(folder.at("out/confusion_matrix.png")));
}

TEST(Val, RefusesAFileThatHoldsNoWeightsAndSaysWhatToDo) {
  const TempFolder folder;
  const std::string data = small_dataset(folder);
  const std::string zip = folder.write("w.npz", "PK\x03\x04" + std::string(60, 'x'));
  const std::string whole = some_weights(folder, {"a"});
  const std::string bytes = reference::read_text(whole);
  const std::string cut = folder.write("cut.safetensors", bytes.substr(0, bytes.size() / 2));
  struct Case {
    std::string weights, message;
  };
  for (const Case& each : {Case{zip, "w.npz: this is a ZIP archive. Weights are safetensors files; "
                                     "scripts/convert_weights.py makes them of"},
                           Case{cut, "cut.safetensors: "},
                           Case{folder.at("gone.safetensors"), "gone.safetensors"}}) {
    for (const std::string& verb :
         {fmt::format("val --data {}", data),
          fmt::format("predict --source {} --out {}", data, folder.at("out"))}) {
      SCOPED_TRACE(verb + " " + each.weights);
      const ProgramRun run = run_trainer(fmt::format("{} --weights {}", verb, each.weights));
      EXPECT_EQ(run.code, 20);
      EXPECT_NE(run.errors.find(each.message), std::string::npos) << run.errors;
    }
  }
}

// A JPEG may be known as one and not say how large it is.
TEST(CheckVerb, DoesNotCallSizesZeroThatItDoesNotKnow) {
  const TempFolder folder;
  folder.write("data.yaml", "train: train/images\nval: val/images\nnames: [a]\n");
  for (const std::string split : {"train", "val"}) {
    folder.write(split + "/images/a.jpg", "\xff\xd8\xff\xe0");
    folder.write(split + "/labels/a.txt", "0 .5 .5 .5 .5\n");
  }

  const ProgramRun run = run_trainer("check " + folder.at("data.yaml"));

  EXPECT_EQ(run.code, 0) << run.output << run.errors;
  EXPECT_EQ(run.output.find("0..0"), std::string::npos) << run.output;
  EXPECT_EQ(run.output.find("width by height of a box 0.00"), std::string::npos) << run.output;
  EXPECT_NE(run.output.find("  unknown\n"), std::string::npos) << run.output;
}

TEST(TrainVerb, SaysWhatANewAttemptWasGivenOtherwise) {
  const TempFolder folder;
  ASSERT_EQ(run_trainer(fmt::format("scenes --out {} --train 4 --val 2 --size 64 --seed 1",
                                    folder.at("scenes")))
                .code,
            0);
  const std::string start =
      fmt::format("train --run {} data={} model=yolov8n batch=2 imgsz=32 workers=1 plots=false ",
                  folder.at("run"), folder.at("scenes/data.yaml"));
  ASSERT_EQ(run_trainer(start + "epochs=1").code, 0);

  const ProgramRun more =
      run_trainer(start +
                  "epochs=2 seed=3 box=5 hsv_h=0.1 nbs=16 weight_decay=0.0001 warmup_epochs=0 "
                  "multi_scale=0.5");

  EXPECT_EQ(more.code, 0) << more.errors;
  std::string named;
  std::istringstream lines(more.output);
  for (std::string line; std::getline(lines, line);) {
    constexpr std::string_view kStart = "not as before: ";
    if (line.starts_with(kStart)) named += line.substr(kStart.size()) + "\n";
  }
  EXPECT_EQ(named,
            "box = 5 (was 7.5)\nhsv_h = 0.1 (was 0.015)\nmulti_scale = 0.5 (was 0)\n"
            "nbs = 16 (was 64)\nseed = 3 (was 0)\nwarmup_epochs = 0 (was 3)\n"
            "weight_decay = 0.0001 (was 0.0005)\n")
      << more.output;
}

// Linux lets a name be any bytes, here Latin-1; JSON does not.
TEST(TrainVerb, TakesNamesOfFilesThatAreNotUtf8) {
  const TempFolder folder;
  fs::copy(fs::path(small_dataset(folder)).parent_path(), folder.at("dat\xfcm"),
           fs::copy_options::recursive);
  for (const std::string part : {"images", "labels"}) {
    const fs::path file = *fs::directory_iterator(folder.at("dat\xfcm/" + part + "/val"));
    fs::rename(file, file.parent_path() / ("bl\xfct" + file.extension().string()));
  }
  const std::string model = folder.write("m\xfc.yaml",
                                         "backbone:\n"
                                         "  - [-1, 1, Conv, [8, 3, 2]]\n"
                                         "  - [-1, 1, Conv, [16, 3, 4]]\n"
                                         "head:\n"
                                         "  - [[1], 1, Detect, [nc]]\n");
  const std::string train = fmt::format(
      "train --run {} data={}/data.yaml model={} batch=2 imgsz=32 workers=1 plots=false epochs=",
      folder.at("r\xfcn"), folder.at("dat\xfcm"), model);
  const std::string weights = folder.at("r\xfcn/weights/last.safetensors");

  for (const std::string& arguments :
       {train + "1", train + "2",  // Resumed: the checkpoint knows the model by its name.
        fmt::format("val --weights {} --data {}/data.yaml --out {} --json", weights,
                    folder.at("dat\xfcm"), folder.at("val")),
        fmt::format("predict --weights {0} --source {1}/images/val --out {2} --json", weights,
                    folder.at("dat\xfcm"), folder.at("found"))}) {
    const ProgramRun run = run_trainer(arguments);
    EXPECT_EQ(run.code, 0) << arguments << run.errors;
  }

  const std::string replaced = "bl\xef\xbf\xbdt";
  EXPECT_NE(reference::read_text(folder.at("found/predictions.json")).find(replaced),
            std::string::npos);
  EXPECT_EQ(load_model(weights).info.epoch, 2);
}

TEST(TrainVerb, RefusesClassNamesThatAreNotUtf8AsCheckDoes) {
  const TempFolder folder;
  const std::string data = small_dataset(folder);
  folder.write("scenes/data.yaml",
               "train: images/train\nval: images/val\nnames: [a, b, c, \"Wei\xdf\"]\n");
  const std::string fault = "data.yaml:3: the byte \\xdf is not UTF-8.";

  const ProgramRun check = run_trainer("check " + data);
  const ProgramRun train =
      run_trainer(fmt::format("train --run {} data={} imgsz=32", folder.at("run"), data));

  EXPECT_EQ(check.code, 20);
  EXPECT_NE(check.output.find(fault), std::string::npos) << check.output;
  EXPECT_EQ(train.code, 20);
  EXPECT_NE(train.errors.find(fault), std::string::npos) << train.errors;
  EXPECT_EQ(reference::read_json(folder.at("run/exit.json"))["reason"], "bad_input");
}

TEST(BenchVerb, TakesAKnownModelOrADescription) {
  const TempFolder folder;
  const std::string model = folder.write("small.yaml",
                                         "backbone:\n"
                                         "  - [-1, 1, Conv, [8, 3, 4]]\n"
                                         "head:\n"
                                         "  - [[0], 1, Detect, [nc]]\n");
  const std::string start = "bench --imgsz 32 --batch 2 --steps 1 --warmup 0 --json --model ";

  const ProgramRun small = run_trainer(start + model);
  const ProgramRun unknown = run_trainer(start + "yolov0");

  ASSERT_EQ(small.code, 0) << small.errors;
  EXPECT_EQ(nlohmann::json::parse(small.output)["model"], "small");
  EXPECT_EQ(unknown.code, 2);
  EXPECT_NE(unknown.errors.find("model = \"yolov0\" is not known"), std::string::npos)
      << unknown.errors;
}

TEST(Val, SaysWhatDoesNotFit) {
  const TempFolder folder;
  const std::string data = small_dataset(folder);
  const std::string weights = some_weights(folder, {"a", "b"});
  const auto refusal = [&](const std::string& arguments) {
    const ProgramRun run =
        run_trainer(fmt::format("val --weights {} --data {} {}", weights, data, arguments));
    EXPECT_EQ(run.code, 20) << arguments;
    return run.errors;
  };

  EXPECT_NE(refusal("").find("has 2 classes"), std::string::npos);
  EXPECT_NE(refusal("--single-cls --split test").find("the split test has no images"),
            std::string::npos);
  EXPECT_NE(refusal("--single-cls --imgsz 100").find("imgsz = 100 is no multiple of 32. Use 128"),
            std::string::npos);
}

}  // namespace
}  // namespace trainer
