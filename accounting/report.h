// SPDX-License-Identifier: GPL-3.0-or-later
// accounting/report.h
//
// What was used, by whom and when; how long a fund lasts; and the same for other programs (Open
// OnDemand, Prometheus). Reads the ledger, writes nothing.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "accounting/ledger.h"

namespace accounting {

enum class GroupBy { kFund, kUser, kRun, kAllocation, kDay, kMonth };
[[nodiscard]] std::optional<GroupBy> parse_group_by(std::string_view text);  // "fund", "user", ...

struct UsageFilter {
  std::string fund, user, run;        // Empty: any.
  std::vector<std::string> funds;     // Only these and the runs of `viewer`; see is_limited.
  std::string viewer;
  bool is_limited = false;
  UtcSeconds from = 0;                // By the end of the allocation: from <= end < to.
  UtcSeconds to = 0;                  // 0: no end.
};

struct UsageRow {
  std::string key;                    // "user:ada", "ada", "r1", "alpha/17/0", "2026-11-24", "2026-11"
  std::int64_t allocations = 0;
  std::int64_t gpu_seconds = 0;       // As Slurm recorded them, not weighted.
  Amount used;                        // Charges and debts.
  Amount refunded;                    // Of those charges, whenever it was refunded.
  std::string arithmetic;             // Of one allocation: "2 GPU x 93 s x 1.000" ...
  std::int64_t gpus = 0, seconds = 0, weight_milli = 0;  // ... and its factors.
  std::string currency = {};          // Where hours had a price: what the net costs, as a statement
  std::optional<std::int64_t> cost_minor = {};  // has it (accounting/statement.h).
};

// In order of the key.
[[nodiscard]] Expected<std::vector<UsageRow>> usage(Database& db, const UsageFilter& filter,
                                                    GroupBy group_by);
[[nodiscard]] std::string usage_text(const std::vector<UsageRow>& rows, std::string_view title);
[[nodiscard]] std::string usage_csv(const std::vector<UsageRow>& rows);
[[nodiscard]] std::string usage_json(const std::vector<UsageRow>& rows);

// How long a fund lasts at the rate of the last days.
struct BurnDown {
  std::string fund;
  Amount available;
  Amount used;                        // Net of refunds, in those days.
  std::int64_t days = 0;
  std::optional<std::int64_t> days_left;  // Whole days, rounded down. Nothing: nothing is used.
  std::optional<UtcSeconds> next_expiry;  // Of a grant with something left.
  std::string currency = {};          // Where hours have a price.
  std::optional<std::int64_t> available_minor = {};  // By the price now; below zero: used credit.
  std::optional<std::int64_t> used_cost_minor = {};  // As usage() has it.
};
[[nodiscard]] Expected<std::vector<BurnDown>> burn_down(Database& db, const Ledger& ledger,
                                                        std::int64_t days, UtcSeconds now);

// Open OnDemand's balance file: what each user has left in his wallet and, as each of `members_of`
// them, in his groups' funds, in whole GPU-hours.
[[nodiscard]] std::string ondemand_balances(
    const std::vector<FundBalance>& balances,
    const std::function<std::vector<std::string>(const std::string& group)>& members_of,
    UtcSeconds now);
// Prometheus' text format, in GPU-seconds of the reference GPU.
[[nodiscard]] std::string prometheus_text(const std::vector<FundBalance>& balances);

}  // namespace accounting
