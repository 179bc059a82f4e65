// SPDX-License-Identifier: GPL-3.0-or-later
#include "accounting/part_schema.h"

#include <fmt/format.h>

namespace accounting {
namespace {

Expected<std::int64_t> version_of(Database& db, const std::string& part, std::int64_t newest) {
  std::int64_t version = 0;
  const auto done = db.query("SELECT CAST(value AS INTEGER) FROM ledger_meta WHERE key = ?1",
                             {part + "_version"},
                             [&version](const Row& row) { version = row.integer(0); });
  if (!done) return tl::unexpected(done.error());
  if (version > newest) {
    return tl::unexpected(Error{fmt::format(
        "{} version {} is newer than the {} that this program knows. Use the newer program.", part,
        version, newest)});
  }
  return version;
}

}  // namespace

Expected<void> open_part(Database& db, const std::string& part,
                         std::span<const std::string> scripts) {
  const auto newest = static_cast<std::int64_t>(scripts.size());
  const auto known = version_of(db, part, newest);
  if (!known) return tl::unexpected(known.error());
  if (*known == newest) return {};
  return db.transact([&]() -> Expected<void> {
    const auto version = version_of(db, part, newest);  // Another process may have been faster.
    if (!version) return tl::unexpected(version.error());
    for (auto next = static_cast<std::size_t>(*version); next < scripts.size(); ++next) {
      if (auto done = db.execute_script(scripts[next]); !done) return done;
    }
    const auto kept = db.run(
        "INSERT INTO ledger_meta (key, value) VALUES (?1, ?2) "
        "ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        {part + "_version", std::to_string(newest)});
    if (!kept) return tl::unexpected(kept.error());
    return {};
  });
}

}  // namespace accounting
