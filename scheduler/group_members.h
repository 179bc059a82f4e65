// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/group_members.h
//
// Who is in a Unix group, and who there is at all, by the machine's own database.
#pragma once

#include <string>
#include <vector>

namespace scheduler {

// Those whom the group lists, then those whose first group it is by the list of users; each once.
// A directory that does not list its users (sssd without `enumerate`) tells of the former alone.
// Empty where there is no such group. Used by one thread at a time.
[[nodiscard]] std::vector<std::string> group_members(const std::string& group);

// Is there a user or group of the fund's name ("user:ada")? True also where the database does not
// answer.
[[nodiscard]] bool has_owner(const std::string& fund);

}  // namespace scheduler
