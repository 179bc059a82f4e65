// SPDX-License-Identifier: GPL-3.0-or-later
// accounting/measured.h
//
// How long runs of a kind took, by Slurm's own seconds, so that the next one of that kind can be
// estimated. Evidence for people and for the length of a hold; no charge depends on it. One thread
// at a time.
#pragma once

#include <compare>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "accounting/amount.h"
#include "accounting/database.h"

namespace accounting {

// Runs that are alike: what most decides the time that an image takes.
struct WorkKind {
  std::string model;        // "yolov8n"
  std::int64_t imgsz = 0;
  std::string type;         // Instance type.
  std::int64_t ranks = 0;
  auto operator<=>(const WorkKind&) const = default;
};

struct MeasuredRun {
  std::string run;
  WorkKind kind;
  std::int64_t image_tenths = 0;  // > 0. 10 a training image, 4 a validation image, over all epochs.
  std::int64_t seconds = 0;       // > 0. Slurm's, less start-up.
  UtcSeconds ended = 0;
  std::int64_t low_s = 0, high_s = 0;  // The band that was given for `seconds`; both 0: none was.
};

// The error of an estimate that nothing was measured for, and of one measured run, in thousandths.
inline constexpr std::int64_t kPriorBand_permille = 500;

struct MeasuredRate {
  WorkKind kind;
  std::int64_t runs = 0;            // That the rate is made of: the newest 20 at most.
  double seconds_per_image = 0;     // The median.
  std::int64_t band_permille = 0;   // 120: the next run takes the estimate +- 12 %.
  std::int64_t checked = 0;         // Of all that were given a band ...
  std::int64_t within = 0;          // ... so many ended inside the band that they were given.
};

// Nothing where no run of the kind was measured.
using RateLookup = std::function<std::optional<MeasuredRate>(const WorkKind& kind)>;

// A run that is kept already changes nothing.
[[nodiscard]] Expected<void> keep_measured(Database& db, const MeasuredRun& run);
[[nodiscard]] Expected<std::optional<MeasuredRate>> measured_rate(Database& db,
                                                                  const WorkKind& kind);
// Every kind that was measured, in order of its key.
[[nodiscard]] Expected<std::vector<MeasuredRate>> measured_rates(Database& db);

[[nodiscard]] std::string rates_text(const std::vector<MeasuredRate>& rates);
[[nodiscard]] std::string rates_csv(const std::vector<MeasuredRate>& rates);

}  // namespace accounting
