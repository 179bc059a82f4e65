// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/group_members.h
//
// Who is in a Unix group, and who there is at all, by the machine's own database.
#pragma once

#include <string>
#include <vector>

namespace scheduler {

// Empty where there is no such group. Users whose first group it is are not listed by the machine.
[[nodiscard]] std::vector<std::string> group_members(const std::string& group);

// Is there a user or group of the fund's name ("user:ada")? True also where the database does not
// answer.
[[nodiscard]] bool has_owner(const std::string& fund);

}  // namespace scheduler
