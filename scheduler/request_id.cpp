// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/request_id.h"

#include <fmt/format.h>

#include "accounting/posting.h"

namespace scheduler {
namespace {

using accounting::Expected;

// Books of an older version have callers' ids as they were given. Only admins made grants, and a
// setting names who made it: nobody is answered by what another left there.
Expected<bool> was_made_before(accounting::Database& db, const std::string& kind,
                               const std::string& user, const std::string& id) {
  bool was_made = false;
  const auto read = db.query(
      "SELECT 1 FROM transfer WHERE id = ?1 AND kind = ?2 AND (kind = 'grant' OR actor = ?3)",
      {id, kind, user}, [&was_made](const accounting::Row&) { was_made = true; });
  if (!read) return tl::unexpected(read.error());
  return was_made;
}

Expected<std::string> with_prefix(accounting::Database& db, const std::string& prefix,
                                  const std::string& kind, const std::string& user,
                                  const std::string& id) {
  if (!accounting::is_id(id)) return id;
  const auto was_made = was_made_before(db, kind, user, id);
  if (!was_made) return tl::unexpected(was_made.error());
  return *was_made ? id : prefix + id;
}

}  // namespace

std::string why_no_id(const std::string& id) {
  static_assert(kCallersIdLengthMax + sizeof("uid:4294967295/") + sizeof("/price") <=
                accounting::kIdLengthMax + 2);
  if (id.size() <= kCallersIdLengthMax && accounting::is_id(id)) return "";
  return fmt::format(
      "\"{}\" is no id: 1 to {} letters, digits and {}, and not one that ends as those "
      "which the ledger makes itself (/release, /debt)",
      id, kCallersIdLengthMax, accounting::kIdMarks);
}

Expected<std::string> id_of_user(accounting::Database& db, std::uint32_t uid,
                                 const std::string& user, const std::string& id) {
  return with_prefix(db, fmt::format("uid:{}/", uid), "set", user, id);
}

Expected<std::string> id_of_admin(accounting::Database& db, const std::string& kind,
                                  const std::string& user, const std::string& id) {
  return with_prefix(db, "admin:", kind, user, id);
}

}  // namespace scheduler
