// SPDX-License-Identifier: GPL-3.0-or-later
#include "accounting/alerts.h"

#include <fmt/format.h>

namespace accounting {
namespace {

constexpr std::int64_t kTriesMax = 5;
constexpr std::int64_t kFirstRetry_s = 60;

constexpr int kSlackPercent = 5;  // A level counts as left when use is below it by this.

struct Arm {
  std::int64_t seq = 0;
  Amount given;  // Without what of it has expired unused since.
  int level = 0;
};

Error failed(const Error& error) { return {"alerts: " + error.message}; }

Expected<std::int64_t> newest_grant(Database& db, const std::string& fund) {
  std::int64_t seq = 0;
  const auto read = db.query(
      // The index: a fund has few grants, and may have very many releases.
      "SELECT max((SELECT coalesce(max(seq), 0) FROM transfer INDEXED BY transfer_grant "
      "             WHERE credit = ?1 AND kind = 'grant'), "
      "           (SELECT coalesce(max(seq), 0) FROM transfer INDEXED BY transfer_begin "
      "             WHERE credit = ?1 AND kind = 'begin'))",
      {"fund:" + fund}, [&seq](const Row& row) { seq = row.integer(0); });
  if (!read) return tl::unexpected(failed(read.error()));
  return seq;
}

// What of the fund has expired unused since the transfer `seq`.
Expected<Amount> expired_since(Database& db, const std::string& fund, std::int64_t seq) {
  Amount expired;
  const auto read = db.query(
      "SELECT coalesce(sum(amount), 0) FROM transfer INDEXED BY transfer_credit "
      "WHERE credit = ?1 AND kind = 'expire' AND seq > ?2",
      {"expired:" + fund, seq}, [&expired](const Row& row) { expired = {row.integer(0)}; });
  if (!read) return tl::unexpected(failed(read.error()));
  return expired;
}

// The fund's arm, made or renewed where a grant came since the last look.
Expected<Arm> arm_of(Database& db, const FundBalance& balance) {
  const auto newest = newest_grant(db, balance.fund);
  if (!newest) return tl::unexpected(newest.error());
  const auto expired = expired_since(db, balance.fund, *newest);
  if (!expired) return tl::unexpected(expired.error());
  Arm arm;
  bool is_known = false;
  const auto read = db.query("SELECT armed_seq, given, level FROM alert_arm WHERE fund = ?1",
                             {balance.fund}, [&](const Row& row) {
                               is_known = true;
                               arm = {row.integer(0), {row.integer(1)},
                                      static_cast<int>(row.integer(2))};
                             });
  if (!read) return tl::unexpected(failed(read.error()));
  if (is_known && arm.seq == *newest) {
    arm.given.milli_gpu_s -= expired->milli_gpu_s;
    return arm;
  }
  // A fund that is met for the first time is reckoned from all that it was given.
  arm = {*newest,
         {is_known ? balance.available.milli_gpu_s + balance.held.milli_gpu_s
                   : balance.granted.milli_gpu_s - balance.later.milli_gpu_s -
                         balance.expired.milli_gpu_s},
         0};
  // Kept is what it had at that transfer: what expired since is taken off at every look.
  const auto kept = db.run(
      "INSERT INTO alert_arm (fund, armed_seq, given, level) VALUES (?1, ?2, ?3, 0) "
      "ON CONFLICT (fund) DO UPDATE SET armed_seq = ?2, given = ?3, level = 0",
      {balance.fund, arm.seq, arm.given.milli_gpu_s + expired->milli_gpu_s});
  if (!kept) return tl::unexpected(failed(kept.error()));
  return arm;
}

// The highest level that is reached, or is by up to `slack_percent` not.
int level_of(Amount given, Amount available, int slack_percent = 0) {
  if (given <= Amount{0}) return 0;
  __extension__ using Wide = __int128;
  const Wide gone = Wide{given.milli_gpu_s} - available.milli_gpu_s;
  int level = 0;
  for (const int candidate : {80, 95, 100}) {
    if (gone * 100 >= Wide{given.milli_gpu_s} * (candidate - slack_percent)) level = candidate;
  }
  return level;
}

Expected<void> keep_level(Database& db, const std::string& fund, int level) {
  const auto done = db.run("UPDATE alert_arm SET level = ?2 WHERE fund = ?1",
                           {fund, std::int64_t{level}});
  if (!done) return tl::unexpected(done.error());
  return {};
}

// With the newest transfer of that time in armed_seq: a level is reached again by a later one only.
Expected<void> write_down(Database& db, Alert& alert, const std::vector<std::string>& channels) {
  auto done = db.run(
      "INSERT INTO alert (fund, level, armed_seq, available, given, at_s) "
      "VALUES (?1, ?2, (SELECT coalesce(max(seq), 0) FROM transfer), ?3, ?4, ?5)",
      {alert.fund, std::int64_t{alert.level}, alert.available.milli_gpu_s,
       alert.given.milli_gpu_s, alert.when});
  if (!done) return tl::unexpected(done.error());
  if (auto kept = keep_level(db, alert.fund, alert.level); !kept) return kept;
  const auto read = db.query("SELECT max(number) FROM alert", {},
                             [&alert](const Row& row) { alert.number = row.integer(0); });
  if (!read) return read;
  for (const std::string& channel : channels) {
    done = db.run(
        "INSERT INTO alert_way (alert, channel, state, tries, next_s) "
        "VALUES (?1, ?2, 'waiting', 0, ?3)",
        {alert.number, channel, alert.when});
    if (!done) return tl::unexpected(done.error());
  }
  return {};
}

}  // namespace

std::string text_of(const Alert& alert) {
  return fmt::format("fund {} has used or set aside {} % of its {}: {} are left", alert.fund,
                     alert.level, to_gpu_hours(alert.given), to_gpu_hours(alert.available));
}

Expected<std::vector<Alert>> raise_alerts(Database& db, const Ledger& ledger,
                                          const std::vector<std::string>& channels,
                                          UtcSeconds now) {
  std::vector<Alert> raised;
  const auto balances = ledger.balances();
  if (!balances) return tl::unexpected(balances.error());
  const auto done = db.transact([&]() -> Expected<void> {
    raised.clear();
    for (const FundBalance& balance : *balances) {
      const auto arm = arm_of(db, balance);
      if (!arm) return tl::unexpected(arm.error());
      const int level = level_of(arm->given, balance.available);
      const int left = level_of(arm->given, balance.available, kSlackPercent);
      if (left < arm->level) {
        if (auto kept = keep_level(db, balance.fund, left); !kept) return kept;
      }
      if (level <= arm->level) continue;
      Alert alert{.number = 0, .fund = balance.fund, .level = level,
                  .available = balance.available, .given = arm->given, .when = now};
      if (auto written = write_down(db, alert, channels); !written) return written;
      raised.push_back(alert);
    }
    return {};
  });
  if (!done) return tl::unexpected(failed(done.error()));
  return raised;
}

Expected<std::vector<Alert>> take_alerts(Database& db, const std::string& channel, int count,
                                         UtcSeconds now) {
  std::vector<Alert> taken;
  const auto done = db.transact([&]() -> Expected<void> {
    taken.clear();
    auto read = db.query(
        "SELECT number, fund, level, available, given, at_s FROM alert_way JOIN alert "
        "ON number = alert WHERE channel = ?1 AND state = 'waiting' AND next_s <= ?2 "
        "ORDER BY number LIMIT ?3",
        {channel, now, std::int64_t{count}}, [&taken](const Row& row) {
          taken.push_back({row.integer(0), row.text(1), static_cast<int>(row.integer(2)),
                           {row.integer(3)}, {row.integer(4)}, row.integer(5)});
        });
    if (!read) return read;
    for (const Alert& alert : taken) {
      const auto marked = db.run(
          "UPDATE alert_way SET state = 'sending', tries = tries + 1 WHERE alert = ?1 AND channel = ?2",
          {alert.number, channel});
      if (!marked) return tl::unexpected(marked.error());
    }
    return {};
  });
  if (!done) return tl::unexpected(failed(done.error()));
  return taken;
}

Expected<void> alert_sent(Database& db, std::int64_t number, const std::string& channel) {
  const auto done = db.run(
      "UPDATE alert_way SET state = 'sent' WHERE alert = ?1 AND channel = ?2", {number, channel});
  if (!done) return tl::unexpected(failed(done.error()));
  return {};
}

Expected<bool> alert_failed(Database& db, std::int64_t number, const std::string& channel,
                            UtcSeconds now) {
  std::int64_t tries = 0;
  const auto read = db.query("SELECT tries FROM alert_way WHERE alert = ?1 AND channel = ?2",
                             {number, channel}, [&tries](const Row& row) { tries = row.integer(0); });
  if (!read) return tl::unexpected(failed(read.error()));
  const bool is_again = tries < kTriesMax;
  const std::int64_t wait_s = kFirstRetry_s << std::max<std::int64_t>(0, std::min(tries, kTriesMax) - 1);
  const auto done = db.run(
      "UPDATE alert_way SET state = ?3, next_s = ?4 WHERE alert = ?1 AND channel = ?2",
      {number, channel, std::string(is_again ? "waiting" : "failed"), now + wait_s});
  if (!done) return tl::unexpected(failed(done.error()));
  return is_again;
}

}  // namespace accounting
