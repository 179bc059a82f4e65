// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/payment_desk.h
//
// What is handed in at the till, by a person or by a payment service, and what becomes of it in the
// books. Nothing here knows one provider from another (accounting/payment_provider.h).
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "accounting/till.h"
#include "scheduler/dispatcher.h"
#include "scheduler/payment_providers.h"

namespace scheduler {

// The first of the providers that knows the claim's form reads it; all that follows is booked in
// one transaction, once. Hours go to `fund`, which the caller must be allowed to spend (empty: the fund
// that the provider names, or the caller's wallet); money goes where the provider says.
[[nodiscard]] nlohmann::json answer_claim(Dispatcher& dispatcher, accounting::Till& till,
                                          const Providers& providers, const Caller& caller,
                                          const accounting::Claim& claim, const std::string& fund,
                                          UtcSeconds now);

[[nodiscard]] nlohmann::json receipt_to_json(const accounting::Receipt& receipt);

}  // namespace scheduler
