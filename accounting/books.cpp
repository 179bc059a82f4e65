// SPDX-License-Identifier: GPL-3.0-or-later
//
// What the ledger shows: balances, holds, settings, statements, findings. Nothing here writes a
// transfer.
#include <fmt/format.h>

#include <map>
#include <utility>

#include "accounting/ledger.h"
#include "accounting/posting.h"

namespace accounting {
namespace {

// Moves `balance` where it is the balance of one of the transfer's two accounts.
bool apply(const Transfer& t, const std::string& account, Amount& balance) {
  std::optional<Amount> after = balance;
  if (t.debit == account) after = checked_sub(balance, t.amount);
  if (t.credit == account) after = checked_add(balance, t.amount);
  balance = after.value_or(balance);
  return after.has_value();
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
      "WHERE f.kind = 'fund' AND f.fund IS NOT NULL AND (?1 = '' OR f.fund = ?1) ORDER BY f.fund",
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

Expected<std::vector<StatementLine>> Ledger::lines(const std::string& fund,
                                                   const std::string& run) const {
  // A line shows its fund's balances, so every transfer of the funds concerned is walked through,
  // and those of other runs are left out of the answer.
  std::string where;
  std::vector<Value> values;
  if (!fund.empty() || !run.empty()) {
    const std::string_view funds =
        fund.empty() ? "IN (SELECT fund FROM hold WHERE run = ?1)" : "= ?1";
    const std::string accounts = fmt::format(
        "(SELECT name FROM account WHERE fund {0} UNION "
        "SELECT kinds.column1 || fund FROM account, (VALUES ('debt:'), ('later:'), ('expired:')) "
        "AS kinds WHERE fund {0})",
        funds);
    where = fmt::format("WHERE debit IN {0} OR credit IN {0}", accounts);
    values = {fund.empty() ? run : fund};
  }
  struct Running {
    Amount available;
    Amount held;
  };
  std::map<std::string, Running> running;
  std::vector<StatementLine> lines;
  std::int64_t overflow_seq = 0;
  auto done = each_transfer(*db_, where, values, [&](const Transfer& t) {
    StatementLine line = line_of(t);
    Running& now = running[line.fund];
    const bool fits = apply(t, fund_account(line.fund), now.available) &&
                      apply(t, held_account(line.fund), now.held);
    const auto balance = checked_add(now.available, now.held);
    if (!fits || !balance) {
      overflow_seq = t.seq;
      return;
    }
    line.available_after = now.available;
    line.balance_after = *balance;
    if (run.empty() || t.run == run) lines.push_back(std::move(line));
  });
  if (done && overflow_seq != 0) {
    done = tl::unexpected(Error{
        fmt::format("transfer {}: the running balance overflows. The file was changed: verify it.",
                    overflow_seq)});
  }
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
