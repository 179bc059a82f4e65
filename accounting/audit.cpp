// SPDX-License-Identifier: GPL-3.0-or-later
//
// Ledger::verify(): the books once more, from the transfers alone. Nothing here is shared with the
// code that posts, but for the hashes.
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <optional>
#include <set>

#include "accounting/audit_lots.h"
#include "accounting/audit_till.h"
#include "accounting/ledger.h"
#include "accounting/posting.h"
#include "accounting/schema.h"
#include "accounting/transfer.h"

namespace accounting {
namespace {

struct AuditedHold {
  std::string fund;
  std::string member;
  Amount remaining;
  std::int64_t gpus = 0;
  UtcSeconds expires = 0;
  std::int64_t closed_seq = 0;  // 0: open.
};

struct AuditedCharge {
  std::string fund;
  std::string usage_account;
  Amount refundable;  // Charged, and owed as debt, less what was refunded.
  Amount excess;
};

struct AuditedSetting {
  std::string value;
  UtcSeconds since = 0;
};

class Auditor {
 public:
  void visit(const Transfer& t) {
    check_chain(t);
    if (t.amount < Amount{0}) fault(t, "the amount {} is negative", t.amount.milli_gpu_s);
    move(t);
    visit_kind(t);
    last_ = t;
  }

  [[nodiscard]] Expected<void> compare(Database& db);

  [[nodiscard]] std::vector<std::string> faults() && { return std::move(faults_); }

 private:
  template <typename... Arguments>
  void fault(const Transfer& t, fmt::format_string<Arguments...> text, Arguments&&... arguments) {
    faults_.push_back(fmt::format("transfer {} ({}): {}.", t.seq, t.id,
                                  fmt::format(text, std::forward<Arguments>(arguments)...)));
  }

  void visit_kind(const Transfer& t) {
    if (t.kind == "grant") {
      visit_grant(t);
    } else if (t.kind == "hold") {
      visit_hold(t);
    } else if (t.kind == "extend") {
      visit_extend(t);
    } else if (t.kind == "charge") {
      visit_charge(t);
    } else if (t.kind == "reduce") {
      visit_reduce(t);
    } else if (t.kind == "release") {
      visit_release(t);
    } else if (t.kind == "refund") {
      visit_refund(t);
    } else if (t.kind == "debt") {
      visit_debt(t);
    } else if (t.kind == "repay") {
      visit_repay(t);
    } else if (t.kind == "begin" || t.kind == "expire") {
      visit_date(t);
    } else if (t.kind == "take" || t.kind == "due") {
      visit_take(t);
    } else if (t.kind == "set") {
      visit_set(t);
    } else {
      fault(t, "the kind \"{}\" is not known", t.kind);
    }
  }

  void check_chain(const Transfer& t) {
    if (t.seq != last_.seq + 1) fault(t, "it follows transfer {}: one is missing", last_.seq);
    const std::string prev_hash = last_.seq == 0 ? first_prev_hash() : last_.hash;
    if (t.prev_hash != prev_hash) {
      fault(t, "the chain is broken: it names {:.8} as the hash before it, which is {:.8}",
            t.prev_hash, prev_hash);
    }
    const std::string hash = chain_hash(t);
    if (t.hash != hash) {
      fault(t, "it was changed after it was written: recorded hash {:.8}, recomputed {:.8}", t.hash,
            hash);
    }
    if (t.content_hash != content_hash_of_request(t)) {
      fault(t, "it is not what was requested: the content hash {:.8} does not match",
            t.content_hash);
    }
    if (last_.seq != 0 && t.ts_us <= last_.ts_us) {
      fault(t, "its time {} us is not later than {} us of the one before", t.ts_us, last_.ts_us);
    }
    if (!ids_.insert(t.id).second) fault(t, "its id was used before");
  }

  void move(const Transfer& t) {
    const auto debit = checked_sub(balances_[t.debit], t.amount);
    const auto credit = checked_add(balances_[t.credit], t.amount);
    if (!debit || !credit) {
      fault(t, "{} mGPUs overflow {} or {}", t.amount.milli_gpu_s, t.debit, t.credit);
      return;
    }
    balances_[t.debit] = *debit;
    balances_[t.credit] = *credit;
    if (t.debit_after != *debit || t.credit_after != *credit) {
      fault(t, "it says that {} has {} mGPUs after it and {} has {}, which are {} and {}", t.debit,
            t.debit_after.milli_gpu_s, t.credit, t.credit_after.milli_gpu_s, debit->milli_gpu_s,
            credit->milli_gpu_s);
    }
    const auto floor = floor_of(t.debit);
    if (floor && *debit < *floor) {
      fault(t, "it takes {} to {} mGPUs, below its floor of {}", t.debit, debit->milli_gpu_s,
            floor->milli_gpu_s);
    }
  }

  [[nodiscard]] Amount balance_of(const std::string& account) const {
    const auto found = balances_.find(account);
    return found == balances_.end() ? Amount{0} : found->second;
  }

  // Nothing: the account has none.
  [[nodiscard]] std::optional<Amount> floor_of(const std::string& account) const {
    if (account == kTreasury || account.starts_with("debt:")) return std::nullopt;
    if (!account.starts_with("fund:")) return Amount{0};
    const auto found = settings_.find({account_owner(account), "credit_limit"});
    if (found == settings_.end()) return Amount{0};
    return Amount{-std::strtoll(found->second.value.c_str(), nullptr, 10)};
  }

  void check_accounts(const Transfer& t, const std::string& debit, const std::string& credit) {
    if (t.debit == debit && t.credit == credit) return;
    fault(t, "a {} goes from {} to {}, this one from {} to {}", t.kind, debit, credit, t.debit,
          t.credit);
  }

  enum class Direction { kIn, kOut };

  // The hold a transfer changes; nothing where there is none that it may change.
  AuditedHold* draw(const Transfer& t, Direction direction) {
    const auto found = holds_.find(t.hold_id);
    if (found == holds_.end()) {
      fault(t, "there is no hold {}", t.hold_id);
      return nullptr;
    }
    AuditedHold& hold = found->second;
    if (hold.closed_seq != 0) {
      fault(t, "hold {} was closed by transfer {}", t.hold_id, hold.closed_seq);
      return nullptr;
    }
    if (direction == Direction::kOut && t.amount > hold.remaining) {
      fault(t, "{} mGPUs exceed the {} mGPUs left of hold {}", t.amount.milli_gpu_s,
            hold.remaining.milli_gpu_s, t.hold_id);
    }
    return &hold;
  }

  void visit_grant(const Transfer& t) {
    const std::string fund = account_owner(t.credit);
    const bool is_later = t.credit == later_account(fund);
    check_accounts(t, std::string(kTreasury), is_later ? t.credit : fund_account(fund));
    lots_.granted(t, fund, balance_of(fund_account(fund)));
    takeable_[t.id] = t.amount;
  }

  // Of a payment's grant no more than it gave; of other things, such as a tier, there is no bound.
  void visit_take(const Transfer& t) {
    const std::string fund = account_owner(t.debit);
    const bool is_due = t.kind == "due";
    check_accounts(t, is_due ? debt_account(fund) : fund_account(fund), std::string(kTreasury));
    if (is_due && t.id != due_id(last_.id)) {
      fault(t, "it follows {}, which is not what it is due for", last_.id);
    }
    const auto grant = takeable_.find(t.ref.value_or(""));
    if (grant == takeable_.end()) return;
    if (t.amount > grant->second) {
      fault(t, "it takes {} mGPUs of the {} mGPUs left of grant {}", t.amount.milli_gpu_s,
            grant->second.milli_gpu_s, grant->first);
    }
    grant->second.milli_gpu_s -= std::clamp(t.amount, Amount{0}, grant->second).milli_gpu_s;
  }

  void visit_date(const Transfer& t) {
    const std::string fund = account_owner(t.credit);
    if (t.kind == "begin") {
      check_accounts(t, later_account(fund), fund_account(fund));
      lots_.begun(t, balance_of(fund_account(fund)));
    } else {
      check_accounts(t, fund_account(fund), expired_account(fund));
      lots_.expired(t);
    }
  }

  void visit_hold(const Transfer& t) {
    const std::string fund = account_owner(t.debit);
    check_accounts(t, fund_account(fund), held_account(fund));
    holds_[t.id] = {.fund = fund,
                    .member = t.actor,
                    .remaining = std::max(t.amount, Amount{0}),
                    .gpus = t.gpus,
                    .expires = t.end};
    lots_.held(t, fund, t.id);
    if (balance_of(debt_account(fund)) < Amount{0}) {
      fault(t, "fund {} is in debt, and a hold was made", fund);
    }
  }

  void visit_extend(const Transfer& t) {
    AuditedHold* hold = draw(t, Direction::kIn);
    if (hold == nullptr) return;
    check_accounts(t, fund_account(hold->fund), held_account(hold->fund));
    lots_.held(t, hold->fund, t.hold_id);
    hold->remaining = checked_add(hold->remaining, std::max(t.amount, Amount{0}))
                          .value_or(hold->remaining);
  }

  void visit_reduce(const Transfer& t) {
    AuditedHold* hold = draw(t, Direction::kOut);
    if (hold == nullptr) return;
    check_accounts(t, held_account(hold->fund), fund_account(hold->fund));
    lots_.returned(t, hold->remaining);
    hold->remaining.milli_gpu_s -= std::clamp(t.amount, Amount{0}, hold->remaining).milli_gpu_s;
  }

  void visit_refund(const Transfer& t) {
    const auto found = charges_.find(t.ref.value_or(""));
    if (found == charges_.end()) {
      fault(t, "there is no charge {}", t.ref.value_or(""));
      return;
    }
    AuditedCharge& charge = found->second;
    check_accounts(t, charge.usage_account, fund_account(charge.fund));
    if (t.amount > charge.refundable) {
      fault(t, "it refunds {} mGPUs of the {} mGPUs left of charge {}", t.amount.milli_gpu_s,
            charge.refundable.milli_gpu_s, found->first);
    }
    charge.refundable.milli_gpu_s -= std::clamp(t.amount, Amount{0}, charge.refundable).milli_gpu_s;
  }

  void visit_debt(const Transfer& t) {
    const auto found = charges_.find(t.ref.value_or(""));
    if (found == charges_.end() || t.id != debt_id(found->first)) {
      fault(t, "there is no charge {}", t.ref.value_or(""));
      return;
    }
    AuditedCharge& charge = found->second;
    check_accounts(t, debt_account(charge.fund), charge.usage_account);
    if (t.amount != charge.excess) {
      fault(t, "it makes a debt of {} mGPUs, and charge {} exceeds its hold by {}",
            t.amount.milli_gpu_s, found->first, charge.excess.milli_gpu_s);
    }
    charge.refundable = checked_add(charge.refundable, charge.excess).value_or(charge.refundable);
  }

  void visit_repay(const Transfer& t) {
    const std::string fund = account_owner(t.debit);
    check_accounts(t, fund_account(fund), debt_account(fund));
    lots_.repaid(fund, t.amount);
    if (balance_of(debt_account(fund)) > Amount{0}) {
      fault(t, "fund {} paid more than it owed", fund);
    }
    if (balance_of(fund_account(fund)) < Amount{0}) {
      fault(t, "fund {} paid its debt by credit", fund);
    }
  }

  void visit_set(const Transfer& t) {
    const std::string fund = account_owner(t.credit);
    check_accounts(t, std::string(kTreasury), fund_account(fund));
    if (t.amount != Amount{0}) fault(t, "a setting moves {} mGPUs", t.amount.milli_gpu_s);
    const std::pair key{fund, t.ref.value_or("")};
    settings_.erase(key);
    if (t.value) settings_[key] = {.value = *t.value, .since = t.start};
  }

  void visit_charge(const Transfer& t) {
    const auto usage = usage_amount(t.gpus, t.seconds, t.weight_milli);
    if (!usage) {
      fault(t, "{} GPU x {} s x {} is no amount", t.gpus, t.seconds, t.weight_milli);
      return;
    }
    AuditedHold* hold = draw(t, Direction::kOut);
    if (hold == nullptr) return;
    check_accounts(t, held_account(hold->fund), usage_account(account_owner(t.credit)));
    const Amount due = std::min(*usage, hold->remaining);
    if (t.amount != due) {
      fault(t, "{} GPU x {} s x {}, of a hold with {} mGPUs left, charges {} mGPUs, not {}", t.gpus,
            t.seconds, t.weight_milli, hold->remaining.milli_gpu_s, due.milli_gpu_s,
            t.amount.milli_gpu_s);
    }
    lots_.charged(t.hold_id, t.amount);
    if (*usage > due) capped_.insert(t.id);
    charges_[t.id] = {.fund = hold->fund,
                      .usage_account = t.credit,
                      .refundable = t.amount,
                      .excess = {usage->milli_gpu_s - due.milli_gpu_s}};
    hold->remaining.milli_gpu_s -= std::clamp(t.amount, Amount{0}, hold->remaining).milli_gpu_s;
  }

  void visit_release(const Transfer& t) {
    AuditedHold* hold = draw(t, Direction::kOut);
    if (hold == nullptr) return;
    check_accounts(t, held_account(hold->fund), fund_account(hold->fund));
    if (t.amount != hold->remaining) {
      fault(t, "it returns {} mGPUs of the {} mGPUs left of hold {}", t.amount.milli_gpu_s,
            hold->remaining.milli_gpu_s, t.hold_id);
    }
    lots_.returned(t, hold->remaining);
    hold->remaining = {0};
    hold->closed_seq = t.seq;
  }

  [[nodiscard]] Expected<void> compare_accounts(Database& db);
  [[nodiscard]] Expected<void> compare_holds(Database& db);
  [[nodiscard]] Expected<void> compare_settings(Database& db);
  [[nodiscard]] Expected<void> compare_member_use(Database& db);
  [[nodiscard]] Expected<void> compare_findings(Database& db);
  [[nodiscard]] Expected<void> compare_triggers(Database& db);

  Transfer last_;
  LotAuditor lots_;
  std::map<std::string, Amount> balances_;
  std::map<std::string, AuditedHold> holds_;
  std::map<std::string, AuditedCharge> charges_;
  std::map<std::string, Amount> takeable_;  // By grant: what was not yet taken back.
  std::map<std::pair<std::string, std::string>, AuditedSetting> settings_;  // By fund and name.
  std::set<std::string> ids_;
  std::set<std::string> capped_;
  std::vector<std::string> faults_;
};

Expected<void> Auditor::compare_accounts(Database& db) {
  std::map<std::string, Amount> open_holds;  // By held account.
  for (const auto& [id, hold] : holds_) {
    Amount& sum = open_holds[held_account(hold.fund)];
    if (const auto added = checked_add(sum, hold.remaining)) {
      sum = *added;
    } else {
      faults_.push_back(fmt::format("the open holds of {} overflow.", hold.fund));
    }
  }
  for (const auto& [name, balance] : balances_) {
    if (!name.starts_with("held:") || open_holds[name] == balance) continue;
    faults_.push_back(fmt::format("account {}: balance {} mGPUs, open holds {} mGPUs.", name,
                                  balance.milli_gpu_s, open_holds[name].milli_gpu_s));
  }
  __extension__ __int128 sum = 0;
  std::map<std::string, Amount> missing = balances_;
  auto done = db.query(
      "SELECT name, kind, fund, unit, floor, balance FROM account ORDER BY name", {},
      [&](const Row& row) {
        const std::string name = row.text(0);
        const Amount stored{row.integer(5)};
        const Amount computed = balance_of(name);
        sum += stored.milli_gpu_s;
        missing.erase(name);
        if (stored != computed) {
          faults_.push_back(fmt::format("account {}: stored balance {} mGPUs, transfers give {}.",
                                        name, stored.milli_gpu_s, computed.milli_gpu_s));
        }
        const std::string kind = name == kTreasury ? name : name.substr(0, name.find(':'));
        const auto floor = floor_of(name);
        const std::string fund =
            kind == "fund" || kind == "held" ? account_owner(name) : std::string();
        if (row.text(1) != kind || row.text(2) != fund || row.text(3) != "mGPUs" ||
            row.is_null(4) == floor.has_value() ||
            Amount{row.integer(4)} != floor.value_or(Amount{0})) {
          faults_.push_back(
              fmt::format("account {}: its kind, fund, unit or floor was changed.", name));
        }
      });
  for (const auto& [name, balance] : missing) {
    faults_.push_back(fmt::format("account {}: it has transfers but no row.", name));
  }
  if (sum != 0) {
    faults_.push_back(fmt::format("the balances of all accounts sum to {} mGPUs, not 0.", sum));
  }
  return done;
}

Expected<void> Auditor::compare_holds(Database& db) {
  std::map<std::string, AuditedHold> missing = holds_;
  auto done = db.query("SELECT id, fund, remaining, closed_seq, member, gpus, expires_s FROM hold", {},
                       [&](const Row& row) {
    const std::string id = row.text(0);
    const auto found = holds_.find(id);
    if (found == holds_.end()) {
      faults_.push_back(fmt::format("hold {}: it has a row but no transfer.", id));
      return;
    }
    missing.erase(id);
    const AuditedHold& hold = found->second;
    if (row.text(1) != hold.fund || Amount{row.integer(2)} != hold.remaining ||
        row.integer(3) != hold.closed_seq || row.text(4) != hold.member ||
        row.integer(5) != hold.gpus || row.integer(6) != hold.expires) {
      faults_.push_back(fmt::format(
          "hold {}: stored {} with {} mGPUs left, closed by {}; transfers give {}, {}, {}.", id,
          row.text(1), row.integer(2), row.integer(3), hold.fund, hold.remaining.milli_gpu_s,
          hold.closed_seq));
    }
  });
  for (const auto& [id, hold] : missing) {
    faults_.push_back(fmt::format("hold {}: it has a transfer but no row.", id));
  }
  return done;
}

Expected<void> Auditor::compare_settings(Database& db) {
  auto missing = settings_;
  auto done = db.query("SELECT fund, name, value, since_s FROM setting", {}, [&](const Row& row) {
    const std::pair key{row.text(0), row.text(1)};
    const auto found = settings_.find(key);
    if (found == settings_.end() || found->second.value != row.text(2) ||
        found->second.since != row.integer(3)) {
      faults_.push_back(fmt::format("setting {} of {}: stored \"{}\", transfers give \"{}\".",
                                    key.second, key.first, row.text(2),
                                    found == settings_.end() ? "" : found->second.value));
    }
    missing.erase(key);
  });
  for (const auto& [key, setting] : missing) {
    faults_.push_back(fmt::format("setting {} of {}: it has a transfer but no row.", key.second,
                                  key.first));
  }
  return done;
}

Expected<void> Auditor::compare_member_use(Database& db) {
  std::map<std::pair<std::string, std::string>, Amount> kept;  // By fund and member.
  auto done = db.query("SELECT fund, member, amount FROM member_use", {}, [&kept](const Row& row) {
    kept[{row.text(0), row.text(1)}] = {row.integer(2)};
  });
  if (!done) return done;
  constexpr std::string_view kCap = "cap/";
  for (const auto& [key, setting] : settings_) {
    if (!key.second.starts_with(kCap)) continue;
    const std::string member = key.second.substr(kCap.size());
    const auto summed = summed_use_of_member(db, key.first, member);
    if (!summed) return tl::unexpected(summed.error());
    const auto found = kept.find({key.first, member});
    if (found == kept.end()) {
      faults_.push_back(fmt::format("use of {} by {}: it has no row.", key.first, member));
      continue;
    }
    if (found->second != *summed) {
      faults_.push_back(fmt::format("use of {} by {}: stored {} mGPUs, transfers give {}.",
                                    key.first, member, found->second.milli_gpu_s,
                                    summed->milli_gpu_s));
    }
    kept.erase(found);
  }
  for (const auto& [key, amount] : kept) {
    faults_.push_back(fmt::format("use of {} by {}: stored {} mGPUs, and there is no cap.", key.first,
                                  key.second, amount.milli_gpu_s));
  }
  return done;
}

Expected<void> Auditor::compare_findings(Database& db) {
  auto done = db.query("SELECT DISTINCT subject FROM finding", {},
                       [this](const Row& row) { capped_.erase(row.text(0)); });
  for (const std::string& id : capped_) {
    faults_.push_back(
        fmt::format("charge {}: it was cut to its hold, and no finding says so.", id));
  }
  return done;
}

using Objects = std::map<std::string, std::string>;  // By "trigger NAME": the SQL that made it.

Expected<Objects> objects_of(Database& db) {
  Objects objects;
  auto done = db.query(
      "SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND type <> 'index'", {},
      [&objects](const Row& row) { objects[row.text(0) + " " + row.text(1)] = row.text(2); });
  if (!done) return tl::unexpected(done.error());
  return objects;
}

// Each trigger and constraint is there as the schema made it.
Expected<void> Auditor::compare_triggers(Database& db) {
  static const auto kMade = []() -> Expected<Objects> {
    auto fresh = Database::open(":memory:");
    if (!fresh) return tl::unexpected(fresh.error());
    for (const char* script : kMigrations) {
      if (auto made = fresh->execute_script(script); !made) return tl::unexpected(made.error());
    }
    return objects_of(*fresh);
  }();
  if (!kMade) return tl::unexpected(kMade.error());
  const auto stored = objects_of(db);
  if (!stored) return tl::unexpected(stored.error());
  for (const auto& [name, sql] : *kMade) {
    const auto found = stored->find(name);
    if (found == stored->end()) {
      faults_.push_back(fmt::format("schema: the {} is missing.", name));
    } else if (found->second != sql) {
      faults_.push_back(fmt::format("schema: the {} was changed.", name));
    }
  }
  return {};
}

Expected<void> Auditor::compare(Database& db) {
  auto done = compare_accounts(db);
  if (done) done = compare_holds(db);
  if (done) done = compare_settings(db);
  if (done) done = compare_member_use(db);
  if (done) done = compare_findings(db);
  if (done) done = lots_.compare(db);
  for (std::string& fault : lots_.take_faults()) faults_.push_back(std::move(fault));
  if (done) done = compare_triggers(db);
  if (!done) return done;
  auto of_till = audit_till(db);
  if (!of_till) return tl::unexpected(of_till.error());
  for (std::string& fault : *of_till) faults_.push_back(std::move(fault));
  return {};
}

}  // namespace

Expected<std::vector<std::string>> Ledger::verify() const {
  Auditor auditor;
  auto done = db_->snapshot([&]() -> Expected<void> {
    auto walked = each_transfer(*db_, "", {}, [&auditor](const Transfer& t) { auditor.visit(t); });
    if (!walked) return walked;
    return auditor.compare(*db_);
  });
  if (!done) return tl::unexpected(Error{"verify: " + done.error().message});
  return std::move(auditor).faults();
}

}  // namespace accounting
