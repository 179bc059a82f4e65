// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/pace.h"

#include <algorithm>
#include <cmath>

#include "accounting/till.h"

namespace scheduler {
namespace {

constexpr double kSecondsMax = 1e10;  // Three centuries: what is beyond it is no estimate.

// From `base` on; 0 where nothing was done since.
double seconds_an_epoch(const contract::MetricsRecord& base, const contract::MetricsRecord& epoch) {
  const auto steps = static_cast<double>(epoch.step - base.step);
  if (steps <= 0 || epoch.steps_per_epoch <= 0) return 0;
  return (epoch.train_seconds - base.train_seconds) / steps *
         static_cast<double>(epoch.steps_per_epoch);
}

// The jobs that follow this one, and what they take beside the rest itself.
struct Further {
  std::int64_t jobs = 0;
  double startup_s = 0, wait_s = 0;
};
Further further_jobs(double left_s, double from, const Pace& pace, const Standing& standing) {
  const auto start = static_cast<double>(standing.start);
  const double startup_s = std::max(0.0, pace.trained_from - start);
  const auto longest_s = static_cast<double>(standing.job_longest_s);
  const double beyond_s = left_s - (start + longest_s - from);
  const double useful_s = longest_s - startup_s;
  if (longest_s <= 0 || beyond_s <= 0 || useful_s < 1) return {};
  const double jobs = std::ceil(beyond_s / useful_s);
  return {static_cast<std::int64_t>(jobs), jobs * startup_s,
          jobs * static_cast<double>(standing.wait_s)};
}

}  // namespace

void PaceKeeper::take(const contract::MetricsRecord& record) {
  if (record.kind == "start") {
    start_ = record;
    first_.reset();
    if (!pace_) return;
    // It goes on from its checkpoint: what was done behind that is to be done again.
    pace_->as_of = record.time;
    pace_->trained_from = record.time;
    pace_->epochs = record.epochs;
    if (record.steps_per_epoch <= 0 || record.step < 0) return;
    pace_->epochs_done = static_cast<int>(
        std::min<std::int64_t>(record.step / record.steps_per_epoch, record.epochs));
    pace_->begun = static_cast<double>(record.step % record.steps_per_epoch) /
                   static_cast<double>(record.steps_per_epoch);
    return;
  }
  if (record.kind != "epoch" || record.epoch < 1) return;
  // The first epoch of an attempt fills caches: it counts only as long as there is no other.
  double epoch_s = 0;
  if (first_) {
    epoch_s = seconds_an_epoch(*first_, record);
  } else {
    if (start_) epoch_s = seconds_an_epoch(*start_, record);
    first_ = record;
  }
  if (!(epoch_s > 0)) epoch_s = record.train_seconds / record.epoch;
  pace_ = {.epochs_done = record.epoch, .epochs = record.epochs, .epoch_s = epoch_s,
           .as_of = record.time, .begun = 0, .trained_from = start_ ? start_->time : 0};
}

std::optional<Pace> PaceKeeper::pace() const { return pace_; }

std::optional<Reestimate> reestimate(const Plan& plan, const Pace& pace, const Standing& standing) {
  const double left =
      pace.epoch_s * std::max(0.0, pace.epochs - pace.epochs_done - pace.begun);
  if (!(pace.epoch_s > 0) || !(left < kSecondsMax) || !(std::fabs(pace.as_of) < kSecondsMax)) {
    return std::nullopt;
  }
  // An attempt that has trained nothing yet has all of the rest before it.
  const double from = std::max(pace.as_of, static_cast<double>(standing.start));
  const Further further = further_jobs(left, from, pace, standing);
  const double all_s = left + further.startup_s + further.wait_s;
  if (!(all_s < kSecondsMax)) return std::nullopt;
  Reestimate out{.pace = pace};
  out.jobs = further.jobs;
  out.left_s = std::llround(all_s);
  out.end = std::llround(from + all_s);
  out.seconds = out.end - standing.start - std::llround(further.wait_s);
  auto cost = accounting::usage_amount(plan.gpus, out.seconds, plan.quote.weight_milli);
  if (!cost) return std::nullopt;
  if (plan.is_timed) cost = std::min(*cost, standing.held);
  const auto total = accounting::checked_add(standing.charged, *cost);
  if (!total) return std::nullopt;
  out.cost = *total;
  const auto price = accounting::cost_minor(*cost, plan.quote.price_minor);
  if (plan.quote.price_minor > 0 && price) out.cost_minor = standing.charged_minor + *price;
  if (standing.available) {
    const auto all = accounting::checked_add(*standing.available, standing.held);
    if (all) out.after = accounting::checked_sub(*all, *cost);
  }
  return out;
}

}  // namespace scheduler
