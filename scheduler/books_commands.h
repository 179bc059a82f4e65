// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/books_commands.h
//
// The verbs of `trainyard` that ask the books: wallet, fund, usage, receipts, and the admin's rules,
// refunds, prices, vouchers, exports and backups. Options stand here beside what is asked with them.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "scheduler/client.h"

namespace scheduler {

class BooksCommands {
 public:
  // Adds its subcommands to both; they outlive it.
  BooksCommands(CLI::App& app, CLI::App& admin);
  // Runs the one that was given; nothing where it was none of them.
  [[nodiscard]] std::optional<ExitStatus> run(const Client& client) const;

 private:
  struct Verb {
    CLI::App* app;
    std::function<ExitStatus(const Client&)> run;
  };
  void add_wallet(CLI::App& app);
  void add_reports(CLI::App& app);
  void add_fund_rules(CLI::App& admin);
  void add_till(CLI::App& admin);
  void add_copies(CLI::App& admin);
  std::shared_ptr<std::string> option(CLI::App* app, const char* name, const char* help);
  std::shared_ptr<std::string> needed(CLI::App* app, const char* name, const char* help);

  std::vector<Verb> verbs_;
};

}  // namespace scheduler
