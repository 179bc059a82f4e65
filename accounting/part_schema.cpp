// SPDX-License-Identifier: GPL-3.0-or-later
#include "accounting/part_schema.h"

#include <fmt/format.h>

#include <map>

#include "accounting/posting.h"

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

struct Trigger {
  std::string name, table, sql;
  std::string fault = {};
};

Expected<std::map<std::string, Trigger>> triggers_of(Database& db) {
  std::map<std::string, Trigger> triggers;
  auto done = db.query("SELECT name, tbl_name, sql FROM sqlite_schema WHERE type = 'trigger'", {},
                       [&triggers](const Row& row) {
                         triggers[row.text(0)] = {row.text(0), row.text(1), row.text(2)};
                       });
  if (!done) return tl::unexpected(done.error());
  return triggers;
}

Expected<bool> has_table(Database& db, const std::string& table) {
  bool has = false;
  auto done = db.query("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1", {table},
                       [&has](const Row&) { has = true; });
  if (!done) return tl::unexpected(done.error());
  return has;
}

using Triggers = std::map<std::string, Trigger>;  // By name.

// What the scripts make; once a program for each of them.
Expected<Triggers> made_by(std::span<const std::string> scripts) {
  thread_local std::map<std::string, Triggers> known;
  std::string all;
  for (const std::string& script : scripts) all += script;
  const auto found = known.find(all);
  if (found != known.end()) return found->second;
  auto fresh = Database::open(":memory:");
  if (!fresh) return tl::unexpected(fresh.error());
  for (const std::string& script : scripts) {
    if (auto made = fresh->execute_script(script); !made) return tl::unexpected(made.error());
  }
  auto triggers = triggers_of(*fresh);
  if (triggers) known[all] = *triggers;
  return triggers;
}

// Those that are not as the scripts make them.
Expected<std::vector<Trigger>> spoilt_triggers(Database& db, std::span<const std::string> scripts) {
  const auto wanted = made_by(scripts);
  if (!wanted) return tl::unexpected(wanted.error());
  const auto stored = triggers_of(db);
  if (!stored) return tl::unexpected(stored.error());
  std::vector<Trigger> spoilt;
  for (const auto& [name, trigger] : *wanted) {
    const auto has = has_table(db, trigger.table);
    if (!has) return tl::unexpected(has.error());
    const auto found = stored->find(name);
    const bool is_missing = found == stored->end();
    if (!*has || (!is_missing && found->second.sql == trigger.sql)) continue;
    spoilt.push_back(trigger);
    spoilt.back().fault = is_missing ? "is missing" : "was changed";
  }
  return spoilt;
}

Expected<void> put_back(Database& db, const std::vector<Trigger>& triggers) {
  UtcSeconds newest = 0;
  auto done = db.query("SELECT coalesce(max(ts_us), 0) / 1000000 FROM transfer", {},
                       [&newest](const Row& row) { newest = row.integer(0); });
  for (const Trigger& trigger : triggers) {
    if (done) {
      done = db.execute_script(fmt::format("DROP TRIGGER IF EXISTS \"{}\"; {}", trigger.name,
                                           trigger.sql));
    }
    if (!done) return done;
    done = keep_finding(
        db, {newest, "schema",
             fmt::format("the trigger {}, which keeps {} from being changed, {}: it was put back when the "
                         "books were opened. Look who can write them",
                         trigger.name, trigger.table, trigger.fault)});
  }
  return done;
}

}  // namespace

Expected<void> open_part(Database& db, const std::string& part,
                         std::span<const std::string> scripts) {
  const auto newest = static_cast<std::int64_t>(scripts.size());
  const auto known = version_of(db, part, newest);
  if (!known) return tl::unexpected(known.error());
  if (*known == newest) {
    const auto spoilt = spoilt_triggers(db, scripts);
    if (!spoilt) return tl::unexpected(spoilt.error());
    if (spoilt->empty()) return {};
    return db.transact([&]() { return put_back(db, *spoilt); });
  }
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

Expected<std::vector<std::string>> faults_of_part(Database& db,
                                                  std::span<const std::string> scripts) {
  const auto spoilt = spoilt_triggers(db, scripts);
  if (!spoilt) return tl::unexpected(spoilt.error());
  std::vector<std::string> faults;
  for (const Trigger& trigger : *spoilt) {
    faults.push_back(fmt::format("schema: the trigger {} {}.", trigger.name, trigger.fault));
  }
  return faults;
}

}  // namespace accounting
