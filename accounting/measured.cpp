// SPDX-License-Identifier: GPL-3.0-or-later
#include "accounting/measured.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace accounting {
namespace {

constexpr std::size_t kRunsMax = 20;
constexpr std::int64_t kBandMin_permille = 100;
constexpr std::int64_t kBandMax_permille = 1'000;
constexpr std::int64_t kBandOfOne_permille = 300;

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

// The largest deviation that was seen; with few runs at least 30 % divided by their number, and
// never below 10 %.
std::int64_t band_of(const std::vector<double>& values, double middle) {
  double largest = 0;
  for (const double value : values) largest = std::max(largest, std::abs(value / middle - 1));
  const auto seen = static_cast<std::int64_t>(std::ceil(std::min(largest, 1.0) * 1'000));
  const auto few = kBandOfOne_permille / static_cast<std::int64_t>(values.size());
  return std::clamp(std::max(seen, few), kBandMin_permille, kBandMax_permille);
}

std::string percent(std::int64_t permille) {
  return fmt::format("{}.{}", permille / 10, permille % 10);
}

}  // namespace

Expected<void> keep_measured(Database& db, const MeasuredRun& run) {
  const auto kept = db.run(
      "INSERT INTO measured_run (run, model, imgsz, type, ranks, image_tenths, seconds, ended_s, "
      "low_s, high_s) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT (run) DO NOTHING",
      {run.run, run.kind.model, run.kind.imgsz, run.kind.type, run.kind.ranks, run.image_tenths,
       run.seconds, run.ended, run.low_s, run.high_s});
  if (!kept) return tl::unexpected(Error{"measured run " + run.run + ": " + kept.error().message});
  return {};
}

Expected<std::optional<MeasuredRate>> measured_rate(Database& db, const WorkKind& kind) {
  std::vector<double> seconds_per_image;
  MeasuredRate rate;
  rate.kind = kind;
  const auto read = db.query(
      "SELECT image_tenths, seconds, low_s, high_s FROM measured_run "
      "WHERE model = ?1 AND imgsz = ?2 AND type = ?3 AND ranks = ?4 ORDER BY ended_s DESC, run",
      {kind.model, kind.imgsz, kind.type, kind.ranks}, [&](const Row& row) {
        const std::int64_t seconds = row.integer(1);
        if (row.integer(3) > 0) ++rate.checked;
        if (seconds >= row.integer(2) && seconds <= row.integer(3)) ++rate.within;
        if (seconds_per_image.size() == kRunsMax) return;
        seconds_per_image.push_back(10.0 * static_cast<double>(seconds) /
                                    static_cast<double>(row.integer(0)));
      });
  if (!read) return tl::unexpected(Error{"measured runs: " + read.error().message});
  if (seconds_per_image.empty()) return std::optional<MeasuredRate>{};
  rate.runs = static_cast<std::int64_t>(seconds_per_image.size());
  rate.seconds_per_image = median(seconds_per_image);
  rate.band_permille = band_of(seconds_per_image, rate.seconds_per_image);
  return std::optional{rate};
}

Expected<std::vector<MeasuredRate>> measured_rates(Database& db) {
  std::vector<WorkKind> kinds;
  const auto read = db.query(
      "SELECT DISTINCT model, imgsz, type, ranks FROM measured_run ORDER BY 1, 2, 3, 4", {},
      [&kinds](const Row& row) {
        kinds.push_back({row.text(0), row.integer(1), row.text(2), row.integer(3)});
      });
  if (!read) return tl::unexpected(Error{"measured runs: " + read.error().message});
  std::vector<MeasuredRate> rates;
  for (const WorkKind& kind : kinds) {
    auto rate = measured_rate(db, kind);
    if (!rate) return tl::unexpected(rate.error());
    if (*rate) rates.push_back(std::move(**rate));
  }
  return rates;
}

std::string rates_text(const std::vector<MeasuredRate>& rates) {
  std::string text = fmt::format("{:<12} {:>6} {:<16} {:>6} {:>6} {:>14} {:>8} {:>14}\n", "MODEL",
                                 "IMGSZ", "TYPE", "RANKS", "RUNS", "s AN IMAGE", "BAND", "INSIDE");
  for (const MeasuredRate& rate : rates) {
    text += fmt::format("{:<12} {:>6} {:<16} {:>6} {:>6} {:>14.6f} {:>8} {:>14}\n", rate.kind.model,
                        rate.kind.imgsz, rate.kind.type, rate.kind.ranks, rate.runs,
                        rate.seconds_per_image, "+-" + percent(rate.band_permille) + "%",
                        fmt::format("{} of {}", rate.within, rate.checked));
  }
  if (rates.empty()) text += "no run was measured yet: estimates are the prior of site.toml, +-50%\n";
  return text;
}

std::string rates_csv(const std::vector<MeasuredRate>& rates) {
  std::string csv = "model,imgsz,type,ranks,runs,seconds_per_image,band_permille,within,checked\n";
  for (const MeasuredRate& rate : rates) {  // No name has a comma or a quote in it.
    csv += fmt::format("{},{},{},{},{},{:.9f},{},{},{}\n", rate.kind.model, rate.kind.imgsz,
                       rate.kind.type, rate.kind.ranks, rate.runs, rate.seconds_per_image,
                       rate.band_permille, rate.within, rate.checked);
  }
  return csv;
}

}  // namespace accounting
