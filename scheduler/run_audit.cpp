// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/run_audit.h"

#include <map>
#include <utility>

#include <fmt/format.h>

#include "accounting/tariff.h"
#include "accounting/till.h"

namespace scheduler {
namespace {

using accounting::Row;

struct KnownCharge {
  const Segment* segment;
  const AttemptCharged* charge;
  bool has_transfer = false;
};
struct KnownHold {
  std::string run;
  const Segment* segment;
  bool has_transfer = false;
};

std::string charge_text(std::int64_t gpus, std::int64_t seconds, std::int64_t weight_milli,
                        std::int64_t charged, std::int64_t refunded) {
  return fmt::format("{} GPU x {} s x {} = {} mGPUs, of them {} given back by policy", gpus, seconds,
                     accounting::format_weight(weight_milli), charged, refunded);
}

constexpr const char* kHolds =
    "SELECT h.id, h.fund, coalesce(t.ref, ''), t.amount, h.remaining, h.closed_seq IS NULL "
    "FROM hold h JOIN transfer t ON t.id = h.id ";

std::string unknown_charge(const std::string& id, std::int64_t amount) {
  return fmt::format("charge {}: the ledger has {} mGPUs, and no event of a run knows of it.", id, amount);
}

Expected<void> compare_charges(accounting::Database& db, const Run& run,
                               std::vector<std::string>& faults) {
  // A charge's id is CLUSTER/RUN/SEGMENT/NUMBER, its event has the last three.
  std::map<std::string, KnownCharge> known;
  for (const Segment& segment : run.segments) {
    for (const AttemptCharged& charge : segment.charges) {
      known.emplace(fmt::format("{}/{}/{}", run.id, segment.index, charge.attempt),
                    KnownCharge{&segment, &charge});
    }
  }
  const auto read = db.query(
      "SELECT c.id, c.hold_id, c.gpus, c.seconds, c.weight_milli, c.start_s, c.end_s, c.amount, "
      "(SELECT coalesce(sum(r.amount), 0) FROM transfer r "
      " WHERE r.ref = c.id AND r.kind = 'refund' AND r.actor = 'policy') "
      "FROM transfer c WHERE c.run = ?1 AND c.kind = 'charge' ORDER BY c.seq",
      {run.id}, [&](const Row& row) {
        const std::string id = row.text(0);
        const auto found = known.find(id.substr(id.find('/') + 1));
        if (found == known.end()) {
          faults.push_back(unknown_charge(id, row.integer(7)));
          return;
        }
        found->second.has_transfer = true;
        const Segment& segment = *found->second.segment;
        const AttemptCharged& charge = *found->second.charge;
        const std::string ledger = charge_text(row.integer(2), row.integer(3), row.integer(4),
                                               row.integer(7), row.integer(8));
        const std::string event =
            charge_text(charge.gpus, charge.end - charge.start, segment.plan.quote.weight_milli,
                        charge.charged.milli_gpu_s, charge.refunded.milli_gpu_s);
        const bool is_same = ledger == event && row.text(1) == segment.hold_id &&
                             row.integer(5) == charge.start && row.integer(6) == charge.end;
        if (is_same) return;
        faults.push_back(fmt::format(
            "charge {}: the ledger has {} of hold {} from {} to {}; the event of its run has {} of "
            "hold {} from {} to {}.", id, ledger, row.text(1), accounting::format_utc(row.integer(5)),
            accounting::format_utc(row.integer(6)), event, segment.hold_id,
            accounting::format_utc(charge.start), accounting::format_utc(charge.end)));
      });
  if (!read) return tl::unexpected(Error{"the books: " + read.error().message});
  for (const auto& [id, charge] : known) {
    if (charge.has_transfer) continue;
    faults.push_back(fmt::format("charge {}: an event of its run has {} mGPUs, and the ledger has no "
                                 "such charge.", id, charge.charge->charged.milli_gpu_s));
  }
  return {};
}

// Why an open hold that no open segment has is not the one that keeps a quote's hours.
Expected<std::string> why_not_of_quote(const accounting::Till& till, const std::string& hold,
                                       const std::string& fund, const std::string& quote_id) {
  if (!hold.starts_with("quote/") || quote_id.empty()) return std::string("no open segment has it");
  const auto quote = till.quote(quote_id);
  if (!quote) return tl::unexpected(Error{"the books: " + quote.error().message});
  if (!*quote) return fmt::format("there is no quote {}", quote_id);
  if (!(*quote)->run.empty()) {
    return fmt::format("quote {} was used by run {}", quote_id, (*quote)->run);
  }
  if ((*quote)->fund != fund) return fmt::format("quote {} is for {}", quote_id, (*quote)->fund);
  return std::string();
}

// A hold as the ledger has it.
struct LedgerHold {
  std::string id, fund, quote;
  std::int64_t amount = 0, remaining = 0;
  bool is_open = false;
};

void compare_hold(const LedgerHold& hold, const KnownHold& known, std::vector<std::string>& faults) {
  const Segment& segment = *known.segment;
  if (hold.is_open == segment.closed.has_value()) {
    faults.push_back(fmt::format("hold {}: it is {} in the ledger, and segment {} of run {} is {}.",
                                 hold.id, hold.is_open ? "open" : "closed", segment.index, known.run,
                                 segment.closed ? "closed" : "open"));
    return;
  }
  const std::int64_t remaining = hold.is_open ? segment.remaining().milli_gpu_s : 0;
  const bool is_same = hold.fund == segment.plan.fund &&
                       hold.amount == segment.plan.quote.hold.milli_gpu_s &&
                       hold.remaining == remaining;
  if (is_same) return;
  faults.push_back(fmt::format(
      "hold {}: the ledger has {} mGPUs of {}, {} of them left; segment {} of run {} has {} mGPUs of "
      "{}, {} of them left.", hold.id, hold.amount, hold.fund, hold.remaining, segment.index, known.run,
      segment.plan.quote.hold.milli_gpu_s, segment.plan.fund, remaining));
}

LedgerHold hold_of(const Row& row) {
  return {row.text(0), row.text(1), row.text(2), row.integer(3), row.integer(4), row.integer(5) != 0};
}

Expected<void> tell_of_unclaimed(const accounting::Till& till, const std::vector<LedgerHold>& holds,
                                 std::vector<std::string>& faults) {
  for (const LedgerHold& hold : holds) {
    const auto why = why_not_of_quote(till, hold.id, hold.fund, hold.quote);
    if (!why) return tl::unexpected(why.error());
    if (why->empty()) continue;
    faults.push_back(fmt::format("hold {}: {} mGPUs of {} are set aside, and {}.", hold.id,
                                 hold.remaining, hold.fund, *why));
  }
  return {};
}

Expected<void> compare_holds(accounting::Database& db, const accounting::Till& till, const Run& run,
                             std::vector<std::string>& faults) {
  std::map<std::string, KnownHold> known;
  for (const Segment& segment : run.segments) {
    known.emplace(segment.hold_id, KnownHold{run.id, &segment});
  }
  std::vector<LedgerHold> unclaimed;
  const auto read = db.query(std::string(kHolds) + "WHERE h.run = ?1 ORDER BY t.seq", {run.id},
                             [&](const Row& row) {
                               LedgerHold hold = hold_of(row);
                               const auto found = known.find(hold.id);
                               if (found != known.end()) {
                                 found->second.has_transfer = true;
                                 compare_hold(hold, found->second, faults);
                               } else if (hold.is_open) {
                                 unclaimed.push_back(std::move(hold));
                               }
                             });
  if (!read) return tl::unexpected(Error{"the books: " + read.error().message});
  if (auto told = tell_of_unclaimed(till, unclaimed, faults); !told) return told;
  for (const auto& [id, hold] : known) {
    if (hold.has_transfer) continue;
    faults.push_back(fmt::format("hold {}: segment {} of run {} has it, and the ledger does not.", id,
                                 hold.segment->index, hold.run));
  }
  return {};
}

// No allocation is paid twice, whatever runs it was taken for.
accounting::Expected<void> find_double_charges(accounting::Database& db,
                                               std::vector<std::string>& faults) {
  std::int64_t job = 0, start = 0;
  std::string payer;
  return db.query(
      "SELECT json_extract(body, '$.job') AS job, json_extract(body, '$.start') AS start, run "
      "FROM run_event WHERE kind = 'AttemptCharged' AND json_extract(body, '$.end') <> start "
      "ORDER BY job, start, seq",
      {}, [&](const Row& row) {
        if (!payer.empty() && job == row.integer(0) && start == row.integer(1)) {
          faults.push_back(fmt::format("job {} from {} on is charged to run {} and to run {}", job,
                                       accounting::format_utc(start), payer, row.text(2)));
          return;
        }
        job = row.integer(0);
        start = row.integer(1);
        payer = row.text(2);
      });
}

}  // namespace

Expected<std::vector<std::string>> compare_with_ledger(accounting::Database& db,
                                                       accounting::Ledger& ledger,
                                                       const std::vector<Run>& runs) {
  // Not opened: that would put back what somebody took away.
  const accounting::Till till(db, ledger);
  std::vector<std::string> faults;
  for (const Run& run : runs) {
    auto done = compare_charges(db, run, faults);
    if (done) done = compare_holds(db, till, run, faults);
    if (!done) return tl::unexpected(done.error());
  }
  return faults;
}

Expected<std::vector<std::string>> faults_of_all_runs(accounting::Database& db,
                                                      accounting::Ledger& ledger) {
  const accounting::Till till(db, ledger);
  std::vector<std::string> faults;
  std::vector<LedgerHold> unclaimed;
  Expected<void> told;
  const auto done = db.snapshot([&]() -> accounting::Expected<void> {
    auto read = db.query(
        "SELECT id, amount FROM transfer c WHERE kind = 'charge' "
        "AND NOT EXISTS (SELECT 1 FROM run_event e WHERE e.run = c.run) ORDER BY seq",
        {}, [&](const Row& row) { faults.push_back(unknown_charge(row.text(0), row.integer(1))); });
    if (!read) return read;
    read = db.query(std::string(kHolds) + "WHERE h.closed_seq IS NULL AND NOT EXISTS "
                    "(SELECT 1 FROM run_event e WHERE e.run = h.run) ORDER BY t.seq",
                    {}, [&](const Row& row) { unclaimed.push_back(hold_of(row)); });
    if (!read) return read;
    told = tell_of_unclaimed(till, unclaimed, faults);
    return find_double_charges(db, faults);
  });
  if (!done) return tl::unexpected(Error{"the books: " + done.error().message});
  if (!told) return tl::unexpected(told.error());
  return faults;
}

}  // namespace scheduler
