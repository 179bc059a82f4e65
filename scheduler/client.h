// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/client.h
//
// The verbs of `trainyard`, as the invoking user. Each prints for people or, with json, one JSON
// object, and says how the program leaves. Nothing here reads the clock but through `now`.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "scheduler/exit_status.h"
#include "scheduler/request.h"
#include "scheduler/site.h"

namespace scheduler {

struct Client {
  Site site;
  std::string user;     // Of this process.
  bool json = false;    // One JSON object on standard output.
};

struct TrainOptions {
  std::string file;               // Request file; empty: none.
  std::vector<Setting> settings;
  std::string run_id;             // A script's own, so that its retry is safe; empty: a new one.
  bool dry_run = false;
  bool follow = false;
  std::string quote;              // Made by it; empty: by today's weights.
  bool quote_only = false;        // Ask for a quote, and do nothing else.
  bool skip_bad_labels = false;   // Train without the images whose labels are faulty.
};

// train_command.cpp
[[nodiscard]] ExitStatus train(const Client& client, const TrainOptions& options);
[[nodiscard]] ExitStatus resume(const Client& client, const std::string& run,
                                const TrainOptions& options);
[[nodiscard]] ExitStatus check_data(const Client& client, const std::string& yaml_path);

// run_commands.cpp. `run`: an id, a beginning of one that fits one run only, or "last".
[[nodiscard]] ExitStatus list_runs(const Client& client, bool everybody, int count);
[[nodiscard]] ExitStatus show_run(const Client& client, const std::string& run);
[[nodiscard]] ExitStatus watch_run(const Client& client, const std::string& run);
[[nodiscard]] ExitStatus print_log(const Client& client, const std::string& run, int lines, bool follow);
[[nodiscard]] ExitStatus stop_run(const Client& client, const std::string& run, bool wait);
[[nodiscard]] ExitStatus pause_run(const Client& client, const std::string& run);
[[nodiscard]] ExitStatus cancel_run(const Client& client, const std::string& run, bool wait);

// fund_commands.cpp
inline constexpr const char* kPeriodHelp =
    "2026-11, 2026-Q4, 2026, 2026-11-01..2026-11-15, month, last-month, quarter, last-quarter, ... (UTC)";
struct StatementOptions {
  std::string fund, run;
  std::string format = "text";    // text, csv
  std::string period;             // accounting/period.h; empty: all.
};
[[nodiscard]] ExitStatus statement(const Client& client, const StatementOptions& options);
[[nodiscard]] ExitStatus list_funds(const Client& client, bool csv);
struct GrantOptions {
  std::string fund, hours, note;
  std::string id;                 // A script's own, so that its retry is safe; empty: a new one.
  std::string from, expires;      // "2026-12-01"; empty: at once, never.
};
[[nodiscard]] ExitStatus grant(const Client& client, const GrantOptions& options);
// Prints what the service answered to "quote".
ExitStatus print_quote(const Client& client, const nlohmann::json& quote);
// `since`: "SEQ:HASH" of a transfer that was the newest once; empty: none is remembered.
[[nodiscard]] ExitStatus audit(const Client& client, const std::string& since);
// May this job start? For PrologSlurmctld (slurm/start_gate.in).
[[nodiscard]] ExitStatus gate(const Client& client, std::uint32_t job);

}  // namespace scheduler
