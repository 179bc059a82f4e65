// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/fair_turns.h
//
// Whose question the service answers next. In one pass each user gets one answer, whoever waited
// longest first, so that one who asks without end delays another by one answer of his at most. And
// how many changes one user may ask for: 600 at once, and two more with every second. Those beyond
// it wait, and are not lost. The clock is an argument. One thread at a time.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

namespace scheduler {

class FairTurns {
 public:
  using Time = std::chrono::steady_clock::time_point;
  static constexpr std::int64_t kChangesAtOnce = 600;
  static constexpr std::int64_t kChangesASecond = 2;

  struct Question {
    std::uint32_t uid = 0;
    std::uint64_t number = 0;  // In the order in which they came.
    bool is_change = false;    // It may write into the books.
    bool is_trusted = false;   // Of root, Slurm or an admin: no limit, and all of them in one pass.
  };

  // The positions in `waiting` of those that are answered in this pass, in their order.
  [[nodiscard]] std::vector<std::size_t> pass(const std::vector<Question>& waiting, Time now);
  // Whether its user has a change left, where it is one.
  [[nodiscard]] bool may_be_answered(const Question& question, Time now);
  // That one of them was. Those that a pass did not come to stay first in the next one.
  void answered(const Question& question, Time now);

 private:
  struct Share {
    std::int64_t changes_ms = kChangesAtOnce * (1000 / kChangesASecond);  // What is left, as time.
    Time since{};
    std::uint64_t last_turn = 0;
  };
  Share& share_of(std::uint32_t uid, Time now);

  std::map<std::uint32_t, Share> shares_;
  std::uint64_t turn_ = 0;
};

}  // namespace scheduler
