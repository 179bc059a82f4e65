// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/console.h
//
// What the verbs of `trainyard` share: asking the service, printing its answers and refusals.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "scheduler/client.h"
#include "scheduler/exit_status.h"
#include "scheduler/pace.h"
#include "scheduler/plan.h"
#include "trainer/contract/metrics.h"

namespace scheduler {

// The service's `result`; or, already printed, why there is none.
[[nodiscard]] std::variant<nlohmann::json, ExitStatus> ask(const Client& client,
                                                           const nlohmann::json& request);

// Asks, and prints the result with `print`, or as JSON with client.json.
ExitStatus show(const Client& client, const nlohmann::json& request,
                const std::function<void(const nlohmann::json&)>& print);
void print_body(const nlohmann::json& result);
// An amount of the result: "0.045 GPU-h".
[[nodiscard]] std::string hours_of(const nlohmann::json& object, const char* key);

// Prints messages (to standard error, or as one JSON object with client.json) and returns `status`.
ExitStatus complain(const Client& client, ExitStatus status, const std::vector<std::string>& messages);

// The id that `run` stands for; see client.h.
[[nodiscard]] std::variant<std::string, ExitStatus> resolve_run(const Client& client,
                                                                const std::string& run);

// `count` characters of a-z and 0-9 without look-alikes, from the kernel's random numbers.
[[nodiscard]] std::string random_id(int count);

[[nodiscard]] std::string local_time(std::int64_t utc_seconds);   // "10:33:05", with the day if not today.
[[nodiscard]] std::string duration_text(std::int64_t seconds);    // "1:02:03", "4:05"
[[nodiscard]] std::string gpu_hours(std::int64_t milli_gpu_s);    // "0.045 GPU-h"
// "about 1:02:03 (0:50:00 to 1:15:00); measured: ...": how long a run takes, and how that is known.
[[nodiscard]] std::string estimate_text(const Quote& quote);
// "about 0.05 EUR, never more than 0.12 EUR, at 0.74 EUR a GPU-hour", of an epochs run "first hold 0.12
// EUR"; empty where hours have no price.
[[nodiscard]] std::string money_text(const Plan& plan);
// What a dry run says of the fund: what it has, and what would be left of that beside the hold and
// after the run; a credit may be used like hours.
[[nodiscard]] std::string fund_text(const Plan& plan, std::int64_t available,
                                    std::int64_t credit_limit);
// Of a record of kind "epoch": "epoch 3/60  box 1.234 ... mAP50 0.512 ..."; "-" stands for what was
// not measured.
[[nodiscard]] std::string epoch_text(const contract::MetricsRecord& record);
// What the service's answer to `show` or `list` says of a run that runs, with its own epochs; nothing
// where none of its attempts runs, or the numbers make no sense.
[[nodiscard]] std::optional<Reestimate> reestimate_of(const nlohmann::json& run,
                                                      const std::optional<Pace>& pace);
[[nodiscard]] nlohmann::json reestimate_json(const Reestimate& estimate, const std::string& currency);
// "about 1:24 more, to 10:33:05"
[[nodiscard]] std::string rest_text(const Reestimate& estimate);
[[nodiscard]] bool prints_to_terminal();                          // Standard output is one.

}  // namespace scheduler
