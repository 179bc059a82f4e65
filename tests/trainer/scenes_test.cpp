// SPDX-License-Identifier: GPL-3.0-or-later
#include "trainer/scenes.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <stdexcept>

#include "temp_folder.h"
#include "trainer/contract/dataset.h"
#include "trainer/image.h"

namespace {

namespace fs = std::filesystem;

std::map<std::string, std::string> contents(const std::string& folder) {
  std::map<std::string, std::string> result;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (!entry.is_regular_file()) continue;
    std::ostringstream text;
    text << std::ifstream(entry.path(), std::ios::binary).rdbuf();
    result[fs::relative(entry.path(), folder).string()] = text.str();
  }
  return result;
}

TEST(Scenes, AreADataSetWithoutFaults) {
  const TempFolder folder;
  trainer::make_scenes({.out = folder.at("yard"), .seed = 3, .train = 12, .val = 5, .size = 160});

  const contract::DatasetReport report = contract::load_dataset(folder.at("yard/data.yaml"));

  EXPECT_EQ(report.faults_total, 0);
  EXPECT_EQ(report.dataset.train.size(), 12U);
  EXPECT_EQ(report.dataset.val.size(), 5U);
  std::set<int> classes;
  for (const contract::ImageEntry& entry : report.dataset.train) {
    EXPECT_EQ(trainer::read_image(entry.path).pixels.size(), cv::Size(160, 160));
    EXPECT_GE(entry.labels.size(), 1U);
    for (const contract::Label& label : entry.labels) {
      classes.insert(label.cls);
      EXPECT_GT(std::max(label.w, label.h), 0.09F);
      EXPECT_LT(std::max(label.w, label.h), 0.5F);
      EXPECT_TRUE(label.xc - label.w / 2 >= 0 && label.xc + label.w / 2 <= 1);
      EXPECT_TRUE(label.yc - label.h / 2 >= 0 && label.yc + label.h / 2 <= 1);
    }
  }
  EXPECT_EQ(classes.size(), report.dataset.names.size());
}

TEST(Scenes, AreTheSameForTheSameSeed) {
  const TempFolder folder;
  for (const auto& [name, seed] : {std::pair("a", 1U), {"b", 1U}, {"c", 2U}}) {
    trainer::make_scenes({.out = folder.at(name), .seed = seed, .train = 3, .val = 2, .size = 96});
  }

  EXPECT_EQ(contents(folder.at("a")), contents(folder.at("b")));
  EXPECT_NE(contents(folder.at("a")), contents(folder.at("c")));
}

TEST(Scenes, OfALongerSetBeginWithThoseOfAShorterOne) {
  const TempFolder folder;
  trainer::make_scenes({.out = folder.at("a"), .train = 2, .val = 1, .size = 96});
  trainer::make_scenes({.out = folder.at("b"), .train = 3, .val = 1, .size = 96});

  const auto shorter = contents(folder.at("a")), longer = contents(folder.at("b"));

  for (const auto& [name, text] : shorter) EXPECT_EQ(longer.at(name), text) << name;
}

TEST(Scenes, NameTheFolderThatCannotBeMade) {
  const TempFolder folder;
  folder.write("file", "");
  try {
    trainer::make_scenes({.out = folder.at("file"), .train = 1, .val = 1, .size = 96});
    FAIL() << "a file was taken for a folder";
  } catch (const std::runtime_error& error) {
    EXPECT_NE(std::string(error.what()).find(folder.at("file")), std::string::npos) << error.what();
  }
}

}  // namespace
