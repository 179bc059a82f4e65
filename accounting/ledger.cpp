// SPDX-License-Identifier: GPL-3.0-or-later
#include "accounting/ledger.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <utility>

#include "accounting/schema.h"
#include "accounting/tariff.h"
#include "accounting/transfer.h"

namespace accounting {
namespace {

// Element i takes a file from version i to version i + 1. Add at the end, never edit: files made
// by each of them exist.
constexpr std::array kMigrations{kSchemaSql};
constexpr std::int64_t kSchemaVersion = kMigrations.size();

constexpr std::size_t kIdLengthMax = 200;
constexpr std::size_t kActorLengthMax = 128;
constexpr std::size_t kNoteLengthMax = 1'000;
constexpr UtcSeconds kYear9999End = 253'402'300'799;

bool is_alphanumeric(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

bool consists_of(std::string_view text, std::size_t length_max, std::string_view marks) {
  return text.size() <= length_max && std::all_of(text.begin(), text.end(), [marks](char c) {
           return is_alphanumeric(c) || marks.find(c) != std::string_view::npos;
         });
}

bool is_name(std::string_view text) {
  return !text.empty() && consists_of(text, 64, "._-");
}

bool is_fund(std::string_view text) {
  for (const std::string_view owner : {"user:", "group:"}) {
    if (text.starts_with(owner)) return is_name(text.substr(owner.size()));
  }
  return false;
}

bool is_run(std::string_view text) {
  return consists_of(text, kIdLengthMax, "._-/:@+=#");
}

bool is_id(std::string_view text) {
  return !text.empty() && is_run(text) && !text.ends_with(release_id(""));
}

// The length of the UTF-8 character at the front, 0 where there is none or a control character.
std::size_t printable_length(std::string_view text) {
  const auto byte = [&text](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned lead = byte(0);
  if (lead < 0x80) return lead >= 0x20 && lead != 0x7f ? 1 : 0;
  const std::size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc2 ? 2 : 0;
  if (length == 0 || lead > 0xf4 || text.size() < length) return 0;
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  const bool is_too_long = (lead == 0xe0 && byte(1) < 0xa0) || (lead == 0xf0 && byte(1) < 0x90);
  const bool is_surrogate = lead == 0xed && byte(1) > 0x9f;
  const bool is_beyond = lead == 0xf4 && byte(1) > 0x8f;
  const bool is_c1_control = lead == 0xc2 && byte(1) < 0xa0;
  return is_too_long || is_surrogate || is_beyond || is_c1_control ? 0 : length;
}

bool is_actor(std::string_view text) {
  if (text.size() > kActorLengthMax) return false;
  while (!text.empty()) {
    const std::size_t length = printable_length(text);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

// Notes come from people and from Slurm: what cannot be printed on one line becomes '?', and what
// is too long is cut, so that a strange note never keeps a charge out of the books.
std::string printable_note(std::string_view text) {
  std::string note;
  while (!text.empty()) {
    const std::size_t length = printable_length(text);
    if (note.size() + std::max<std::size_t>(length, 1) > kNoteLengthMax) break;
    note += length == 0 ? std::string_view("?") : text.substr(0, length);
    text.remove_prefix(std::max<std::size_t>(length, 1));
  }
  return note;
}

template <typename T>
Expected<T> with_noun(Expected<T> result, std::string_view noun, std::string_view id) {
  if (!result) result.error().message = fmt::format("{} {}: {}", noun, id, result.error().message);
  return result;
}

// Runs `body`, which fills an answer, in one transaction.
template <typename T>
Expected<T> answer_of(Database& db, std::string_view noun, std::string_view id,
                      const std::function<Expected<T>()>& body) {
  T answer{};
  auto done = db.transact([&]() -> Expected<void> {
    auto answered = body();
    if (!answered) return tl::unexpected(std::move(answered.error()));
    answer = *answered;
    return {};
  });
  if (!done) return with_noun<T>(tl::unexpected(std::move(done.error())), noun, id);
  return answer;
}

Expected<std::optional<Transfer>> find_transfer(Database& db, const std::string& id) {
  std::optional<Transfer> found;
  auto done = each_transfer(db, "WHERE id = ?1", {id},
                            [&found](const Transfer& transfer) { found = transfer; });
  if (!done) return tl::unexpected(done.error());
  return found;
}

Expected<std::optional<Amount>> account_balance(Database& db, const std::string& account) {
  std::optional<Amount> balance;
  auto done = db.query("SELECT balance FROM account WHERE name = ?1", {account},
                       [&balance](const Row& row) { balance = Amount{row.integer(0)}; });
  if (!done) return tl::unexpected(done.error());
  return balance;
}

Expected<void> open_account(Database& db, const std::string& name, std::string_view kind,
                            const Value& fund) {
  auto done = db.run(
      "INSERT INTO account (name, kind, fund, floor) VALUES (?1, ?2, ?3, 0) "
      "ON CONFLICT (name) DO NOTHING",
      {name, std::string(kind), fund});
  if (!done) return tl::unexpected(done.error());
  return {};
}

struct OpenHold {
  std::string fund;
  std::string run;
  Amount remaining;
  bool is_open = true;
};

Expected<std::optional<OpenHold>> find_hold(Database& db, const std::string& id) {
  std::optional<OpenHold> found;
  auto done = db.query("SELECT fund, run, remaining, closed_seq FROM hold WHERE id = ?1", {id},
                       [&found](const Row& row) {
                         found = OpenHold{.fund = row.text(0),
                                          .run = row.text(1),
                                          .remaining = {row.integer(2)},
                                          .is_open = row.is_null(3)};
                       });
  if (!done) return tl::unexpected(done.error());
  return found;
}

// Puts a transfer at the end of the chain.
Expected<void> post(Database& db, Transfer transfer, UtcSeconds now) {
  const UtcSeconds told = std::clamp<UtcSeconds>(now, 0, kYear9999End);
  transfer.seq = 1;
  transfer.ts_us = told * 1'000'000;
  transfer.prev_hash = first_prev_hash();
  auto done = db.query("SELECT seq, ts_us, hash FROM transfer ORDER BY seq DESC LIMIT 1", {},
                       [&transfer](const Row& last) {
                         transfer.seq = last.integer(0) + 1;
                         transfer.ts_us = std::max(transfer.ts_us, last.integer(1) + 1);
                         transfer.prev_hash = last.text(2);
                       });
  if (!done) return done;
  transfer.hash = chain_hash(transfer);
  return insert_transfer(db, transfer);
}

Expected<void> keep_finding(Database& db, const Finding& finding) {
  auto done = db.run(
      "INSERT INTO finding (at_s, subject, text) VALUES (?1, ?2, ?3) "
      "ON CONFLICT (subject, text) DO NOTHING",
      {finding.when, finding.subject, finding.text});
  if (!done) return tl::unexpected(done.error());
  return {};
}

ChargeOutcome refusal(ChargeStatus status) {
  return {.status = status, .charged = {}, .excess = {}};
}

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
          .available_after = {},
          .balance_after = {}};
}

std::string excess_text(const Charge& charge, Amount usage, const ChargeOutcome& outcome) {
  return fmt::format(
      "charge {}: {} GPU x {} s x {} = {} mGPUs exceeds the {} mGPUs left of hold {}; the site "
      "bears {} mGPUs ({}).",
      charge.id, charge.gpus, charge.seconds, format_weight(charge.weight_milli), usage.milli_gpu_s,
      outcome.charged.milli_gpu_s, charge.hold_id, outcome.excess.milli_gpu_s,
      to_gpu_hours(outcome.excess));
}

Expected<std::int64_t> schema_version(Database& db) {
  std::int64_t version = 0;
  bool has_meta = false;
  auto done = db.query("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'ledger_meta'",
                       {}, [&has_meta](const Row&) { has_meta = true; });
  if (done && has_meta) {
    done = db.query("SELECT CAST(value AS INTEGER) FROM ledger_meta WHERE key = 'schema_version'",
                    {}, [&version](const Row& row) { version = row.integer(0); });
  }
  if (!done) return tl::unexpected(done.error());
  if (version > kSchemaVersion) {
    return tl::unexpected(Error{fmt::format(
        "schema version {} is newer than the {} that this program knows. Use the newer program.",
        version, kSchemaVersion)});
  }
  return version;
}

Expected<void> migrate(Database& db) {
  return db.transact([&db]() -> Expected<void> {
    const auto version = schema_version(db);  // Again: another process may have been faster.
    if (!version) return tl::unexpected(version.error());
    for (std::int64_t next = *version; next < kSchemaVersion; ++next) {
      if (auto done = db.execute_script(kMigrations[static_cast<std::size_t>(next)]); !done) {
        return done;
      }
    }
    return {};
  });
}

}  // namespace

Expected<Ledger> Ledger::open(Database& db) {
  const auto version = schema_version(db);
  if (!version) return with_noun<Ledger>(tl::unexpected(version.error()), "ledger", "schema");
  if (*version < kSchemaVersion) {
    if (auto done = migrate(db); !done) {
      return with_noun<Ledger>(tl::unexpected(done.error()), "ledger", "schema");
    }
  }
  return Ledger(db);
}

Expected<GrantStatus> Ledger::grant(const Grant& request, UtcSeconds now) {
  Database& db = *db_;
  return answer_of<GrantStatus>(db, "grant", request.id, [&]() -> Expected<GrantStatus> {
    Grant grant = request;
    grant.note = printable_note(request.note);
    const std::string content = content_hash(grant);
    const auto known = find_transfer(db, grant.id);
    if (!known) return tl::unexpected(known.error());
    if (*known) {
      return (*known)->content_hash == content ? GrantStatus::kAlreadyGranted
                                               : GrantStatus::kExistsWithDifferentContent;
    }
    if (!is_id(grant.id) || !is_fund(grant.fund) || !is_actor(grant.actor) ||
        grant.amount <= Amount{0}) {
      return GrantStatus::kInvalid;
    }
    // Whatever is anywhere came from the treasury: where all that was ever granted fits, no other
    // balance or sum overflows. (-INT64_MIN does not fit.)
    const auto treasury = account_balance(db, std::string(kTreasury));
    if (!treasury) return tl::unexpected(treasury.error());
    const auto granted_before = checked_sub(Amount{0}, treasury->value_or(Amount{0}));
    if (!granted_before || !checked_add(*granted_before, grant.amount)) {
      return GrantStatus::kInvalid;
    }

    Transfer transfer;
    transfer.id = grant.id;
    transfer.kind = "grant";
    transfer.debit = kTreasury;
    transfer.credit = fund_account(grant.fund);
    transfer.amount = grant.amount;
    transfer.actor = grant.actor;
    transfer.note = grant.note;
    transfer.content_hash = content;
    auto done = open_account(db, transfer.credit, "fund", grant.fund);
    if (done) done = open_account(db, held_account(grant.fund), "held", grant.fund);
    if (done) done = post(db, transfer, now);
    if (!done) return tl::unexpected(done.error());
    return GrantStatus::kGranted;
  });
}

Expected<HoldStatus> Ledger::hold(const Hold& hold, UtcSeconds now) {
  Database& db = *db_;
  return answer_of<HoldStatus>(db, "hold", hold.id, [&]() -> Expected<HoldStatus> {
    const std::string content = content_hash(hold);
    const auto known = find_transfer(db, hold.id);
    if (!known) return tl::unexpected(known.error());
    if (*known) {
      return (*known)->content_hash == content ? HoldStatus::kAlreadyHeld
                                               : HoldStatus::kExistsWithDifferentContent;
    }
    if (!is_id(hold.id) || !is_fund(hold.fund) || !is_run(hold.run) || !is_actor(hold.actor) ||
        hold.amount <= Amount{0}) {
      return HoldStatus::kInvalid;
    }
    Transfer transfer;
    transfer.id = hold.id;
    transfer.kind = "hold";
    transfer.debit = fund_account(hold.fund);
    transfer.credit = held_account(hold.fund);
    transfer.amount = hold.amount;
    transfer.run = hold.run;
    transfer.actor = hold.actor;
    transfer.content_hash = content;
    const auto available = account_balance(db, transfer.debit);
    if (!available) return tl::unexpected(available.error());
    if (!*available) return HoldStatus::kUnknownFund;
    if (hold.amount > **available) return HoldStatus::kExceedsAvailable;

    if (auto done = post(db, transfer, now); !done) return tl::unexpected(done.error());
    return HoldStatus::kHeld;
  });
}

Expected<ChargeOutcome> Ledger::charge(const Charge& charge, UtcSeconds now) {
  Database& db = *db_;
  return answer_of<ChargeOutcome>(db, "charge", charge.id, [&]() -> Expected<ChargeOutcome> {
    const std::string content = content_hash(charge);
    const auto usage = usage_amount(charge.gpus, charge.seconds, charge.weight_milli);
    const auto known = find_transfer(db, charge.id);
    if (!known) return tl::unexpected(known.error());
    if (*known) {
      if ((*known)->content_hash != content || !usage) {
        return refusal(ChargeStatus::kExistsWithDifferentContent);
      }
      const Amount charged = (*known)->amount;
      return ChargeOutcome{.status = ChargeStatus::kAlreadyCharged,
                           .charged = charged,
                           .excess = checked_sub(*usage, charged).value_or(Amount{0})};
    }
    if (!usage || !is_id(charge.id) || !is_name(charge.cluster)) {
      return refusal(ChargeStatus::kInvalid);
    }
    const auto hold = find_hold(db, charge.hold_id);
    if (!hold) return tl::unexpected(hold.error());
    if (!*hold) return refusal(ChargeStatus::kUnknownHold);
    if (!(*hold)->is_open) return refusal(ChargeStatus::kHoldClosed);

    const Amount charged = std::min(*usage, (*hold)->remaining);
    const ChargeOutcome outcome{.status = ChargeStatus::kCharged,
                                .charged = charged,
                                .excess = {usage->milli_gpu_s - charged.milli_gpu_s}};
    Transfer transfer;
    transfer.id = charge.id;
    transfer.kind = "charge";
    transfer.debit = held_account((*hold)->fund);
    transfer.credit = usage_account(charge.cluster);
    transfer.amount = outcome.charged;
    transfer.hold_id = charge.hold_id;
    transfer.run = (*hold)->run;
    transfer.gpus = charge.gpus;
    transfer.seconds = charge.seconds;
    transfer.weight_milli = charge.weight_milli;
    transfer.start = charge.start;
    transfer.end = charge.end;
    transfer.note = printable_note(charge.note);
    transfer.content_hash = content;
    auto done = open_account(db, transfer.credit, "usage", nullptr);
    if (done) done = post(db, transfer, now);
    if (done && outcome.excess > Amount{0}) {
      done = keep_finding(db, {now, charge.id, excess_text(charge, *usage, outcome)});
    }
    if (!done) return tl::unexpected(done.error());
    return outcome;
  });
}

Expected<ReleaseStatus> Ledger::release(const std::string& hold_id, const std::string& reason,
                                        UtcSeconds now) {
  Database& db = *db_;
  return answer_of<ReleaseStatus>(db, "release of", hold_id, [&]() -> Expected<ReleaseStatus> {
    const auto hold = find_hold(db, hold_id);
    if (!hold) return tl::unexpected(hold.error());
    if (!*hold) return ReleaseStatus::kUnknownHold;
    if (!(*hold)->is_open) return ReleaseStatus::kAlreadyReleased;

    Transfer transfer;
    transfer.id = release_id(hold_id);
    transfer.kind = "release";
    transfer.debit = held_account((*hold)->fund);
    transfer.credit = fund_account((*hold)->fund);
    transfer.amount = (*hold)->remaining;
    transfer.hold_id = hold_id;
    transfer.run = (*hold)->run;
    transfer.note = printable_note(reason);
    transfer.content_hash = release_content_hash(hold_id);
    if (auto done = post(db, transfer, now); !done) return tl::unexpected(done.error());
    return ReleaseStatus::kReleased;
  });
}

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
      "         WHERE kind = 'grant' AND credit = f.name) "
      "FROM account f JOIN account h ON h.fund = f.fund AND h.kind = 'held' "
      "WHERE f.kind = 'fund' AND f.fund IS NOT NULL AND (?1 = '' OR f.fund = ?1) ORDER BY f.fund",
      {fund}, [&funds](const Row& row) {
        FundBalance balance{.fund = row.text(0),
                            .available = {row.integer(1)},
                            .held = {row.integer(2)},
                            .granted = {row.integer(3)},
                            .charged = {}};
        // Nothing but grants goes in and nothing but charges goes out.
        balance.charged = {balance.granted.milli_gpu_s - balance.available.milli_gpu_s -
                           balance.held.milli_gpu_s};
        funds.push_back(balance);
      });
  if (!done)
    return with_noun<std::vector<FundBalance>>(tl::unexpected(done.error()), "balance of",
                                               fund.empty() ? "all funds" : fund);
  return funds;
}

Expected<std::optional<HoldState>> Ledger::hold_state(const std::string& hold_id) const {
  std::optional<HoldState> state;
  auto done = db_->query(
      "SELECT t.id, hold.fund, t.amount, t.run, t.actor, hold.closed_seq, "
      "  (SELECT coalesce(sum(amount), 0) FROM transfer WHERE hold_id = t.id AND kind = 'charge'), "
      "  (SELECT coalesce(sum(amount), 0) FROM transfer WHERE hold_id = t.id AND kind = 'release') "
      "FROM transfer t JOIN hold ON hold.id = t.id WHERE t.id = ?1",
      {hold_id}, [&state](const Row& row) {
        state = HoldState{.hold = {.id = row.text(0),
                                   .fund = row.text(1),
                                   .amount = {row.integer(2)},
                                   .run = row.text(3),
                                   .actor = row.text(4)},
                          .charged = {row.integer(6)},
                          .released = {row.integer(7)},
                          .is_open = row.is_null(5)};
      });
  if (!done) {
    return with_noun<std::optional<HoldState>>(tl::unexpected(done.error()), "hold", hold_id);
  }
  return state;
}

Expected<std::vector<StatementLine>> Ledger::lines(const std::string& fund,
                                                   const std::string& run) const {
  // A line shows its fund's balances, so every transfer of the funds concerned is walked through,
  // and those of other runs are left out of the answer.
  std::string where;
  std::vector<Value> values;
  if (!fund.empty() || !run.empty()) {
    const std::string accounts =
        fmt::format("(SELECT name FROM account WHERE fund {})",
                    fund.empty() ? "IN (SELECT fund FROM hold WHERE run = ?1)" : "= ?1");
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
