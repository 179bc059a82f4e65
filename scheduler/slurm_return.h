// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/slurm_return.h
//
// Looks at a Slurm that does not answer: each takes seconds, for libslurm tries again and again,
// and the service answers nobody meanwhile. So after one that did, the service looks no more before
// a program beside it has seen that Slurm is back: tried at once, and then after pauses that grow
// from one second to eight. Never waits itself; one thread, the clock is an argument.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "scheduler/side_command.h"

namespace scheduler {

class SlurmReturn {
 public:
  // What took no longer than this costs nobody anything: the next look is made as ever.
  static constexpr std::chrono::milliseconds kQuick{500};

  // `command` leaves with 0 where Slurm answers.
  explicit SlurmReturn(std::vector<std::string> command) : command_(std::move(command)) {}

  // Whether the service looks now.
  [[nodiscard]] bool may_look(SteadyTime now);
  // What its look saw, and how long that took.
  void looked(bool saw_slurm, std::chrono::milliseconds took);
  // Whether a program is under way.
  [[nodiscard]] bool is_trying() const { return commands_ && commands_->running() > 0; }

 private:
  std::vector<std::string> command_;
  std::optional<SideCommands> commands_;  // Where Slurm is away.
  SteadyTime next_try_{};
  std::chrono::seconds pause_{1};
};

}  // namespace scheduler
