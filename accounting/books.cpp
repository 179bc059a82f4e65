// SPDX-License-Identifier: GPL-3.0-or-later
//
// What the ledger shows: balances, holds, settings, statements, findings. Nothing here writes a
// transfer.
#include <fmt/format.h>

#include <map>
#include <utility>

#include "accounting/ledger.h"
#include "accounting/member_limits.h"
#include "accounting/posting.h"

namespace accounting {
namespace {

// What the account had after transfer `seq`, by the newest transfer of it up to there.
Expected<Amount> balance_after(Database& db, const std::string& account, std::int64_t seq) {
  Amount balance;
  auto done = db.query(
      "SELECT * FROM (SELECT seq, debit_after FROM transfer WHERE debit = ?1 AND seq <= ?2 "
      "               ORDER BY seq DESC LIMIT 1) "
      "UNION ALL "
      "SELECT * FROM (SELECT seq, credit_after FROM transfer WHERE credit = ?1 AND seq <= ?2 "
      "               ORDER BY seq DESC LIMIT 1) ORDER BY seq DESC LIMIT 1",
      {account, seq}, [&balance](const Row& row) { balance = {row.integer(1)}; });
  if (!done) return tl::unexpected(done.error());
  return balance;
}

// The balances of one fund, from line to line.
class Running {
 public:
  // `follows`: the transfer is the fund's next after the one before.
  Expected<void> move(Database& db, const std::string& fund, const Transfer& t, bool follows) {
    const std::string free = fund_account(fund), set_aside = held_account(fund);
    auto done = move_one(db, t, free, follows, available);
    return done ? move_one(db, t, set_aside, follows, held) : done;
  }
  std::optional<Amount> available, held;

 private:
  static Expected<void> move_one(Database& db, const Transfer& t, const std::string& account,
                                 bool follows, std::optional<Amount>& balance) {
    if (t.debit == account) {
      balance = t.debit_after;
    } else if (t.credit == account) {
      balance = t.credit_after;
    } else if (!follows || !balance) {
      const auto found = balance_after(db, account, t.seq);
      if (!found) return tl::unexpected(found.error());
      balance = *found;
    }
    return {};
  }
};

// The first transfer at or after this second; beyond the last where there is none. Times grow with
// the numbers.
Expected<std::int64_t> first_at(Database& db, UtcSeconds when) {
  std::int64_t low = 1, high = 1;
  auto done = db.query("SELECT coalesce(max(seq), 0) + 1 FROM transfer", {},
                       [&high](const Row& row) { high = row.integer(0); });
  while (done && low < high) {
    const std::int64_t middle = low + (high - low) / 2;
    bool is_earlier = false;
    done = db.query("SELECT ts_us FROM transfer WHERE seq >= ?1 ORDER BY seq LIMIT 1", {middle},
                    [&](const Row& row) { is_earlier = row.integer(0) / 1'000'000 < when; });
    (is_earlier ? low : high) = is_earlier ? middle + 1 : middle;
  }
  if (!done) return tl::unexpected(done.error());
  return low;
}

// Without the balances behind it.
StatementLine line_of(const Transfer& t) {
  return {.seq = t.seq,
          .when = t.ts_us / 1'000'000,
          .kind = t.kind,
          .fund = fund_of(t),
          .run = t.run,
          .id = t.id,
          .amount = t.amount,
          .gpus = t.gpus,
          .seconds = t.seconds,
          .weight_milli = t.weight_milli,
          .start = t.start,
          .end = t.end,
          .actor = t.actor,
          .note = t.note,
          .ref = t.ref.value_or(""),
          .value = t.value.value_or(""),
          .available_after = {},
          .balance_after = {}};
}

// Reads holds with what became of them. `where` is SQL behind "FROM transfer t JOIN hold ... ".
Expected<void> each_hold(Database& db, const std::string& where, const std::vector<Value>& values,
                         const std::function<void(const HoldState&)>& visit) {
  const auto sum_of = [](std::string_view kinds) {
    return fmt::format("(SELECT coalesce(sum(amount), 0) FROM transfer "
                       "WHERE hold_id = t.id AND kind IN ({}))", kinds);
  };
  const std::string sql = fmt::format(
      "SELECT t.id, hold.fund, t.amount, t.run, t.actor, hold.closed_seq, {}, {}, {}, t.gpus, "
      "t.start_s, t.end_s, t.ref FROM transfer t JOIN hold ON hold.id = t.id {}",
      sum_of("'charge'"), sum_of("'release', 'reduce'"), sum_of("'extend'"), where);
  return db.query(sql, values, [&visit](const Row& row) {
    visit(HoldState{.hold = {.id = row.text(0),
                             .fund = row.text(1),
                             .amount = {row.integer(2)},
                             .run = row.text(3),
                             .actor = row.text(4),
                             .gpus = row.integer(9),
                             .expires_after_s = row.integer(11) - row.integer(10),
                             .quote = row.text(12)},
                    .charged = {row.integer(6)},
                    .released = {row.integer(7)},
                    .extended = {row.integer(8)},
                    .is_open = row.is_null(5),
                    .expires = row.integer(11)});
  });
}

}  // namespace

Expected<std::optional<FundBalance>> Ledger::balance(const std::string& fund) const {
  const auto all = funds_matching(fund);
  if (!all) return tl::unexpected(all.error());
  if (all->empty()) return std::nullopt;
  return all->front();
}

Expected<std::vector<FundBalance>> Ledger::balances() const {
  return funds_matching("");
}

Expected<std::vector<FundBalance>> Ledger::funds_matching(const std::string& fund) const {
  std::vector<FundBalance> funds;
  // An "or" of both would read all accounts for one fund.
  const std::string which = fund.empty() ? "?1 = ''" : "f.fund = ?1";
  auto done = db_->query(
      "SELECT f.fund, f.balance, h.balance, "
      "       (SELECT coalesce(sum(amount), 0) FROM transfer "
      "         WHERE kind = 'grant' AND credit IN (f.name, 'later:' || f.fund)) "
      "       - (SELECT coalesce(sum(amount), 0) FROM transfer "
      "           WHERE kind IN ('take', 'due') AND debit IN (f.name, 'debt:' || f.fund)), "
      "       coalesce(-d.balance, 0), f.floor, coalesce(l.balance, 0), coalesce(x.balance, 0) "
      "FROM account f JOIN account h ON h.fund = f.fund AND h.kind = 'held' "
      "LEFT JOIN account d ON d.name = 'debt:' || f.fund "
      "LEFT JOIN account l ON l.name = 'later:' || f.fund "
      "LEFT JOIN account x ON x.name = 'expired:' || f.fund "
      "WHERE f.kind = 'fund' AND f.fund IS NOT NULL AND " + which + " ORDER BY f.fund",
      {fund}, [&funds](const Row& row) {
        FundBalance balance{.fund = row.text(0),
                            .available = {row.integer(1)},
                            .held = {row.integer(2)},
                            .granted = {row.integer(3)},
                            .charged = {},
                            .later = {row.integer(6)},
                            .expired = {row.integer(7)},
                            .owed = {row.integer(4)},
                            .credit_limit = {-row.integer(5)}};
        // Grants and refunds go in, charges, repayments and what expires go out, and a debt is a
        // charge.
        balance.charged = {balance.granted.milli_gpu_s - balance.later.milli_gpu_s -
                           balance.expired.milli_gpu_s - balance.available.milli_gpu_s -
                           balance.held.milli_gpu_s + balance.owed.milli_gpu_s};
        funds.push_back(balance);
      });
  if (!done)
    return with_noun<std::vector<FundBalance>>(tl::unexpected(done.error()), "balance of",
                                               fund.empty() ? "all funds" : fund);
  return funds;
}

Expected<std::optional<HoldState>> Ledger::hold_state(const std::string& hold_id) const {
  std::optional<HoldState> state;
  auto done = each_hold(*db_, "WHERE t.id = ?1", {hold_id},
                        [&state](const HoldState& found) { state = found; });
  if (!done) {
    return with_noun<std::optional<HoldState>>(tl::unexpected(done.error()), "hold", hold_id);
  }
  return state;
}

Expected<std::vector<HoldState>> Ledger::expired_holds(UtcSeconds now) const {
  std::vector<HoldState> states;
  auto done = each_hold(*db_,
                        "WHERE hold.closed_seq IS NULL AND hold.expires_s > 0 "
                        "AND hold.expires_s <= ?1 ORDER BY hold.expires_s, t.seq",
                        {now}, [&states](const HoldState& found) { states.push_back(found); });
  if (!done) return tl::unexpected(Error{"expired holds: " + done.error().message});
  return states;
}

Expected<std::vector<DatedGrant>> Ledger::dated_grants(const std::string& fund) const {
  std::vector<DatedGrant> grants;
  auto done = db_->query(
      "SELECT grant_id, fund, from_s, expires_s, is_active, remaining FROM lot "
      "WHERE remaining > 0 AND (?1 = '' OR fund = ?1) "
      "ORDER BY expires_s = 0, expires_s, from_s, grant_id",
      {fund}, [&grants](const Row& row) {
        grants.push_back({.id = row.text(0),
                          .fund = row.text(1),
                          .from = row.integer(2),
                          .expires = row.integer(3),
                          .has_begun = row.integer(4) != 0,
                          .remaining = {row.integer(5)}});
      });
  if (!done) return tl::unexpected(Error{"dated grants of " + fund + ": " + done.error().message});
  return grants;
}

Expected<std::optional<std::string>> Ledger::granted_fund(const std::string& grant_id) const {
  const auto found = find_transfer(*db_, grant_id);
  if (!found) return tl::unexpected(found.error());
  if (!*found || (*found)->kind != "grant") return std::optional<std::string>{};
  return std::optional{fund_of(**found)};
}

Expected<std::optional<Amount>> Ledger::refundable(const std::string& charge_id) const {
  return refundable_of(*db_, charge_id);
}

Expected<std::optional<std::string>> Ledger::setting(const std::string& fund,
                                                     const std::string& name) const {
  return find_setting(*db_, fund, name);
}

Expected<std::vector<Setting>> Ledger::settings(const std::string& fund) const {
  std::vector<Setting> settings;
  // The newest transfer of each setting that is in force.
  auto done = each_transfer(
      *db_,
      "WHERE seq IN (SELECT max(t.seq) FROM setting s JOIN transfer t ON t.ref = s.name "
      "AND t.kind = 'set' AND t.credit = 'fund:' || s.fund WHERE ?1 = '' OR s.fund = ?1 "
      "GROUP BY s.fund, s.name)",
      {fund}, [&settings](const Transfer& t) {
        settings.push_back({.id = t.id,
                            .fund = account_owner(t.credit),
                            .name = t.ref.value_or(""),
                            .value = t.value,
                            .since = t.start,
                            .actor = t.actor,
                            .note = t.note});
      });
  if (!done) return tl::unexpected(Error{"settings of " + fund + ": " + done.error().message});
  return settings;
}

Expected<Amount> Ledger::member_use(const std::string& fund, const std::string& member) const {
  return use_of_member(*db_, fund, member);
}

Expected<OpenUse> Ledger::open_use(const std::string& fund, const std::string& member) const {
  auto use = open_use_of(*db_, fund, member);
  if (!use) return tl::unexpected(Error{"open holds of " + fund + ": " + use.error().message});
  return use;
}

Expected<std::vector<StatementLine>> Ledger::lines(const std::string& fund, const std::string& run,
                                                   const Period& period) const {
  std::vector<StatementLine> lines;
  auto done = db_->snapshot([&]() -> Expected<void> {
    const auto first = first_at(*db_, period.from);
    if (!first) return tl::unexpected(first.error());
    const auto end = period.to == 0 ? Expected<std::int64_t>{INT64_MAX} : first_at(*db_, period.to);
    if (!end) return tl::unexpected(end.error());
    std::string where = "WHERE seq >= ?1 AND seq < ?2";
    std::vector<Value> values{*first, *end};
    if (!run.empty()) {
      where += " AND run = ?3";
      values.emplace_back(run);
    } else if (!fund.empty()) {
      constexpr std::string_view kAccounts =
          "(SELECT name FROM account WHERE fund = ?3 UNION "
          "SELECT kinds.column1 || ?3 FROM (VALUES ('debt:'), ('later:'), ('expired:')) AS kinds)";
      where += fmt::format(" AND (debit IN {0} OR credit IN {0})", kAccounts);
      values.emplace_back(fund);
    }
    std::map<std::string, Running> running;
    Expected<void> fault;
    auto walked = each_transfer(*db_, where, values, [&](const Transfer& t) {
      StatementLine line = line_of(t);
      if (!fault || (!fund.empty() && line.fund != fund)) return;
      Running& now = running[line.fund];
      fault = now.move(*db_, line.fund, t, run.empty());
      if (!fault) return;
      const auto balance = checked_add(*now.available, *now.held);
      if (!balance) {
        fault = tl::unexpected(Error{fmt::format(
            "transfer {}: the running balance overflows. The file was changed: verify it.", t.seq)});
        return;
      }
      line.available_after = *now.available;
      line.balance_after = *balance;
      lines.push_back(std::move(line));
    });
    return walked ? fault : walked;
  });
  if (!done) {
    return with_noun<std::vector<StatementLine>>(tl::unexpected(done.error()), "statement of",
                                                 fund.empty() ? run : fund);
  }
  return lines;
}

Expected<void> Ledger::record_finding(const Finding& finding) {
  return with_noun(keep_finding(*db_, finding), "finding on", finding.subject);
}

Expected<std::vector<Finding>> Ledger::findings() const {
  std::vector<Finding> findings;
  auto done = db_->query("SELECT at_s, subject, text FROM finding ORDER BY seq", {},
                         [&findings](const Row& row) {
                           findings.push_back({row.integer(0), row.text(1), row.text(2)});
                         });
  if (!done) return tl::unexpected(done.error());
  return findings;
}

Expected<Head> Ledger::head() const {
  Head head{.seq = 0, .hash = first_prev_hash()};
  auto done = db_->query("SELECT seq, hash FROM transfer ORDER BY seq DESC LIMIT 1", {},
                         [&head](const Row& row) {
                           head = {row.integer(0), row.text(1)};
                         });
  if (!done) return tl::unexpected(done.error());
  return head;
}

}  // namespace accounting
