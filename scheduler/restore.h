// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/restore.h
//
// Puts a copy in the place of the books. The service must not run.
#pragma once

#include <optional>
#include <string>

#include "accounting/amount.h"
#include "scheduler/error.h"

namespace scheduler {

// Reads the copy, also from a medium that cannot be written, and never writes to it: its content is
// copied to "<database>.restoring" and verified there. Only what is right, complete and on disk
// replaces the books. Those that stood there are kept as "<database>.replaced.<now>" with what
// belongs to them. Leaves a finding in the restored books that says how old they are, and returns
// it, and an entry in their log of acts with `actor`. After an Error the books stand as they stood.
[[nodiscard]] Expected<std::string> restore_books(const std::string& database,
                                                  const std::string& copy,
                                                  const std::string& actor,
                                                  accounting::UtcSeconds now);

// What the service says instead of starting where a restore was killed before the new books were in
// their place; nothing where none was.
[[nodiscard]] std::optional<std::string> cut_off_restore(const std::string& database);

}  // namespace scheduler
