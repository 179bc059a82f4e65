// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/verifier.h
//
// The books are audited by a program of its own beside the service (trainyardd --audit), with a
// connection of its own and questions of its own to slurmdbd: with a million runs that takes longer
// than anybody who asks the service waits. Never waits itself; one thread.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "scheduler/cluster.h"
#include "scheduler/error.h"
#include "scheduler/run_audit.h"
#include "scheduler/side_command.h"
#include "scheduler/site.h"

namespace scheduler {

class Verifier {
 public:
  // `command` prints what audit_aside() returns.
  explicit Verifier(std::vector<std::string> command) : command_(std::move(command)) {}

  // What began for somebody who has not asked again for two minutes is ended, and not believed: the
  // books may be others by now.
  void forget_old(SteadyTime now);

  // Begins where none is under way, and returns what one found that has ended since the last call. A
  // report that is pending: it is under way, ask again. An Error: it could not be done; the next call
  // begins anew. What it says began after the last two minutes of silence.
  [[nodiscard]] Expected<AuditReport> ask(SteadyTime now);

 private:
  std::vector<std::string> command_;
  SteadyTime asked_{};
  std::optional<SideCommands> commands_;
};

// Audits the site's books, of which nothing is written, and returns the report as JSON: of faults and
// of notes the first 1000 each and how many more there are, or "error" with why it could not be done.
[[nodiscard]] std::string audit_aside(const Site& site, Cluster& cluster);

}  // namespace scheduler
