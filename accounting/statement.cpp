// SPDX-License-Identifier: GPL-3.0-or-later
#include "accounting/statement.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <optional>

#include "accounting/cost.h"
#include "accounting/tariff.h"
#include "accounting/till.h"

namespace accounting {
namespace {

// In characters, as fmt pads by characters and not by bytes.
std::size_t width_of(std::string_view text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xc0) != 0x80;
  }));
}

// "64.000": the column says the unit.
std::string hours(Amount amount) {
  const std::string text = to_gpu_hours(amount);
  return text.substr(0, text.find(' '));
}

bool is_charge(const StatementLine& line) {
  return line.kind == "charge";
}

std::string arithmetic(const StatementLine& line) {
  if (!is_charge(line)) return "";
  const auto usage = usage_amount(line.gpus, line.seconds, line.weight_milli);
  return fmt::format("{} GPU x {} s x {}{}", line.gpus, line.seconds,
                     format_weight(line.weight_milli),
                     usage && *usage > line.amount ? " (cut to the hold)" : "");
}

std::string cost(const StatementLine& line) {
  return line.cost_minor ? format_money(*line.cost_minor, line.currency) : "";
}

std::string by_and_note(const StatementLine& line) {
  if (line.actor.empty()) return line.note;
  return line.note.empty() ? line.actor : fmt::format("{}: {}", line.actor, line.note);
}

struct Column {
  std::string_view title;
  bool is_number;
  std::string (*cell)(const StatementLine&);
};

constexpr std::array<Column, 10> kColumns{{
    {"time", false, [](const StatementLine& line) { return format_utc(line.when); }},
    {"kind", false, [](const StatementLine& line) { return line.kind; }},
    {"fund", false, [](const StatementLine& line) { return line.fund; }},
    {"run", false, [](const StatementLine& line) { return line.run; }},
    {"id", false, [](const StatementLine& line) { return line.id; }},
    {"GPU-h", true, [](const StatementLine& line) { return hours(line.amount); }},
    {"available", true, [](const StatementLine& line) { return hours(line.available_after); }},
    {"balance", true, [](const StatementLine& line) { return hours(line.balance_after); }},
    {"arithmetic", false, arithmetic},
    {"note", false, by_and_note},
}};
constexpr Column kCost{"cost", true, cost};  // Where hours have a price.

std::string sum_of(const std::vector<StatementLine>& lines, std::string_view kind,
                   std::string_view other_kind, std::optional<Amount>& sum) {
  sum = Amount{0};
  for (const StatementLine& line : lines) {
    if ((line.kind == kind || line.kind == other_kind) && sum) sum = checked_add(*sum, line.amount);
  }
  return sum ? fmt::format("{} ({} mGPUs)", to_gpu_hours(*sum), sum->milli_gpu_s) : "";
}

// What the fund owes of a usage is as much its charge as what its hold paid.
std::string charged_in_all(const std::vector<StatementLine>& lines) {
  const auto charges = std::count_if(lines.begin(), lines.end(), is_charge);
  std::optional<Amount> sum;
  const std::string charged = sum_of(lines, "charge", "debt", sum);
  if (!sum) return "";
  std::string text =
      fmt::format("charged: {} in {} charge{}\n", charged, charges, charges == 1 ? "" : "s");
  const std::string refunded = sum_of(lines, "refund", "refund", sum);
  if (sum && *sum > Amount{0}) text += fmt::format("refunded: {}\n", refunded);
  return text;
}

std::string cost_in_all(const std::vector<StatementLine>& lines) {
  std::int64_t sum = 0;
  std::string currency;
  for (const StatementLine& line : lines) {
    if (!line.cost_minor) continue;
    currency = line.currency;
    if (__builtin_add_overflow(sum, *line.cost_minor, &sum)) return "";
  }
  return currency.empty() ? "" : fmt::format("cost:    {}\n", format_money(sum, currency));
}

}  // namespace

Expected<void> add_costs(Database& db, std::vector<StatementLine>& lines) {
  const auto costs = Costs::open(db);
  if (!costs) return tl::unexpected(costs.error());
  if (!costs->has_prices()) return {};
  for (StatementLine& line : lines) {
    const auto cost =
        costs->added_by(line.kind, is_charge(line) ? line.id : line.ref, line.amount, line.seq);
    if (!cost) return tl::unexpected(cost.error());
    if (!*cost) continue;
    line.currency = (*cost)->currency;
    line.cost_minor = (*cost)->minor;
  }
  return {};
}

Expected<std::map<std::string, ChargeBill>> bills_of(Database& db, const std::string& run) {
  const auto costs = Costs::open(db);
  if (!costs) return tl::unexpected(costs.error());
  std::map<std::string, ChargeBill> bills;
  std::map<std::string, Holding> holdings;
  auto done = db.query(
      "SELECT c.id, c.amount, "
      "(SELECT coalesce(sum(d.amount), 0) FROM transfer d WHERE d.ref = c.id AND d.kind = 'debt'), "
      "(SELECT coalesce(sum(r.amount), 0) FROM transfer r WHERE r.ref = c.id AND r.kind = "
      "'refund'), "
      "h.ts_us / 1000000, coalesce(h.ref, '') "
      "FROM transfer c JOIN transfer h ON h.id = c.hold_id WHERE c.run = ?1 AND c.kind = 'charge'",
      {run}, [&](const Row& row) {
        bills[row.text(0)] = {{row.integer(1)}, {row.integer(2)}, {row.integer(3)}};
        holdings[row.text(0)] = {row.integer(4), row.text(5)};
      });
  if (!done) return tl::unexpected(done.error());
  for (auto& [id, bill] : bills) {
    const auto used = checked_add(bill.charged, bill.owed);
    const auto left = used ? checked_sub(*used, bill.refunded) : std::nullopt;
    if (!left) continue;  // verify() says it.
    const auto cost = costs->of(*left, holdings[id]);
    if (!cost) return tl::unexpected(cost.error());
    if (!*cost) continue;
    bill.cost_minor = (*cost)->minor;
    bill.currency = (*cost)->currency;
  }
  return bills;
}

std::string csv_field(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string field = "\"";
  for (const char c : text) {
    if (c == '"') field += '"';
    field += c;
  }
  return field + '"';
}

std::string statement_text(const std::vector<StatementLine>& lines) {
  std::vector<Column> columns(kColumns.begin(), kColumns.end());
  const std::string total = cost_in_all(lines);
  const bool has_costs = std::any_of(lines.begin(), lines.end(), [](const StatementLine& line) {
    return line.cost_minor.has_value();
  });
  if (has_costs) columns.insert(columns.end() - 2, kCost);
  std::vector<std::vector<std::string>> rows(lines.size() + 1,
                                             std::vector<std::string>(columns.size()));
  std::vector<std::size_t> widths(columns.size());
  for (std::size_t c = 0; c < columns.size(); ++c) {
    rows[0][c] = columns[c].title;
    for (std::size_t i = 0; i < lines.size(); ++i) rows[i + 1][c] = columns[c].cell(lines[i]);
    for (const auto& row : rows) widths[c] = std::max(widths[c], width_of(row[c]));
  }

  std::string text;
  for (const auto& row : rows) {
    std::string line;
    for (std::size_t c = 0; c < columns.size(); ++c) {
      const std::string padding(widths[c] - width_of(row[c]), ' ');
      line += columns[c].is_number ? padding + row[c] : row[c] + padding;
      line += "  ";
    }
    text += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  }
  return text + charged_in_all(lines) + total;
}

std::string statement_csv(const std::vector<StatementLine>& lines) {
  std::string csv =
      "seq,time,kind,fund,run,id,amount_mgpus,gpus,seconds,weight_milli,start,end,actor,note,"
      "available_after_mgpus,balance_after_mgpus,cost_minor,currency\n";
  for (const StatementLine& line : lines) {
    const bool charge = is_charge(line);
    const auto number = [charge](std::int64_t n) { return charge ? fmt::to_string(n) : ""; };
    csv += fmt::format("{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{}\n", line.seq,
                       format_utc(line.when), line.kind, csv_field(line.fund), csv_field(line.run),
                       csv_field(line.id), line.amount.milli_gpu_s, number(line.gpus),
                       number(line.seconds), number(line.weight_milli),
                       charge ? format_utc(line.start) : "", charge ? format_utc(line.end) : "",
                       csv_field(line.actor), csv_field(line.note),
                       line.available_after.milli_gpu_s, line.balance_after.milli_gpu_s,
                       line.cost_minor ? fmt::to_string(*line.cost_minor) : "", line.currency);
  }
  return csv;
}

std::string statement_json(const std::vector<StatementLine>& lines) {
  nlohmann::ordered_json array = nlohmann::ordered_json::array();
  for (const StatementLine& line : lines) {
    nlohmann::ordered_json object{{"seq", line.seq},
                                  {"time", format_utc(line.when)},
                                  {"kind", line.kind},
                                  {"fund", line.fund},
                                  {"run", line.run},
                                  {"id", line.id},
                                  {"amount_mgpus", line.amount.milli_gpu_s}};
    if (is_charge(line)) {
      object["gpus"] = line.gpus;
      object["seconds"] = line.seconds;
      object["weight_milli"] = line.weight_milli;
      object["start"] = format_utc(line.start);
      object["end"] = format_utc(line.end);
    }
    object["actor"] = line.actor;
    object["note"] = line.note;
    object["available_after_mgpus"] = line.available_after.milli_gpu_s;
    object["balance_after_mgpus"] = line.balance_after.milli_gpu_s;
    if (line.cost_minor) {
      object["cost_minor"] = *line.cost_minor;
      object["currency"] = line.currency;
    }
    array.push_back(std::move(object));
  }
  return array.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

}  // namespace accounting
