// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/run_audit.h
//
// The ledger against the events of the runs. Both were written in one transaction, so each charge has
// its event and each segment its hold, with the same numbers; what is open in one is open in the other.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "accounting/ledger.h"
#include "scheduler/error.h"
#include "scheduler/run.h"

namespace scheduler {

// What an audit found. One sentence a fault.
struct AuditReport {
  bool is_pending = false;  // Nothing else is known yet.
  std::vector<std::string> faults;
  std::vector<std::string> notes;      // Findings, jobs that could not be compared.
  std::int64_t charges_compared = 0;
  std::int64_t unallocated_gpu_s = 0;  // In slurmdbd's records, but explained in `notes`.
};

// What the ledger has of these runs and what their events say; empty: they agree. Inside a snapshot
// that has both. Changes nothing.
[[nodiscard]] Expected<std::vector<std::string>> compare_with_ledger(accounting::Database& db,
                                                                     accounting::Ledger& ledger,
                                                                     const std::vector<Run>& runs);
// What only all runs together show: charges and open holds of no run, allocations that are charged
// twice. Changes nothing.
[[nodiscard]] Expected<std::vector<std::string>> faults_of_all_runs(accounting::Database& db,
                                                                    accounting::Ledger& ledger);

}  // namespace scheduler
