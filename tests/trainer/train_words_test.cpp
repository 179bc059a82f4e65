// SPDX-License-Identifier: GPL-3.0-or-later
//
// The verb train by hand: where Ultralytics' words put a run, and what they refuse.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "tests/trainer/program.h"
#include "tests/trainer/temp_folder.h"
#include "trainer/scenes.h"

namespace trainer {
namespace {

namespace fs = std::filesystem;

class TrainWords : public testing::Test {
 protected:
  TrainWords() {
    make_scenes({.out = folder_.at("scenes"), .seed = 5, .train = 4, .val = 2, .size = 64});
  }

  ProgramRun train(const std::string& words) const {
    return run_trainer(fmt::format(
        "train data={} epochs=1 batch=2 imgsz=32 workers=1 plots=false device=cpu {}",
        folder_.at("scenes/data.yaml"), words));
  }

  std::string project() const { return "project=" + folder_.at("p"); }

  TempFolder folder_;
};

TEST_F(TrainWords, PutARunWhereTheReferenceWouldAndGoOnWithItWhenToldTo) {
  const ProgramRun first = train(project() + " name=a");
  ASSERT_EQ(first.code, 0) << first.errors;
  EXPECT_TRUE(fs::exists(folder_.at("p/a/weights/best.safetensors")));

  const ProgramRun again = train(project() + " name=a");
  EXPECT_EQ(again.code, 20) << again.errors;
  EXPECT_NE(again.errors.find("p/a holds a run. Go on with it by resume=True, or give name=a2."),
            std::string::npos)
      << again.errors;

  const ProgramRun resumed = train(project() + " name=a resume=True epochs=2");
  ASSERT_EQ(resumed.code, 0) << resumed.errors;
  EXPECT_NE(resumed.output.find("resuming "), std::string::npos) << resumed.output;

  const ProgramRun of_a_file =
      train(fmt::format("resume={} epochs=3", folder_.at("p/a/weights/last.safetensors")));
  ASSERT_EQ(of_a_file.code, 0) << of_a_file.errors;
  EXPECT_NE(of_a_file.output.find("resuming "), std::string::npos) << of_a_file.output;
}

TEST_F(TrainWords, AResumedRunHasTheArgumentsItWasStartedWith) {
  ASSERT_EQ(train(project() + " name=a epochs=2 optimizer=SGD lr0=0.003 seed=3").code, 0);

  const ProgramRun same = run_trainer(fmt::format("train resume={}", folder_.at("p/a")));
  EXPECT_EQ(same.code, 0) << same.errors;
  EXPECT_NE(same.output.find("finished after 2 epochs"), std::string::npos) << same.output;

  const ProgramRun more = run_trainer(fmt::format("train resume={} epochs=3", folder_.at("p/a")));
  EXPECT_EQ(more.code, 0) << more.errors;
  EXPECT_NE(more.output.find("finished after 3 epochs"), std::string::npos) << more.output;
  EXPECT_EQ(more.output.find("not as before"), std::string::npos) << more.output;

  std::ofstream(folder_.at("p/a/args.yaml")) << "epochs: many\n";
  const ProgramRun spoilt = run_trainer(fmt::format("train resume={}", folder_.at("p/a")));
  EXPECT_EQ(spoilt.code, 20) << spoilt.errors;
  EXPECT_NE(spoilt.errors.find("p/a/args.yaml: "), std::string::npos) << spoilt.errors;
}

TEST_F(TrainWords, LeaveFoldersOfOthersAlone) {
  fs::create_directories(folder_.at("p/train"));
  std::ofstream(folder_.at("p/train/notes.txt")) << "mine\n";

  const ProgramRun refused = train(project());
  EXPECT_EQ(refused.code, 20) << refused.errors;
  EXPECT_NE(refused.errors.find("is there already. Use it all the same by exist_ok=True, or give "
                                "name=train2."),
            std::string::npos)
      << refused.errors;
  EXPECT_FALSE(fs::exists(folder_.at("p/train/weights")));

  const ProgramRun allowed = train(project() + " exist_ok=True");
  EXPECT_EQ(allowed.code, 0) << allowed.errors;
  EXPECT_TRUE(fs::exists(folder_.at("p/train/notes.txt")));
}

TEST_F(TrainWords, NameAllFaultsAtOnce) {
  const ProgramRun run = train("device=gpu exist_ok=perhaps mosaik=1 --run " + folder_.at("r") +
                               " save_dir=" + folder_.at("s"));
  EXPECT_EQ(run.code, 20);
  for (const char* part : {"device = \"gpu\" is neither cpu nor GPU numbers such as 0 or [0, 1].",
                           "exist_ok = \"perhaps\" is neither true nor false.",
                           "Did you mean \"mosaic\"?", "two folders for the run"}) {
    EXPECT_NE(run.errors.find(part), std::string::npos) << part << "\n" << run.errors;
  }
  EXPECT_FALSE(fs::exists(folder_.at("s")));

  const ProgramRun nowhere = train("");
  EXPECT_EQ(nowhere.code, 20);
  EXPECT_NE(nowhere.errors.find("no folder for the run"), std::string::npos) << nowhere.errors;

  const ProgramRun nothing = train(project() + " resume=True");
  EXPECT_EQ(nothing.code, 20);
  EXPECT_NE(nothing.errors.find("there is no run to resume"), std::string::npos) << nothing.errors;
}

}  // namespace
}  // namespace trainer
