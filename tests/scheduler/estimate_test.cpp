// SPDX-License-Identifier: GPL-3.0-or-later
//
// From a finished run to the next one's plan: Slurm's seconds make the rate, and the rate the limit.
#include "scheduler/estimate.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "scheduler/service.h"
#include "world.h"

namespace scheduler {
namespace {

using nlohmann::json;

const accounting::WorkKind kKind{"yolov8n", 640, "h100", 2};

class Estimates : public testing::Test {
 protected:
  void SetUp() override {
    world.grant("user:ada", 1000);
    world.tick();
  }
  static Admission epochs_run(World& world, const std::string& id) {
    Admission admission = world.admission(id);
    admission.request.resources.time_limit_s.reset();
    admission.request.args.epochs = 10;
    admission.data = {1000, 250};  // 10 x (1000 + 0.4 x 250) = 11000 images.
    return admission;
  }
  void run_for(const Admission& admission, std::int64_t seconds, JobState end = JobState::kCompleted) {
    const JobId job = world.launch(admission);
    world.tick();
    world.cluster.start(job);
    world.tick();
    world.cluster.now += seconds - 1;
    world.cluster.end(job, end, end == JobState::kCompleted ? 0 : 1);
    world.tick(1);
    world.tick(1);
  }
  Plan plan_of_next(const std::string& id) {
    const auto outcome = world.dispatcher().admit(kAda, epochs_run(world, id), world.cluster.now);
    EXPECT_TRUE(outcome && std::holds_alternative<Admitted>(*outcome));
    return std::get<Admitted>(*outcome).plan;
  }
  std::optional<accounting::MeasuredRate> rate() { return rates_of(world.database)(kKind); }

  World world;
};

TEST_F(Estimates, ThePriorCountsUntilARunWasMeasured) {
  const Plan prior = plan_of_next("runprior");
  EXPECT_EQ(prior.quote.basis.substr(0, 6), "prior:");
  EXPECT_EQ(prior.quote.expected_s, 30 + 550);       // 11000 images, 2 x 10 images/s, start-up.
  EXPECT_EQ(prior.quote.low_s, 30 + 275);
  EXPECT_EQ(prior.quote.high_s, 30 + 825);
  EXPECT_EQ(prior.image_tenths, 110'000);

  run_for(epochs_run(world, "runone"), 140);
  ASSERT_TRUE(rate());
  EXPECT_EQ(world.state("runone"), "finished");
  EXPECT_DOUBLE_EQ(rate()->seconds_per_image, 110.0 / 11'000);
  EXPECT_EQ(rate()->within, 0);  // 110 s lie outside the prior's 275 s to 825 s.

  const Plan next = plan_of_next("runtwo");
  EXPECT_EQ(next.quote.expected_s, 30 + 110);
  EXPECT_EQ(next.quote.low_s, 30 + 77);              // +-30 % of one run.
  EXPECT_EQ(next.quote.high_s, 30 + 143);
  EXPECT_EQ(next.time_limit_s, 240);                 // 30 + 110 + 33 + 60, to the minute.
  EXPECT_EQ(next.quote.basis.substr(0, 9), "measured:");
  EXPECT_NE(next.quote.basis.find("1 run of yolov8n at 640 px on 2 x h100"), std::string::npos);
}

TEST_F(Estimates, ALaterRunIsCheckedAgainstTheBandItWasGiven) {
  run_for(epochs_run(world, "runone"), 140);
  run_for(epochs_run(world, "runtwo"), 145);
  run_for(epochs_run(world, "runthree"), 230);

  EXPECT_EQ(rate()->runs, 3);
  EXPECT_EQ(rate()->checked, 3);
  EXPECT_EQ(rate()->within, 1);  // runtwo alone.
}

TEST_F(Estimates, WhatTellsLittleOfTheNextRunIsNotMeasured) {
  run_for(epochs_run(world, "runfailed"), 140, JobState::kFailed);
  EXPECT_FALSE(rate());
  run_for(epochs_run(world, "runshort"), 40);  // 10 s of training after 30 s of start-up.
  EXPECT_FALSE(rate());
  Admission own = epochs_run(world, "runown");
  own.request.args.model = "/home/ada/my-yolov8.yaml";
  run_for(own, 140);
  EXPECT_TRUE(accounting::measured_rates(world.database)->empty());
  EXPECT_EQ(world.state("runown"), "finished");
}

TEST_F(Estimates, ARunOfSeveralAttemptsIsMeasuredWithTheStartOfEach) {
  const JobId job = world.launch(epochs_run(world, "runone"));
  world.cluster.start(job);
  world.tick();
  world.cluster.now += 69;
  world.cluster.requeue(job);
  for (int i = 0; i < 3; ++i) world.tick(5);
  world.cluster.start(job);
  world.tick();
  world.cluster.now += 99;
  world.cluster.end(job, JobState::kCompleted, 0);
  for (int i = 0; i < 3; ++i) world.tick();
  ASSERT_EQ(world.state("runone"), "finished");
  ASSERT_TRUE(rate());
  EXPECT_DOUBLE_EQ(rate()->seconds_per_image, (70 + 100 - 2 * 30) / 11'000.0);
}

TEST_F(Estimates, AResumedRunIsMeasuredByWhatItsLastSegmentHadLeft) {
  run_for(epochs_run(world, "runone"), 100, JobState::kFailed);
  ASSERT_EQ(world.state("runone"), "failed");
  EXPECT_FALSE(rate());
  Admission rest = epochs_run(world, "runone");
  rest.segment = 1;
  rest.epochs_done = 6;
  run_for(rest, 85);
  ASSERT_EQ(world.state("runone"), "finished");
  ASSERT_TRUE(rate());
  EXPECT_DOUBLE_EQ(rate()->seconds_per_image, 55 / 4'400.0);  // 4 x 1100 images.
}

// What they trained no plan tells: their owner's client does.
TEST_F(Estimates, RunsThatEndedAtTheirHoursOrEarlyAreMeasuredByWhatIsTold) {
  const auto ask = [&](const Caller& caller, const json& request) {
    return answer_request(world.dispatcher(), world.site, caller, request, world.cluster.now);
  };
  const auto is_to_be_told = [&](const std::string& id) {
    return ask(kAda, {{"verb", "show"}, {"run", id}}).at("result").value("is_to_be_told", false);
  };
  const auto tell = [&](const std::string& id, std::int64_t epochs_milli) {
    const json answer =
        ask(kAda, {{"verb", "trained"}, {"run", id}, {"epochs_milli", epochs_milli}});
    return answer.at("ok").get<bool>() && answer.at("result").at("is_measured").get<bool>();
  };
  Admission early = epochs_run(world, "runearly");
  early.request.args.patience = 5;
  run_for(early, 140);
  EXPECT_FALSE(rate());
  EXPECT_TRUE(is_to_be_told("runearly"));
  EXPECT_FALSE(tell("runearly", 10'001));  // It was to train 10.
  EXPECT_FALSE(tell("runearly", 0));
  EXPECT_FALSE(ask(kBob, {{"verb", "trained"}, {"run", "runearly"}, {"epochs_milli", 1}})
                   .at("ok").get<bool>());
  EXPECT_TRUE(tell("runearly", 5'000));
  EXPECT_FALSE(is_to_be_told("runearly"));
  EXPECT_FALSE(tell("runearly", 9'000));  // Once.
  ASSERT_TRUE(rate());
  EXPECT_DOUBLE_EQ(rate()->seconds_per_image, 110 / 5'500.0);
  EXPECT_EQ(rate()->checked, 0);  // Nobody had said how long.

  Admission timed = epochs_run(world, "runtimed");
  timed.request.args.time_h = 0.5;
  run_for(timed, 30 + 300);
  EXPECT_TRUE(is_to_be_told("runtimed"));
  EXPECT_TRUE(tell("runtimed", 12'500));
  EXPECT_EQ(rate()->runs, 2);
  EXPECT_EQ(rate()->checked, 1);
  EXPECT_EQ(rate()->within, 1);  // 13750 images at 0.02 s each: 275 s, +-30 %.

  run_for(epochs_run(world, "runplain"), 260);
  EXPECT_FALSE(is_to_be_told("runplain"));
  EXPECT_EQ(rate()->checked, 2);
}

TEST_F(Estimates, AReplayAfterARestartMeasuresOnce) {
  run_for(epochs_run(world, "runone"), 140);
  world.restart();
  world.tick();

  EXPECT_EQ(rate()->checked, 1);
  world.expect_books_are_right();
}

TEST_F(Estimates, ClientsPlanWithTheRatesOfTheService) {
  run_for(epochs_run(world, "runone"), 140);
  const json answer = answer_request(world.dispatcher(), world.site, kBob, {{"verb", "estimates"}},
                                     world.cluster.now);
  ASSERT_TRUE(answer.at("ok").get<bool>());

  const auto lookup = rates_from_json(answer.at("result").at("rates"));
  const Admission next = epochs_run(world, "runtwo");
  const auto planned = make_plan(next.request, world.site, world.cluster.about, next.data, {}, "ada",
                                 world.cluster.now, lookup);
  EXPECT_EQ(std::get<Plan>(planned).quote.expected_s, plan_of_next("runtwo").quote.expected_s);
  EXPECT_FALSE(lookup({"yolov8n", 320, "h100", 2}));
  const json csv = answer_request(world.dispatcher(), world.site, kBob,
                                  {{"verb", "estimates"}, {"format", "csv"}}, world.cluster.now);
  EXPECT_EQ(csv.at("result").at("body").get<std::string>().substr(0, 6), "model,");
}

}  // namespace
}  // namespace scheduler
