// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/pace.h
//
// How fast a running run goes by its own epochs, and what it is expected to take and to cost by that.
// All of it rests on what the trainer wrote into the run's folder: for people, it moves no money. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "accounting/amount.h"
#include "scheduler/plan.h"
#include "trainer/contract/metrics.h"

namespace scheduler {

struct Pace {
  int epochs_done = 0, epochs = 0;
  double epoch_s = 0;  // Of the newest attempt that has done an epoch; its start-up is not in it.
  double as_of = 0;    // UTC seconds: when the rest began.
  double begun = 0;    // Of the epoch behind those that are done, where an attempt goes on amid it.
  double trained_from = 0;  // UTC seconds: when the newest attempt began to train; 0: not known.
};

// Follows the records of a run's metrics. One thread at a time.
class PaceKeeper {
 public:
  void take(const contract::MetricsRecord& record);
  // Nothing before the first epoch is done.
  [[nodiscard]] std::optional<Pace> pace() const;

 private:
  std::optional<contract::MetricsRecord> start_, first_;  // Of the newest attempt.
  std::optional<Pace> pace_;
};

// Where a run stands in the books while one of its attempts runs.
struct Standing {
  accounting::UtcSeconds start = 0;           // Of the attempt.
  accounting::Amount charged = {};            // Of the whole run, debts with it and less its refunds.
  accounting::Amount held = {};               // Of its open hold.
  std::int64_t charged_minor = 0;             // What that costs, in the plan's currency.
  std::int64_t job_longest_s = 0;             // Of one job, where it goes on in further ones; 0: it does not.
  std::int64_t wait_s = 0;                    // For its jobs so far, on an average.
  std::optional<accounting::Amount> available = {};  // Of its fund, where one may see that.
};

struct Reestimate {
  Pace pace;
  std::int64_t left_s = 0;             // To the end, from the newest epoch or the attempt's start on.
  std::int64_t jobs = 0;               // That follow this one; each waits, and starts up, once more.
  accounting::UtcSeconds end = 0;
  std::int64_t seconds = 0;            // Allocated, from the attempt's start to the end: without waits.
  accounting::Amount cost = {};        // Of the whole run, all attempts.
  std::optional<std::int64_t> cost_minor = {};   // Nothing where hours have no price.
  std::optional<accounting::Amount> after = {};  // What the fund has left then; below 0: it cannot pay.
};

// Nothing where the numbers make no sense (they are read from a file of the user's). A timed run never
// costs more than its hold.
[[nodiscard]] std::optional<Reestimate> reestimate(const Plan& plan, const Pace& pace,
                                                   const Standing& standing);

}  // namespace scheduler
