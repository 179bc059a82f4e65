// SPDX-License-Identifier: GPL-3.0-or-later
//
// The books as people see them: statement, funds, and the admin's grant and audit.
#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <thread>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "accounting/amount.h"
#include "accounting/tariff.h"
#include "accounting/till.h"
#include "scheduler/client.h"
#include "scheduler/console.h"
#include "scheduler/fund_tables.h"

namespace scheduler {

using nlohmann::json;

ExitStatus statement(const Client& client, const StatementOptions& options) {
  std::string run = options.run;
  if (!run.empty()) {
    const auto id = resolve_run(client, run);
    if (const auto* status = std::get_if<ExitStatus>(&id)) return *status;
    run = std::get<std::string>(id);
  }
  const auto answer = ask(client, {{"verb", "statement"},
                                   {"fund", options.fund},
                                   {"run", run},
                                   {"period", options.period},
                                   {"format", client.json ? "json" : options.format}});
  if (const auto* status = std::get_if<ExitStatus>(&answer)) return *status;
  const json& result = std::get<json>(answer);
  if (client.json) {
    fmt::print("{}\n", result.at("lines").dump(2));
  } else {
    fmt::print("{}", result.at("body").get<std::string>());
  }
  return ExitStatus::kDone;
}

ExitStatus list_funds(const Client& client, bool csv) {
  const auto answer = ask(client, {{"verb", "funds"}});
  if (const auto* status = std::get_if<ExitStatus>(&answer)) return *status;
  const json& result = std::get<json>(answer);
  if (client.json) {
    fmt::print("{}\n", result.dump(2));
    return ExitStatus::kDone;
  }
  if (csv) {
    fmt::print("{}", funds_csv(result));
    return ExitStatus::kDone;
  }
  const json& funds = result.at("funds");
  if (funds.empty()) {
    fmt::print("no fund yet. An admin gives hours: trainyard admin grant user:{} 10h\n", client.user);
    return ExitStatus::kDone;
  }
  fmt::print("{:<24} {:>18} {:>18} {:>18} {:>18}\n", "FUND", "AVAILABLE", "HELD", "CHARGED", "GRANTED");
  for (const json& fund : funds) {
    fmt::print("{:<24} {:>18} {:>18} {:>18} {:>18}\n", fund.at("fund").get<std::string>(),
               gpu_hours(fund.at("available")), gpu_hours(fund.at("held")),
               gpu_hours(fund.at("charged")), gpu_hours(fund.at("granted")));
  }
  return ExitStatus::kDone;
}

ExitStatus grant(const Client& client, const GrantOptions& options) {
  const auto amount = accounting::parse_gpu_hours(options.hours);
  if (!amount) {
    return complain(client, ExitStatus::kBadRequest,
                    {fmt::format("\"{}\" is no amount of GPU-hours. Examples: 10h, 0.5h, 90m, 1800s",
                                 options.hours)});
  }
  std::int64_t from = 0, expires = 0;
  for (const auto& [text, instant, name] : {std::tuple{&options.from, &from, "--from"},
                                            std::tuple{&options.expires, &expires, "--expires"}}) {
    if (text->empty()) continue;
    const auto when = accounting::parse_utc(*text);
    if (!when) {
      return complain(client, ExitStatus::kBadRequest,
                      {fmt::format("{} {} is no date. Write 2026-12-31 or 2026-12-31T08:00:00Z (UTC)",
                                   name, *text)});
    }
    *instant = *when;
  }
  const auto answer = ask(client, {{"verb", "grant"},
                                   {"id", options.id.empty() ? random_id(16) : options.id},
                                   {"fund", options.fund},
                                   {"amount", amount->milli_gpu_s},
                                   {"from", from},
                                   {"expires", expires},
                                   {"note", options.note}});
  if (const auto* status = std::get_if<ExitStatus>(&answer)) return *status;
  const json& result = std::get<json>(answer);
  if (client.json) {
    fmt::print("{}\n", result.dump(2));
    return ExitStatus::kDone;
  }
  fmt::print("{} {}; it has {} available\n", options.fund,
             result.at("was_known").get<bool>() ? "has that grant already"
                                                : "got " + gpu_hours(amount->milli_gpu_s),
             gpu_hours(result.at("fund").at("available")));
  return ExitStatus::kDone;
}

ExitStatus gate(const Client& client, std::uint32_t job) {
  const auto answer = ask(client, {{"verb", "gate"}, {"job", job}});
  if (const auto* status = std::get_if<ExitStatus>(&answer)) return *status;
  return ExitStatus::kDone;
}

ExitStatus print_quote(const Client& client, const json& quote) {
  if (client.json) {
    fmt::print("{}\n", quote.dump(2));
    return ExitStatus::kDone;
  }
  const std::string id = quote.at("quote");
  fmt::print("quote    {}: {} x {}, paid by {}\n", id, quote.at("gpus").get<int>(),
             quote.at("type").get<std::string>(), quote.at("fund").get<std::string>());
  fmt::print("hours    {} expected, at most {}\n", gpu_hours(quote.at("expected")),
             gpu_hours(quote.at("hold")));
  if (quote.contains("plan")) {
    const Plan plan = quote.at("plan").get<Plan>();
    fmt::print("estimate {}\n", estimate_text(plan.quote));
    if (quote.contains("expected_start") && !quote.at("expected_start").is_null() &&
        quote.at("expected_start").get<std::int64_t>() > 0) {
      const std::int64_t start = quote.at("expected_start");
      fmt::print("times    expected to start at {}, to end at {}\n", local_time(start),
                 local_time(start + plan.quote.expected_s));
    }
    if (!quote.at("available").is_null()) {
      fmt::print("fund     {} available; about {} after the run\n", gpu_hours(quote.at("available")),
                 gpu_hours(quote.at("available").get<std::int64_t>() -
                           plan.quote.expected.milli_gpu_s));
    }
  }
  if (!quote.at("cost_minor").is_null()) {
    const std::string currency = quote.at("currency");
    fmt::print("money    at most {}, at {} a GPU-hour\n",
               accounting::format_money(quote.at("cost_minor"), currency),
               accounting::format_money(quote.at("price_minor"), currency));
    fmt::print("pay now  {} for {}, with the quote {} in the payment: kept for this run, and what it "
               "leaves is in the wallet. Or leave it to the hours of the fund\n",
               accounting::format_money(quote.at("cost_minor"), currency),
               quote.at("fund").get<std::string>(), id);
  }
  fmt::print("valid    until {}; weight and price are kept until then\n",
             accounting::format_utc(quote.at("expires")));
  fmt::print("next     trainyard train ... --quote {}\n", id);
  return ExitStatus::kDone;
}

ExitStatus audit(const Client& client, const std::string& since) {
  json request = {{"verb", "audit"}};
  if (!since.empty()) {
    const std::size_t colon = since.find(':');
    std::int64_t seq = 0;
    const char* end = since.data() + std::min(colon, since.size());
    const auto [stop, fault] = std::from_chars(since.data(), end, seq);
    if (colon == std::string::npos || fault != std::errc{} || stop != end) {
      return complain(client, ExitStatus::kBadRequest,
                      {fmt::format("--since {} is not SEQ:HASH, as trainyard admin backup tells it", since)});
    }
    request["since_seq"] = seq;
    request["since_hash"] = since.substr(colon + 1);
  }
  auto answer = ask(client, request);
  // The service verifies aside, as long as that takes.
  while (std::holds_alternative<json>(answer) && std::get<json>(answer).contains("pending")) {
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
    answer = ask(client, request);
  }
  if (const auto* status = std::get_if<ExitStatus>(&answer)) return *status;
  const json& result = std::get<json>(answer);
  const bool is_clean = result.at("faults").empty();
  if (client.json) {
    fmt::print("{}\n", result.dump(2));
  } else {
    for (const json& fault : result.at("faults")) fmt::print("fault    {}\n", fault.get<std::string>());
    for (const json& note : result.at("notes")) fmt::print("note     {}\n", note.get<std::string>());
    fmt::print("{}: {} charges compared with slurmdbd, {} faults, {} notes\n",
               is_clean ? "the books are right" : "THE BOOKS ARE WRONG",
               result.at("charges_compared").get<std::int64_t>(), result.at("faults").size(),
               result.at("notes").size());
  }
  return is_clean ? ExitStatus::kDone : ExitStatus::kInternal;
}

}  // namespace scheduler
