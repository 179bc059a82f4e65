// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/estimate.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

namespace scheduler {

namespace {

bool may_stop_early(const Run& run) {
  const contract::TrainArgs& args = run.about.request.args;
  return args.patience > 0 && args.patience < args.epochs;
}

accounting::WorkKind kind_of(const Run& run, const Segment& segment) {
  const contract::TrainArgs& args = run.about.request.args;
  return {args.model, args.imgsz, segment.plan.type, segment.plan.ranks};
}

std::int64_t startup_s(const Segment& segment, const Site& site) {
  const InstanceType* type = site.find_type(segment.plan.type);
  return type == nullptr ? 0 : type->startup_s;
}

// What was added to an allocation later is not another one, which would have started up.
std::int64_t allocations(const Segment& segment) {
  return std::count_if(
      segment.charges.begin(), segment.charges.end(), [&](const AttemptCharged& charge) {
        return std::none_of(segment.charges.begin(), segment.charges.end(),
                            [&](const AttemptCharged& other) {
                              return other.job == charge.job && other.end == charge.start &&
                                     other.start < charge.start;
                            });
      });
}

// Slurm's seconds less those of the starts; nothing where these were most of it.
std::optional<std::int64_t> trained_s(const std::vector<const Segment*>& segments,
                                      const Site& site) {
  std::int64_t charged_s = 0, started_s = 0;
  for (const Segment* segment : segments) {
    charged_s += segment->charged_seconds();
    started_s += allocations(*segment) * startup_s(*segment, site);
  }
  const std::int64_t seconds = charged_s - started_s;
  if (seconds < std::max<std::int64_t>(1, started_s)) return std::nullopt;
  return seconds;
}

}  // namespace

std::optional<accounting::MeasuredRun> measure(const Run& run, const Site& site, UtcSeconds now) {
  if (run.about.is_plain || run.segments.empty()) return std::nullopt;
  const Segment& segment = run.last();
  if (segment.plan.is_timed || may_stop_early(run) || segment.plan.image_tenths <= 0 ||
      !is_known_model(run.about.request.args.model)) {
    return std::nullopt;
  }
  const auto seconds = trained_s({&segment}, site);
  if (!seconds) return std::nullopt;
  const std::int64_t first_s = startup_s(segment, site);
  return accounting::MeasuredRun{.run = run.id,
                                 .kind = kind_of(run, segment),
                                 .image_tenths = segment.plan.image_tenths,
                                 .seconds = *seconds,
                                 .ended = now,
                                 .low_s = segment.plan.quote.low_s - first_s,
                                 .high_s = segment.plan.quote.high_s - first_s};
}

bool is_to_be_told(const Run& run) {
  if (run.about.is_plain || run.state != RunState::kFinished) return false;
  const Segment& last = run.last();
  if (!last.plan.is_timed && !may_stop_early(run)) return false;
  const bool is_one_kind =
      std::all_of(run.segments.begin(), run.segments.end(), [&](const Segment& segment) {
        return kind_of(run, segment) == kind_of(run, last) &&
               segment.plan.epoch_tenths == last.plan.epoch_tenths;
      });
  return is_one_kind && last.plan.epoch_tenths > 0 && is_known_model(run.about.request.args.model);
}

std::optional<accounting::MeasuredRun> measure_told(
    const Run& run, const Site& site, std::int64_t epochs_milli,
    const std::optional<accounting::MeasuredRate>& rate, UtcSeconds now) {
  constexpr double kTenthsMax = 1e15;
  if (!is_to_be_told(run) || epochs_milli <= 0) return std::nullopt;
  const Segment& last = run.last();
  const std::int64_t epochs_max = run.about.request.args.epochs;
  if (!last.plan.is_timed && epochs_milli > epochs_max * 1'000) return std::nullopt;
  const double tenths =
      static_cast<double>(last.plan.epoch_tenths) * static_cast<double>(epochs_milli) / 1'000;
  if (tenths < 1 || tenths > kTenthsMax) return std::nullopt;
  std::vector<const Segment*> segments;
  for (const Segment& segment : run.segments) segments.push_back(&segment);
  const auto seconds = trained_s(segments, site);
  if (!seconds) return std::nullopt;
  accounting::MeasuredRun measured{.run = run.id,
                                   .kind = kind_of(run, last),
                                   .image_tenths = std::llround(tenths),
                                   .seconds = *seconds,
                                   .ended = now};
  if (!rate) return measured;
  const double expected_s = tenths / 10 * rate->seconds_per_image;
  const double band_s = expected_s * static_cast<double>(rate->band_permille) / 1'000;
  measured.low_s = std::llround(std::floor(expected_s - band_s));
  measured.high_s = std::llround(std::ceil(expected_s + band_s));
  return measured;
}

accounting::RateLookup rates_of(accounting::Database& db) {
  return [&db](const accounting::WorkKind& kind) -> std::optional<accounting::MeasuredRate> {
    auto rate = accounting::measured_rate(db, kind);
    return rate ? *rate : std::nullopt;
  };
}

void rates_to_json(nlohmann::json& json, const std::vector<accounting::MeasuredRate>& rates) {
  json = nlohmann::json::array();
  for (const accounting::MeasuredRate& rate : rates) {
    json.push_back({{"model", rate.kind.model},
                    {"imgsz", rate.kind.imgsz},
                    {"type", rate.kind.type},
                    {"ranks", rate.kind.ranks},
                    {"runs", rate.runs},
                    {"seconds_per_image", rate.seconds_per_image},
                    {"band_permille", rate.band_permille},
                    {"checked", rate.checked},
                    {"within", rate.within}});
  }
}

accounting::RateLookup rates_from_json(const nlohmann::json& json) {
  std::map<accounting::WorkKind, accounting::MeasuredRate> rates;
  for (const nlohmann::json& each : json) {
    accounting::MeasuredRate rate;
    rate.kind = {each.at("model"), each.at("imgsz"), each.at("type"), each.at("ranks")};
    each.at("runs").get_to(rate.runs);
    each.at("seconds_per_image").get_to(rate.seconds_per_image);
    each.at("band_permille").get_to(rate.band_permille);
    each.at("checked").get_to(rate.checked);
    each.at("within").get_to(rate.within);
    rates[rate.kind] = rate;
  }
  return [rates = std::move(rates)](const accounting::WorkKind& kind) {
    const auto found = rates.find(kind);
    return found == rates.end() ? std::nullopt : std::optional(found->second);
  };
}

}  // namespace scheduler
