// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/payment_providers.h"

#include "accounting/voucher.h"
#include "accounting/webhook.h"
#include "scheduler/secret_key.h"

namespace scheduler {
namespace {

using Provider = std::unique_ptr<accounting::PaymentProvider>;

struct Registration {
  const char* name;
  Way way;
  Provider (*make)(std::string key, const Site& site);
};

constexpr Registration kRegistrations[] = {
    {"voucher", Way::kCode, [](std::string key, const Site&) -> Provider {
       return std::make_unique<accounting::Vouchers>(std::move(key));
     }},
    {"webhook", Way::kMessage, [](std::string key, const Site& site) -> Provider {
       return std::make_unique<accounting::SignedWebhook>(std::move(key), site.webhook_window_s);
     }},
};

}  // namespace

std::string provider_key_path(const Site& site, const std::string& name) {
  return site.database + "." + name + "_key";
}

Expected<Providers> payment_providers(const Site& site, Way way) {
  Providers providers;
  for (const Registration& each : kRegistrations) {
    if (each.way != way) continue;
    auto key = secret_key(provider_key_path(site, each.name));
    if (!key) return tl::unexpected(std::move(key.error()));
    providers.push_back(each.make(std::move(*key), site));
  }
  return providers;
}

}  // namespace scheduler
