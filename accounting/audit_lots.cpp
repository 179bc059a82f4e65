// SPDX-License-Identifier: GPL-3.0-or-later
#include "accounting/audit_lots.h"

#include <fmt/format.h>

#include <algorithm>

namespace accounting {

Amount LotAuditor::room(const std::string& fund, Amount available, Amount amount) const {
  std::int64_t free = available.milli_gpu_s;
  if (const auto found = live_.find(fund); found != live_.end()) {
    for (const auto& [key, lot] : found->second) free -= lot->remaining.milli_gpu_s;
  }
  return {std::max<std::int64_t>(0, std::min(free, amount.milli_gpu_s))};
}

void LotAuditor::granted(const Transfer& t, const std::string& fund, Amount available) {
  const bool is_later = t.credit == later_account(fund);
  if (is_later != (t.start > t.ts_us / 1'000'000)) {
    faults_.push_back(fmt::format("transfer {} ({}): a grant from {} on, posted to {}.", t.seq,
                                  t.id, t.start, t.credit));
  }
  if (!is_later && t.end == 0) return;
  Lot lot{.fund = fund, .from = t.start, .expires = t.end, .is_active = !is_later,
          .remaining = is_later ? t.amount : room(fund, available, t.amount)};
  const auto placed = lots_.insert_or_assign(t.id, lot).first;
  if (!is_later) live_[fund][{t.end, t.id}] = &placed->second;
}

void LotAuditor::begun(const Transfer& t, Amount available) {
  const auto found = lots_.find(t.ref.value_or(""));
  if (found == lots_.end() || found->second.is_active || found->second.remaining != t.amount ||
      found->second.from > t.ts_us / 1'000'000) {
    faults_.push_back(fmt::format("transfer {} ({}): no grant begins here with {} mGPUs.", t.seq,
                                  t.id, t.amount.milli_gpu_s));
    return;
  }
  Lot& lot = found->second;
  lot.is_active = true;
  lot.remaining = lot.expires == 0 ? Amount{0} : room(lot.fund, available, t.amount);
  if (lot.expires != 0) live_[lot.fund][{lot.expires, found->first}] = &lot;
}

void LotAuditor::expired(const Transfer& t) {
  const auto found = lots_.find(t.ref.value_or(""));
  if (found == lots_.end() || !found->second.is_active || found->second.remaining != t.amount ||
      found->second.expires == 0 || found->second.expires > t.ts_us / 1'000'000) {
    faults_.push_back(fmt::format("transfer {} ({}): no grant expires here with {} mGPUs.", t.seq,
                                  t.id, t.amount.milli_gpu_s));
    return;
  }
  found->second.remaining = {0};
}

void LotAuditor::held(const Transfer& t, const std::string& fund, const std::string& hold_id) {
  const bool is_quotes = t.kind == "hold" && t.ref;
  const bool is_passed_on =
      is_quotes && t.seq == passed_on_seq_ + 1 && *t.ref == passed_on_quote_;
  if (is_quotes) quotes_[hold_id] = *t.ref;
  std::int64_t left = t.amount.milli_gpu_s;
  const auto found = live_.find(fund);
  if (found == live_.end()) return;
  for (auto& [key, lot] : found->second) {
    if (!is_passed_on && lot->remaining > Amount{0} && lot->expires <= t.ts_us / 1'000'000) {
      faults_.push_back(fmt::format("transfer {} ({}): it spends of grant {}, which had expired.",
                                    t.seq, t.id, key.second));
    }
    const std::int64_t part = std::min(left, lot->remaining.milli_gpu_s);
    if (part <= 0) continue;
    lot->remaining.milli_gpu_s -= part;
    draws_[hold_id][key].milli_gpu_s += part;
    left -= part;
  }
}

void LotAuditor::charged(const std::string& hold_id, Amount amount) {
  const auto found = draws_.find(hold_id);
  if (found == draws_.end()) return;
  for (auto& [key, draw] : found->second) {
    const std::int64_t part = std::min(amount.milli_gpu_s, draw.milli_gpu_s);
    draw.milli_gpu_s -= part;
    amount.milli_gpu_s -= part;
  }
}

void LotAuditor::returned(const Transfer& t, Amount remaining_before) {
  const std::string& hold_id = t.hold_id;
  if (const auto quote = quotes_.find(hold_id); t.kind == "release" && quote != quotes_.end()) {
    passed_on_seq_ = t.seq;
    passed_on_quote_ = quote->second;
  }
  const auto found = draws_.find(hold_id);
  if (found == draws_.end()) return;
  std::int64_t drawn = 0;
  for (const auto& [key, draw] : found->second) drawn += draw.milli_gpu_s;
  // After it the hold has this much; what is drawn beyond that goes back, latest first.
  const std::int64_t kept = remaining_before.milli_gpu_s - t.amount.milli_gpu_s;
  std::int64_t back = std::max<std::int64_t>(0, drawn - kept);
  for (auto draw = found->second.rbegin(); draw != found->second.rend(); ++draw) {
    const std::int64_t part = std::min(back, draw->second.milli_gpu_s);
    draw->second.milli_gpu_s -= part;
    lots_.at(draw->first.second).remaining.milli_gpu_s += part;
    back -= part;
  }
}

void LotAuditor::repaid(const std::string& fund, Amount amount) {
  for (auto& [key, lot] : live_[fund]) {
    const std::int64_t part = std::min(amount.milli_gpu_s, lot->remaining.milli_gpu_s);
    lot->remaining.milli_gpu_s -= part;
    amount.milli_gpu_s -= part;
  }
}

Expected<void> LotAuditor::compare(Database& db) {
  std::size_t rows = 0;
  auto done = db.query(
      "SELECT grant_id, fund, from_s, expires_s, is_active, remaining FROM lot", {},
      [&](const Row& row) {
        ++rows;
        const auto found = lots_.find(row.text(0));
        if (found == lots_.end() || found->second.fund != row.text(1) ||
            found->second.from != row.integer(2) || found->second.expires != row.integer(3) ||
            found->second.is_active != (row.integer(4) != 0) ||
            found->second.remaining != Amount{row.integer(5)}) {
          faults_.push_back(fmt::format(
              "lot {}: stored with {} mGPUs left, transfers give {}.", row.text(0), row.integer(5),
              found == lots_.end() ? 0 : found->second.remaining.milli_gpu_s));
        }
      });
  if (!done) return done;
  if (rows != lots_.size()) {
    faults_.push_back(fmt::format("lots: {} are stored, transfers give {}.", rows, lots_.size()));
  }
  std::int64_t drawn = 0;
  for (const auto& [hold, draws] : draws_) {
    for (const auto& [key, draw] : draws) drawn += draw.milli_gpu_s;
  }
  std::int64_t stored = 0;
  done = db.query("SELECT hold_id, grant_id, remaining FROM lot_draw", {}, [&](const Row& row) {
    stored += row.integer(2);
    const auto lot = lots_.find(row.text(1));
    const Soonest key{lot == lots_.end() ? 0 : lot->second.expires, row.text(1)};
    const Amount computed = draws_[row.text(0)][key];
    if (computed != Amount{row.integer(2)}) {
      faults_.push_back(fmt::format("hold {}: stored with {} mGPUs of grant {}, transfers give {}.",
                                    row.text(0), row.integer(2), row.text(1),
                                    computed.milli_gpu_s));
    }
  });
  if (done && stored != drawn) {
    faults_.push_back(fmt::format("holds: stored with {} mGPUs of dated grants, transfers give {}.",
                                  stored, drawn));
  }
  return done;
}

}  // namespace accounting
