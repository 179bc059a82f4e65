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

}  // namespace

void PaceKeeper::take(const contract::MetricsRecord& record) {
  if (record.kind == "start") {
    start_ = record;
    first_.reset();
    if (pace_) pace_->as_of = record.time;
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
  pace_ = {record.epoch, record.epochs, epoch_s, record.time};
}

std::optional<Pace> PaceKeeper::pace() const { return pace_; }

std::optional<Reestimate> reestimate(const Plan& plan, const Pace& pace, const Standing& standing) {
  const double left = pace.epoch_s * std::max(0, pace.epochs - pace.epochs_done);
  if (!(pace.epoch_s > 0) || !(left < kSecondsMax) || !(std::fabs(pace.as_of) < kSecondsMax)) {
    return std::nullopt;
  }
  Reestimate out{.pace = pace};
  out.left_s = std::llround(left);
  out.end = std::llround(pace.as_of + left);
  out.seconds = out.end - standing.start;
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
