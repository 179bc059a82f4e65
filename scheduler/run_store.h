// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/run_store.h
//
// The runs' events, beside the ledger in one database, so that both commit together. Events are only
// added. State in memory is their replay. One thread at a time.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "accounting/database.h"
#include "scheduler/error.h"
#include "scheduler/run.h"

namespace scheduler {

// Where an attempt was last seen running: what a lost record is charged by. Not money itself, so it
// is overwritten in place.
struct Observation {
  JobId job = 0;
  int attempt = 0;
  UtcSeconds last_seen = 0;
};

struct Sighting {
  std::string run_id;
  Observation observation;
};

class RunStore {
 public:
  // Makes the tables; puts triggers back that keep events from being changed, with a finding. `db`
  // outlives the store.
  [[nodiscard]] static Expected<RunStore> open(accounting::Database& db);
  // Of books whose tables `open` has made. Asks and writes nothing.
  [[nodiscard]] static RunStore beside(accounting::Database& db) { return RunStore(db); }

  // The triggers that are missing or were changed, one sentence each. Changes nothing.
  [[nodiscard]] static Expected<std::vector<std::string>> faults_of_schema(accounting::Database& db);

  // Appends to the run's events and to `run` (its fold). Inside the caller's transaction, if any.
  [[nodiscard]] Expected<void> append(Run& run, const RunEvent& event);
  [[nodiscard]] Expected<std::optional<Run>> load(const std::string& run_id) const;
  [[nodiscard]] Expected<std::vector<Run>> load_open() const;
  // Newest first, at most `count`. `user` empty: everybody's.
  [[nodiscard]] Expected<std::vector<Run>> load_latest(const std::string& user, int count) const;
  // Every run, in the order in which they came: the next `count` at most behind `place` (0: from the
  // first), which is moved behind them. None: that was the end.
  [[nodiscard]] Expected<std::vector<Run>> load_next(std::int64_t& place, int count) const;
  [[nodiscard]] Expected<std::vector<RunEvent>> events(const std::string& run_id) const;
  [[nodiscard]] Expected<int> open_runs_of(const std::string& user) const;
  // The run to which the allocation of this job that began then is charged. Kept unique by the
  // database itself: `append` of a second charge of it is an Error.
  [[nodiscard]] Expected<std::optional<std::string>> payer(JobId job, UtcSeconds start) const;

  // Books that were restored from a copy, until Slurm was read for what the copy does not know: the
  // time of its last transfer.
  [[nodiscard]] Expected<void> set_restored(std::optional<UtcSeconds> since);
  [[nodiscard]] Expected<std::optional<UtcSeconds>> restored_since() const;

  // Runs whose segments were closed lately (the last ten thousand events), with the time.
  [[nodiscard]] Expected<std::vector<std::pair<std::string, UtcSeconds>>> lately_closed() const;
  // All of them in one transaction.
  [[nodiscard]] Expected<void> observe(const std::vector<Sighting>& sightings);
  [[nodiscard]] Expected<std::optional<Observation>> observation(const std::string& run_id) const;

 private:
  explicit RunStore(accounting::Database& db) : db_(&db) {}
  [[nodiscard]] Expected<std::vector<Run>> load_where(const std::string& sql,
                                                      const std::vector<accounting::Value>& values) const;
  [[nodiscard]] Expected<std::vector<Run>> load_all(const std::vector<std::string>& ids) const;
  accounting::Database* db_;
};

}  // namespace scheduler
