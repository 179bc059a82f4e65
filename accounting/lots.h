// SPDX-License-Identifier: GPL-3.0-or-later
// accounting/lots.h
//
// Private to the module: grants with a period. A dated grant is a lot of its fund. Holds take from
// the lots that expire first, charges use those up first, and what comes back goes to where it came
// from. What a fund has beyond its lots never expires. All of it runs in the caller's transaction.
#pragma once

#include "accounting/transfer.h"

namespace accounting {

// The ledger's clock in whole seconds: never before the newest transfer.
[[nodiscard]] Expected<UtcSeconds> ledger_time(Database& db, UtcSeconds now);

// Behind the posting of a grant that begins later or expires.
[[nodiscard]] Expected<void> open_lot(Database& db, const Transfer& grant, const std::string& fund);
// Behind the posting of a hold or an extension.
[[nodiscard]] Expected<void> draw_from_lots(Database& db, const std::string& fund,
                                            const std::string& hold_id, Amount amount);
// Behind the posting of a charge.
[[nodiscard]] Expected<void> use_up_draws(Database& db, const std::string& hold_id, Amount amount);
// Behind the posting of a reduction or release. `remaining_before`: of the hold.
[[nodiscard]] Expected<void> return_draws(Database& db, const std::string& hold_id,
                                          Amount remaining_before, Amount amount);
// Behind the posting of a repayment.
[[nodiscard]] Expected<void> spend_from_lots(Database& db, const std::string& fund, Amount amount);

// What the fund has available beyond its lots. Below zero: the credit that it uses, which is also
// what is available once all lots have expired.
[[nodiscard]] Expected<Amount> undated_of(Database& db, const std::string& fund);

// Posts what is due: lots that begin, lots that have expired. Empty fund: all. The number of
// transfers that were made.
[[nodiscard]] Expected<std::int64_t> turn_lots(Database& db, const std::string& fund,
                                               UtcSeconds now);

}  // namespace accounting
