// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/caller.h"

#include <grp.h>
#include <pwd.h>
#include <unistd.h>

#include <algorithm>

#include <fmt/format.h>

namespace scheduler {

Expected<Caller> look_up_caller(std::uint32_t uid, const Site& site) {
  Caller caller;
  caller.uid = uid;
  const passwd* entry = getpwuid(uid);
  if (entry == nullptr) {
    return tl::unexpected(Error{fmt::format("uid {} has no user name on this machine", uid)});
  }
  caller.user = entry->pw_name;
  std::vector<gid_t> groups(64);
  int count = static_cast<int>(groups.size());
  while (getgrouplist(caller.user.c_str(), entry->pw_gid, groups.data(), &count) < 0) {
    groups.resize(static_cast<std::size_t>(count));
  }
  groups.resize(static_cast<std::size_t>(count));
  for (const gid_t gid : groups) {
    const group* unix_group = getgrgid(gid);
    if (unix_group != nullptr) caller.groups.emplace_back(unix_group->gr_name);
  }
  const auto has = [](const std::vector<std::string>& list, const std::string& name) {
    return std::find(list.begin(), list.end(), name) != list.end();
  };
  caller.is_admin = has(site.admin_users, caller.user) ||
                    std::any_of(caller.groups.begin(), caller.groups.end(),
                                [&](const std::string& name) { return has(site.admin_groups, name); });
  return caller;
}

namespace {

bool is_among(const std::vector<std::string>& list, const std::string& name) {
  return std::find(list.begin(), list.end(), name) != list.end();
}

}  // namespace

bool leads_fund(const Caller& caller, const std::string& fund) {
  return is_among(caller.led_funds, fund);
}

bool leads_run(const Caller& caller, const std::string& account, const std::string& fund) {
  return leads_fund(caller, fund) || (!account.empty() && is_among(caller.led_accounts, account));
}

bool may_spend(const Caller& caller, const std::string& fund) {
  if (fund == "user:" + caller.user) return true;
  return fund.rfind("group:", 0) == 0 &&
         std::find(caller.groups.begin(), caller.groups.end(), fund.substr(6)) != caller.groups.end();
}

}  // namespace scheduler
