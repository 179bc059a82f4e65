// SPDX-License-Identifier: GPL-3.0-or-later
#include "accounting/posting.h"

#include <algorithm>
#include <charconv>

#include "accounting/lots.h"

namespace accounting {
namespace {

constexpr std::size_t kActorLengthMax = 128;
constexpr std::size_t kNoteLengthMax = 1'000;

bool is_alphanumeric(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

bool consists_of(std::string_view text, std::size_t length_max, std::string_view marks) {
  return text.size() <= length_max && std::all_of(text.begin(), text.end(), [marks](char c) {
           return is_alphanumeric(c) || marks.find(c) != std::string_view::npos;
         });
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

}  // namespace

bool is_name(std::string_view text) {
  return !text.empty() && consists_of(text, kNameLengthMax, kNameMarks);
}

bool is_fund(std::string_view text) {
  for (const std::string_view owner : {"user:", "group:"}) {
    if (text.starts_with(owner)) return is_name(text.substr(owner.size()));
  }
  return false;
}

bool is_run(std::string_view text) {
  return consists_of(text, kIdLengthMax, kIdMarks);
}

bool is_id(std::string_view text) {
  return !text.empty() && is_run(text) && !is_reserved_id(text);
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

Expected<void> open_fund(Database& db, const std::string& fund) {
  auto done = open_account(db, fund_account(fund), "fund", fund);
  if (done) done = open_account(db, held_account(fund), "held", fund);
  return done;
}

Expected<std::optional<OpenHold>> find_hold(Database& db, const std::string& id) {
  std::optional<OpenHold> found;
  auto done = db.query("SELECT fund, run, remaining, closed_seq, member FROM hold WHERE id = ?1", {id},
                       [&found](const Row& row) {
                         found = OpenHold{.fund = row.text(0),
                                          .run = row.text(1),
                                          .member = row.text(4),
                                          .remaining = {row.integer(2)},
                                          .is_open = row.is_null(3)};
                       });
  if (!done) return tl::unexpected(done.error());
  return found;
}

Expected<std::optional<std::string>> find_setting(Database& db, const std::string& fund,
                                                  const std::string& name) {
  std::optional<std::string> value;
  auto done = db.query("SELECT value FROM setting WHERE fund = ?1 AND name = ?2", {fund, name},
                       [&value](const Row& row) { value = row.text(0); });
  if (!done) return tl::unexpected(done.error());
  return value;
}

Expected<std::optional<std::int64_t>> number_setting(Database& db, const std::string& fund,
                                                     const std::string& name) {
  const auto value = find_setting(db, fund, name);
  if (!value) return tl::unexpected(value.error());
  if (!*value) return std::nullopt;
  std::int64_t number = 0;
  const char* end = (*value)->data() + (*value)->size();
  const auto [stop, fault] = std::from_chars((*value)->data(), end, number);
  if (fault != std::errc{} || stop != end) {
    return tl::unexpected(Error{"setting " + name + " of " + fund + ": \"" + **value +
                                "\" is no whole number. The file was changed: verify it."});
  }
  return number;
}

Expected<Amount> use_of_member(Database& db, const std::string& fund, const std::string& member) {
  std::optional<Amount> kept;
  auto done = db.query("SELECT amount FROM member_use WHERE fund = ?1 AND member = ?2",
                       {fund, member}, [&kept](const Row& row) { kept = Amount{row.integer(0)}; });
  if (!done) return tl::unexpected(done.error());
  if (kept) return *kept;
  return summed_use_of_member(db, fund, member);
}

Expected<Amount> summed_use_of_member(Database& db, const std::string& fund,
                                      const std::string& member) {
  Amount use;
  // A refund and a debt name their charge, and so its hold.
  auto done = db.query(
      "WITH since (us) AS (SELECT coalesce((SELECT since_s * 1000000 FROM setting "
      "                      WHERE fund = ?1 AND name = 'cap/' || ?2), 0)) "
      "SELECT coalesce(sum(amount), 0) FROM ("
      "  SELECT t.amount FROM hold h JOIN transfer t ON t.id = h.id, since "
      "   WHERE h.fund = ?1 AND h.member = ?2 AND t.ts_us >= us "
      "  UNION ALL "
      "  SELECT CASE t.kind WHEN 'extend' THEN t.amount ELSE -t.amount END "
      "    FROM hold h JOIN transfer o ON o.id = h.id "
      "    JOIN transfer t ON t.hold_id = h.id AND t.kind IN ('extend', 'reduce', 'release'), since "
      "   WHERE h.fund = ?1 AND h.member = ?2 AND o.ts_us >= us "
      "  UNION ALL "
      "  SELECT CASE r.kind WHEN 'debt' THEN r.amount ELSE -r.amount END "
      "    FROM hold h JOIN transfer o ON o.id = h.id "
      "    JOIN transfer c ON c.hold_id = h.id AND c.kind = 'charge' "
      "    JOIN transfer r ON r.ref = c.id AND r.kind IN ('refund', 'debt'), since "
      "   WHERE h.fund = ?1 AND h.member = ?2 AND o.ts_us >= us)",
      {fund, member}, [&use](const Row& row) { use = {row.integer(0)}; });
  if (!done) return tl::unexpected(done.error());
  return use;
}

Expected<Amount> owed_by(Database& db, const std::string& fund) {
  const auto debt = account_balance(db, debt_account(fund));
  if (!debt) return tl::unexpected(debt.error());
  return Amount{-debt->value_or(Amount{0}).milli_gpu_s};
}

Expected<Reserve> may_reserve(Database& db, const std::string& fund, const std::string& member,
                              Amount amount) {
  const auto available = account_balance(db, fund_account(fund));
  if (!available) return tl::unexpected(available.error());
  if (!*available) return Reserve::kUnknownFund;
  const auto closed = find_setting(db, fund, "closed");
  if (!closed) return tl::unexpected(closed.error());
  if (*closed) return Reserve::kClosed;
  const auto owed = owed_by(db, fund);
  if (!owed) return tl::unexpected(owed.error());
  if (*owed > Amount{0}) return Reserve::kInDebt;
  const auto cap = number_setting(db, fund, "cap/" + member);
  if (!cap) return tl::unexpected(cap.error());
  if (*cap) {
    const auto use = use_of_member(db, fund, member);
    if (!use) return tl::unexpected(use.error());
    const auto after = checked_add(*use, amount);
    if (!after || *after > Amount{**cap}) return Reserve::kExceedsMemberCap;
  }
  const auto credit = number_setting(db, fund, "credit_limit");
  if (!credit) return tl::unexpected(credit.error());
  const auto after = checked_sub(**available, amount);
  if (!after || *after < Amount{-credit->value_or(0)}) return Reserve::kExceedsAvailable;
  return Reserve::kAllowed;
}

UtcSeconds within_calendar(UtcSeconds now) {
  return std::clamp<UtcSeconds>(now, 0, kYear9999End);
}

Expected<void> post(Database& db, Transfer transfer, UtcSeconds now) {
  transfer.seq = 1;
  transfer.ts_us = within_calendar(now) * 1'000'000;
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

Expected<void> repay(Database& db, const std::string& fund, const std::string& cause_id,
                     UtcSeconds now) {
  const auto owed = owed_by(db, fund);
  if (!owed) return tl::unexpected(owed.error());
  if (*owed <= Amount{0}) return {};
  const auto available = account_balance(db, fund_account(fund));
  if (!available) return tl::unexpected(available.error());
  const Amount paid = std::min(*owed, available->value_or(Amount{0}));
  if (paid <= Amount{0}) return {};
  Transfer transfer;
  transfer.id = repay_id(cause_id);
  transfer.kind = "repay";
  transfer.debit = fund_account(fund);
  transfer.credit = debt_account(fund);
  transfer.amount = paid;
  transfer.content_hash = own_content_hash(transfer.kind, transfer.id);
  if (auto done = post(db, transfer, now); !done) return done;
  return spend_from_lots(db, fund, paid);
}

Expected<void> settle_fund(Database& db, const std::string& fund, const std::string& cause_id,
                           UtcSeconds now) {
  if (const auto turned = turn_lots(db, fund, now); !turned) {
    return tl::unexpected(turned.error());
  }
  return repay(db, fund, cause_id, now);
}

Expected<void> keep_finding(Database& db, const Finding& finding) {
  auto done = db.run(
      "INSERT INTO finding (at_s, subject, text) VALUES (?1, ?2, ?3) "
      "ON CONFLICT (subject, text) DO NOTHING",
      {finding.when, finding.subject, finding.text});
  if (!done) return tl::unexpected(done.error());
  return {};
}

}  // namespace accounting
