// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/restore.h
//
// Puts a copy in the place of the books. The service must not run.
#pragma once

#include <string>

#include "accounting/amount.h"
#include "scheduler/error.h"

namespace scheduler {

// Verifies the copy first; nothing is touched where it is not right. The books that stood there are
// kept beside it, as "<database>.replaced.<now>" with what belongs to them. Leaves a finding in the
// restored books that says how old they are, and returns it.
[[nodiscard]] Expected<std::string> restore_books(const std::string& database,
                                                  const std::string& copy,
                                                  accounting::UtcSeconds now);

}  // namespace scheduler
