// SPDX-License-Identifier: GPL-3.0-or-later
//
// The watch with ranks that are threads of one process, under the thread sanitizer: its thread shares
// its peers with the main thread of the rank.
#include <gtest/gtest.h>

#include <barrier>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "trainer/watchdog.h"

namespace trainer {
namespace {

constexpr int kRanks = 3;

// What all ranks share.
struct Meeting {
  std::barrier<> gate{kRanks};
  std::vector<std::vector<std::byte>> bytes = std::vector<std::vector<std::byte>>(kRanks);
};

class ThreadRank : public Communicator {
 public:
  ThreadRank(Meeting& meeting, int rank) : meeting_(meeting), rank_(rank) {}
  int rank() const override { return rank_; }
  int size() const override { return kRanks; }
  int local_rank() const override { return rank_; }
  std::string host() const override { return "here"; }
  void all_reduce_sum(std::span<float>) override {}
  void all_reduce_sum(std::span<double>) override {}
  void all_reduce_max(std::span<std::int64_t>) override { barrier(); }  // Equal on all ranks here.
  void broadcast(std::span<std::byte>, int) override {}
  std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> own) override {
    meeting_.bytes[static_cast<std::size_t>(rank_)].assign(own.begin(), own.end());
    barrier();
    auto all = meeting_.bytes;
    barrier();
    return all;
  }
  void barrier() override { meeting_.gate.arrive_and_wait(); }
  Ticket start_sum(const SumRequest&) override { return 0; }
  double wait(Ticket) override { return 0; }
  [[noreturn]] void abort(int exit_code) override { std::_Exit(exit_code); }

 private:
  Meeting& meeting_;
  int rank_;
};

void on_all_ranks(void (*work)(Communicator& ranks)) {
  Meeting meeting;
  std::vector<std::thread> threads;
  for (int rank = 0; rank < kRanks; ++rank) {
    threads.emplace_back([&meeting, rank, work] {
      std::string note;
      const auto ranks = watched(std::make_unique<ThreadRank>(meeting, rank),
                                 {.limit_s = 60, .last_words = nullptr}, &note);
      EXPECT_EQ(note, "");
      work(*ranks);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(WatchdogRaces, NoneWhileTheRanksMeetWorkAndLeave) {
  on_all_ranks([](Communicator& ranks) {
    for (int call = 0; call < 20; ++call) ranks.barrier();
  });
}

// One fails, asks for the last word while the watch goes on, and ends all.
TEST(WatchdogRacesDeathTest, NoneWhereARankFails) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  constexpr int kCode = 30;
  EXPECT_EXIT(on_all_ranks([](Communicator& ranks) {
                if (ranks.rank() == 1) {
                  ranks.take_last_word();
                  ranks.abort(kCode);
                }
                ranks.barrier();
              }),
              testing::ExitedWithCode(kCode), "^$");
}

}  // namespace
}  // namespace trainer
