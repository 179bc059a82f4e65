// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/group_members.h"

#include <grp.h>

namespace scheduler {

std::vector<std::string> group_members(const std::string& name) {
  std::vector<std::string> members;
  const group* entry = getgrnam(name.c_str());
  if (entry == nullptr) return members;
  for (char** member = entry->gr_mem; *member != nullptr; ++member) members.emplace_back(*member);
  return members;
}

}  // namespace scheduler
