// SPDX-License-Identifier: GPL-3.0-or-later
#include "accounting/lots.h"

#include <algorithm>

#include "accounting/posting.h"

namespace accounting {
namespace {

struct Part {
  std::string grant_id;
  Amount remaining;
};

Expected<std::vector<Part>> parts_of(Database& db, std::string_view sql, const std::string& key) {
  std::vector<Part> parts;
  auto done = db.query(sql, {key}, [&parts](const Row& row) {
    parts.push_back({row.text(0), {row.integer(1)}});
  });
  if (!done) return tl::unexpected(done.error());
  return parts;
}

Expected<void> changed(Expected<std::int64_t> done) {
  if (!done) return tl::unexpected(std::move(done.error()));
  return {};
}

Expected<void> add_to_lot(Database& db, const std::string& grant_id, Amount amount) {
  return changed(db.run("UPDATE lot SET remaining = remaining + ?2 WHERE grant_id = ?1",
                        {grant_id, amount.milli_gpu_s}));
}

Expected<void> take_from_draw(Database& db, const std::string& hold_id,
                              const std::string& grant_id, Amount amount) {
  return changed(db.run("UPDATE lot_draw SET remaining = remaining - ?3 "
                        "WHERE hold_id = ?1 AND grant_id = ?2",
                        {hold_id, grant_id, amount.milli_gpu_s}));
}

Expected<void> add_to_draw(Database& db, const std::string& hold_id, const std::string& grant_id,
                           Amount amount) {
  return changed(db.run("INSERT INTO lot_draw (hold_id, grant_id, remaining) VALUES (?1, ?2, ?3) "
                        "ON CONFLICT (hold_id, grant_id) DO UPDATE SET remaining = remaining + ?3",
                        {hold_id, grant_id, amount.milli_gpu_s}));
}

Expected<std::vector<Part>> live_lots(Database& db, const std::string& fund) {
  return parts_of(db,
                  "SELECT grant_id, remaining FROM lot WHERE fund = ?1 AND is_active = 1 "
                  "AND expires_s > 0 AND remaining > 0 ORDER BY expires_s, grant_id",
                  fund);
}

Expected<std::vector<Part>> draws_of(Database& db, const std::string& hold_id) {
  return parts_of(db,
                  "SELECT d.grant_id, d.remaining FROM lot_draw d JOIN lot USING (grant_id) "
                  "WHERE d.hold_id = ?1 AND d.remaining > 0 ORDER BY lot.expires_s, d.grant_id",
                  hold_id);
}

// What of `amount`, new in the fund, is left once a used credit is filled up.
Expected<Amount> beyond_credit(Database& db, const std::string& fund, Amount amount) {
  const auto free = undated_of(db, fund);
  if (!free) return tl::unexpected(free.error());
  return Amount{std::clamp<std::int64_t>(free->milli_gpu_s, 0, amount.milli_gpu_s)};
}

struct DueLot {
  std::string grant_id;
  std::string fund;
  UtcSeconds expires = 0;
  Amount remaining;
};

Expected<std::vector<DueLot>> due_lots(Database& db, std::string_view where,
                                       const std::string& fund, UtcSeconds time) {
  std::vector<DueLot> due;
  auto done = db.query(
      "SELECT grant_id, fund, expires_s, remaining FROM lot WHERE " +
          std::string(fund.empty() ? "?1 = '' AND " : "fund = ?1 AND ") + std::string(where),
      {fund, time}, [&due](const Row& row) {
        due.push_back({row.text(0), row.text(1), row.integer(2), {row.integer(3)}});
      });
  if (!done) return tl::unexpected(done.error());
  return due;
}

Transfer own_transfer(std::string kind, std::string id, const DueLot& lot) {
  Transfer transfer;
  transfer.kind = std::move(kind);
  transfer.id = std::move(id);
  transfer.amount = lot.remaining;
  transfer.ref = lot.grant_id;
  transfer.content_hash = own_content_hash(transfer.kind, transfer.id);
  return transfer;
}

Expected<void> begin_lot(Database& db, const DueLot& lot, UtcSeconds now) {
  Transfer transfer = own_transfer("begin", begin_id(lot.grant_id), lot);
  transfer.debit = later_account(lot.fund);
  transfer.credit = fund_account(lot.fund);
  if (auto done = post(db, transfer, now); !done) return done;
  const auto free = beyond_credit(db, lot.fund, lot.remaining);
  if (!free) return tl::unexpected(free.error());
  const Amount kept = lot.expires == 0 ? Amount{0} : *free;
  auto done = changed(db.run("UPDATE lot SET is_active = 1, remaining = ?2 WHERE grant_id = ?1",
                             {lot.grant_id, kept.milli_gpu_s}));
  if (done) done = repay(db, lot.fund, transfer.id, now);
  return done;
}

Expected<void> expire_lot(Database& db, const DueLot& lot, UtcSeconds now) {
  std::int64_t earlier = 0;  // What a hold had of it may come back after it expired.
  auto done = db.query("SELECT count(*) FROM transfer WHERE ref = ?1 AND kind = 'expire'",
                       {lot.grant_id}, [&earlier](const Row& row) { earlier = row.integer(0); });
  if (!done) return done;
  Transfer transfer = own_transfer("expire", expire_id(lot.grant_id, earlier), lot);
  transfer.debit = fund_account(lot.fund);
  transfer.credit = expired_account(lot.fund);
  done = open_account(db, transfer.credit, "expired", nullptr);
  if (done) done = post(db, transfer, now);
  if (done) done = add_to_lot(db, lot.grant_id, {-lot.remaining.milli_gpu_s});
  return done;
}

}  // namespace

Expected<UtcSeconds> ledger_time(Database& db, UtcSeconds now) {
  UtcSeconds time = within_calendar(now);
  auto done = db.query("SELECT ts_us FROM transfer ORDER BY seq DESC LIMIT 1", {},
                       [&time](const Row& last) {
                         time = std::max(time, last.integer(0) / 1'000'000);
                       });
  if (!done) return tl::unexpected(done.error());
  return time;
}

Expected<Amount> undated_of(Database& db, const std::string& fund) {
  const auto available = account_balance(db, fund_account(fund));
  if (!available) return tl::unexpected(available.error());
  const auto lots = live_lots(db, fund);
  if (!lots) return tl::unexpected(lots.error());
  std::int64_t undated = available->value_or(Amount{0}).milli_gpu_s;
  for (const Part& lot : *lots) undated -= lot.remaining.milli_gpu_s;
  return Amount{undated};
}

Expected<void> open_lot(Database& db, const Transfer& grant, const std::string& fund) {
  const bool is_later = grant.credit == later_account(fund);
  Amount remaining = grant.amount;
  if (!is_later) {
    const auto free = beyond_credit(db, fund, grant.amount);
    if (!free) return tl::unexpected(free.error());
    remaining = *free;
  }
  return changed(
      db.run("INSERT INTO lot (grant_id, fund, from_s, expires_s, is_active, remaining) "
             "VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
             {grant.id, fund, grant.start, grant.end, std::int64_t{is_later ? 0 : 1},
              remaining.milli_gpu_s}));
}

Expected<void> draw_from_lots(Database& db, const std::string& fund, const std::string& hold_id,
                              Amount amount) {
  const auto lots = live_lots(db, fund);
  if (!lots) return tl::unexpected(lots.error());
  for (const Part& lot : *lots) {
    const Amount part = std::min(amount, lot.remaining);
    if (part <= Amount{0}) break;
    auto done = add_to_lot(db, lot.grant_id, {-part.milli_gpu_s});
    if (done) done = add_to_draw(db, hold_id, lot.grant_id, part);
    if (!done) return done;
    amount.milli_gpu_s -= part.milli_gpu_s;
  }
  return {};
}

Expected<void> use_up_draws(Database& db, const std::string& hold_id, Amount amount) {
  const auto draws = draws_of(db, hold_id);
  if (!draws) return tl::unexpected(draws.error());
  for (const Part& draw : *draws) {
    const Amount part = std::min(amount, draw.remaining);
    if (part <= Amount{0}) break;
    if (auto done = take_from_draw(db, hold_id, draw.grant_id, part); !done) return done;
    amount.milli_gpu_s -= part.milli_gpu_s;
  }
  return {};
}

Expected<void> return_draws(Database& db, const std::string& hold_id, Amount remaining_before,
                            Amount amount) {
  const auto draws = draws_of(db, hold_id);
  if (!draws) return tl::unexpected(draws.error());
  // What never expires goes back first, then what expires last: the hold keeps what would be lost
  // soonest.
  std::int64_t undated = remaining_before.milli_gpu_s;
  for (const Part& draw : *draws) undated -= draw.remaining.milli_gpu_s;
  std::int64_t left = amount.milli_gpu_s - std::min(amount.milli_gpu_s, undated);
  for (auto draw = draws->rbegin(); draw != draws->rend() && left > 0; ++draw) {
    const std::int64_t part = std::min(left, draw->remaining.milli_gpu_s);
    auto done = take_from_draw(db, hold_id, draw->grant_id, {part});
    if (done) done = add_to_lot(db, draw->grant_id, {part});
    if (!done) return done;
    left -= part;
  }
  return {};
}

Expected<void> spend_from_lots(Database& db, const std::string& fund, Amount amount) {
  const auto lots = live_lots(db, fund);
  if (!lots) return tl::unexpected(lots.error());
  for (const Part& lot : *lots) {
    const Amount part = std::min(amount, lot.remaining);
    if (part <= Amount{0}) break;
    if (auto done = add_to_lot(db, lot.grant_id, {-part.milli_gpu_s}); !done) return done;
    amount.milli_gpu_s -= part.milli_gpu_s;
  }
  return {};
}

Expected<std::int64_t> turn_lots(Database& db, const std::string& fund, UtcSeconds now) {
  const auto time = ledger_time(db, now);
  if (!time) return tl::unexpected(time.error());
  const auto begins =
      due_lots(db, "is_active = 0 AND from_s <= ?2 ORDER BY from_s, grant_id", fund, *time);
  if (!begins) return tl::unexpected(begins.error());
  for (const DueLot& lot : *begins) {
    if (auto done = begin_lot(db, lot, now); !done) return tl::unexpected(done.error());
  }
  const auto ends = due_lots(db,
                             "is_active = 1 AND remaining > 0 AND expires_s > 0 "
                             "AND expires_s <= ?2 ORDER BY expires_s, grant_id",
                             fund, *time);
  if (!ends) return tl::unexpected(ends.error());
  for (const DueLot& lot : *ends) {
    if (auto done = expire_lot(db, lot, now); !done) return tl::unexpected(done.error());
  }
  return static_cast<std::int64_t>(begins->size() + ends->size());
}

}  // namespace accounting
