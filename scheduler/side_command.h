// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/side_command.h
//
// Programs that the service runs beside itself. Nothing here waits: a program is started, looked at
// now and then, and ended with all its children when its time is over. One thread; the clock is an
// argument.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "scheduler/error.h"

namespace scheduler {

using SteadyTime = std::chrono::steady_clock::time_point;

struct SideEnd {
  std::int64_t ticket = 0;
  bool is_good = false;    // It left with 0, in time.
  std::string trouble;     // "exit code 1", "signal 11", "took longer than 30 s"; empty where good.
  std::string output;      // Its standard output, 1 MiB at most.
};

class SideCommands {
 public:
  SideCommands() = default;
  SideCommands(const SideCommands&) = delete;
  SideCommands& operator=(const SideCommands&) = delete;
  // Ends what still runs.
  ~SideCommands();

  // `arguments`: the program (looked up in PATH) and what it gets. `input` (60 KiB at most) is its
  // standard input. An Error: it was not started.
  [[nodiscard]] Expected<void> start(std::int64_t ticket, const std::vector<std::string>& arguments,
                                     const std::string& input, std::chrono::seconds limit,
                                     SteadyTime now);
  // Those that have ended since the last call.
  [[nodiscard]] std::vector<SideEnd> take(SteadyTime now);
  [[nodiscard]] std::size_t running() const { return children_.size(); }

 private:
  struct Child {
    std::int64_t ticket = 0;
    pid_t pid = 0;
    int output = -1;
    SteadyTime deadline;
    std::chrono::seconds limit{};
    std::string text;
  };
  std::vector<Child> children_;
};

}  // namespace scheduler
