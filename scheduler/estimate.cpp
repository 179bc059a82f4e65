// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/estimate.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

namespace scheduler {

std::optional<accounting::MeasuredRun> measure(const Run& run, const Site& site, UtcSeconds now) {
  if (run.about.is_plain || run.segments.size() != 1) return std::nullopt;
  const Segment& segment = run.last();
  const contract::TrainArgs& args = run.about.request.args;
  const bool may_stop_early = args.patience > 0 && args.patience < args.epochs;
  if (segment.plan.is_timed || may_stop_early || segment.plan.image_tenths <= 0 ||
      segment.charges.size() != 1 || !is_known_model(args.model)) {
    return std::nullopt;
  }
  const InstanceType* type = site.find_type(segment.plan.type);
  const std::int64_t startup_s = type == nullptr ? 0 : type->startup_s;
  const std::int64_t seconds = segment.charged_seconds() - startup_s;
  if (seconds < std::max<std::int64_t>(1, startup_s)) return std::nullopt;
  return accounting::MeasuredRun{
      .run = run.id,
      .kind = {args.model, args.imgsz, segment.plan.type, segment.plan.ranks},
      .image_tenths = segment.plan.image_tenths,
      .seconds = seconds,
      .ended = now,
      .low_s = segment.plan.quote.low_s - startup_s,
      .high_s = segment.plan.quote.high_s - startup_s};
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
