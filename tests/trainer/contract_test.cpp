// SPDX-License-Identifier: GPL-3.0-or-later
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "trainer/contract/exit_code.h"
#include "trainer/contract/metrics.h"
#include "trainer/contract/run_words.h"
#include "trainer/contract/train_args.h"
#include "trainer/contract/train_spec.h"

namespace contract {
namespace {

std::string message_of(std::string_view key, std::string_view text) {
  TrainArgs args;
  const std::optional<ArgFault> fault = set_train_arg(args, key, text);
  return fault ? fault->message : "";
}

std::string text_of(const TrainArgs& args, std::string_view key) {
  for (const auto& [name, text] : to_texts(args)) {
    if (name == key) return text;
  }
  return "no such argument";
}

struct MessageCase {
  const char* key;
  const char* text;
  const char* message;
};

TEST(TrainArgs, HelpOffersNothingThatIsRefused) {
  for (const ArgInfo& info : train_arg_table()) {
    if (info.range != "true or false") continue;
    SCOPED_TRACE(info.name);
    TrainArgs args;
    EXPECT_FALSE(set_train_arg(args, info.name, "true").has_value());
    EXPECT_FALSE(set_train_arg(args, info.name, "false").has_value());
  }
}

TEST(TrainArgs, SayWhatIsWrongWithBothNumbers) {
  const MessageCase cases[] = {
      {"epochs", "-3", "epochs = -3 is below the smallest allowed value 1."},
      {"epochs", "10001", "epochs = 10001 is above the largest allowed value 10000."},
      {"epochs", "99999999999999999999",
       "epochs = \"99999999999999999999\" is not a whole number."},
      {"epochs", "3.5", "epochs = \"3.5\" is not a whole number."},
      {"epochs", "", "epochs = \"\" is not a whole number."},
      {"epochs", "3 ", "epochs = \"3 \" is not a whole number."},
      {"batch", "0", "batch = 0 is below the smallest allowed value 1."},
      {"batch", "-2", "batch = -2 is below the smallest allowed value 1."},
      {"batch", "1.5", "batch = \"1.5\" is not a whole number."},
      {"fraction", "0", "fraction = 0 is neither a part above 0 to 1 nor a number of images."},
      {"fraction", "1.5", "fraction = 1.5 is neither a part above 0 to 1 nor a number of images."},
      {"fraction", "-0.1", "fraction = -0.1 is below the smallest allowed value 0."},
      {"fraction", "[0.5, 2.5]",
       "fraction = [0.5, 2.5] is neither a part above 0 to 1 nor a number of images."},
      {"fraction", "0.5,", "fraction = \"\" is not a number."},
      {"fraction", "[1, 1, 1]",
       "fraction = [1, 1, 1] has 3 numbers; it takes 2, of training and validation."},
      {"freeze", "ten", "freeze = \"ten\" is not a whole number or a list such as [0, 2]."},
      {"freeze", "100", "freeze = 100 is above the largest allowed value 99."},
      {"freeze", "[0, 1", "freeze = \"[0, 1\" is not a whole number or a list such as [0, 2]."},
      {"classes", "0,,2", "classes = \"0,,2\" is not a whole number or a list such as [0, 2]."},
      {"classes", "0,-2", "classes = 0,-2 is below the smallest allowed value 0."},
      {"multi_scale", "0.95", "multi_scale = 0.95 is above the largest allowed value 0.9."},
      {"amp", "fp8",
       "amp = \"fp8\" is not known. Known: true, false, bf16, fp16, fp32. Did you mean \"fp16\"?"},
      {"imgsz", "100", "imgsz = 100 is not a multiple of 32. The nearest are 96 and 128."},
      {"imgsz", "31", "imgsz = 31 is below the smallest allowed value 32."},
      {"time", "0.01", "time = 0.01 is below the smallest allowed value 0.02."},
      {"time", "721", "time = 721 is above the largest allowed value 720."},
      {"lr0", "0.5", "lr0 = 0.5 is above the largest allowed value 0.1."},
      {"lr0", "fast", "lr0 = \"fast\" is not a number."},
      {"lr0", "nan", "lr0 = \"nan\" is not a number."},
      {"lr0", "inf", "lr0 = \"inf\" is not a number."},
      {"val", "maybe", "val = \"maybe\" is neither true nor false."},
      {"optimizer", "Adamw2",
       "optimizer = \"Adamw2\" is not known. Known: auto, SGD, MuSGD, Adam, Adamax, AdamW, NAdam, "
       "RAdam, RMSProp. Did you mean "
       "\"AdamW\"?"},
      {"model", "yolov8q",
       "model = \"yolov8q\" is not known. Known: yolov8n, yolov8s, yolov8m, yolov8l, yolov8x, "
       "yolo11n, yolo11s, yolo11m, yolo11l, yolo11x. Did you mean \"yolov8n\"?"},
      {"model", "yolov8n.pt",
       "model = \"yolov8n.pt\" names a weights file. Give model=NAME and "
       "pretrained=FILE.safetensors."},
      {"pretrained", "True", "pretrained = True names no file. Give pretrained=FILE.safetensors."},
      {"cache", "holodisk", "cache = \"holodisk\" is not known. Known: ram, disk, false."},
      {"mosaik", "1", "mosaik is not a train argument. Did you mean \"mosaic\"?"},
      {"cutmix", "0.1", "cutmix is not supported by this trainer. Leave it out."},
      {"device", "0",
       "device is chosen by the plan. Say how many GPUs and which "
       "with --gpus N and --type NAME."},
      {"resume", "True",
       "resume is not needed. Continue a run with \"trainyard resume RUN\", or by "
       "starting trainyard-trainer again on its folder."},
      {"epcohs", "3", "epcohs is not a train argument. Did you mean \"epochs\"?"},
      {"bach", "3", "bach is not a train argument. Did you mean \"batch\"?"},
      {"warmup_epoch", "3",
       "warmup_epoch is not a train argument. Did you mean \"warmup_epochs\"?"},
      {"qqqqqqqqqq", "3", "qqqqqqqqqq is not a train argument."},
  };
  for (const MessageCase& each : cases) {
    SCOPED_TRACE(std::string(each.key) + " = " + each.text);
    EXPECT_EQ(message_of(each.key, each.text), each.message);
  }
}

TEST(RunWords, NameTheFolder) {
  const auto folder_of = [](std::vector<std::pair<const char*, const char*>> settings) {
    RunWords words;
    for (const auto& [key, text] : settings) EXPECT_FALSE(set_run_word(words, key, text)) << key;
    return words.folder();
  };
  EXPECT_EQ(folder_of({}), "");
  EXPECT_EQ(folder_of({{"project", "p"}}), "p/train");
  EXPECT_EQ(folder_of({{"name", "n"}}), "runs/detect/n");
  EXPECT_EQ(folder_of({{"project", "/p"}, {"name", "n"}}), "/p/n");
  EXPECT_EQ(folder_of({{"project", "p"}, {"save_dir", "s"}}), "s");
  EXPECT_EQ(folder_of({{"project", "None"}, {"name", ""}}), "");
  EXPECT_EQ(folder_of({{"resume", "True"}}), "");
  EXPECT_EQ(folder_of({{"resume", "r/weights/last.pt"}}), "r");
  EXPECT_EQ(folder_of({{"resume", "r/weights/"}}), "r/weights/");
  EXPECT_EQ(folder_of({{"resume", "r"}, {"name", "n"}}), "r");
}

TEST(RunWords, TakeDevicesAsTheReferenceDoes) {
  RunWords words;
  for (const char* text : {"0,1", "[0, 1]", "0, 1"}) {
    EXPECT_FALSE(set_run_word(words, "device", text)) << text;
    EXPECT_EQ(words.device, RunWords::Device::kGpus);
    EXPECT_EQ(words.gpus, (std::vector{0, 1})) << text;
  }
  EXPECT_FALSE(set_run_word(words, "device", "-1,-1"));
  EXPECT_EQ(words.gpus, (std::vector{-1, -1}));
  EXPECT_FALSE(set_run_word(words, "device", "CPU"));
  EXPECT_EQ(words.device, RunWords::Device::kCpu);
  EXPECT_FALSE(set_run_word(words, "device", "None"));
  EXPECT_EQ(words.device, RunWords::Device::kAny);
  for (const char* text : {"mps", "0,0", "-2", "0;1", "99999999999", "0,"}) {
    const auto fault = set_run_word(words, "device", text);
    ASSERT_TRUE(fault) << text;
    EXPECT_EQ(fault->message, std::string("device = \"") + text +
                                  "\" is neither cpu nor GPU numbers such as 0 or [0, 1].");
  }
  EXPECT_EQ(words.device, RunWords::Device::kAny);
}

struct AcceptedCase {
  const char* key;
  const char* text;
  const char* stored;
};

TEST(TrainArgs, TakeTheSpellingsOfTheReference) {
  const AcceptedCase cases[] = {
      {"model", "yolov8s.yaml", "yolov8s"},
      {"model", "YOLOv8m", "yolov8m"},
      {"model", "yolo11x", "yolo11x"},
      {"model", "YOLO11n.yaml", "yolo11n"},
      {"model", "./Yolov8n.yaml", "./Yolov8n.yaml"},
      {"model", "nets/Mine.yml", "nets/Mine.yml"},
      {"time", "None", "none"},
      {"time", "2.5", "2.5"},
      {"val", "False", "false"},
      {"val", "1", "true"},
      {"cache", "True", "ram"},
      {"cache", "False", "false"},
      {"cache", "RAM", "ram"},
      {"optimizer", "adamw", "AdamW"},
      {"pretrained", "False", ""},
      {"pretrained", "w.safetensors", "w.safetensors"},
      {"save_period", "-1", "-1"},
      {"lr0", "1e-3", "0.001"},
      {"seed", "2147483647", "2147483647"},
      {"epochs", "+5", "5"},
      {"batch", "-1", "-1"},
      {"batch", "0.7", "0.7"},
      {"batch", "64", "64"},
      {"freeze", "None", "none"},
      {"freeze", "10", "10"},
      {"freeze", "0", "none"},
      {"freeze", "[0,1,2]", "3"},
      {"freeze", "[2, 0]", "[0, 2]"},
      {"freeze", "[5]", "[5]"},
      {"classes", "0,2", "[0, 2]"},
      {"classes", "[0, 2, 2]", "[0, 2]"},
      {"classes", "3", "[3]"},
      {"classes", "[]", "none"},
      {"fraction", "0.25", "0.25"},
      {"fraction", "1", "1"},
      {"fraction", "200", "200"},
      {"fraction", "0.5,0.2", "[0.5, 0.2]"},
      {"fraction", "[200, 1]", "200"},
      {"fraction", "[1, 30]", "[1, 30]"},
      {"optimizer", "musgd", "MuSGD"},
      {"amp", "False", "false"},
      {"amp", "BF16", "bf16"},
      {"amp", "FP16", "fp16"},
      {"amp", "half", "fp16"},
      {"amp", "1", "true"},
  };
  for (const AcceptedCase& each : cases) {
    SCOPED_TRACE(std::string(each.key) + " = " + each.text);
    TrainArgs args;
    EXPECT_FALSE(set_train_arg(args, each.key, each.text).has_value());
    EXPECT_EQ(text_of(args, each.key), each.stored);
  }
}

// Every bound of the table, on both sides.
TEST(TrainArgs, HoldEveryRangeOfTheTable) {
  int bounds = 0;
  for (const ArgInfo& info : train_arg_table()) {
    SCOPED_TRACE(info.name);
    const std::size_t dots = info.range.find("..");
    if (dots == std::string::npos) continue;
    const double low = std::stod(info.range.substr(0, dots)),
                 high = std::stod(info.range.substr(dots + 2));
    const double step = info.type == "int" ? 1 : 1e-6;
    const auto text = [&](double value) {
      return info.type == "int" ? std::to_string(static_cast<long long>(value))
                                : nlohmann::json(value).dump();
    };
    EXPECT_EQ(message_of(info.name, text(low)), "");
    EXPECT_EQ(message_of(info.name, text(high)), "");
    EXPECT_NE(message_of(info.name, text(low - step)).find("is below the smallest allowed value"),
              std::string::npos);
    EXPECT_NE(message_of(info.name, text(high + step)).find("is above the largest allowed value"),
              std::string::npos);
    bounds += 2;
  }
  EXPECT_GE(bounds, 60);
}

TEST(TrainArgs, AFaultLeavesThemUnchanged) {
  TrainArgs args;
  args.epochs = 7;

  ASSERT_TRUE(set_train_arg(args, "epochs", "0").has_value());

  EXPECT_EQ(args.epochs, 7);
}

TEST(TrainArgs, DefaultsArePassedByTheirOwnChecks) {
  TrainArgs args;
  args.data = "data.yaml";

  EXPECT_TRUE(check_train_args(args).empty());
  for (const ArgInfo& info : train_arg_table()) {
    SCOPED_TRACE(info.name);
    EXPECT_EQ(message_of(info.name, info.default_text), "");
    EXPECT_FALSE(info.help.empty());
  }
}

TEST(TrainArgs, AllFaultsAreFoundAtOnce) {
  TrainArgs args;
  args.epochs = 0;
  args.imgsz = 33;
  args.batch = 0;  // Neither a number of images nor a share of the memory.

  std::vector<std::string> keys;
  for (const ArgFault& fault : check_train_args(args)) keys.push_back(fault.key);

  EXPECT_EQ(keys, (std::vector<std::string>{"epochs", "batch", "imgsz", "data"}));
}

TEST(TrainArgs, AListOfDataSetsIsRefusedAsOne) {
  EXPECT_EQ(message_of("data", "[a.yaml, b.yaml]"),
            "data is a list, to Ultralytics one training after the other. Start a run for each "
            "data set, or give one YAML file: its train, val and test may each list several "
            "folders.");
  EXPECT_EQ(message_of("data", "[old] cells/data.yaml"), "");
}

TEST(TrainArgs, SurviveTextsAndJson) {
  TrainArgs args;
  args.data = "/d/data.yaml";
  args.time_h = 0.1 + 0.2;
  args.lr0 = 1.0 / 30;
  args.cos_lr = true;
  args.save_period = 5;
  args.batch = 0;
  args.batch_share = 0.75;
  args.freeze = {0, 1, 2, 3};
  args.classes = {1, 7};

  TrainArgs from_texts;
  for (const auto& [key, text] : to_texts(args)) {
    ASSERT_FALSE(set_train_arg(from_texts, key, text).has_value()) << key;
  }
  const auto from_json = nlohmann::json::parse(nlohmann::json(args).dump()).get<TrainArgs>();

  EXPECT_EQ(from_texts.lr0, args.lr0);
  EXPECT_EQ(from_json.time_h, args.time_h);
  EXPECT_TRUE(from_json.has_auto_batch());
  EXPECT_EQ(from_json.batch_share, 0.75);
  EXPECT_EQ(from_json.freeze, args.freeze);
  EXPECT_EQ(from_json.classes, args.classes);
  EXPECT_EQ(nlohmann::json(TrainArgs{})["freeze"], nullptr);
  EXPECT_EQ(to_texts(from_texts), to_texts(args));
  EXPECT_EQ(to_texts(from_json), to_texts(args));
}

TEST(TrainArgs, JsonNamesTheWrongKey) {
  try {
    static_cast<void>(nlohmann::json{{"epochs", 0}}.get<TrainArgs>());
    FAIL() << "accepted";
  } catch (const std::invalid_argument& error) {
    EXPECT_STREQ(error.what(), "epochs = 0 is below the smallest allowed value 1.");
  }
}

TEST(TrainSpec, SurvivesItsFile) {
  TrainSpec spec;
  spec.run_id = "r-1";
  spec.run_dir = "/runs/r-1";
  spec.args.data = "/d/data.yaml";
  spec.args.epochs = 3;

  const TrainSpec read = parse_train_spec(to_json_text(spec));

  EXPECT_EQ(read.run_id, "r-1");
  EXPECT_EQ(read.run_dir, "/runs/r-1");
  EXPECT_EQ(to_texts(read.args), to_texts(spec.args));
}

struct SpecCase {
  const char* json;
  const char* message;
};

TEST(TrainSpec, NamesWhatIsWrong) {
  const SpecCase cases[] = {
      {"{", "train spec: byte 2: this is not JSON."},
      {"[]", "train spec: this is not a JSON object."},
      {"{}", "train spec: the key \"version\" is missing."},
      {R"({"version": 1, "run_id": "a", "run_dir": "rel", "args": {}})",
       "train spec: run_dir = \"rel\" is not an absolute path."},
      {R"({"version": 1, "run_id": "a", "run_dir": "/r", "args": {"epoch": 3}})",
       "train spec: args: epoch is not a train argument. Did you mean \"epochs\"?"},
      {R"({"version": 1, "run_id": 5, "run_dir": "/r", "args": {}})",
       "train spec: run_id = 5 is not a text."},
  };
  for (const SpecCase& each : cases) {
    SCOPED_TRACE(each.json);
    try {
      static_cast<void>(parse_train_spec(each.json));
      ADD_FAILURE() << "accepted";
    } catch (const std::invalid_argument& error) {
      EXPECT_STREQ(error.what(), each.message);
    }
  }
}

TEST(Metrics, ALineSurvivesBeingWrittenAndRead) {
  MetricsRecord record;
  record.kind = "epoch";
  record.time = 1764000000.125;
  record.epoch = 3;
  record.step = 39;
  record.steps_per_epoch = 13;
  record.train_seconds = 0.1 + 0.2;
  record.values = {{"train/box_loss", 1.0 / 3},
                   {"fitness", std::numeric_limits<double>::quiet_NaN()}};
  record.text = "a \"text\"\nof two lines";

  const std::string line = to_json_line(record);
  const std::optional<MetricsRecord> read = parse_metrics_line(line);

  EXPECT_EQ(line.find('\n'), std::string::npos);
  ASSERT_TRUE(read.has_value());
  EXPECT_EQ(read->kind, "epoch");
  EXPECT_EQ(read->time, record.time);
  EXPECT_EQ(read->epoch, 3);
  EXPECT_EQ(read->train_seconds, record.train_seconds);
  EXPECT_EQ(read->values.at("train/box_loss"), 1.0 / 3);
  EXPECT_TRUE(std::isnan(read->values.at("fitness")));
  EXPECT_EQ(read->text, record.text);
}

TEST(Metrics, EveryTornLineIsSkipped) {
  const std::string line = to_json_line({.kind = "step", .values = {{"a", 1.5}}, .text = ""});

  for (std::size_t length = 0; length < line.size(); ++length) {
    SCOPED_TRACE(length);
    EXPECT_FALSE(parse_metrics_line(line.substr(0, length)).has_value());
  }
  EXPECT_FALSE(parse_metrics_line(R"({"v":2,"kind":"step"})").has_value());
}

TEST(ExitCode, KnownNumbersComeBackAndOthersDoNot) {
  int known = 0;
  for (int code = -1; code < 256; ++code) {
    const auto found = exit_code_from_int(code);
    if (!found) continue;
    ++known;
    EXPECT_EQ(static_cast<int>(*found), code);
    EXPECT_FALSE(describe(*found).empty());
  }
  EXPECT_EQ(known, 10);
}

}  // namespace
}  // namespace contract
