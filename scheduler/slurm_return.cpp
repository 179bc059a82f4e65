// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/slurm_return.h"

#include <algorithm>

namespace scheduler {
namespace {

constexpr std::chrono::seconds kLimit{60};
constexpr std::chrono::seconds kPauseMax{8};

}  // namespace

bool SlurmReturn::may_look(SteadyTime now) {
  if (!commands_) return true;
  for (const SideEnd& ended : commands_->take(now)) {
    if (ended.is_good) {
      commands_.reset();
      return true;
    }
    next_try_ = now + pause_;
    pause_ = std::min(kPauseMax, pause_ * 2);
  }
  if (commands_->running() > 0 || now < next_try_) return false;
  // Where it cannot be started the service looks itself, as often as it would have been.
  if (commands_->start(1, command_, "", kLimit, now)) return false;
  next_try_ = now + pause_;
  pause_ = std::min(kPauseMax, pause_ * 2);
  return true;
}

void SlurmReturn::looked(bool saw_slurm, std::chrono::milliseconds took) {
  if (saw_slurm) {
    commands_.reset();
    pause_ = std::chrono::seconds(1);
    next_try_ = SteadyTime{};
  } else if (took > kQuick && !commands_) {
    commands_.emplace();
  }
}

}  // namespace scheduler
