// SPDX-License-Identifier: GPL-3.0-or-later
//
// Two trainings on one folder. Runs under mpirun with 1 and 2 ranks.
#include <filesystem>
#include <map>

#include "tests/trainer/train_fixture.h"

namespace trainer {
namespace {

class TwoOnOneFolder : public TrainTest {
 protected:
  // Every file of the run by its path.
  std::map<std::string, std::string> files(const std::string& name) const {
    std::map<std::string, std::string> all;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(root_ + name)) {
      if (entry.is_regular_file()) all[entry.path()] = read_file(entry.path());
    }
    return all;
  }
  // The first training of "run" loses it before its batch `at_batch`, counted from 0, to one that
  // begins there and is at `second_stops` (0: at its end) before the first one goes on.
  void lose_the_folder(std::int64_t at_batch, std::int64_t second_stops) {
    std::int64_t batches = 0;
    TrainOutcome second;
    const TrainOutcome first = run("run", {.before_forward = [&](at::Tensor&) {
                                     if (batches++ != at_batch) return;
                                     second = run("run", {.stop_at_step = second_stops});
                                     world->barrier();
                                     if (world->rank() == 0) left_ = files("run");
                                   }});
    EXPECT_EQ(first.code, contract::ExitCode::kEnvironment);
    EXPECT_EQ(second.code,
              second_stops > 0 ? contract::ExitCode::kStopped : contract::ExitCode::kFinished);
    if (world->rank() != 0) return;
    EXPECT_NE(first.message.find("another process ("), std::string::npos) << first.message;
    const auto now = files("run");
    for (const auto& [path, bytes] : left_) {
      SCOPED_TRACE(path);
      EXPECT_TRUE(now.contains(path) && now.at(path) == bytes);
    }
    EXPECT_EQ(now.size(), left_.size());
  }

  std::map<std::string, std::string> left_;  // By the second, on rank 0.
};

// Of 5 batches an epoch, and a checkpoint after each epoch.
TEST_F(TwoOnOneFolder, TheLaterOneEndsBitForBitAsIfAlone) {
  use_small_model();
  args_.epochs = 3;
  ASSERT_EQ(run("alone").code, contract::ExitCode::kFinished);

  lose_the_folder(7, 0);

  if (world->rank() != 0) return;
  EXPECT_EQ(exit_record("run").at("reason"), "finished");
  EXPECT_EQ(tensors("run"), tensors("alone"));
  EXPECT_EQ(results("run"), results("alone"));
  for (const char* name : {"last", "best"}) {
    const auto path = [&](const char* each) {
      return fmt::format("{}/weights/{}.safetensors", each, name);
    };
    EXPECT_EQ(read(path("run")), read(path("alone"))) << name;
  }
}

// The one that lost it would save next, and remove what it does not know.
TEST_F(TwoOnOneFolder, TheLaterOneGoesOnFromItsOwnCheckpoint) {
  use_small_model();
  args_.epochs = 3;
  ASSERT_EQ(run("alone").code, contract::ExitCode::kFinished);

  lose_the_folder(9, 7);
  if (world->rank() == 0) {
    EXPECT_GE(progress("run").step, 7);
  }
  ASSERT_EQ(run("run").code, contract::ExitCode::kFinished);

  if (world->rank() != 0) return;
  EXPECT_EQ(tensors("run"), tensors("alone"));
  EXPECT_EQ(results("run"), results("alone"));
}

}  // namespace
}  // namespace trainer
