// SPDX-License-Identifier: GPL-3.0-or-later
#include "accounting/transfer.h"

#include <initializer_list>
#include <string>

#include "accounting/digest.h"

namespace accounting {
namespace {

// Fields joined by line ends. No field that the ledger wrote contains one, and the number of fields
// is fixed, so no two rows share their lines.
std::string lines_of(std::initializer_list<std::string_view> fields) {
  std::string lines;
  for (const std::string_view field : fields) {
    lines += field;
    lines += '\n';
  }
  return lines;
}

std::string text(std::int64_t number) {
  return std::to_string(number);
}

std::string charge_content(std::string_view id, std::string_view hold_id, std::string_view cluster,
                           const Transfer& arithmetic) {
  return lines_of({"charge", id, hold_id, cluster, text(arithmetic.gpus), text(arithmetic.seconds),
                   text(arithmetic.weight_milli), text(arithmetic.start), text(arithmetic.end)});
}

std::string grant_content(std::string_view id, std::string_view fund, Amount amount,
                          std::string_view actor, std::string_view note, UtcSeconds from,
                          UtcSeconds expires) {
  const std::string first = lines_of({"grant", id, fund, text(amount.milli_gpu_s), actor, note});
  if (from == 0 && expires == 0) return first;
  return first + lines_of({text(from), text(expires)});
}

std::string hold_content(std::string_view id, std::string_view fund, Amount amount,
                         std::string_view run, std::string_view actor, std::int64_t gpus,
                         std::int64_t expires_after_s, std::string_view quote) {
  const std::string first = lines_of({"hold", id, fund, text(amount.milli_gpu_s), run, actor});
  if (gpus == 0 && expires_after_s == 0 && quote.empty()) return first;
  return first + lines_of({text(gpus), text(expires_after_s), quote});
}

// Of an extension and a reduction; a refund names its charge in the place of the hold.
std::string change_content(std::string_view kind, std::string_view id, std::string_view of,
                           Amount amount, std::string_view actor) {
  return lines_of({kind, id, of, text(amount.milli_gpu_s), actor});
}

std::string set_content(std::string_view id, std::string_view fund, std::string_view name,
                        const std::optional<std::string>& value, UtcSeconds since,
                        std::string_view actor) {
  return lines_of({"set", id, fund, name, value ? "=" + *value : "", text(since), actor});
}


}  // namespace

std::string fund_account(std::string_view fund) {
  return "fund:" + std::string(fund);
}
std::string held_account(std::string_view fund) {
  return "held:" + std::string(fund);
}
std::string usage_account(std::string_view cluster) {
  return "usage:" + std::string(cluster);
}

std::string debt_account(std::string_view fund) {
  return "debt:" + std::string(fund);
}

std::string later_account(std::string_view fund) {
  return "later:" + std::string(fund);
}
std::string expired_account(std::string_view fund) {
  return "expired:" + std::string(fund);
}

std::string account_owner(std::string_view account) {
  const std::size_t colon = account.find(':');
  return colon == std::string_view::npos ? "" : std::string(account.substr(colon + 1));
}

std::string fund_of(const Transfer& transfer) {
  const bool comes_in =
      transfer.kind == "grant" || transfer.kind == "refund" || transfer.kind == "set";
  return account_owner(comes_in ? transfer.credit : transfer.debit);
}

std::string release_id(std::string_view hold_id) {
  return std::string(hold_id) + "/release";
}
std::string debt_id(std::string_view charge_id) {
  return std::string(charge_id) + "/debt";
}
std::string repay_id(std::string_view cause_id) {
  return std::string(cause_id) + "/repay";
}
std::string begin_id(std::string_view grant_id) {
  return std::string(grant_id) + "/begin";
}
std::string expire_id(std::string_view grant_id, std::int64_t earlier) {
  const std::string again = earlier == 0 ? "" : "/" + std::to_string(earlier);
  return std::string(grant_id) + again + "/expire";
}
std::string due_id(std::string_view take_id) {
  return std::string(take_id) + "/due";
}
bool is_reserved_id(std::string_view id) {
  for (const std::string_view ending :
       {"/release", "/debt", "/repay", "/begin", "/expire", "/due"}) {
    if (id.ends_with(ending)) return true;
  }
  return false;
}

std::string content_hash(const Grant& grant) {
  return sha256_hex(grant_content(grant.id, grant.fund, grant.amount, grant.actor, grant.note,
                                  grant.from, grant.expires));
}

std::string content_hash(const Hold& hold) {
  return sha256_hex(hold_content(hold.id, hold.fund, hold.amount, hold.run, hold.actor, hold.gpus,
                                 hold.expires_after_s, hold.quote));
}

std::string content_hash(const Charge& charge) {
  Transfer arithmetic;
  arithmetic.gpus = charge.gpus;
  arithmetic.seconds = charge.seconds;
  arithmetic.weight_milli = charge.weight_milli;
  arithmetic.start = charge.start;
  arithmetic.end = charge.end;
  return sha256_hex(charge_content(charge.id, charge.hold_id, charge.cluster, arithmetic));
}

std::string content_hash(const Extension& e) {
  return sha256_hex(change_content("extend", e.id, e.hold_id, e.amount, e.actor));
}

std::string content_hash(const Reduction& r) {
  return sha256_hex(change_content("reduce", r.id, r.hold_id, r.amount, r.actor));
}

std::string content_hash(const Refund& r) {
  return sha256_hex(change_content("refund", r.id, r.charge_id, r.amount, r.actor));
}

std::string content_hash(const Setting& s) {
  return sha256_hex(set_content(s.id, s.fund, s.name, s.value, s.since, s.actor));
}

std::string release_content_hash(std::string_view hold_id) {
  return sha256_hex(lines_of({"release", hold_id}));
}

std::string take_content_hash(std::string_view id, std::string_view fund, std::string_view ref,
                              std::string_view actor) {
  return sha256_hex(lines_of({"take", id, fund, ref, actor}));
}

// The id tells it all.
std::string own_content_hash(std::string_view kind, std::string_view id) {
  return sha256_hex(lines_of({kind, id}));
}

std::string content_hash_of_request(const Transfer& t) {
  if (t.kind == "grant") {
    return sha256_hex(grant_content(t.id, account_owner(t.credit), t.amount, t.actor, t.note,
                                    t.start, t.end));
  }
  if (t.kind == "hold") {
    return sha256_hex(hold_content(t.id, account_owner(t.debit), t.amount, t.run, t.actor, t.gpus,
                                   t.end - t.start, t.ref.value_or("")));
  }
  if (t.kind == "charge") {
    return sha256_hex(charge_content(t.id, t.hold_id, account_owner(t.credit), t));
  }
  if (t.kind == "extend" || t.kind == "reduce") {
    return sha256_hex(change_content(t.kind, t.id, t.hold_id, t.amount, t.actor));
  }
  if (t.kind == "refund") {
    return sha256_hex(change_content(t.kind, t.id, t.ref.value_or(""), t.amount, t.actor));
  }
  if (t.kind == "take") {
    return take_content_hash(t.id, account_owner(t.debit), t.ref.value_or(""), t.actor);
  }
  if (t.kind == "set") {
    return sha256_hex(set_content(t.id, account_owner(t.credit), t.ref.value_or(""), t.value,
                                  t.start, t.actor));
  }
  if (t.kind == "debt" || t.kind == "repay" || t.kind == "begin" || t.kind == "expire" ||
      t.kind == "due") {
    return own_content_hash(t.kind, t.id);
  }
  return release_content_hash(t.hold_id);
}

std::string first_prev_hash() {
  return std::string(64, '0');
}

std::string chain_hash(const Transfer& t) {
  std::string lines = lines_of({t.prev_hash, text(t.seq), t.id, t.kind, t.debit, t.credit,
                                text(t.amount.milli_gpu_s), t.hold_id, t.run, text(t.gpus),
                                text(t.seconds), text(t.weight_milli), text(t.start), text(t.end),
                                t.actor, t.note, t.content_hash, text(t.ts_us)});
  // Version 1 had neither; its hashes stay what they are.
  if (t.ref) lines += lines_of({"ref", *t.ref});
  if (t.value) lines += lines_of({"value", *t.value});
  return sha256_hex(lines);
}

Expected<void> each_transfer(Database& db, std::string_view where, const std::vector<Value>& values,
                             const std::function<void(const Transfer&)>& visit) {
  const std::string sql =
      "SELECT seq, id, kind, debit, credit, amount, hold_id, run, gpus, seconds, weight_milli, "
      "start_s, end_s, actor, note, content_hash, ts_us, prev_hash, hash, ref, value, "
      "debit_after, credit_after FROM transfer " +
      std::string(where) + " ORDER BY seq";
  return db.query(sql, values, [&visit](const Row& row) {
    Transfer t;
    t.seq = row.integer(0);
    t.id = row.text(1);
    t.kind = row.text(2);
    t.debit = row.text(3);
    t.credit = row.text(4);
    t.amount = {row.integer(5)};
    t.hold_id = row.text(6);
    t.run = row.text(7);
    t.gpus = row.integer(8);
    t.seconds = row.integer(9);
    t.weight_milli = row.integer(10);
    t.start = row.integer(11);
    t.end = row.integer(12);
    t.actor = row.text(13);
    t.note = row.text(14);
    t.content_hash = row.text(15);
    t.ts_us = row.integer(16);
    t.prev_hash = row.text(17);
    t.hash = row.text(18);
    if (!row.is_null(19)) t.ref = row.text(19);
    if (!row.is_null(20)) t.value = row.text(20);
    t.debit_after = {row.integer(21)};
    t.credit_after = {row.integer(22)};
    visit(t);
  });
}

Expected<void> insert_transfer(Database& db, const Transfer& t) {
  const Value hold_id = t.hold_id.empty() ? Value{nullptr} : Value{t.hold_id};
  const auto nullable = [](const std::optional<std::string>& text) {
    return text ? Value{*text} : Value{nullptr};
  };
  auto inserted = db.run(
      "INSERT INTO transfer (seq, id, kind, debit, credit, amount, hold_id, run, gpus, seconds, "
      "weight_milli, start_s, end_s, actor, note, content_hash, ts_us, prev_hash, hash, ref, "
      "value, debit_after, credit_after) "
      "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, "
      "?18, ?19, ?20, ?21, (SELECT balance - ?6 FROM account WHERE name = ?4), "
      "(SELECT balance + ?6 FROM account WHERE name = ?5))",
      {t.seq, t.id, t.kind, t.debit, t.credit, t.amount.milli_gpu_s, hold_id, t.run, t.gpus,
       t.seconds, t.weight_milli, t.start, t.end, t.actor, t.note, t.content_hash, t.ts_us,
       t.prev_hash, t.hash, nullable(t.ref), nullable(t.value)});
  if (!inserted) return tl::unexpected(inserted.error());
  return {};
}

}  // namespace accounting
