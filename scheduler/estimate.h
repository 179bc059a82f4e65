// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/estimate.h
//
// Estimates of epochs runs from measured ones: what the service keeps when a run has finished, and
// what it tells clients, who plan with the same rates.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <vector>

#include "accounting/measured.h"
#include "scheduler/run.h"

namespace scheduler {

// What a finished run measured, by its plan and by Slurm's records alone: its last segment, all
// attempts of it. Nothing where that tells little of the next run: a plain run, less training than
// start-up, a model that is not known; or where it has to be told.
[[nodiscard]] std::optional<accounting::MeasuredRun> measure(const Run& run, const Site& site,
                                                             UtcSeconds now);

// How much a finished run has trained follows from no plan where it ended at its hours, or may have
// stopped early (patience below its epochs): its owner's client reads it in the run's folder.
[[nodiscard]] bool is_to_be_told(const Run& run);
// What such a run measured, all segments of it. `epochs_milli`: thousandths of epochs, as told.
// `rate`: of its kind until now; the band of it is what the run is checked by. Nothing where it is
// not to be told, or cannot be so much.
[[nodiscard]] std::optional<accounting::MeasuredRun> measure_told(
    const Run& run, const Site& site, std::int64_t epochs_milli,
    const std::optional<accounting::MeasuredRate>& rate, UtcSeconds now);

// The rates of the books as they are when they are asked for; an unreadable table is no rate.
[[nodiscard]] accounting::RateLookup rates_of(accounting::Database& db);

void rates_to_json(nlohmann::json& json, const std::vector<accounting::MeasuredRate>& rates);
// Throws std::exception for what rates_to_json did not write.
[[nodiscard]] accounting::RateLookup rates_from_json(const nlohmann::json& json);

}  // namespace scheduler
