// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/disk_space.h
//
// Room for the books. What is set aside today is charged, released and settled later, and each of that
// is written: a hold that is taken with the last bytes could not be settled.
#pragma once

#include <optional>

#include "scheduler/plan.h"
#include "scheduler/site.h"

namespace scheduler {

// Why no new hold is taken: less than books.least_free_mb is free where the database lies. Nothing: there
// is room, or it cannot be told (SQLite itself says what is wrong then).
[[nodiscard]] std::optional<Refusal> why_no_room(const Site& site);

}  // namespace scheduler
