// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/people_commands.h
//
// The verbs of `trainyard` that tell people what to expect: estimates, tiers.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <optional>
#include <vector>

#include "scheduler/client.h"

namespace scheduler {

class PeopleCommands {
 public:
  // Adds its subcommands; `app` outlives it.
  explicit PeopleCommands(CLI::App& app);
  // Runs the one that was given; nothing where it was none of them.
  [[nodiscard]] std::optional<ExitStatus> run(const Client& client) const;

 private:
  struct Verb {
    CLI::App* app;
    std::function<ExitStatus(const Client&)> run;
  };
  void add_estimates(CLI::App& app);
  void add_tiers(CLI::App& app);

  std::vector<Verb> verbs_;
};

}  // namespace scheduler
