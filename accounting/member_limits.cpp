// SPDX-License-Identifier: GPL-3.0-or-later
#include "accounting/member_limits.h"

#include "accounting/posting.h"

namespace accounting {
namespace {

Expected<std::optional<std::int64_t>> limit_of(Database& db, const Hold& hold,
                                               const std::string& own, const std::string& common) {
  auto limit = number_setting(db, hold.fund, own + hold.actor);
  if (!limit || *limit) return limit;
  return number_setting(db, hold.fund, common);
}

}  // namespace

Expected<OpenUse> open_use_of(Database& db, const std::string& fund, const std::string& member) {
  OpenUse use;
  const auto read = db.query(
      "SELECT coalesce(sum(run <> '' OR gpus > 0), 0), coalesce(sum(gpus), 0) FROM hold "
      "WHERE fund = ?1 AND (?2 = '' OR member = ?2) AND closed_seq IS NULL",
      {fund, member}, [&use](const Row& row) { use = {row.integer(0), row.integer(1)}; });
  if (!read) return tl::unexpected(read.error());
  return use;
}

Expected<std::optional<HoldStatus>> beyond_member_limits(Database& db, const Hold& hold) {
  const auto gpus_max = limit_of(db, hold, "gpus/", "member_gpus_max");
  if (!gpus_max) return tl::unexpected(gpus_max.error());
  const auto runs_max = limit_of(db, hold, "runs/", "member_runs_max");
  if (!runs_max) return tl::unexpected(runs_max.error());
  if (!*gpus_max && !*runs_max) return std::optional<HoldStatus>{};
  const auto use = open_use_of(db, hold.fund, hold.actor);
  if (!use) return tl::unexpected(use.error());
  if (*gpus_max && hold.gpus > **gpus_max - use->gpus) {
    return std::optional{HoldStatus::kExceedsMemberGpus};
  }
  if (*runs_max && use->runs >= **runs_max) return std::optional{HoldStatus::kExceedsMemberRuns};
  return std::optional<HoldStatus>{};
}

}  // namespace accounting
