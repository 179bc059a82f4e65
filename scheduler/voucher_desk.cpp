// SPDX-License-Identifier: GPL-3.0-or-later
//
// Vouchers are made here, by admins; who hands one in is at payment_desk.cpp.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "accounting/tariff.h"
#include "accounting/till.h"
#include "accounting/voucher.h"
#include "scheduler/answers.h"
#include "scheduler/books_desk.h"
#include "scheduler/payment_providers.h"
#include "scheduler/secret_key.h"

namespace scheduler {

using accounting::to_gpu_hours;
using nlohmann::json;

json answer_voucher_make(accounting::Till& till, const Site& site, const Caller& caller,
                         const json& request, UtcSeconds now) {
  if (!caller.is_admin) return refused({std::string(kAdminsOnly)});
  const accounting::Voucher voucher{.id = request.at("id"),
                                    .amount = {request.at("amount").get<std::int64_t>()},
                                    .expires = request.value("expires", std::int64_t{0}),
                                    .fund = request.value("fund", "")};
  if (voucher.expires != 0 && voucher.expires <= now) {
    return bad_request(fmt::format("a voucher that expires at {} is void already; it is {} now",
                                   accounting::format_utc(voucher.expires),
                                   accounting::format_utc(now)));
  }
  const auto is_used = till.was_given("voucher", voucher.id);
  if (!is_used) return failed(is_used.error().message);
  if (*is_used) {
    return refused({fmt::format("voucher {} was made before and is used: a new one of that id would "
                                "be good for nothing. Give another --id, or none", voucher.id)});
  }
  const auto key = secret_key(provider_key_path(site, "voucher"));
  if (!key) return failed(key.error().message);
  const auto code = accounting::write_voucher(voucher, *key);
  if (!code) {
    return bad_request(fmt::format("{} for \"{}\" is no voucher: an id has letters, digits, _ and -, "
                                   "an amount is above zero, a fund is user:NAME or group:NAME",
                                   to_gpu_hours(voucher.amount), voucher.fund));
  }
  const auto kept = till.record({now, caller.user, "voucher",
                                 fmt::format("{}: {} for {}", voucher.id,
                                             to_gpu_hours(voucher.amount),
                                             voucher.fund.empty() ? "anybody" : voucher.fund)});
  if (!kept) return failed(kept.error().message);
  return good({{"code", *code}, {"id", voucher.id}});
}

}  // namespace scheduler
