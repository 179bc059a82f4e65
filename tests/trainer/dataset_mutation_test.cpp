// SPDX-License-Identifier: GPL-3.0-or-later
//
// Bytes that nobody meant: the parsers of data.yaml, label files and image headers under random
// mutation. Each runs for a bounded time; the seed is printed where something breaks.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "image_bytes.h"
#include "trainer/contract/data_yaml.h"
#include "trainer/contract/image_header.h"
#include "trainer/contract/label_file.h"

namespace {

using std::chrono::steady_clock;

constexpr auto kTimeEach = std::chrono::milliseconds(1500);

// Edits drawn towards what parsers trip over: digits, signs, brackets, anchors, zero bytes.
std::string mutate(std::string text, std::mt19937_64& random) {
  const std::string spice =
      std::string(1, '\0') +
      "\n\r\t -+.e0:[]{}&*!|>%@`\"'#,?\xff\xef\xbb\xbf"
      "99999999999";
  const auto below = [&](std::size_t bound) { return random() % bound; };
  for (std::size_t edits = 1 + below(8); edits > 0; --edits) {
    const std::size_t at = below(text.size() + 1);
    switch (below(5)) {
      case 0:
        text.insert(at, 1, spice[below(spice.size())]);
        break;
      case 1:
        text.erase(at, 1 + below(8));
        break;
      case 2:
        text.insert(at, text.substr(below(text.size() + 1), below(40)));
        break;
      case 3:
        text.insert(at, 1 + below(200), spice[below(spice.size())]);
        break;
      default:
        if (at < text.size()) text[at] = static_cast<char>(random());
    }
  }
  return text;
}

template <typename Check>
void try_mutations(const std::vector<std::string>& seeds, Check check) {
  const auto end = steady_clock::now() + kTimeEach;
  std::uint64_t tried = 0;
  for (std::uint64_t seed = 1; steady_clock::now() < end; ++seed, ++tried) {
    std::mt19937_64 random(seed);
    SCOPED_TRACE("seed " + std::to_string(seed));
    check(mutate(seeds[random() % seeds.size()], random));
    if (testing::Test::HasFailure()) return;
  }
  EXPECT_GT(tried, 100U);
}

TEST(LabelFileMutation, YieldsLabelsWithinTheImageOrFaults) {
  const std::vector<std::string> seeds = {"0 0.5 0.5 0.2 0.2\n1 0.1 0.9 0.05 0.07\n",
                                          "2 1e-1 .5 1.005 1\r\n\n", "0 .5 .5 .1 .1 .9 .9\n",
                                          "nan inf -inf 1e999 0x10\n"};

  try_mutations(seeds, [](const std::string& text) {
    const contract::LabelFile file = contract::parse_label_file(text, 3);
    for (const contract::Label& label : file.labels) {
      ASSERT_TRUE(label.cls >= 0 && label.cls < 3);
      for (const float value : {label.xc, label.yc, label.w, label.h}) {
        ASSERT_TRUE(std::isfinite(value) && value >= 0 && value <= 1) << value;
      }
      ASSERT_TRUE(label.w > 0 && label.h > 0);
    }
    ASSERT_LE(file.faults.size(), 4U);
  });
}

TEST(DataYamlMutation, YieldsNamesAndSplitsOrFaults) {
  const std::vector<std::string> seeds = {
      "path: .\ntrain: images/train\nval: [a, b]\nnames:\n  0: cat\n  1: dog\nnc: 2\n",
      "train: &a x\nval: *a\nnames: [a, b, \"c\", 'd', |\n e]\n", "{train: x, val: y, nc: 3}",
      "train: x\n---\nval: y\n", "%YAML 1.2\n--- !!map\ntrain: !!str x\n"};

  try_mutations(seeds, [](const std::string& text) {
    const contract::DataYaml yaml = contract::parse_data_yaml(text);
    ASSERT_TRUE(!yaml.faults.empty() ||
                (!yaml.train.empty() && !yaml.val.empty() && !yaml.names.empty()));
  });
}

TEST(DataYamlMutation, SurvivesDepthAndWidth) {
  const auto started = steady_clock::now();

  for (const std::string& text : std::vector<std::string>{
           std::string(1'000'000, '['), std::string(1'000'000, '{'),
           std::string(200'000, '-') + " a", "names: " + std::string(100'000, '\''),
           std::string(100'000, '&') + "a: b",
           "a: &a [x,x,x]\nb: &b [*a,*a,*a]\nc: &c [*b,*b,*b]\nnames: [*c,*c]\ntrain: *c\n"}) {
    EXPECT_FALSE(contract::parse_data_yaml(text).faults.empty());
  }

  EXPECT_LT(steady_clock::now() - started, std::chrono::seconds(20));
}

TEST(ImageHeaderMutation, NeverReadsPastTheEnd) {
  using namespace std::string_literals;
  const std::vector<std::string> seeds = {
      png_header(640, 480),
      "\xff\xd8\xff\xe0\x00\x10JFIF\0\1\1\0\0\1\0\1\0\0\xff\xc0\x00\x11\x08\x01\xe0\x02\x80\x03"s,
      "II*\0\x08\0\0\0\x02\0\0\1\3\0\1\0\0\0\x80\2\0\0\1\1\3\0\1\0\0\0\xe0\1\0\0"s,
      "MM\0*\0\0\0\x08\0\2\1\0\0\4\0\0\0\1\0\0\2\x80"s,
      "RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\x7f\2\0\xdf\1\0"s,
      "BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0\x80\2\0\0\x20\xfe\xff\xff"s};

  try_mutations(seeds, [](const std::string& text) {
    const std::vector<char> exact(text.begin(), text.end());  // So that a sanitizer sees the end.
    const auto header = contract::read_image_header({exact.data(), exact.size()});
    if (!header) return;
    ASSERT_GE(header->width, 0);
    ASSERT_GE(header->height, 0);
  });
}

TEST(ImageHeader, SaysTheSizeOfEveryFormat) {
  using namespace std::string_literals;
  const std::vector<std::pair<std::string, std::string>> images = {
      {"PNG", png_header(640, 480)},
      {"JPEG",
       "\xff\xd8\xff\xe0\x00\x10JFIF\0\1\1\0\0\1\0\1\0\0\xff\xff\xc0\x00\x11\x08\x01\xe0\x02\x80\x03"s},
      {"TIFF", "II*\0\x08\0\0\0\x02\0\0\1\3\0\1\0\0\0\x80\2\0\0\1\1\3\0\1\0\0\0\xe0\1\0\0"s},
      {"WebP", "RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\x7f\2\0\xdf\1\0"s},
      {"BMP", "BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0\x80\2\0\0\x20\xfe\xff\xff"s},
      {"PFM", "PF\n640 480\n-1.0\n"s}};

  for (const auto& [format, bytes] : images) {
    SCOPED_TRACE(format);
    const auto header = contract::read_image_header(bytes);
    ASSERT_TRUE(header);
    EXPECT_EQ(header->format, format);
    EXPECT_EQ(header->width, 640);
    EXPECT_EQ(header->height, 480);
    EXPECT_FALSE(contract::image_header_fault(bytes));
  }
}

// Decoders differ in which of two they take, and a large one needs memory that nobody counted.
TEST(ImageHeader, OfATiffWhoseSizeStandsTwiceOrIsAListHasNone) {
  using namespace std::string_literals;
  const std::string width = "\0\1\3\0\1\0\0\0\x80\2\0\0"s;
  const std::string height = "\1\1\3\0\1\0\0\0\xe0\1\0\0"s;
  const std::string list = "\1\1\3\0\2\0\0\0\xe0\1\0\0"s;
  const std::string byte = "\1\1\1\0\1\0\0\0\xe0\1\0\0"s;
  for (const std::string& entries :
       {width + height + width, width + height + height, width + list, width + byte}) {
    const auto count = static_cast<char>(entries.size() / 12);
    const auto header = contract::read_image_header("II*\0\x08\0\0\0"s + count + '\0' + entries);
    ASSERT_TRUE(header);
    EXPECT_EQ(header->format, "TIFF");
    EXPECT_EQ(header->width * header->height, 0);
  }
}

}  // namespace
