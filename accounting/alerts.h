// SPDX-License-Identifier: GPL-3.0-or-later
// accounting/alerts.h
//
// Funds that are nearly spent: at 80, 95 and 100 % of what a fund had when it last got hours, less what
// of it has expired, its people are told, once for each level until it gets more or until the level
// was left by 5 %, as when a hold was released. What is to be told stands in the database until it was
// sent, so that a restart neither forgets nor repeats it. One thread at a time.
#pragma once

#include <string>
#include <vector>

#include "accounting/ledger.h"

namespace accounting {

struct Alert {
  std::int64_t number = 0;
  std::string fund;
  int level = 0;              // 80, 95, 100: hundredths of `given` that are held or used.
  Amount available, given;
  UtcSeconds when = 0;
};

// "fund user:ada has used or set aside 80 % of its 1.000 GPU-h: 0.100 GPU-h are left"
[[nodiscard]] std::string text_of(const Alert& alert);

// Looks at every fund and writes down the alerts that are new, to be sent on each of `channels`. A
// fund that passes several levels between two looks gets one alert, the highest.
[[nodiscard]] Expected<std::vector<Alert>> raise_alerts(Database& db, const Ledger& ledger,
                                                        const std::vector<std::string>& channels,
                                                        UtcSeconds now);

// The oldest alerts that wait for the channel, `count` at most, now marked as being sent. One that is
// marked so is never returned again, unless alert_failed puts it back.
[[nodiscard]] Expected<std::vector<Alert>> take_alerts(Database& db, const std::string& channel,
                                                       int count, UtcSeconds now);
[[nodiscard]] Expected<void> alert_sent(Database& db, std::int64_t number,
                                        const std::string& channel);
// Tried again after 1, 2, 4, 8 minutes. False: that was the fifth time, and it is given up.
[[nodiscard]] Expected<bool> alert_failed(Database& db, std::int64_t number,
                                          const std::string& channel, UtcSeconds now);

}  // namespace accounting
