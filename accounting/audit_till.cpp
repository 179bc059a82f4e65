// SPDX-License-Identifier: GPL-3.0-or-later
#include "accounting/audit_till.h"

#include <fmt/format.h>

#include <array>

#include "accounting/part_schema.h"
#include "accounting/till.h"
#include "accounting/transfer.h"

namespace accounting {
namespace {

Expected<bool> has_receipts(Database& db) {
  bool has = false;
  auto done = db.query("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'receipt'", {},
                       [&has](const Row&) { has = true; });
  if (!done) return tl::unexpected(done.error());
  return has;
}

// The note of the grant, which the hash chain keeps, begins with what the receipt says.
std::string note_of(const Row& row) {
  const std::string currency = row.text(5);
  return fmt::format("receipt {}: {} at {} a GPU-h", row.integer(0),
                     format_money(row.integer(6), currency),
                     format_money(row.integer(7), currency));
}

Expected<void> compare_receipts(Database& db, std::vector<std::string>& faults) {
  std::int64_t last = 0;
  auto done = db.query(
      "SELECT r.number, r.grant_id, r.provider, r.reference, r.fund, r.currency, r.minor, "
      "r.price_minor, r.amount, t.kind, t.credit, t.amount, t.note FROM receipt r "
      "LEFT JOIN transfer t ON t.id = r.grant_id ORDER BY r.number",
      {}, [&](const Row& row) {
        const std::int64_t number = row.integer(0);
        const std::string grant = row.text(1), fund = row.text(4);
        if (number != last + 1) {
          faults.push_back(
              fmt::format("receipt {}: it follows receipt {}: one is missing.", number, last));
        }
        last = number;
        if (row.text(9) != "grant") {
          faults.push_back(fmt::format("receipt {}: there is no grant {}.", number, grant));
          return;
        }
        if (row.text(10) != fund_account(fund) || row.integer(11) != row.integer(8)) {
          faults.push_back(fmt::format(
              "receipt {}: it says {} mGPUs for {}; its grant {} has {} mGPUs for {}.", number,
              row.integer(8), fund, grant, row.integer(11), account_owner(row.text(10))));
        }
        const std::string id = fmt::format("pay/{}/{}", row.text(2), row.text(3));
        if (id != grant || !row.text(12).starts_with(note_of(row))) {
          faults.push_back(fmt::format(
              "receipt {}: it is \"{}\" of payment {}; its grant {} says \"{}\".", number,
              note_of(row), id, grant, row.text(12)));
        }
      });
  if (!done) return done;
  done = db.query(
      "SELECT t.id, t.note FROM transfer t WHERE t.kind = 'grant' AND t.id >= 'pay/' "
      "AND t.id < 'pay0' AND t.note LIKE 'receipt %' "
      "AND NOT EXISTS (SELECT 1 FROM receipt r WHERE r.grant_id = t.id)",
      {}, [&faults](const Row& row) {
        faults.push_back(fmt::format("grant {}: its receipt is missing (\"{}\").", row.text(0),
                                     row.text(1)));
      });
  if (!done) return done;
  return db.query(
      "SELECT number, given, told FROM (SELECT r.number AS number, "
      "(SELECT coalesce(sum(t.amount), 0) FROM transfer t "
      " WHERE t.ref = r.grant_id AND t.kind IN ('take', 'due')) AS given, "
      "(SELECT coalesce(sum(d.amount), 0) FROM payment_reversed d "
      " WHERE d.grant_id = r.grant_id) AS told FROM receipt r) WHERE given <> told",
      {}, [&faults](const Row& row) {
        faults.push_back(fmt::format(
            "receipt {}: its reversals say that {} mGPUs went back, the transfers {} mGPUs.",
            row.integer(0), row.integer(2), row.integer(1)));
      });
}

}  // namespace

Expected<std::vector<std::string>> audit_till(Database& db) {
  const std::array scripts{till_schema()};
  auto faults = faults_of_part(db, scripts);
  if (!faults) return faults;
  const auto has = has_receipts(db);
  if (!has) return tl::unexpected(has.error());
  if (!*has) return faults;
  if (auto done = compare_receipts(db, *faults); !done) return tl::unexpected(done.error());
  return faults;
}

}  // namespace accounting
