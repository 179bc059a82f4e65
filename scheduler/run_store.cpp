// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/run_store.h"

#include <array>
#include <exception>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "accounting/part_schema.h"

namespace scheduler {
namespace {

using accounting::Row;

constexpr const char* kSchema = R"sql(
CREATE TABLE IF NOT EXISTS run (
  id TEXT PRIMARY KEY,
  uid INTEGER NOT NULL,
  user TEXT NOT NULL,
  created INTEGER NOT NULL,
  state TEXT NOT NULL,      -- The fold of the events, for looking up; the events are the truth.
  is_open INTEGER NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS run_open ON run(is_open) WHERE is_open = 1;
CREATE INDEX IF NOT EXISTS run_user ON run(user, created);
CREATE TABLE IF NOT EXISTS run_event (
  seq INTEGER PRIMARY KEY,
  run TEXT NOT NULL REFERENCES run(id),
  time INTEGER NOT NULL,
  kind TEXT NOT NULL,
  body TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS run_event_run ON run_event(run, seq);
CREATE TRIGGER IF NOT EXISTS run_event_is_append_only_u BEFORE UPDATE ON run_event
BEGIN SELECT RAISE(ABORT, 'events are never edited'); END;
CREATE TRIGGER IF NOT EXISTS run_event_is_append_only_d BEFORE DELETE ON run_event
BEGIN SELECT RAISE(ABORT, 'events are never deleted'); END;
CREATE TABLE IF NOT EXISTS run_observation (
  run TEXT PRIMARY KEY REFERENCES run(id),
  job INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  last_seen INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS books_restored (since INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS run_allocation (  -- What is charged, once.
  job INTEGER NOT NULL,
  start INTEGER NOT NULL,
  run TEXT NOT NULL REFERENCES run(id),
  PRIMARY KEY (job, start)
) STRICT, WITHOUT ROWID;
)sql";

constexpr const char* kSchema2 = R"sql(
CREATE TRIGGER IF NOT EXISTS run_allocation_no_update BEFORE UPDATE ON run_allocation
BEGIN SELECT RAISE(ABORT, 'what an allocation was charged to stays'); END;
CREATE TRIGGER IF NOT EXISTS run_allocation_no_delete BEFORE DELETE ON run_allocation
BEGIN SELECT RAISE(ABORT, 'what an allocation was charged to stays'); END;
)sql";

const std::array<std::string, 2>& versions() {
  static const std::array<std::string, 2> kVersions{kSchema, kSchema2};
  return kVersions;
}

// Books of an older version: what their events have charged. It reads all events there are, so it is
// run only where nothing is charged yet.
constexpr const char* kFillAllocations = R"sql(
INSERT OR IGNORE INTO run_allocation(job, start, run)
SELECT json_extract(body, '$.job'), json_extract(body, '$.start'), run FROM run_event
WHERE kind = 'AttemptCharged' AND json_extract(body, '$.end') > json_extract(body, '$.start')
)sql";

Error of(const accounting::Error& error) { return {"the books: " + error.message}; }

}  // namespace

Expected<RunStore> RunStore::open(accounting::Database& db) {
  if (const auto made = accounting::open_part(db, "run", versions()); !made) {
    return tl::unexpected(of(made.error()));
  }
  bool is_filled = false;
  const auto looked = db.query("SELECT 1 FROM run_allocation LIMIT 1", {},
                               [&is_filled](const Row&) { is_filled = true; });
  if (!looked) return tl::unexpected(of(looked.error()));
  if (is_filled) return RunStore(db);
  if (const auto filled = db.run(kFillAllocations, {}); !filled) {
    return tl::unexpected(of(filled.error()));
  }
  return RunStore(db);
}

Expected<std::vector<std::string>> RunStore::faults_of_schema(accounting::Database& db) {
  auto faults = accounting::faults_of_part(db, versions());
  if (!faults) return tl::unexpected(of(faults.error()));
  return std::move(*faults);
}

Expected<void> RunStore::append(Run& run, const RunEvent& event) {
  Run next = apply(run, event);
  const auto done = db_->transact([&]() -> accounting::Expected<void> {
    const auto kept = db_->run(
        "INSERT INTO run(id, uid, user, created, state, is_open) VALUES(?1, ?2, ?3, ?4, ?5, ?6) "
        "ON CONFLICT(id) DO UPDATE SET state = excluded.state, is_open = excluded.is_open",
        {next.id, std::int64_t{next.about.uid}, next.about.user, next.created, to_name(next.state),
         std::int64_t{is_terminal(next.state) ? 0 : 1}});
    if (!kept) return tl::unexpected(kept.error());
    const auto added =
        db_->run("INSERT INTO run_event(run, time, kind, body) VALUES(?1, ?2, ?3, ?4)",
                 {next.id, event.time, event_kind(event.body), event_to_json(event.body).dump()});
    if (!added) return tl::unexpected(added.error());
    const auto* charged = std::get_if<AttemptCharged>(&event.body);
    if (charged == nullptr || charged->end <= charged->start) return {};
    const auto paid = db_->run("INSERT INTO run_allocation(job, start, run) VALUES(?1, ?2, ?3)",
                               {std::int64_t{charged->job}, charged->start, next.id});
    if (!paid) return tl::unexpected(paid.error());
    return {};
  });
  if (!done) return tl::unexpected(of(done.error()));
  run = std::move(next);
  return {};
}

Expected<std::vector<RunEvent>> RunStore::events(const std::string& run_id) const {
  std::vector<RunEvent> events;
  std::string fault;
  const auto read = db_->query(
      "SELECT seq, time, kind, body FROM run_event WHERE run = ?1 ORDER BY seq", {run_id},
      [&](const Row& row) {
        try {
          events.push_back({row.integer(1),
                            event_from_json(row.text(2), nlohmann::json::parse(row.text(3)))});
        } catch (const std::exception& error) {
          fault = fmt::format("event {} of run {}: {}", row.integer(0), run_id, error.what());
        }
      });
  if (!read) return tl::unexpected(of(read.error()));
  if (!fault.empty()) return tl::unexpected(Error{fault});
  return events;
}

Expected<std::optional<Run>> RunStore::load(const std::string& run_id) const {
  const auto read = events(run_id);
  if (!read) return tl::unexpected(read.error());
  if (read->empty()) return std::optional<Run>{};
  Run run;
  run.id = run_id;
  for (const RunEvent& event : *read) run = apply(std::move(run), event);
  return std::optional<Run>{std::move(run)};
}

Expected<std::vector<Run>> RunStore::load_where(const std::string& sql,
                                                const std::vector<accounting::Value>& values) const {
  std::vector<std::string> ids;
  const auto read = db_->query(sql, values, [&](const Row& row) { ids.push_back(row.text(0)); });
  if (!read) return tl::unexpected(of(read.error()));
  return load_all(ids);
}

Expected<std::vector<Run>> RunStore::load_all(const std::vector<std::string>& ids) const {
  std::vector<Run> runs;
  for (const std::string& id : ids) {
    auto run = load(id);
    if (!run) return tl::unexpected(run.error());
    if (*run) runs.push_back(std::move(**run));
  }
  return runs;
}

Expected<std::vector<Run>> RunStore::load_open() const {
  return load_where("SELECT id FROM run WHERE is_open = 1 ORDER BY created, id", {});
}

Expected<std::vector<Run>> RunStore::load_latest(const std::string& user, int count) const {
  return load_where(
      "SELECT id FROM run WHERE ?1 = '' OR user = ?1 ORDER BY created DESC, rowid DESC LIMIT ?2",
      {user, std::int64_t{count}});
}

Expected<std::vector<Run>> RunStore::load_next(std::int64_t& place, int count) const {
  std::vector<std::string> ids;
  std::int64_t last = place;
  const auto read = db_->query("SELECT id, rowid FROM run WHERE rowid > ?1 ORDER BY rowid LIMIT ?2",
                               {place, std::int64_t{count}}, [&](const Row& row) {
                                 ids.push_back(row.text(0));
                                 last = row.integer(1);
                               });
  if (!read) return tl::unexpected(of(read.error()));
  auto runs = load_all(ids);
  if (runs) place = last;
  return runs;
}

Expected<int> RunStore::open_runs_of(const std::string& user) const {
  int count = 0;
  const auto read = db_->query("SELECT count(*) FROM run WHERE is_open = 1 AND user = ?1", {user},
                               [&](const Row& row) { count = static_cast<int>(row.integer(0)); });
  if (!read) return tl::unexpected(of(read.error()));
  return count;
}

Expected<std::optional<std::string>> RunStore::payer(JobId job, UtcSeconds start) const {
  std::optional<std::string> run;
  const auto read =
      db_->query("SELECT run FROM run_allocation WHERE job = ?1 AND start = ?2",
                 {std::int64_t{job}, start}, [&](const Row& row) { run = row.text(0); });
  if (!read) return tl::unexpected(of(read.error()));
  return run;
}

Expected<void> RunStore::set_restored(std::optional<UtcSeconds> since) {
  const auto done = db_->transact([&]() -> accounting::Expected<void> {
    const auto cleared = db_->run("DELETE FROM books_restored", {});
    if (!cleared) return tl::unexpected(cleared.error());
    if (!since) return {};
    const auto kept = db_->run("INSERT INTO books_restored(since) VALUES(?1)", {*since});
    if (!kept) return tl::unexpected(kept.error());
    return {};
  });
  if (!done) return tl::unexpected(of(done.error()));
  return {};
}

Expected<std::optional<UtcSeconds>> RunStore::restored_since() const {
  std::optional<UtcSeconds> since;
  const auto read = db_->query("SELECT min(since) FROM books_restored HAVING count(*) > 0", {},
                               [&](const Row& row) { since = row.integer(0); });
  if (!read) return tl::unexpected(of(read.error()));
  return since;
}

Expected<std::vector<std::pair<std::string, UtcSeconds>>> RunStore::lately_closed() const {
  std::vector<std::pair<std::string, UtcSeconds>> closed;
  const auto read = db_->query(
      "SELECT run, time FROM run_event "
      "WHERE seq > (SELECT coalesce(max(seq), 0) - 10000 FROM run_event) AND kind = 'SegmentClosed' "
      "ORDER BY seq", {},
      [&](const Row& row) { closed.emplace_back(row.text(0), row.integer(1)); });
  if (!read) return tl::unexpected(of(read.error()));
  return closed;
}

Expected<void> RunStore::observe(const std::vector<Sighting>& sightings) {
  if (sightings.empty()) return {};
  const auto done = db_->transact([&]() -> accounting::Expected<void> {
    for (const auto& [run_id, observation] : sightings) {
      const auto kept = db_->run(
          "INSERT INTO run_observation(run, job, attempt, last_seen) VALUES(?1, ?2, ?3, ?4) "
          "ON CONFLICT(run) DO UPDATE SET job = ?2, attempt = ?3, last_seen = ?4",
          {run_id, std::int64_t{observation.job}, std::int64_t{observation.attempt},
           observation.last_seen});
      if (!kept) return tl::unexpected(kept.error());
    }
    return {};
  });
  if (!done) return tl::unexpected(of(done.error()));
  return {};
}

Expected<std::optional<Observation>> RunStore::observation(const std::string& run_id) const {
  std::optional<Observation> found;
  const auto read = db_->query(
      "SELECT job, attempt, last_seen FROM run_observation WHERE run = ?1", {run_id},
      [&](const Row& row) {
        found = Observation{static_cast<JobId>(row.integer(0)), static_cast<int>(row.integer(1)),
                            row.integer(2)};
      });
  if (!read) return tl::unexpected(of(read.error()));
  return found;
}

}  // namespace scheduler
