// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/payment_providers.h
//
// The providers of this service, each with a line of payment_providers.cpp. Its key is the file
// DATABASE.NAME_key (secret_key.h).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "accounting/payment_provider.h"
#include "scheduler/error.h"
#include "scheduler/site.h"

namespace scheduler {

// How it comes to the service.
enum class Way {
  kCode,    // A person hands it in: trainyard wallet topup.
  kMessage  // A payment service sends it: trainyard-hooks, trainyard webhook.
};

// In the order in which they are asked.
using Providers = std::vector<std::unique_ptr<accounting::PaymentProvider>>;

// Those of one way. An Error where a key cannot be read or made.
[[nodiscard]] Expected<Providers> payment_providers(const Site& site, Way way);

[[nodiscard]] std::string provider_key_path(const Site& site, const std::string& name);

}  // namespace scheduler
