// SPDX-License-Identifier: GPL-3.0-or-later
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "tests/trainer/program.h"
#include "tests/trainer/temp_folder.h"

namespace trainer {
namespace {

// A data set that a run would take; tests spoil it.
class CheckProgram : public testing::Test {
 protected:
  void SetUp() override {
    const ProgramRun made =
        run_trainer("scenes --out " + folder_.at("set") + " --train 6 --val 3 --size 64");
    ASSERT_EQ(made.code, 0) << made.errors;
  }
  ProgramRun check(const std::string& options) const {
    return run_trainer("check " + folder_.at("set/data.yaml") + " " + options);
  }

  const TempFolder folder_;
};

TEST_F(CheckProgram, LeavesZeroWhereARunCanBegin) {
  const ProgramRun text = check(""), json = check("--json");

  EXPECT_EQ(text.code, 0) << text.errors;
  EXPECT_TRUE(text.output.ends_with("ready to train\n")) << text.output;
  EXPECT_EQ(json.code, 0) << json.errors;
  const auto report = nlohmann::json::parse(json.output);
  EXPECT_EQ(report.at("ok"), true);
  EXPECT_EQ(report.at("missing").size(), 0U);
  EXPECT_EQ(report.at("images").at("train"), 6);
  EXPECT_EQ(report.at("images").at("val"), 3);
}

// The verdict is the exit code, whoever reads: a person or a program.
TEST_F(CheckProgram, LeavesTwentyAndSaysWhyWhereNoneCan) {
  std::filesystem::remove_all(folder_.at("set/images/val"));
  folder_.write("set/labels/train/odd.txt", "7 .5 .5 .1\n");

  const ProgramRun text = check(""), json = check("--json");

  EXPECT_EQ(text.code, 20);
  EXPECT_NE(text.output.find("\nnot ready to train:\n"), std::string::npos) << text.output;
  EXPECT_EQ(json.code, 20);
  const auto report = nlohmann::json::parse(json.output);
  EXPECT_EQ(report.at("ok"), false);
  ASSERT_GE(report.at("missing").size(), 1U);
  EXPECT_NE(text.output.find(report.at("missing").at(0).get<std::string>()), std::string::npos);
  EXPECT_GE(report.at("faults_total"), 1);
  EXPECT_EQ(report.at("faults").size(), report.at("faults_total"));
}

TEST_F(CheckProgram, ReadsNoPathThatIsNotThere) {
  const ProgramRun json = run_trainer("check " + folder_.at("nothing.yaml") + " --json");

  EXPECT_EQ(json.code, 20);
  const auto report = nlohmann::json::parse(json.output);
  EXPECT_EQ(report.at("ok"), false);
  EXPECT_EQ(report.at("faults").at(0).at("is_fatal"), true);
}

}  // namespace
}  // namespace trainer
