// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/verifier.h
//
// The books are verified by a program of its own beside the service (trainyardd --verify), on what
// they were when it began: with a million segments that takes longer than anybody who asks the
// service waits. Never waits itself; one thread.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "scheduler/error.h"
#include "scheduler/side_command.h"

namespace scheduler {

class Verifier {
 public:
  // `command` prints what verify_aside() returns.
  explicit Verifier(std::vector<std::string> command) : command_(std::move(command)) {}

  // What began for somebody who has not asked again for two minutes is ended, and not believed: the
  // books may be others by now.
  void forget_old(SteadyTime now);

  // Begins where none is under way, and returns the faults where one has ended since the last call
  // (empty: the books are right). Nothing: it is under way, ask again. An Error: the program ended
  // without saying; the next call begins anew. What it says began after the last two minutes of silence.
  [[nodiscard]] Expected<std::optional<std::vector<std::string>>> ask(SteadyTime now);

 private:
  std::vector<std::string> command_;
  SteadyTime asked_{};
  std::optional<SideCommands> commands_;
};

// Verifies the books at `database` by one snapshot. A JSON array of the faults, 1000 at most.
[[nodiscard]] Expected<std::string> verify_aside(const std::string& database);

}  // namespace scheduler
