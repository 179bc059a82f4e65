// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/pause.h
//
// Between tries of what takes seconds to fail while the service answers nobody: a minute after the
// first, then twice as long each time, up to 16 minutes. The clock is an argument.
#pragma once

#include <algorithm>
#include <chrono>
#include <optional>

namespace scheduler {

class Pause {
 public:
  using Time = std::chrono::steady_clock::time_point;

  // Whether a try may be made now; then the next pause begins.
  [[nodiscard]] bool is_over(Time now) {
    if (next_ && now < *next_) return false;
    next_ = now + length_;
    length_ = std::min(std::chrono::minutes(16), length_ * 2);
    return true;
  }

 private:
  std::optional<Time> next_;
  std::chrono::minutes length_{1};
};

}  // namespace scheduler
