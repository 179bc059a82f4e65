// SPDX-License-Identifier: GPL-3.0-or-later
//
// The end of an attempt: what it saves before its deadline, what it leaves to the next attempt, and
// that the next one knows of it.
#include <filesystem>
#include <fstream>

#include "tests/trainer/train_fixture.h"
#include "trainer/preflight.h"
#include "trainer/run_folder.h"
#include "trainer/weights_file.h"

namespace trainer {
namespace {

class Deadlines : public TrainTest {
 protected:
  static constexpr int kBatches = 5;  // Of an epoch.

  // When records of this kind were written, by the clock of the run.
  std::vector<double> times_of(const std::string& name, const std::string& kind) const {
    std::vector<double> times;
    std::istringstream lines(read(name + "/metrics.jsonl"));
    for (std::string line; std::getline(lines, line);) {
      const auto record = nlohmann::json::parse(line);
      if (record.at("kind") == kind) times.push_back(record.at("time").get<double>());
    }
    return times;
  }
  // Rank 0's number on all ranks.
  static double on_all(double number) {
    double word = world->rank() == 0 ? number : 0;
    world->all_reduce_sum(std::span<double>(&word, 1));
    return word;
  }
};

// Steps of two batches, and steps that only the end of an epoch closes: the run can be left nowhere
// between them. Every third second of an epoch is the deadline once.
TEST_F(Deadlines, TheRunIsSavedAtTheLastStepThatTheDeadlineLeavesTimeFor) {
  use_small_model();
  args_.epochs = 4;
  args_.warmup_epochs = 0;
  args_.val = false;
  for (const int accumulate : {2, 16}) {
    args_.nbs = args_.batch * accumulate;
    const std::string whole = fmt::format("whole{}", accumulate);
    ASSERT_EQ(run(whole, {.seconds_per_look = 1}).code, contract::ExitCode::kFinished);
    double first = 0, last = 0;
    if (world->rank() == 0) {
      const std::vector<double> saves = times_of(whole, "checkpoint");
      first = saves.at(0) + 1;
      last = saves.at(1) + 1;
    }
    first = on_all(first), last = on_all(last);
    ASSERT_GT(last, first + 10);
    for (double deadline = first; deadline < last; deadline += 3) {
      SCOPED_TRACE(
          fmt::format("{} batches a step, {} of {} to {}", accumulate, deadline, first, last));
      const std::string name = fmt::format("run{}-{}", accumulate, deadline);

      const TrainOutcome outcome = run(name, {.deadline = deadline, .seconds_per_look = 1});

      EXPECT_EQ(outcome.code, contract::ExitCode::kDeadline);
      EXPECT_LT(outcome.step, 2 * kBatches + 1);
      if (world->rank() != 0) continue;
      // Each look at the clock takes a second, also the few beside the batches.
      EXPECT_LE(times_of(name, "checkpoint").back(), deadline + 6);  // A second a look.
      EXPECT_EQ(progress(name).step, outcome.step);
      if (outcome.step % kBatches != 0) {
        EXPECT_EQ(progress(name).pending_batches, 0);
      }
    }
  }
}

// The limit of an epochs run may be raised, so it begins a validation all the same; the word that
// it was not comes from the clock.
TEST_F(Deadlines, AValidationIsGivenUpAndItsRowLeftToTheNextAttempt) {
  use_small_model();
  args_.epochs = 2;
  ASSERT_EQ(run("whole", {.seconds_per_look = 1}).code, contract::ExitCode::kFinished);
  double end = 0;
  if (world->rank() == 0) end = times_of("whole", "step").at(kBatches - 1);
  end = on_all(end);

  bool is_given_up = false;
  for (double deadline = end; deadline < end + 12; deadline += 1) {
    SCOPED_TRACE(deadline - end);
    const std::string name = fmt::format("run{}", deadline);

    const TrainOutcome outcome =
        run(name, {.deadline = deadline, .is_deadline_in_file = true, .seconds_per_look = 1});

    EXPECT_EQ(outcome.code, contract::ExitCode::kDeadline);
    if (outcome.step != kBatches || outcome.epoch != 0) continue;
    is_given_up = true;
    if (world->rank() == 0) {
      EXPECT_EQ(progress(name).epoch_batch, kBatches);
      EXPECT_LE(times_of(name, "checkpoint").back(), deadline + 6);  // A second a look.
      EXPECT_NO_THROW(static_cast<void>(load_model(root_ + name + "/weights/last.safetensors")));
    }
    EXPECT_EQ(run(name, {.seconds_per_look = 1}).step, 2 * kBatches);
    if (world->rank() != 0) continue;
    EXPECT_EQ(results(name), results("whole"));
    EXPECT_EQ(tensors(name), tensors("whole"));
  }
  EXPECT_TRUE(is_given_up);
}

TEST_F(Deadlines, AStopIsSeenInsideAValidation) {
  use_small_model();
  args_.epochs = 1;
  ASSERT_EQ(run("whole").code, contract::ExitCode::kFinished);
  const auto looks = static_cast<std::int64_t>(on_all(static_cast<double>(looks_)));

  // Rank 0's looks at the clock, backwards from the end: the validation comes before the last few.
  int given_up = 0;
  for (std::int64_t call = looks; given_up < 2 && call > looks - 40; --call) {
    const std::string name = fmt::format("run{}", call);
    const TrainOutcome outcome = run(name, {.stop_at_call = call});
    if (outcome.code != contract::ExitCode::kStopped || outcome.epoch != 0) continue;
    if (outcome.step < kBatches) continue;
    ++given_up;
    EXPECT_EQ(outcome.step, kBatches);
    EXPECT_EQ(run(name).code, contract::ExitCode::kFinished);
    if (world->rank() == 0) {
      EXPECT_EQ(results(name), results("whole"));
      EXPECT_EQ(tensors(name), tensors("whole"));
    }
  }
  EXPECT_GT(given_up, 1) << "the last batch's look and one inside the validation at least";
}

TEST_F(Deadlines, TheFileOfTheDeadlineIsObeyed) {
  use_small_model();
  args_.epochs = 1;
  double clock = 0;
  ASSERT_EQ(run("cut", {.deadline = 1001, .is_deadline_in_file = true, .seconds_per_look = 1}).code,
            contract::ExitCode::kDeadline);
  clock = on_all(clock_);
  EXPECT_EQ(
      run("raised", {.deadline = clock + 1000, .is_deadline_in_file = true, .seconds_per_look = 1})
          .code,
      contract::ExitCode::kFinished);

  if (world->rank() != 0) return;
  const auto write = [this](const std::string& text) { write_durably(root_ + "word", text); };
  EXPECT_FALSE(read_deadline(root_ + "none"));
  for (const char* bad : {"", "\n", "soon 1\n", "0 1\n", "-5\n"}) {
    SCOPED_TRACE(bad);
    write(bad);
    EXPECT_FALSE(read_deadline(root_ + "word"));
  }
  write("1764600000 \n");
  EXPECT_EQ(read_deadline(root_ + "word").value().time, 1764600000);
  EXPECT_FALSE(read_deadline(root_ + "word").value().is_last);
  write("1764600000 0\n");
  EXPECT_EQ(read_deadline(root_ + "word").value().is_last, false);
  write("1764600000 1\n");
  EXPECT_EQ(read_deadline(root_ + "word").value().is_last, true);
}

// Its best weights are of an earlier attempt, so they would be measured again.
TEST_F(Deadlines, AFinishedRunMeasuresItsBestOnlyWhereTheDeadlineLeavesTime) {
  use_small_model();
  args_.epochs = 1;
  ASSERT_EQ(run("run", {.seconds_per_look = 1}).code, contract::ExitCode::kFinished);
  ASSERT_EQ(run("run", {.seconds_per_look = 1}).code, contract::ExitCode::kFinished);
  const std::int64_t measured = looks_;

  const TrainOutcome late = run("run", {.deadline = 1003, .seconds_per_look = 1});

  EXPECT_EQ(late.code, contract::ExitCode::kFinished);
  if (world->rank() == 0) {
    EXPECT_LT(looks_, measured);
  }
}

// What a killed attempt did after its last checkpoint is in the record of its steps.
TEST_F(Deadlines, TheSecondsAfterTheLastCheckpointOfAKilledAttemptCount) {
  use_small_model();
  args_.time_h = 1;
  ASSERT_EQ(run("run", {.seconds_per_look = 1, .stop_at_step = 3}).code,
            contract::ExitCode::kStopped);
  double used = 0;
  if (world->rank() == 0) {
    used = progress("run").seconds_used;
    std::ofstream metrics(root_ + "run/metrics.jsonl", std::ios::app);
    metrics << "{\"kind\":\"step\",\"train_seconds\":" << used + 500 << "}\n{\"kind\":\"st";
  }
  world->barrier();

  ASSERT_EQ(run("run", {.stop_at_step = 4}).code, contract::ExitCode::kStopped);

  if (world->rank() != 0) return;
  EXPECT_GT(progress("run").seconds_used, used + 500);
  EXPECT_LT(progress("run").seconds_used, used + 501);
}

TEST_F(Deadlines, WhereThereIsACheckpointThereIsAModel) {
  use_small_model();
  ASSERT_EQ(run("run", {.is_stopped_at_once = true}).step, 1);
  ASSERT_EQ(run("run", {.stop_at_step = 3}).code, contract::ExitCode::kStopped);
  args_.save = false;
  ASSERT_EQ(run("best", {.is_stopped_at_once = true}).step, 1);

  if (world->rank() != 0) return;
  for (const char* file : {"run/weights/last", "run/weights/best", "best/weights/best"}) {
    SCOPED_TRACE(file);
    EXPECT_EQ(load_model(root_ + file + ".safetensors").info.epoch, 0);
  }
  EXPECT_FALSE(std::filesystem::exists(root_ + "run/weights/epoch0.safetensors"));
}

// Another rank's half-written report stands in nobody's way.
TEST_F(Deadlines, RanksThatGiveUpThePreflightTogetherWriteAsideEachForItself) {
  if (world->rank() != 0) return;
  std::filesystem::create_directories(root_ + "run/preflight.json.part");
  std::filesystem::create_directories(root_ + "run/preflight-2-1.json.part");

  leave_unfinished_preflight({root_ + "run", 2, 1}, {.message = "rank 1 is lost", .exit_code = 32});

  for (const char* file : {"run/preflight.json", "run/preflight-2-1.json"}) {
    SCOPED_TRACE(file);
    EXPECT_EQ(contract::parse_preflight(read(file)).unfinished, "rank 1 is lost");
  }
}

}  // namespace
}  // namespace trainer
