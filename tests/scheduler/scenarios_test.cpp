// SPDX-License-Identifier: GPL-3.0-or-later
//
// Days and clocks, with which others have counted twice or not at all (docs/scenarios.md): the
// books know neither days nor zones. And a disk that is nearly full.
#include <cstdlib>
#include <ctime>

#include <gtest/gtest.h>

#include "accounting/period.h"
#include "accounting/tariff.h"
#include "world.h"

namespace scheduler {
namespace {

using accounting::parse_utc;

constexpr std::int64_t kHour = 3600;

// A job of two GPUs that starts at `start` and ends `length_s` later; each look, so long after its
// start, is that of a service that has been dead since the one before. What it cost, in
// GPU-seconds, and in how many charges.
std::pair<std::int64_t, std::size_t> live(UtcSeconds start, std::int64_t length_s,
                                          const std::vector<std::int64_t>& looks_s) {
  World world;
  world.cluster.now = start - 60;
  world.grant("user:ada", 200);
  const JobId job = world.cluster.submit_plain(2, 40 * kHour);
  world.tick();
  world.cluster.now = start;
  world.cluster.start(job);
  bool is_over = false;
  for (const std::int64_t look_s : looks_s) {
    if (!is_over && look_s >= length_s) {
      world.cluster.now = start + length_s;
      world.cluster.end(job, JobState::kCompleted, 0);
      world.cluster.purge(job);
      is_over = true;
    }
    world.cluster.now = start + look_s;
    world.restart();
    world.tick(0);
  }
  world.expect_books_are_right();
  EXPECT_EQ(world.balance().held.milli_gpu_s, 0);
  const auto report = world.dispatcher().audit();
  EXPECT_TRUE(report && report->faults.empty() && report->notes.empty());
  const Run run = world.run(plain_run_id({fmt::format("{:016}", 1), ""}, -1));
  return {world.balance().charged.milli_gpu_s / 1000, run.last().charges.size()};
}

TEST(Scenarios, Scenario13AnAllocationIsChargedOnceHoweverOftenOrSeldomTheDayEnds) {
  const UtcSeconds start = *parse_utc("2026-11-24T20:00:00Z");
  const std::int64_t length_s = 30 * kHour;
  const std::pair<std::int64_t, std::size_t> kWhole{2 * length_s, 1};
  std::vector<std::int64_t> hourly, midnights;
  for (std::int64_t look = kHour; look < 100 * kHour; look += kHour) hourly.push_back(look);
  for (std::int64_t night = 4 * kHour; night < 100 * kHour; night += 24 * kHour) {
    for (const std::int64_t twice : {std::int64_t{0}, std::int64_t{1}})
      midnights.push_back(night + twice);
  }

  EXPECT_EQ(live(start, length_s, hourly), kWhole);
  EXPECT_EQ(live(start, length_s, midnights), kWhole);
  EXPECT_EQ(live(start, length_s, {length_s + 72 * kHour, length_s + 73 * kHour}), kWhole);
}

// The zone of the process, until the end of the scope.
class Zone {
 public:
  explicit Zone(const char* name) {
    const char* before = std::getenv("TZ");
    if (before != nullptr) before_ = before;
    set(name);
  }
  Zone(const Zone&) = delete;
  Zone& operator=(const Zone&) = delete;
  ~Zone() { set(before_ ? before_->c_str() : nullptr); }

 private:
  static void set(const char* name) {
    if (name == nullptr) {
      unsetenv("TZ");
    } else {
      setenv("TZ", name, 1);
    }
    tzset();
  }
  std::optional<std::string> before_;
};

TEST(Scenarios, Scenario23TheHourThatComesTwiceOrNeverIsChargedOnce) {
  // A rule and no name: no data base of zones is needed. As in Berlin.
  const Zone zone("CET-1CEST,M3.5.0,M10.5.0/3");
  const UtcSeconds autumn = *parse_utc("2026-10-25T00:30:00Z");  // 2:30, and 75 minutes later 2:45.
  const UtcSeconds spring = *parse_utc("2027-03-28T00:45:00Z");  // 1:45, and 30 minutes later 3:15.
  const time_t before = autumn, after = autumn + kHour;
  ASSERT_EQ(localtime(&before)->tm_hour, 2);
  ASSERT_EQ(localtime(&after)->tm_hour, 2) << "this zone has no summer time";

  EXPECT_EQ(live(autumn, 75 * 60, {600, 45 * 60, 80 * 60, 2 * kHour}),
            (std::pair{std::int64_t{2 * 75 * 60}, 1ul}));
  EXPECT_EQ(live(spring, 30 * 60, {600, 20 * 60, 40 * 60, kHour}),
            (std::pair{std::int64_t{2 * 30 * 60}, 1ul}));
  EXPECT_EQ(accounting::format_utc(autumn + kHour), "2026-10-25T01:30:00Z");
  const auto day = accounting::parse_period("2026-10-25", autumn);
  ASSERT_TRUE(day);
  EXPECT_EQ(day->to - day->from, 24 * kHour);  // Not 25.
}

TEST(Scenarios, Scenario30WithLittleRoomOnTheDiskNothingNewIsHeldAndWhatRunsIsSettled) {
  World world;
  world.grant("user:ada", 10);
  const JobId running = world.launch(world.admission("runone"));
  world.cluster.start(running);
  world.tick();

  world.site.database = "/tmp/books.db";
  world.site.least_free_mb = 1'000'000'000;  // More than there is anywhere.
  world.restart();
  const auto admitted = world.dispatcher().admit(kAda, world.admission("runtwo"), world.cluster.now);
  ASSERT_TRUE(admitted && std::holds_alternative<Refusal>(*admitted));
  const std::string why = std::get<Refusal>(*admitted).reasons.front();
  EXPECT_EQ(why.rfind("the books take no new hold: ", 0), 0u) << why;
  EXPECT_NE(why.find(" MiB are free in /tmp, and 1000000000 MiB are kept"), std::string::npos) << why;
  EXPECT_NE(why.find("least_free_mb of site.toml"), std::string::npos) << why;
  const JobId plain = world.cluster.submit_plain(1, 600);
  world.tick(59);
  EXPECT_TRUE(world.cluster.jobs.at(plain).is_held_by_admin);
  EXPECT_NE(world.cluster.jobs.at(plain).comment.find("MiB are free in /tmp"), std::string::npos);
  world.cluster.end(running, JobState::kCompleted, 0);
  for (int i = 0; i < 3; ++i) world.tick(5);
  EXPECT_EQ(world.state("runone"), "finished");
  EXPECT_EQ(world.balance().charged.milli_gpu_s, 2 * 60 * 1000);
  EXPECT_EQ(world.balance().held.milli_gpu_s, 0);

  world.site.least_free_mb = 0;  // Not looked at: also where nothing is free.
  world.restart();
  world.tick(60);
  EXPECT_FALSE(world.cluster.jobs.at(plain).is_held);
  world.expect_books_are_right();
}

}  // namespace
}  // namespace scheduler
