// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/request_id.h
//
// The ledger's ids of what callers ask for. Callers choose ids freely, and the service makes its own
// (holds, charges, allowances, payments, vouchers): neither ever takes one of the other, for a caller's
// id gets a first part with a colon, which no id of the service has (docs/formats/ledger.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "accounting/database.h"

namespace scheduler {

// Of a caller's own id. What the service writes before it ("uid:4294967295/") and behind it ("/price")
// fits into an id of the ledger beside it.
inline constexpr std::size_t kCallersIdLengthMax = 160;

// Why no caller can choose this id, in words; empty: he can.
[[nodiscard]] std::string why_no_id(const std::string& id);

// "uid:1000/ID". An id that the ledger would not take comes back as it is. So does one that stands in
// the books as a setting which `user` himself made: a retry that crosses an upgrade.
[[nodiscard]] accounting::Expected<std::string> id_of_user(accounting::Database& db,
                                                           std::uint32_t uid,
                                                           const std::string& user,
                                                           const std::string& id);

// "admin:ID", the same of all admins: what one of them did another does not do again. `kind` is the
// transfer's, "grant" or "set". As it is comes back what the ledger would not take, a grant of that
// id, and a setting of that id which `user` himself made.
[[nodiscard]] accounting::Expected<std::string> id_of_admin(accounting::Database& db,
                                                            const std::string& kind,
                                                            const std::string& user,
                                                            const std::string& id);

}  // namespace scheduler
