// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/books_commands.h"

#include <fmt/format.h>

#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "accounting/amount.h"
#include "accounting/tariff.h"
#include "accounting/till.h"
#include "scheduler/console.h"
#include "scheduler/fund_tables.h"

namespace scheduler {
namespace {

using nlohmann::json;
using Text = std::shared_ptr<std::string>;

std::string day_of(std::int64_t when) {
  return when == 0 ? "never" : accounting::format_utc(when);
}

// A date in `text` into `request[key]`; nothing stands there where the text is empty.
bool put_instant(const Client& client, json& request, const char* key, const std::string& text,
                 ExitStatus& status) {
  if (text.empty()) return true;
  const auto when = accounting::parse_utc(text);
  if (when) request[key] = *when;
  if (!when) {
    status = complain(client, ExitStatus::kBadRequest,
                      {fmt::format("--{} {} is no date. Write 2026-12-31 or 2026-12-31T08:00:00Z "
                                   "(UTC)", key, text)});
  }
  return when.has_value();
}

bool put_hours(const Client& client, json& request, const char* key, const std::string& text,
               ExitStatus& status) {
  const auto amount = accounting::parse_gpu_hours(text);
  if (amount) request[key] = amount->milli_gpu_s;
  if (!amount) {
    status = complain(client, ExitStatus::kBadRequest,
                      {fmt::format("\"{}\" is no amount of GPU-hours. Examples: 10h, 0.5h, 90m, 1800s",
                                   text)});
  }
  return amount.has_value();
}

void print_fund(const json& fund) {
  fmt::print("fund       {}\n", fund.at("fund").get<std::string>());
  for (const char* key : {"available", "held", "charged", "granted", "later", "expired", "owed"}) {
    const bool is_always = std::string_view("available held charged granted").find(key) !=
                           std::string_view::npos;
    if (is_always || fund.at(key) != 0) fmt::print("{:<10} {:>18}\n", key, hours_of(fund, key));
  }
  for (const json& grant : fund.at("dated_grants")) {
    fmt::print("grant      {}: {} left, {}{}\n", grant.at("id").get<std::string>(),
               hours_of(grant, "remaining"),
               grant.at("has_begun").get<bool>()
                   ? ""
                   : fmt::format("begins {}, ", day_of(grant.at("from"))),
               fmt::format("expires {}", day_of(grant.at("expires"))));
  }
  for (const json& setting : fund.at("settings")) {
    const std::string name = setting.at("name");
    std::string value = setting.at("value");
    if (name == "credit_limit" || name.starts_with("cap/")) value = gpu_hours(std::stoll(value));
    fmt::print("rule       {} = {}{} (by {})\n", name, value,
               setting.contains("use") ? ", " + hours_of(setting, "use") + " in use" : "",
               setting.at("actor").get<std::string>());
  }
  if (fund.contains("tier")) {
    const json& tier = fund.at("tier");
    fmt::print("tier       {}", tier.at("name").get<std::string>());
    for (const char* key : {"max_gpus", "max_nodes", "max_runs"}) {
      if (tier.contains(key)) fmt::print(", {} {}", key, tier.at(key).get<int>());
    }
    if (tier.contains("max_time_s")) {
      fmt::print(", max_hours {:.1f}", tier.at("max_time_s").get<double>() / 3600);
    }
    if (tier.at("monthly_grant") != 0) fmt::print(", {} a month", hours_of(tier, "monthly_grant"));
    fmt::print("\n");
  }
}

void print_receipts_table(const json& result) {
  fmt::print("{:>7}  {:<20}  {:<20}  {:>14}  {:>16}  {}\n", "RECEIPT", "TIME", "FUND", "PAID",
             "GPU-HOURS", "REFERENCE");
  for (const json& receipt : result.at("receipts")) {
    fmt::print("{:>7}  {:<20}  {:<20}  {:>14}  {:>16}  {}\n", receipt.at("receipt").get<int>(),
               accounting::format_utc(receipt.at("time")), receipt.at("fund").get<std::string>(),
               accounting::format_money(receipt.at("minor"), receipt.at("currency")),
               hours_of(receipt, "amount"), receipt.at("reference").get<std::string>());
    if (receipt.at("reversed_minor") == 0) continue;
    fmt::print("{:>7}  {} of it went back\n", "",
               accounting::format_money(receipt.at("reversed_minor"), receipt.at("currency")));
  }
}

ExitStatus print_receipts(const Client& client, const json& request, bool csv) {
  return show(client, request, [csv](const json& result) {
    if (csv) return fmt::print("{}", receipts_csv(result));
    print_receipts_table(result);
  });
}

std::shared_ptr<bool> csv_flag(CLI::App* app) {
  auto csv = std::make_shared<bool>(false);
  app->add_flag("--csv", *csv, "as CSV");
  return csv;
}

std::string everything_on_standard_input() {
  return {std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()};
}

}  // namespace

Text BooksCommands::option(CLI::App* app, const char* name, const char* help) {
  auto value = std::make_shared<std::string>();
  app->add_option(name, *value, help);
  return value;
}

Text BooksCommands::needed(CLI::App* app, const char* name, const char* help) {
  auto value = std::make_shared<std::string>();
  app->add_option(name, *value, help)->required();
  return value;
}

BooksCommands::BooksCommands(CLI::App& app, CLI::App& admin) {
  add_wallet(app);
  add_reports(app);
  add_fund_rules(admin);
  add_till(admin);
  add_copies(admin);
}

std::optional<ExitStatus> BooksCommands::run(const Client& client) const {
  for (const Verb& verb : verbs_) {
    if (verb.app->parsed()) return verb.run(client);
  }
  return std::nullopt;
}

void BooksCommands::add_wallet(CLI::App& app) {
  CLI::App* wallet = app.add_subcommand("wallet", "hours of your own: show, top up, receipts");
  wallet->require_subcommand(1);

  CLI::App* shown = wallet->add_subcommand("show", "your wallet with its grants and rules");
  verbs_.push_back({shown, [](const Client& client) {
                      return show(client, {{"verb", "fund"}}, print_fund);
                    }});

  CLI::App* topup = wallet->add_subcommand("topup", "redeem a voucher, or ask what money buys");
  const Text voucher = option(topup, "--voucher", "the code that an admin gave you");
  const Text fund = option(topup, "--fund", "user:NAME or group:NAME; default: you");
  const Text money = option(topup, "money", "an amount such as 20 or 20.50: what it buys, and how");
  verbs_.push_back({topup, [=](const Client& client) {
    if (!voucher->empty() && !money->empty()) {
      return complain(client, ExitStatus::kBadRequest,
                      {fmt::format("{} and --voucher are two ways to top up. Give one of them",
                                   *money)});
    }
    if (!voucher->empty()) {
      return show(client, {{"verb", "voucher_use"}, {"code", *voucher}, {"fund", *fund}},
                  [](const json& result) {
                    fmt::print("{} {}; it has {} available\n", result.at("fund").get<std::string>(),
                               result.at("was_known").get<bool>()
                                   ? "got this voucher before"
                                   : "got " + hours_of(result, "amount"),
                               hours_of(result, "available"));
                  });
    }
    const auto minor = accounting::parse_money(*money);
    if (!minor) {
      return complain(client, ExitStatus::kBadRequest,
                      {fmt::format("\"{}\" is no amount of money. Give --voucher CODE, or an amount "
                                   "such as 20.50", *money)});
    }
    const std::string payer = fund->empty() ? "user:" + client.user : *fund;
    return show(client, {{"verb", "prices"}}, [&](const json& result) {
      if (result.at("now").is_null()) {
        fmt::print("hours are not sold here. Ask an admin for a voucher or a grant\n");
        return;
      }
      const auto amount = accounting::hours_for(*minor, result.at("now"));
      fmt::print("{} buy {} for {}. Pay with that fund as the reference; the hours are there once "
                 "the payment service has told of it\n",
                 accounting::format_money(*minor, result.at("currency")),
                 gpu_hours(amount ? amount->milli_gpu_s : 0), payer);
    });
  }});

  CLI::App* receipts = wallet->add_subcommand("receipts", "what was paid");
  const Text of = option(receipts, "--fund", "user:NAME or group:NAME; default: you");
  const auto csv = csv_flag(receipts);
  verbs_.push_back({receipts, [=](const Client& client) {
    json request = {{"verb", "receipts"}};
    if (!of->empty()) request["fund"] = *of;
    return print_receipts(client, request, *csv);
  }});

  CLI::App* pay = wallet->add_subcommand("default-fund", "who pays where --fund is not given");
  const Text chosen = option(pay, "fund", "one you may spend: user:NAME or group:NAME; none: you yourself");
  verbs_.push_back({pay, [=](const Client& client) {
    json request = {{"verb", "set"},
                    {"id", "set/" + random_id(16)},
                    {"fund", "user:" + client.user},
                    {"name", "default_fund"}};
    if (!chosen->empty()) request["value"] = *chosen;
    return show(client, request, [=](const json&) {
      fmt::print("{} pays where --fund is not given\n", chosen->empty() ? "your wallet" : *chosen);
    });
  }});

  CLI::App* prices = app.add_subcommand("prices", "what a GPU-hour costs, and what it cost");
  verbs_.push_back({prices, [](const Client& client) {
    return show(client, {{"verb", "prices"}}, [](const json& result) {
      if (result.at("prices").empty()) fmt::print("hours are not sold here\n");
      for (const json& price : result.at("prices")) {
        fmt::print("from {}  {} a GPU-hour\n", accounting::format_utc(price.at("from")),
                   accounting::format_money(price.at("minor"), price.at("currency")));
      }
    });
  }});

  CLI::App* webhook = app.add_subcommand(
      "webhook", "hand over a payment message: its body on standard input (docs/formats/payment.md)");
  const Text signature = needed(webhook, "--signature", "the message's signature header");
  verbs_.push_back({webhook, [=](const Client& client) {
    return show(client,
                {{"verb", "webhook"}, {"signature", *signature},
                 {"body", everything_on_standard_input()}},
                [](const json& result) { fmt::print("{}\n", result.dump()); });
  }});
}

void BooksCommands::add_reports(CLI::App& app) {
  CLI::App* fund = app.add_subcommand("fund", "one fund: balance, dated grants, rules, tier");
  const Text name = needed(fund, "fund", "user:NAME or group:NAME");
  verbs_.push_back({fund, [=](const Client& client) {
                      return show(client, {{"verb", "fund"}, {"fund", *name}}, print_fund);
                    }});

  CLI::App* usage = app.add_subcommand("usage", "what was used, by whom, when");
  auto by = std::make_shared<std::string>("run");
  usage->add_option("--by", *by, "fund, user, run, allocation, day, month")->capture_default_str();
  const Text of_fund = option(usage, "--fund", "of one fund");
  const Text of_user = option(usage, "--user", "of one user");
  const Text of_run = option(usage, "--run", "of one run (its whole id)");
  const Text from = option(usage, "--from", "allocations that ended from this day on (UTC)");
  const Text to = option(usage, "--to", "and before this day");
  const Text period = option(usage, "--period", kPeriodHelp);
  const auto csv = csv_flag(usage);
  verbs_.push_back({usage, [=](const Client& client) {
    json request = {{"verb", "usage"}, {"by", *by},         {"fund", *of_fund},
                    {"user", *of_user}, {"run", *of_run}, {"period", *period},
                    {"format", client.json ? "json" : *csv ? "csv" : "text"}};
    ExitStatus status{};
    if (!put_instant(client, request, "from", *from, status)) return status;
    if (!put_instant(client, request, "to", *to, status)) return status;
    if (!period->empty() && !(from->empty() && to->empty())) {
      return complain(client, ExitStatus::kBadRequest,
                      {"--period says it all: leave out --from and --to"});
    }
    return show(client, request, print_body);
  }});

  CLI::App* burn = app.add_subcommand("burn-down", "how long your funds last");
  auto days = std::make_shared<int>(30);
  burn->add_option("--days", *days, "at the rate of so many days")->capture_default_str();
  const auto burn_csv = csv_flag(burn);
  verbs_.push_back({burn, [=](const Client& client) {
    return show(client, {{"verb", "burn_down"}, {"days", *days}}, [=](const json& result) {
      fmt::print("{}", *burn_csv ? burn_down_csv(result) : burn_down_text(result));
    });
  }});
}

void BooksCommands::add_fund_rules(CLI::App& admin) {
  CLI::App* set = admin.add_subcommand(
      "set", "a rule of a fund: credit_limit, cap/MEMBER, gpus/MEMBER, runs/MEMBER, gpus_max, runs_max, "
             "member_gpus_max, member_runs_max, closed, tier");
  const Text fund = needed(set, "fund", "user:NAME or group:NAME");
  const Text name = needed(set, "name", "the rule");
  const Text value = option(set, "value", "its value; hours as 10h. None: the rule is taken back");
  const Text since = option(set, "--since", "of a cap: what was held before this day does not count");
  const Text note = option(set, "--note", "kept in the ledger");
  const Text id = option(set, "--id", "your own id, so that a script's retry is safe");
  verbs_.push_back({set, [=](const Client& client) {
    json request = {{"verb", "set"}, {"id", id->empty() ? "set/" + random_id(16) : *id},
                    {"fund", *fund}, {"name", *name}, {"note", *note}};
    ExitStatus status{};
    const bool is_hours = *name == "credit_limit" || name->starts_with("cap/");
    if (is_hours && !value->empty() && *value != "0") {
      if (!put_hours(client, request, "value", *value, status)) return status;
      request["value"] = std::to_string(request.at("value").get<std::int64_t>());
    } else if (!value->empty()) {
      request["value"] = *value;
    }
    if (!put_instant(client, request, "since", *since, status)) return status;
    return show(client, request, [=](const json&) {
      fmt::print("{}: {} {}\n", *fund, *name, value->empty() ? "is taken back" : "= " + *value);
    });
  }});

  CLI::App* release = admin.add_subcommand(
      "release", "give back what is set aside for a run whose job is gone and that does not settle; the "
                 "run ends");
  const Text released = needed(release, "run", "its id, or RUN/SEGMENT of a hold that no open run has");
  const Text release_note = option(release, "--note", "kept in the ledger and the log of acts");
  verbs_.push_back({release, [=](const Client& client) {
    const json request = {{"verb", "release"}, {"run", *released}, {"note", *release_note}};
    return show(client, request,
                [=](const json&) { fmt::print("what was left for {} is given back\n", *released); });
  }});

  CLI::App* refund = admin.add_subcommand("refund", "give back a charge, or a part of it");
  const Text charge = needed(refund, "charge", "its id in a statement: CLUSTER/RUN/SEGMENT/NUMBER");
  const Text hours = option(refund, "hours", "10h, 0.5h; none: all that is left of it");
  auto reason = std::make_shared<std::string>("admin");
  refund->add_option("--reason", *reason, "one word; a charge is refunded once for each reason")
      ->capture_default_str();
  const Text why = option(refund, "--note", "kept in the ledger");
  verbs_.push_back({refund, [=](const Client& client) {
    json request = {{"verb", "refund"}, {"charge", *charge}, {"reason", *reason}, {"note", *why}};
    ExitStatus status{};
    if (!hours->empty() && !put_hours(client, request, "amount", *hours, status)) return status;
    return show(client, request, [=](const json& result) {
      fmt::print("{} of charge {} {}\n", hours_of(result, "refunded"), *charge,
                 result.at("was_known").get<bool>() ? "were refunded before" : "are refunded");
    });
  }});
}

void BooksCommands::add_till(CLI::App& admin) {
  CLI::App* price = admin.add_subcommand("price", "what a GPU-hour costs from a day on");
  const Text money = needed(price, "money", "such as 0.74");
  const Text currency = needed(price, "currency", "three capital letters, such as EUR");
  const Text from = option(price, "--from", "from this day on (UTC); default: now");
  verbs_.push_back({price, [=](const Client& client) {
    const auto minor = accounting::parse_money(*money);
    if (!minor) {
      return complain(client, ExitStatus::kBadRequest,
                      {fmt::format("\"{}\" is no price. Write 0.74", *money)});
    }
    json request = {{"verb", "price_set"}, {"minor", *minor}, {"currency", *currency}};
    ExitStatus status{};
    if (!put_instant(client, request, "from", *from, status)) return status;
    return show(client, request, [](const json& result) {
      fmt::print("from {} a GPU-hour costs {}\n", accounting::format_utc(result.at("from")),
                 accounting::format_money(result.at("minor"), result.at("currency")));
    });
  }});

  CLI::App* voucher = admin.add_subcommand("voucher", "make a code that is good for hours once");
  const Text hours = needed(voucher, "hours", "10h, 0.5h, 90m");
  const Text expires = option(voucher, "--expires", "the day on which it is void (UTC)");
  const Text fund = option(voucher, "--fund", "for this fund only");
  const Text id = option(voucher, "--id", "its name in the ledger");
  verbs_.push_back({voucher, [=](const Client& client) {
    json request = {{"verb", "voucher_make"}, {"id", id->empty() ? random_id(12) : *id},
                    {"fund", *fund}};
    ExitStatus status{};
    if (!put_hours(client, request, "amount", *hours, status)) return status;
    if (!put_instant(client, request, "expires", *expires, status)) return status;
    return show(client, request, [](const json& result) {
      fmt::print("{}\n", result.at("code").get<std::string>());
    });
  }});

  CLI::App* receipts = admin.add_subcommand("receipts", "all receipts");
  const auto csv = csv_flag(receipts);
  verbs_.push_back({receipts, [=](const Client& client) {
                      return print_receipts(client, {{"verb", "receipts"}, {"fund", ""}}, *csv);
                    }});

  CLI::App* acts = admin.add_subcommand("acts", "what admins did that is no transfer");
  const auto count = std::make_shared<std::int64_t>(1'000);
  acts->add_option("--count", *count, "the newest so many")->check(CLI::Range(1, 1'000))
      ->capture_default_str();
  const auto before = std::make_shared<std::int64_t>(0);
  acts->add_option("--before", *before, "of those with a number below this, to go back further");
  verbs_.push_back({acts, [=](const Client& client) {
    const json request = {{"verb", "acts"}, {"count", *count}, {"before", *before}};
    return show(client, request, [](const json& result) {
      for (const json& act : result.at("acts")) {
        fmt::print("{:>6}  {}  {:<12} {:<10} {}\n", act.at("number").get<std::int64_t>(),
                   accounting::format_utc(act.at("time")), act.at("actor").get<std::string>(),
                   act.at("act").get<std::string>(), act.at("detail").get<std::string>());
      }
    });
  }});
}

void BooksCommands::add_copies(CLI::App& admin) {
  CLI::App* exported = admin.add_subcommand(
      "export", "journal (hledger, beancount), ondemand (balance file) or prometheus (metrics)");
  const Text what = needed(exported, "what", "journal, ondemand, prometheus");
  const Text format = option(exported, "--format", "of the journal: hledger (default) or beancount");
  verbs_.push_back({exported, [=](const Client& client) {
    json request = {{"verb", "export"}, {"what", *what}};
    if (!format->empty()) request["format"] = *format;
    return show(client, request, print_body);
  }});

  CLI::App* backup = admin.add_subcommand("backup", "copy the books while the service runs");
  const Text path = needed(backup, "path", "an absolute path that the service may write");
  verbs_.push_back({backup, [=](const Client& client) {
    return show(client, {{"verb", "backup"}, {"path", *path}}, [](const json& result) {
      fmt::print("{} holds the books up to transfer {} ({})\n", result.at("path").get<std::string>(),
                 result.at("seq").get<std::int64_t>(), result.at("hash").get<std::string>());
    });
  }});
}

}  // namespace scheduler
