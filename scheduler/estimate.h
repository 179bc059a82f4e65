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

// What a finished run measured, by Slurm's records alone. Nothing where that tells little of the
// next run: a timed or plain run, several segments or attempts, less training than start-up, a
// model that is not known, or a run that may have stopped early (patience below its epochs).
[[nodiscard]] std::optional<accounting::MeasuredRun> measure(const Run& run, const Site& site,
                                                             UtcSeconds now);

// The rates of the books as they are when they are asked for; an unreadable table is no rate.
[[nodiscard]] accounting::RateLookup rates_of(accounting::Database& db);

void rates_to_json(nlohmann::json& json, const std::vector<accounting::MeasuredRate>& rates);
// Throws std::exception for what rates_to_json did not write.
[[nodiscard]] accounting::RateLookup rates_from_json(const nlohmann::json& json);

}  // namespace scheduler
