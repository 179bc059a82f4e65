// SPDX-License-Identifier: GPL-3.0-or-later
#include "accounting/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <nlohmann/json.hpp>

#include "accounting/cost.h"
#include "accounting/posting.h"
#include "accounting/tariff.h"
#include "accounting/till.h"

namespace accounting {
namespace {

constexpr std::int64_t kDay_s = 86'400;

// One charge with its debt, its refunds and who asked for its hold.
struct Allocation {
  std::string id, fund, user, run;
  std::int64_t gpus = 0, seconds = 0, weight_milli = 0;
  UtcSeconds end = 0;
  Amount used, refunded;
  Holding holding;
};

Expected<void> each_allocation(Database& db, const UsageFilter& filter,
                               const std::function<void(const Allocation&)>& visit) {
  return db.query(
      "SELECT c.id, h.fund, h.member, c.run, c.gpus, c.seconds, c.weight_milli, c.end_s, "
      "c.amount + (SELECT coalesce(sum(amount), 0) FROM transfer WHERE ref = c.id AND kind = 'debt'), "
      "(SELECT coalesce(sum(amount), 0) FROM transfer WHERE ref = c.id AND kind = 'refund'), "
      "o.ts_us / 1000000, coalesce(o.ref, '') "
      "FROM transfer c JOIN hold h ON h.id = c.hold_id JOIN transfer o ON o.id = c.hold_id "
      "WHERE c.kind = 'charge' "
      "AND (?1 = '' OR h.fund = ?1) AND (?2 = '' OR h.member = ?2) AND (?3 = '' OR c.run = ?3) "
      "AND c.end_s >= ?4 AND (?5 = 0 OR c.end_s < ?5) ORDER BY c.seq",
      {filter.fund, filter.user, filter.run, filter.from, filter.to}, [&](const Row& row) {
        const Allocation found{.id = row.text(0),
                               .fund = row.text(1),
                               .user = row.text(2),
                               .run = row.text(3),
                               .gpus = row.integer(4),
                               .seconds = row.integer(5),
                               .weight_milli = row.integer(6),
                               .end = row.integer(7),
                               .used = {row.integer(8)},
                               .refunded = {row.integer(9)},
                               .holding = {row.integer(10), row.text(11)}};
        const bool is_seen =
            !filter.is_limited || found.user == filter.viewer ||
            std::find(filter.funds.begin(), filter.funds.end(), found.fund) != filter.funds.end();
        if (is_seen) visit(found);
      });
}

std::string key_of(const Allocation& allocation, GroupBy group_by) {
  switch (group_by) {
    case GroupBy::kFund:
      return allocation.fund;
    case GroupBy::kUser:
      return allocation.user;
    case GroupBy::kRun:
      return allocation.run;
    case GroupBy::kAllocation:
      return allocation.id;
    case GroupBy::kDay:
      return format_utc(allocation.end).substr(0, 10);
    case GroupBy::kMonth:
      return format_utc(allocation.end).substr(0, 7);
  }
  return "";
}

std::string hours(Amount amount) {
  const std::string text = to_gpu_hours(amount);
  return text.substr(0, text.find(' '));
}

// Without a cost where its sum does not fit.
UsageRow total_of(const std::vector<UsageRow>& rows) {
  UsageRow total{.key = "total", .used = {}, .refunded = {}, .arithmetic = {}};
  std::int64_t cost = 0;
  bool fits = true;
  for (const UsageRow& row : rows) {
    total.allocations += row.allocations;
    total.gpu_seconds += row.gpu_seconds;
    total.used.milli_gpu_s += row.used.milli_gpu_s;
    total.refunded.milli_gpu_s += row.refunded.milli_gpu_s;
    if (!row.cost_minor) continue;
    fits = !__builtin_add_overflow(cost, *row.cost_minor, &cost) && fits;
    total.currency = row.currency;
  }
  if (fits && !total.currency.empty()) total.cost_minor = cost;
  return total;
}

Amount net(const UsageRow& row) { return {row.used.milli_gpu_s - row.refunded.milli_gpu_s}; }

// An Error where the sum does not fit.
Expected<void> add_cost(UsageRow& row, const Allocation& allocation, const Costs& costs) {
  const auto cost = costs.of({allocation.used.milli_gpu_s - allocation.refunded.milli_gpu_s},
                             allocation.holding);
  if (!cost) return tl::unexpected(cost.error());
  if (!*cost) return {};
  std::int64_t sum = row.cost_minor.value_or(0);
  if (__builtin_add_overflow(sum, (*cost)->minor, &sum)) {
    return tl::unexpected(Error{fmt::format("what {} cost together does not fit", row.key)});
  }
  row.cost_minor = sum;
  row.currency = (*cost)->currency;
  return {};
}

std::string cost_of(const UsageRow& row) {
  return row.cost_minor ? format_money(*row.cost_minor, row.currency) : "";
}

// A label's value: what Prometheus would take for its end is written as itself.
std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c == '\n' ? ' ' : c;
  }
  return out;
}

}  // namespace

std::optional<GroupBy> parse_group_by(std::string_view text) {
  constexpr std::array<std::pair<std::string_view, GroupBy>, 6> kNames{
      {{"fund", GroupBy::kFund},
       {"user", GroupBy::kUser},
       {"run", GroupBy::kRun},
       {"allocation", GroupBy::kAllocation},
       {"day", GroupBy::kDay},
       {"month", GroupBy::kMonth}}};
  for (const auto& [name, group_by] : kNames) {
    if (name == text) return group_by;
  }
  return std::nullopt;
}

Expected<std::vector<UsageRow>> usage(Database& db, const UsageFilter& filter, GroupBy group_by) {
  const auto costs = Costs::open(db);
  if (!costs) return tl::unexpected(Error{"usage: " + costs.error().message});
  std::map<std::string, UsageRow> rows;
  Expected<void> priced;
  auto done = each_allocation(db, filter, [&](const Allocation& allocation) {
    const std::string key = key_of(allocation, group_by);
    UsageRow& row = rows[key];
    row.key = key;
    ++row.allocations;
    row.gpu_seconds += allocation.gpus * allocation.seconds;
    row.used.milli_gpu_s += allocation.used.milli_gpu_s;
    row.refunded.milli_gpu_s += allocation.refunded.milli_gpu_s;
    if (priced) priced = add_cost(row, allocation, *costs);
    if (group_by == GroupBy::kAllocation) {
      row.arithmetic = fmt::format("{} GPU x {} s x {}", allocation.gpus, allocation.seconds,
                                   format_weight(allocation.weight_milli));
      row.gpus = allocation.gpus;
      row.seconds = allocation.seconds;
      row.weight_milli = allocation.weight_milli;
    }
  });
  if (done) done = priced;
  if (!done) return tl::unexpected(Error{"usage: " + done.error().message});
  std::vector<UsageRow> sorted;
  for (auto& [key, row] : rows) sorted.push_back(std::move(row));
  return sorted;
}

std::string usage_text(const std::vector<UsageRow>& rows, std::string_view title) {
  const UsageRow total = total_of(rows);
  std::size_t width = std::max<std::size_t>(title.size(), 5);
  for (const UsageRow& row : rows) width = std::max(width, row.key.size());
  const std::size_t cost_width = std::max<std::size_t>(cost_of(total).size(), 12);
  const auto cost_column = [&](const std::string& text) {
    return total.currency.empty() ? "" : fmt::format("  {:>{}}", text, cost_width);
  };
  std::string text = fmt::format("{:<{}}  {:>11}  {:>12}  {:>12}  {:>12}  {:>12}{}\n", title, width,
                                 "ALLOCATIONS", "GPU-s", "USED GPU-h", "REFUNDED", "NET",
                                 cost_column("COST"));
  const auto append = [&](const UsageRow& row) {
    text += fmt::format("{:<{}}  {:>11}  {:>12}  {:>12}  {:>12}  {:>12}{}{}\n", row.key, width,
                        row.allocations, row.gpu_seconds, hours(row.used), hours(row.refunded),
                        hours(net(row)), cost_column(cost_of(row)),
                        row.arithmetic.empty() ? "" : "  " + row.arithmetic);
  };
  for (const UsageRow& row : rows) append(row);
  append(total);
  return text;
}

std::string usage_csv(const std::vector<UsageRow>& rows) {
  std::string csv = "key,allocations,gpu_seconds,used_mgpus,refunded_mgpus,net_mgpus,"
                    "gpus,seconds,weight_milli,cost_minor,currency\n";
  for (const UsageRow& row : rows) {  // No key has a comma or a quote in it.
    csv += fmt::format("{},{},{},{},{},{},", row.key, row.allocations, row.gpu_seconds,
                       row.used.milli_gpu_s, row.refunded.milli_gpu_s, net(row).milli_gpu_s);
    csv += row.arithmetic.empty()
               ? ",,"
               : fmt::format("{},{},{}", row.gpus, row.seconds, row.weight_milli);
    csv += fmt::format(",{},{}\n", row.cost_minor ? fmt::to_string(*row.cost_minor) : "",
                       row.currency);
  }
  return csv;
}

std::string usage_json(const std::vector<UsageRow>& rows) {
  nlohmann::ordered_json array = nlohmann::ordered_json::array();
  for (const UsageRow& row : rows) {
    nlohmann::ordered_json object{{"key", row.key},
                                  {"allocations", row.allocations},
                                  {"gpu_seconds", row.gpu_seconds},
                                  {"used_mgpus", row.used.milli_gpu_s},
                                  {"refunded_mgpus", row.refunded.milli_gpu_s},
                                  {"net_mgpus", net(row).milli_gpu_s}};
    if (!row.arithmetic.empty()) {
      object["arithmetic"] = row.arithmetic;
      object["gpus"] = row.gpus;
      object["seconds"] = row.seconds;
      object["weight_milli"] = row.weight_milli;
    }
    if (row.cost_minor) {
      object["cost_minor"] = *row.cost_minor;
      object["currency"] = row.currency;
    }
    array.push_back(std::move(object));
  }
  return array.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

Expected<std::vector<BurnDown>> burn_down(Database& db, const Ledger& ledger, std::int64_t days,
                                          UtcSeconds now) {
  const auto balances = ledger.balances();
  if (!balances) return tl::unexpected(balances.error());
  UsageFilter filter;
  filter.from = now - days * kDay_s;
  const auto used = usage(db, filter, GroupBy::kFund);
  if (!used) return tl::unexpected(used.error());
  const auto costs = Costs::open(db);
  if (!costs) return tl::unexpected(costs.error());
  std::map<std::string, UsageRow> by_fund;
  for (const UsageRow& row : *used) by_fund[row.key] = row;
  std::vector<BurnDown> all;
  for (const FundBalance& balance : *balances) {
    BurnDown burn{.fund = balance.fund,
                  .available = balance.available,
                  .used = net(by_fund[balance.fund]),
                  .days = days,
                  .days_left = {},
                  .next_expiry = {}};
    burn.used_cost_minor = by_fund[balance.fund].cost_minor;
    burn.currency = by_fund[balance.fund].currency;
    if (const auto worth = costs->at(balance.available, now)) {
      burn.available_minor = worth->minor;
      burn.currency = worth->currency;
    }
    if (burn.used > Amount{0}) {
      __extension__ using Wide = __int128;
      const Wide left = std::max<std::int64_t>(0, balance.available.milli_gpu_s);
      burn.days_left = static_cast<std::int64_t>(left * days / burn.used.milli_gpu_s);
    }
    const auto grants = ledger.dated_grants(balance.fund);
    if (!grants) return tl::unexpected(grants.error());
    for (const DatedGrant& grant : *grants) {
      if (grant.has_begun && grant.expires > now && !burn.next_expiry) {
        burn.next_expiry = grant.expires;
      }
    }
    all.push_back(burn);
  }
  return all;
}

std::string ondemand_balances(
    const std::vector<FundBalance>& balances,
    const std::function<std::vector<std::string>(const std::string& group)>& members_of,
    UtcSeconds now) {
  nlohmann::ordered_json file{{"version", 1},
                              {"timestamp", now},
                              {"config", {{"unit", "GPU-h"}, {"project_type", "group"}}},
                              {"balances", nlohmann::ordered_json::array()}};
  for (const FundBalance& balance : balances) {
    const std::size_t colon = balance.fund.find(':');
    const std::string name = balance.fund.substr(colon + 1);
    const std::int64_t left =
        std::max<std::int64_t>(0, balance.available.milli_gpu_s) / kGpuHour.milli_gpu_s;
    if (balance.fund.starts_with("user:")) {
      file["balances"].push_back({{"user", name}, {"value", left}});
      continue;
    }
    for (const std::string& member : members_of(name)) {
      file["balances"].push_back({{"user", member}, {"project", name}, {"value", left}});
    }
  }
  return file.dump(2) + "\n";
}

std::string prometheus_text(const std::vector<FundBalance>& balances) {
  struct Metric {
    std::string_view name, help;
    Amount (*value)(const FundBalance&);
  };
  constexpr std::array<Metric, 6> kMetrics{{
      {"available", "What the fund may still set aside.",
       [](const FundBalance& b) { return b.available; }},
      {"held", "Set aside for runs.", [](const FundBalance& b) { return b.held; }},
      {"granted", "All that was ever granted.", [](const FundBalance& b) { return b.granted; }},
      {"charged", "Charged, less refunds.", [](const FundBalance& b) { return b.charged; }},
      {"expired", "Expired of dated grants.", [](const FundBalance& b) { return b.expired; }},
      {"owed", "Debt.", [](const FundBalance& b) { return b.owed; }},
  }};
  std::string text;
  for (const Metric& metric : kMetrics) {
    text += fmt::format("# HELP trainyard_fund_{0}_gpu_seconds {1}\n"
                        "# TYPE trainyard_fund_{0}_gpu_seconds gauge\n",
                        metric.name, metric.help);
    for (const FundBalance& balance : balances) {
      const std::int64_t milli = metric.value(balance).milli_gpu_s;
      const std::uint64_t magnitude =
          milli < 0 ? 0 - static_cast<std::uint64_t>(milli) : static_cast<std::uint64_t>(milli);
      text += fmt::format("trainyard_fund_{}_gpu_seconds{{fund=\"{}\"}} {}{}.{:03}\n", metric.name,
                          escaped(balance.fund), milli < 0 ? "-" : "", magnitude / 1'000,
                          magnitude % 1'000);
    }
  }
  return text;
}

}  // namespace accounting
