// SPDX-License-Identifier: GPL-3.0-or-later
#include "accounting/till.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>

#include "accounting/audit_till.h"
#include "accounting/part_schema.h"
#include "accounting/posting.h"
#include "accounting/tariff.h"

namespace accounting {
namespace {

__extension__ using Wide = __int128;

constexpr const char* kSchema = R"sql(
CREATE TABLE IF NOT EXISTS price (
  seq INTEGER PRIMARY KEY,
  at_s INTEGER NOT NULL,
  from_s INTEGER NOT NULL,
  currency TEXT NOT NULL,
  minor INTEGER NOT NULL CHECK (minor > 0),
  actor TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS quote (
  id TEXT PRIMARY KEY,
  user TEXT NOT NULL,
  fund TEXT NOT NULL,
  type TEXT NOT NULL,
  gpus INTEGER NOT NULL,
  weight_milli INTEGER NOT NULL,
  hold INTEGER NOT NULL CHECK (hold > 0),
  expected INTEGER NOT NULL,
  currency TEXT NOT NULL,
  price_minor INTEGER NOT NULL,
  made_s INTEGER NOT NULL,
  expires_s INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS quote_use (
  quote TEXT PRIMARY KEY REFERENCES quote (id),
  run TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS quote_content (
  quote TEXT PRIMARY KEY REFERENCES quote (id),
  content TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS receipt (
  number INTEGER PRIMARY KEY,
  at_s INTEGER NOT NULL,
  provider TEXT NOT NULL,
  reference TEXT NOT NULL,
  fund TEXT NOT NULL,
  currency TEXT NOT NULL,
  minor INTEGER NOT NULL CHECK (minor > 0),
  quote TEXT NOT NULL,
  actor TEXT NOT NULL,
  price_minor INTEGER NOT NULL,
  amount INTEGER NOT NULL,
  grant_id TEXT NOT NULL REFERENCES transfer (id),
  UNIQUE (provider, reference)
) STRICT;
CREATE INDEX IF NOT EXISTS receipt_fund ON receipt (fund);
CREATE INDEX IF NOT EXISTS receipt_quote ON receipt (quote) WHERE quote <> '';
CREATE TABLE IF NOT EXISTS admin_act (
  seq INTEGER PRIMARY KEY,
  at_s INTEGER NOT NULL,
  actor TEXT NOT NULL,
  act TEXT NOT NULL,
  detail TEXT NOT NULL
) STRICT;
)sql";

std::string protect(std::string_view table) {
  return fmt::format(
      "CREATE TRIGGER IF NOT EXISTS {0}_no_update BEFORE UPDATE ON {0} BEGIN "
      "SELECT RAISE(ABORT, 'what was written down at the till stays'); END; "
      "CREATE TRIGGER IF NOT EXISTS {0}_no_delete BEFORE DELETE ON {0} BEGIN "
      "SELECT RAISE(ABORT, 'what was written down at the till stays'); END;",
      table);
}

// What a payment buys, and the price that its receipt names. Nothing where it buys nothing.
struct Bought {
  Amount amount;
  std::int64_t price_minor = 0;
  std::string note;
};
std::optional<Bought> buy(const Payment& payment, std::int64_t today_minor, const Quote* quote) {
  const std::string& currency = payment.currency;
  const std::int64_t first_price = quote != nullptr ? quote->price_minor : today_minor;
  std::int64_t first = payment.minor;
  if (quote != nullptr) {
    first = std::min(first, cost_minor(quote->hold, quote->price_minor).value_or(0));
  }
  const auto amount = hours_for(first, first_price);
  const auto rest = hours_for(payment.minor - first, today_minor);
  const auto sum = amount && rest ? checked_add(*amount, *rest) : std::nullopt;
  if (!sum || *sum <= Amount{0}) return std::nullopt;
  std::string note = fmt::format("{} at {} a GPU-h", format_money(payment.minor, currency),
                                 format_money(first_price, currency));
  if (first < payment.minor) {
    note += fmt::format(", of it {} beyond the quote at {}",
                        format_money(payment.minor - first, currency),
                        format_money(today_minor, currency));
  }
  return Bought{*sum, first_price, std::move(note)};
}

Receipt receipt_of(const Row& row) {
  return {.number = row.integer(0),
          .when = row.integer(1),
          .payment = {.provider = row.text(2),
                      .reference = row.text(3),
                      .fund = row.text(4),
                      .currency = row.text(5),
                      .minor = row.integer(6),
                      .quote = row.text(7),
                      .actor = row.text(8)},
          .price_minor = row.integer(9),
          .amount = {row.integer(10)},
          .grant_id = row.text(11)};
}

constexpr std::string_view kReceiptColumns =
    "SELECT number, at_s, provider, reference, fund, currency, minor, quote, actor, price_minor, "
    "amount, grant_id FROM receipt ";

// Who told of it is no part of the payment.
bool is_same(const Payment& a, const Payment& b) {
  return a.fund == b.fund && a.currency == b.currency && a.minor == b.minor && a.quote == b.quote;
}

bool is_valid(const Payment& payment) {
  return is_name(payment.provider) && is_id(payment.reference) && is_fund(payment.fund) &&
         is_run(payment.quote) && is_actor(payment.actor) && payment.minor > 0;
}

Expected<void> changed(Expected<std::int64_t> done) {
  if (!done) return tl::unexpected(std::move(done.error()));
  return {};
}

}  // namespace

std::optional<std::int64_t> cost_minor(Amount amount, std::int64_t price_minor) {
  if (amount < Amount{0} || price_minor < 0) return std::nullopt;
  const Wide hour = kGpuHour.milli_gpu_s;
  const Wide cost = (Wide{amount.milli_gpu_s} * price_minor + hour - 1) / hour;
  if (cost > std::numeric_limits<std::int64_t>::max()) return std::nullopt;
  return static_cast<std::int64_t>(cost);
}

std::optional<Amount> hours_for(std::int64_t minor, std::int64_t price_minor) {
  if (minor < 0 || price_minor <= 0) return std::nullopt;
  const Wide amount = Wide{minor} * kGpuHour.milli_gpu_s / price_minor;
  if (amount > std::numeric_limits<std::int64_t>::max()) return std::nullopt;
  return Amount{static_cast<std::int64_t>(amount)};
}

Amount hours_of_part(const Receipt& receipt, std::int64_t minor) {
  const std::int64_t whole = receipt.payment.minor;
  if (minor >= whole) return receipt.amount;
  // Of one with two prices each part of the money bought its share.
  if (hours_for(whole, receipt.price_minor) != receipt.amount) {
    return {static_cast<std::int64_t>(Wide{receipt.amount.milli_gpu_s} * minor / whole)};
  }
  return std::min(receipt.amount, hours_for(minor, receipt.price_minor).value_or(receipt.amount));
}

bool has_hundredths(std::string_view currency) {
  // ISO 4217: those with none, with thousandths, and with finer or other parts.
  constexpr std::array<std::string_view, 28> kOthers = {
      "BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "UYI", "VND",
      "VUV", "XAF", "XOF", "XPF", "BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND", "CLF", "UYW", "MGA",
      "MRU"};
  return std::find(kOthers.begin(), kOthers.end(), currency) == kOthers.end();
}

std::string format_money(std::int64_t minor, const std::string& currency) {
  if (!has_hundredths(currency)) return fmt::format("{} smallest units of {}", minor, currency);
  const auto bits = static_cast<std::uint64_t>(minor);
  const std::uint64_t magnitude = minor < 0 ? 0 - bits : bits;
  return fmt::format("{}{}.{:02} {}", minor < 0 ? "-" : "", magnitude / 100, magnitude % 100,
                     currency);
}

std::optional<std::int64_t> parse_money(std::string_view text) {
  const std::size_t point = text.find('.');
  std::string digits(text.substr(0, point));
  std::string cents = point == std::string_view::npos ? "" : std::string(text.substr(point + 1));
  if (digits.empty() || cents.size() > 2 || (point != std::string_view::npos && cents.empty())) {
    return std::nullopt;
  }
  digits += cents + std::string(2 - cents.size(), '0');
  if (digits.find_first_not_of("0123456789") != std::string::npos) return std::nullopt;
  std::int64_t minor = 0;
  const auto [stop, fault] = std::from_chars(digits.data(), digits.data() + digits.size(), minor);
  if (fault != std::errc{} || minor <= 0) return std::nullopt;
  return minor;
}

std::string till_schema() {
  std::string sql = kSchema;
  for (const char* table : {"price", "quote", "quote_use", "quote_content", "receipt", "admin_act"}) {
    sql += protect(table);
  }
  return sql;
}

Expected<Till> Till::open(Database& db, Ledger& ledger) {
  static const std::array kVersions{till_schema()};
  auto done = open_part(db, "till", kVersions);
  if (done) done = db.execute_script(kVersions.front());  // Tables that came within a version.
  if (!done) return tl::unexpected(Error{"till: " + done.error().message});
  return Till(db, ledger);
}

Expected<void> Till::set_price(const Price& price, UtcSeconds now) {
  const auto before = prices();
  if (!before) return tl::unexpected(before.error());
  if (!before->empty() && before->front().currency != price.currency) {
    return tl::unexpected(Error{fmt::format("prices are in {}; {} cannot be mixed with it",
                                            before->front().currency, price.currency)});
  }
  if (!has_hundredths(price.currency)) {
    return tl::unexpected(Error{fmt::format(
        "{} has no hundredths, and money is written in hundredths here. Hours can be sold in a "
        "currency such as EUR or USD, or given by vouchers", price.currency)});
  }
  const auto current = price_at(now);
  if (!current) return tl::unexpected(current.error());
  if (*current && price.from < (*current)->from) {
    return tl::unexpected(Error{fmt::format(
        "a price from {} would never count: {} from {} counts already. Give a later --from, or none",
        format_utc(price.from), format_money((*current)->minor, price.currency),
        format_utc((*current)->from))});
  }
  return changed(db_->run(
      "INSERT INTO price (at_s, from_s, currency, minor, actor) VALUES (?1, ?2, ?3, ?4, ?5)",
      {now, price.from, price.currency, price.minor, price.actor}));
}

Expected<std::optional<Price>> Till::price_at(UtcSeconds when) const {
  std::optional<Price> price;
  auto done = db_->query(
      "SELECT from_s, currency, minor, actor FROM price WHERE from_s <= ?1 "
      "ORDER BY from_s DESC, seq DESC LIMIT 1",
      {when}, [&price](const Row& row) {
        price = Price{row.integer(0), row.text(1), row.integer(2), row.text(3)};
      });
  if (!done) return tl::unexpected(Error{"price: " + done.error().message});
  return price;
}

Expected<std::vector<Price>> Till::prices() const {
  std::vector<Price> prices;
  auto done = db_->query("SELECT from_s, currency, minor, actor FROM price ORDER BY seq", {},
                         [&prices](const Row& row) {
                           prices.push_back(
                               {row.integer(0), row.text(1), row.integer(2), row.text(3)});
                         });
  if (!done) return tl::unexpected(Error{"prices: " + done.error().message});
  return prices;
}

Expected<void> Till::keep_quote(const Quote& q) {
  const auto known = quote(q.id);
  if (!known) return tl::unexpected(known.error());
  if (*known) {
    const bool same = (*known)->user == q.user && (*known)->hold == q.hold &&
                      (*known)->fund == q.fund && (*known)->made == q.made &&
                      (*known)->content == q.content;
    if (same) return {};
    return tl::unexpected(Error{"quote " + q.id + " exists with other content"});
  }
  return db_->transact([&]() -> Expected<void> {
    const auto kept = changed(db_->run(
        "INSERT INTO quote (id, user, fund, type, gpus, weight_milli, hold, expected, currency, "
        "price_minor, made_s, expires_s) "
        "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        {q.id, q.user, q.fund, q.type, q.gpus, q.weight_milli, q.hold.milli_gpu_s,
         q.expected.milli_gpu_s, q.currency, q.price_minor, q.made, q.expires}));
    if (!kept || q.content.empty()) return kept;
    return changed(db_->run("INSERT INTO quote_content (quote, content) VALUES (?1, ?2)",
                            {q.id, q.content}));
  });
}

Expected<std::optional<Quote>> Till::quote(const std::string& id) const {
  std::optional<Quote> found;
  auto done = db_->query(
      "SELECT id, user, fund, type, gpus, weight_milli, hold, expected, currency, price_minor, "
      "made_s, expires_s, run, content FROM quote LEFT JOIN quote_use u ON u.quote = id "
      "LEFT JOIN quote_content c ON c.quote = id WHERE id = ?1",
      {id}, [&found](const Row& row) {
        found = Quote{.id = row.text(0),
                      .user = row.text(1),
                      .fund = row.text(2),
                      .type = row.text(3),
                      .gpus = row.integer(4),
                      .weight_milli = row.integer(5),
                      .hold = {row.integer(6)},
                      .expected = {row.integer(7)},
                      .currency = row.text(8),
                      .price_minor = row.integer(9),
                      .made = row.integer(10),
                      .expires = row.integer(11),
                      .run = row.text(12),
                      .content = row.text(13)};
      });
  if (!done) return tl::unexpected(Error{"quote " + id + ": " + done.error().message});
  return found;
}

Expected<bool> Till::use_quote(const std::string& id, const std::string& run) {
  auto done = db_->run(
      "INSERT INTO quote_use (quote, run) VALUES (?1, ?2) ON CONFLICT (quote) DO NOTHING",
      {id, run});
  if (!done) return tl::unexpected(Error{"quote " + id + ": " + done.error().message});
  const auto kept = quote(id);
  if (!kept) return tl::unexpected(kept.error());
  return *kept && (*kept)->run == run;
}

Expected<PayOutcome> Till::pay(const Payment& payment, UtcSeconds now) {
  Database& db = *db_;
  return answer_of<PayOutcome>(db, "payment", payment.reference, [&]() -> Expected<PayOutcome> {
    const auto known = receipt_of_payment(payment.provider, payment.reference);
    if (!known) return tl::unexpected(known.error());
    if (*known) {
      return PayOutcome{is_same((*known)->payment, payment)
                            ? PayStatus::kAlreadyPaid
                            : PayStatus::kExistsWithDifferentContent,
                        **known};
    }
    std::int64_t last = 0;
    auto done = db.query("SELECT coalesce(max(number), 0) FROM receipt", {},
                         [&last](const Row& row) { last = row.integer(0); });
    if (!done) return tl::unexpected(done.error());
    if (!is_valid(payment)) return PayOutcome{PayStatus::kInvalid, {}};
    const auto price = price_at(now);
    if (!price) return tl::unexpected(price.error());
    if (!*price) return PayOutcome{PayStatus::kNoPrice, {}};
    if ((*price)->currency != payment.currency) return PayOutcome{PayStatus::kOtherCurrency, {}};
    Receipt receipt{.number = last + 1,
                    .when = now,
                    .payment = payment,
                    .price_minor = (*price)->minor,
                    .amount = {},
                    .grant_id = fmt::format("pay/{}/{}", payment.provider, payment.reference)};
    const auto kept = quote(payment.quote);
    if (!kept) return tl::unexpected(kept.error());
    const auto guaranteed = is_guaranteed(payment, *kept, now);
    if (!guaranteed) return tl::unexpected(guaranteed.error());
    const auto bought = buy(payment, (*price)->minor, *guaranteed ? &**kept : nullptr);
    if (!bought) return PayOutcome{PayStatus::kInvalid, {}};
    receipt.price_minor = bought->price_minor;
    receipt.amount = bought->amount;

    const auto granted = ledger_->grant(
        {.id = receipt.grant_id,
         .fund = payment.fund,
         .amount = receipt.amount,
         .actor = payment.actor,
         .note = fmt::format("receipt {}: {}", receipt.number, bought->note)},
        now);
    if (!granted) return tl::unexpected(granted.error());
    if (*granted != GrantStatus::kGranted) return PayOutcome{PayStatus::kInvalid, {}};
    auto written = changed(db.run(
        "INSERT INTO receipt (number, at_s, provider, reference, fund, currency, minor, quote, "
        "actor, price_minor, amount, grant_id) "
        "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        {receipt.number, now, payment.provider, payment.reference, payment.fund, payment.currency,
         payment.minor, payment.quote, payment.actor, receipt.price_minor,
         receipt.amount.milli_gpu_s, receipt.grant_id}));
    if (written) written = reverse_waiting(receipt, now);
    if (!written) return tl::unexpected(written.error());
    return PayOutcome{PayStatus::kPaid, receipt};
  });
}

Expected<bool> Till::is_guaranteed(const Payment& payment, const std::optional<Quote>& quote,
                                   UtcSeconds now) const {
  if (!quote || quote->price_minor <= 0 || quote->currency != payment.currency) return false;
  if (quote->expires <= now || quote->fund != payment.fund || !quote->run.empty()) return false;
  // One that went back as a whole does not count: the quote is paid anew.
  const auto paid = paid_for(*quote);
  if (!paid) return tl::unexpected(paid.error());
  return *paid == Amount{0};
}

Expected<Amount> Till::paid_for(const Quote& quote) const {
  Amount paid;
  auto done = db_->query(
      "SELECT coalesce(sum(amount - (SELECT coalesce(sum(d.amount), 0) FROM payment_reversed d "
      "WHERE d.grant_id = receipt.grant_id)), 0) FROM receipt "
      "WHERE quote = ?1 AND quote <> '' AND fund = ?2",
      {quote.id, quote.fund}, [&paid](const Row& row) { paid = {row.integer(0)}; });
  if (!done) {
    return tl::unexpected(Error{"receipts of quote " + quote.id + ": " + done.error().message});
  }
  return paid;
}

Expected<bool> Till::was_given(const std::string& provider, const std::string& reference) const {
  const auto grant = find_transfer(*db_, provider + "/" + reference);
  if (!grant) return tl::unexpected(grant.error());
  return grant->has_value();
}

Expected<std::vector<Receipt>> Till::receipts(const std::string& fund) const {
  std::vector<Receipt> receipts;
  auto done = db_->query(std::string(kReceiptColumns) + "WHERE ?1 = '' OR fund = ?1 ORDER BY number",
                         {fund},
                         [&receipts](const Row& row) { receipts.push_back(receipt_of(row)); });
  if (!done) return tl::unexpected(Error{"receipts: " + done.error().message});
  return receipts;
}

Expected<std::optional<Receipt>> Till::receipt_of_payment(const std::string& provider,
                                                          const std::string& reference) const {
  std::optional<Receipt> found;
  auto done = db_->query(std::string(kReceiptColumns) + "WHERE provider = ?1 AND reference = ?2",
                         {provider, reference},
                         [&found](const Row& row) { found = receipt_of(row); });
  if (!done) return tl::unexpected(Error{"receipts: " + done.error().message});
  return found;
}

Expected<void> Till::record(const AdminAct& act) {
  return changed(db_->run("INSERT INTO admin_act (at_s, actor, act, detail) VALUES (?1, ?2, ?3, ?4)",
                          {act.when, act.actor, act.act, printable_note(act.detail)}));
}

Expected<std::vector<AdminAct>> Till::acts(std::int64_t count, std::int64_t before) const {
  std::vector<AdminAct> acts;
  auto done = db_->query(
      "SELECT at_s, actor, act, detail, seq FROM admin_act WHERE ?2 = 0 OR seq < ?2 "
      "ORDER BY seq DESC LIMIT ?1",
      {count, before}, [&acts](const Row& row) {
        acts.push_back({row.integer(0), row.text(1), row.text(2), row.text(3), row.integer(4)});
      });
  if (!done) return tl::unexpected(Error{"admin acts: " + done.error().message});
  std::reverse(acts.begin(), acts.end());
  return acts;
}

}  // namespace accounting
