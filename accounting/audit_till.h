// SPDX-License-Identifier: GPL-3.0-or-later
// accounting/audit_till.h
//
// Private to the module: what was written down at the till, against the transfers that it made.
#pragma once

#include <string>
#include <vector>

#include "accounting/database.h"

namespace accounting {

// till.cpp: what makes its tables and triggers.
[[nodiscard]] std::string till_schema();

// One sentence a fault. Books that never had a till have none.
[[nodiscard]] Expected<std::vector<std::string>> audit_till(Database& db);

}  // namespace accounting
