// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/group_members.h"

#include <grp.h>
#include <pwd.h>

#include <algorithm>
#include <cerrno>

namespace scheduler {

std::vector<std::string> group_members(const std::string& name) {
  std::vector<std::string> members;
  const group* entry = getgrnam(name.c_str());
  if (entry == nullptr) return members;
  const gid_t gid = entry->gr_gid;
  const auto add = [&members](const char* user) {
    if (std::count(members.begin(), members.end(), user) == 0) members.emplace_back(user);
  };
  for (char** member = entry->gr_mem; *member != nullptr; ++member) add(*member);
  setpwent();
  while (const passwd* user = getpwent()) {
    if (user->pw_gid == gid) add(user->pw_name);
  }
  endpwent();
  return members;
}

bool has_owner(const std::string& fund) {
  const std::string name = fund.substr(fund.find(':') + 1);
  errno = 0;
  const bool has = fund.starts_with("group:") ? getgrnam(name.c_str()) != nullptr
                                              : getpwnam(name.c_str()) != nullptr;
  // What some libraries say of a name that is not there.
  const bool is_answer = errno == 0 || errno == ENOENT || errno == ESRCH;
  return has || !is_answer;
}

}  // namespace scheduler
