// SPDX-License-Identifier: GPL-3.0-or-later
#include "trainer/contract/architecture.h"

#include <gtest/gtest.h>

#include <fstream>
#include <random>
#include <sstream>
#include <stdexcept>

#include "tests/trainer/temp_folder.h"
#include "trainer/contract/train_args.h"

namespace contract {
namespace {

// A small sound description; a test replaces a part of it.
const std::string kSmall = R"(nc: 3
scales:
  n: [0.5, 0.25, 64]
  s: [0.5, 0.5, 64]
backbone:
  - [-1, 1, Conv, [64, 3, 2]]
  - [-1, 1, DWConv, [64, 3, 2]]
  - [-1, 5, C2f, [64, True]]
  - [-1, 1, Conv, [128, 3, 2]]
  - [-1, 2, C3, [128]]
head:
  - [-1, 1, nn.Upsample, [None, 2, nearest]]
  - [[-1, 2], 1, Concat, [1]]
  - [-1, 1, SPPF, [64]]
  - [[7, 4], 1, Detect, [nc]]
)";

std::string with(const std::string& part, const std::string& other) {
  std::string text = kSmall;
  const std::size_t at = text.find(part);
  if (at == std::string::npos) throw std::logic_error(part);
  return text.replace(at, part.size(), other);
}

std::string fault_of(const std::string& yaml) {
  try {
    static_cast<void>(parse_architecture(yaml, "small", "my.yaml"));
    return "";
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
}

TEST(Architecture, WorksOutEveryShape) {
  const Architecture made = parse_architecture(kSmall, "small", "my.yaml");

  ASSERT_EQ(made.layers.size(), 9U);
  const Layer& join = made.layers[6];
  EXPECT_EQ(join.channels, 16 + 16);
  EXPECT_EQ(join.stride, 4);
  EXPECT_EQ(join.from, (std::vector<int>{5, 2}));
  EXPECT_EQ(join.line, 13);
  EXPECT_EQ(made.layers[2].repeats, 2);    // 5 x 0.5 = 2.5, half-way to the even side.
  EXPECT_EQ(made.layers[3].channels, 16);  // 128, bound by 64, x 0.25.
  EXPECT_TRUE(made.layers[4].has_shortcut);
  EXPECT_EQ(made.strides, (std::vector<int>{4, 8}));
  EXPECT_FALSE(made.is_head_light);
  EXPECT_FALSE(made.is_known);
}

TEST(Architecture, TheNameChoosesTheScale) {
  EXPECT_EQ(parse_architecture(kSmall, "yolov8s-custom", "").layers[0].channels, 32);
  EXPECT_EQ(parse_architecture(kSmall, "yolo11s", "").layers[0].channels, 32);
  EXPECT_EQ(parse_architecture(kSmall, "yolov8x-custom", "").layers[0].channels,
            16);  // No x there.
  EXPECT_EQ(parse_architecture(kSmall, "mine", "").layers[0].channels, 16);
}

TEST(Architecture, EveryKnownModelIsSound) {
  for (const std::string& name : known_models()) {
    SCOPED_TRACE(name);
    const Architecture made = load_architecture(name);

    EXPECT_EQ(made.name, name);
    EXPECT_TRUE(made.is_known);
    EXPECT_EQ(made.strides, (std::vector<int>{8, 16, 32}));
    EXPECT_EQ(made.is_head_light, name.starts_with("yolo11"));
  }
}

struct FaultCase {
  const char* part;
  const char* other;
  const char* message;
};

TEST(Architecture, FaultsNameTheLineAndWhatIsKnown) {
  const FaultCase cases[] = {
      {"SPPF, [64]", "SPP, [64]",
       "my.yaml:14: the module SPP is not known. Known: Conv, DWConv, C2f, C3, C3k2, SPPF, C2PSA, "
       "nn.Upsample, Concat, Detect."},
      {"[64, True]", "[64, True, 1, 0.5]",
       "my.yaml:8: C2f takes [channels, shortcut = False], not 4 arguments."},
      {"[64, True]", "[64, 3]",
       "my.yaml:8: C2f takes [channels, shortcut = False]; 3 does not fit."},
      {"C3, [128]", "C3, []", "my.yaml:10: C3 takes [channels, shortcut = True], not 0 arguments."},
      {"[[-1, 2], 1", "[[-1, 9], 1",
       "my.yaml:13: from = 9 in row 6 names no earlier row. Rows 0..5 or -1..-6."},
      {"[[-1, 2], 1", "[[-1, -7], 1",
       "my.yaml:13: from = -7 in row 6 names no earlier row. Rows 0..5 or -1..-6."},
      {"[-1, 1, Conv, [64, 3, 2]]", "[-2, 1, Conv, [64, 3, 2]]",
       "my.yaml:6: from = -2 in row 0 names no earlier row. The first row takes the image: -1."},
      {"[[-1, 2], 1, Concat", "[[-1, 3], 1, Concat",
       "my.yaml:13: Concat of layer 5 (stride 4) and layer 3 (stride 8): maps of different sizes."},
      {"[-1, 5, C2f", "[[-1, 0], 5, C2f", "my.yaml:8: C2f takes one input, not 2."},
      {"[-1, 1, SPPF", "[-1, 3, SPPF",
       "my.yaml:14: SPPF stands for itself only: repeats = 3. Write 3 rows."},
      {"[-1, 5, C2f", "[-1, 0, C2f", "my.yaml:8: repeats = 0 is not a whole number of 1..200."},
      {"[64, 3, 2]", "[64, 2, 2]", "my.yaml:6: Conv takes an odd kernel of 1..31, not 2."},
      {"[64, 3, 2]", "[64, 3, 3]", "my.yaml:6: Conv takes a stride of 1, 2 or 4, not 3."},
      {"[128, 3, 2]", "[128, 3, 4]",
       "my.yaml:13: Concat of layer 5 (stride 8) and layer 2 (stride 4): maps of different sizes."},
      {"[64, 3, 2]", "[64, 3, 4]", ""},
      {"SPPF, [64]", "C2PSA, [64]",
       "my.yaml:14: C2PSA keeps the width: 32 channels come in, 16 are asked for (after scaling)."},
      {"None, 2, nearest", "None, 3, nearest",
       "my.yaml:12: nn.Upsample takes [None, 2, nearest]; 3 does not fit."},
      {"n: [0.5, 0.25, 64]", "n: [0.5, 0.25]",
       "my.yaml:3: scale n is not [depth, width, max_channels], as in [0.33, 0.25, 1024]."},
      {"n: [0.5", "n: [-1", "my.yaml:3: depth = -1 is not a number above 0, up to 16."},
      {"nc: 3", "nc: 3\nactivation: nn.ReLU()",
       "my.yaml:2: activation = nn.ReLU() is not supported by this trainer."},
      {"  - [[7, 4], 1, Detect, [nc]]\n", "", "my.yaml: Detect stands once, in the last row."},
      {"Detect, [nc]]", "Detect, [80]]", "my.yaml:15: Detect takes [nc]; 80 does not fit."},
      {"  - [-1, 1, SPPF, [64]]", "  - [-1, 1, SPPF]",
       "my.yaml:14: a row is [from, repeats, module, args]."},
      {"backbone:", "backbone:  # gr\xfc\xdf",
       "my.yaml:5: the byte \\xfc is not UTF-8. Save the file as UTF-8."},
  };
  for (const FaultCase& each : cases) {
    SCOPED_TRACE(std::string(each.part) + " -> " + each.other);
    EXPECT_EQ(fault_of(with(each.part, each.other)), each.message);
  }
  const std::string wide = with("n: [0.5, 0.25, 64]", "n: [0.5, 16, 2000]");
  EXPECT_EQ(fault_of(wide), "");
  std::string wider = wide;
  EXPECT_EQ(fault_of(wider.replace(wider.find("SPPF, [64]"), 10, "SPPF, [1999]")),
            "my.yaml:14: 31984 channels after scaling; at most 16384.");
  const std::string broken = fault_of(with("scales:", "scales: ["));
  EXPECT_NE(broken.find(": is no YAML: "), std::string::npos) << broken;
  EXPECT_EQ(fault_of("- 1"), "my.yaml: no mapping of keys (nc, scales, backbone, head).");
}

TEST(Architecture, AllFaultsOfTheRowsAreFoundAtOnce) {
  std::string text = with("SPPF", "SPP");
  text.replace(text.find("C2f"), 3, "c2f");

  const std::string fault = fault_of(text);

  EXPECT_NE(fault.find("my.yaml:8: the module c2f"), std::string::npos) << fault;
  EXPECT_NE(fault.find("my.yaml:14: the module SPP "), std::string::npos) << fault;
}

TEST(Architecture, NeitherTooCoarseNorTooFine) {
  std::string deep = kSmall;
  deep.replace(deep.find(" Conv, [64, 3, 2]"), 17, " Conv, [64, 3, 4]");
  deep.replace(deep.find("DWConv, [64, 3, 2]"), 18, "DWConv, [64, 3, 4]");
  EXPECT_EQ(fault_of(deep), "");
  deep.replace(deep.find("[128, 3, 2]"), 11, "[128, 3, 4]");
  EXPECT_EQ(fault_of(deep),
            "my.yaml:9: a map of stride 64; the largest is 32, because image sides are multiples "
            "of it.");
  const std::string flat =
      "backbone:\n  - [-1, 1, Conv, [8]]\nhead:\n"
      "  - [-1, 1, nn.Upsample, [None, 2, nearest]]\n"
      "  - [-1, 1, Detect, [nc]]\n";
  EXPECT_EQ(fault_of(flat),
            "my.yaml:4: nn.Upsample doubles a map of stride 1; it cannot be finer than the image.");
}

TEST(Architecture, AnyBytesGiveAnAnswer) {
  std::mt19937 random(11);
  for (int round = 0; round < 3000; ++round) {
    std::string text = kSmall;
    for (int change = 0; change < 3; ++change) {
      const std::size_t at = random() % text.size();
      if (random() % 2 == 0) {
        text[at] = static_cast<char>(random() % 128);
      } else {
        text.erase(at, random() % 20);
      }
    }
    static_cast<void>(fault_of(text));  // Neither another exception nor a crash.
  }
}

TEST(Architecture, ComesFromAFileOfAnySize) {
  const TempFolder folder;
  folder.write("yolov8-mine.yaml", kSmall);

  const Architecture made = load_architecture(folder.at("yolov8s-mine.yaml"));

  EXPECT_EQ(made.name, "yolov8s-mine");
  EXPECT_EQ(made.layers[0].channels, 32);
  EXPECT_EQ(parse_architecture(made.yaml, made.name, "").layers[0].channels, 32);
  EXPECT_EQ(load_architecture(folder.at("yolov8-mine.yaml")).layers[0].channels, 16);
}

TEST(Architecture, TheExampleOfTheManualIsSound) {
  std::ifstream page(std::string(TRAINYARD_DOCS) + "/formats/model.md");
  std::stringstream text;
  text << page.rdbuf();
  const std::string all = text.str();
  const std::string fence = "```yaml\n";
  const std::size_t begin = all.find(fence) + fence.size();
  ASSERT_GT(begin, fence.size());

  const Architecture made =
      parse_architecture(all.substr(begin, all.find("```", begin) - begin), "yolov8s-mine", "");

  EXPECT_EQ(made.layers.size(), 12U);
  EXPECT_EQ(made.strides, (std::vector<int>{8, 16}));
}

TEST(Architecture, AFaultyFileIsAFaultOfTheArgument) {
  const TempFolder folder;
  TrainArgs args;
  args.model = folder.write("bad.yaml", with("SPPF", "SPP"));
  const auto fault = check_model(args);
  ASSERT_TRUE(fault.has_value());
  EXPECT_EQ(fault->key, "model");
  EXPECT_TRUE(fault->message.starts_with(args.model + ":14: ")) << fault->message;

  args.model = folder.at("none.yaml");
  ASSERT_TRUE(check_model(args).has_value());
  EXPECT_NE(check_model(args)->message.find("none.yaml cannot be read"), std::string::npos);

  args.model = "yolo11n";
  EXPECT_FALSE(check_model(args).has_value());
}

}  // namespace
}  // namespace contract
