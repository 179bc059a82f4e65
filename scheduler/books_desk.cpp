// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/books_desk.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "accounting/journal.h"
#include "accounting/period.h"
#include "accounting/posting.h"
#include "accounting/report.h"
#include "accounting/tariff.h"
#include "accounting/till.h"
#include "scheduler/alert_sender.h"
#include "scheduler/allowance.h"
#include "scheduler/answers.h"
#include "scheduler/group_members.h"
#include "scheduler/request_id.h"
#include "scheduler/tiers.h"

namespace scheduler {
namespace {

using accounting::Amount;
using accounting::to_gpu_hours;
using nlohmann::json;

constexpr std::string_view kQuoteHolds = "quote/";

bool is_of_members(const std::string& setting) {
  return setting.starts_with("cap/") || setting.starts_with("gpus/") ||
         setting.starts_with("runs/") || setting.starts_with("member_");
}

json answer_set(Dispatcher& dispatcher, const Caller& caller, const json& request, UtcSeconds now) {
  accounting::Setting setting;
  const std::string asked_id = request.at("id");
  if (const std::string why = why_no_id(asked_id); !why.empty()) return bad_request(why);
  setting.fund = request.at("fund");
  setting.name = request.at("name");
  if (request.contains("value") && !request.at("value").is_null()) {
    setting.value = request.at("value").get<std::string>();
  }
  setting.since = request.value("since", std::int64_t{0});
  setting.actor = caller.user;
  setting.note = request.value("note", "");
  // Which fund pays where he names none is each user's own choice.
  const bool is_own = setting.name == "default_fund" && setting.fund == "user:" + caller.user;
  // A coordinator shares out what his account has; he gives it nothing.
  const bool is_led = leads_fund(caller, setting.fund) && is_of_members(setting.name);
  if (!caller.is_admin && !is_own && !is_led) return refused({std::string(kAdminsOnly)});
  if (setting.name == "default_fund" && setting.value) {
    const std::string& chosen = *setting.value;
    if (!accounting::is_fund(chosen)) {
      return bad_request(fmt::format(
          "default_fund = \"{}\" is not the name of a fund. Write user:NAME or group:NAME, NAME of "
          "letters, digits and \"._@+-\"", chosen));
    }
    if (is_own && !may_spend(caller, chosen)) {
      return refused({fmt::format("fund {} is not {}'s to spend: it takes the user himself or a "
                                  "member of the Unix group", chosen, caller.user)});
    }
  }
  if (setting.name == "default_fund") {
    const auto current = dispatcher.ledger().setting(setting.fund, setting.name);
    if (!current) return failed(current.error().message);
    // Said again it is no transfer more; who may set it as he likes could fill the books.
    if (*current == setting.value) return good({{"was_known", true}});
  }
  const auto id = is_own || !caller.is_admin
                      ? id_of_user(dispatcher.database(), caller.uid, caller.user, asked_id)
                      : id_of_admin(dispatcher.database(), "set", caller.user, asked_id);
  if (!id) return failed(id.error().message);
  setting.id = *id;
  const auto status = dispatcher.ledger().set(setting, now);
  if (!status) return failed(status.error().message);
  switch (*status) {
    case accounting::SetStatus::kSet:
    case accounting::SetStatus::kAlreadySet:
      return good({{"was_known", *status == accounting::SetStatus::kAlreadySet}});
    case accounting::SetStatus::kExistsWithDifferentContent:
      return refused({"setting " + asked_id + " exists with other content"});
    case accounting::SetStatus::kBelowUse: {
      const auto balance = dispatcher.ledger().balance(setting.fund);
      if (!balance) return failed(balance.error().message);
      return refused({fmt::format("fund {} has {} available, and so uses more credit than that. "
                                  "Grant it hours first.",
                                  setting.fund,
                                  to_gpu_hours(*balance ? (*balance)->available : Amount{}))});
    }
    case accounting::SetStatus::kInvalid:
      break;
  }
  return bad_request(fmt::format("{} = {} is no setting of \"{}\". Settings: credit_limit, "
                                 "gpus_max, runs_max, member_gpus_max, member_runs_max, cap/MEMBER, "
                                 "gpus/MEMBER, runs/MEMBER (whole numbers from 0), closed (1), tier, "
                                 "default_fund.",
                                 setting.name, setting.value.value_or("(nothing)"), setting.fund));
}

json answer_refund(Dispatcher& dispatcher, const Caller& caller, const json& request,
                   UtcSeconds now) {
  if (!caller.is_admin) return refused({std::string(kAdminsOnly)});
  accounting::Refund refund;
  refund.charge_id = request.at("charge");
  refund.id = refund.charge_id + "/" + request.at("reason").get<std::string>();
  if (!accounting::is_id(refund.id)) {
    return bad_request(fmt::format("\"{}\" is no id of a refund: charge and reason together have 1 to {} "
                                   "letters, digits and {}", refund.id, accounting::kIdLengthMax,
                                   accounting::kIdMarks));
  }
  refund.actor = caller.user;
  refund.note = request.value("note", "");
  const auto left = dispatcher.ledger().refundable(refund.charge_id);
  if (!left) return failed(left.error().message);
  if (!*left) {
    return refused({fmt::format("there is no charge {}. `trainyard statement RUN` lists them.",
                                refund.charge_id)});
  }
  const std::int64_t asked = request.value("amount", std::int64_t{0});  // 0: all that is left.
  refund.amount = asked == 0 ? **left : Amount{asked};
  if (asked == 0) {
    // The same again: it took all that was left then.
    const auto read = dispatcher.database().query(
        "SELECT amount FROM transfer WHERE id = ?1 AND kind = 'refund' AND ref = ?2",
        {refund.id, refund.charge_id},
        [&refund](const accounting::Row& row) { refund.amount = {row.integer(0)}; });
    if (!read) return failed(read.error().message);
  }
  const auto status = dispatcher.ledger().refund(refund, now);
  if (!status) return failed(status.error().message);
  switch (*status) {
    case accounting::RefundStatus::kRefunded:
    case accounting::RefundStatus::kAlreadyRefunded:
      return good({{"refunded", refund.amount.milli_gpu_s},
                   {"was_known", *status == accounting::RefundStatus::kAlreadyRefunded}});
    case accounting::RefundStatus::kExceedsCharge:
      return refused({fmt::format("{} exceed the {} that are left of charge {}",
                                  to_gpu_hours(refund.amount), to_gpu_hours(**left),
                                  refund.charge_id)});
    case accounting::RefundStatus::kExistsWithDifferentContent:
      return refused({fmt::format("charge {} was refunded for this reason already, by another "
                                  "amount. Give another --reason.",
                                  refund.charge_id)});
    default:
      return refused({fmt::format("nothing is left to refund of charge {}", refund.charge_id)});
  }
}

json answer_fund(Dispatcher& dispatcher, const Site& site, const Caller& caller,
                 const json& request) {
  const std::string fund = request.value("fund", "user:" + caller.user);
  if (!may_see_fund(caller, fund)) return refused({"fund " + fund + " is not yours to see"});
  accounting::Ledger& ledger = dispatcher.ledger();
  const auto balance = ledger.balance(fund);
  const auto settings = ledger.settings(fund);
  const auto grants = ledger.dated_grants(fund);
  if (!balance) return failed(balance.error().message);
  if (!settings) return failed(settings.error().message);
  if (!grants) return failed(grants.error().message);
  if (!*balance) return refused({"fund " + fund + " is not known: nothing was ever granted to it"});
  json out = {{"fund", fund},
              {"available", (*balance)->available.milli_gpu_s},
              {"held", (*balance)->held.milli_gpu_s},
              {"granted", (*balance)->granted.milli_gpu_s},
              {"charged", (*balance)->charged.milli_gpu_s},
              {"later", (*balance)->later.milli_gpu_s},
              {"expired", (*balance)->expired.milli_gpu_s},
              {"owed", (*balance)->owed.milli_gpu_s},
              {"credit_limit", (*balance)->credit_limit.milli_gpu_s},
              {"settings", json::array()},
              {"dated_grants", json::array()}};
  std::string tier_name;
  for (const accounting::Setting& setting : *settings) {
    json entry = {{"name", setting.name},   {"value", setting.value.value_or("")},
                  {"since", setting.since}, {"actor", setting.actor},
                  {"note", setting.note}};
    if (setting.name == "tier") tier_name = setting.value.value_or("");
    if (setting.name.starts_with("cap/")) {
      const auto use = ledger.member_use(fund, setting.name.substr(4));
      if (!use) return failed(use.error().message);
      entry["use"] = use->milli_gpu_s;
    }
    out["settings"].push_back(std::move(entry));
  }
  for (const accounting::DatedGrant& grant : *grants) {
    out["dated_grants"].push_back({{"id", grant.id},
                                   {"from", grant.from},
                                   {"expires", grant.expires},
                                   {"has_begun", grant.has_begun},
                                   {"remaining", grant.remaining.milli_gpu_s}});
  }
  if (const Tier* tier = find_tier(site, tier_name); tier != nullptr && fund.starts_with("user:")) {
    out["tier"] = tier_to_json(*tier);
  }
  return good(std::move(out));
}

json answer_usage(Dispatcher& dispatcher, const Caller& caller, const json& request,
                  UtcSeconds now) {
  const std::string by = request.value("by", "fund");
  const auto group_by = accounting::parse_group_by(by);
  if (!group_by) {
    return bad_request("by = \"" + by + "\" is none of fund, user, run, allocation, day, month");
  }
  accounting::UsageFilter filter;
  filter.fund = request.value("fund", "");
  filter.user = request.value("user", "");
  filter.run = request.value("run", "");
  filter.from = request.value("from", std::int64_t{0});
  filter.to = request.value("to", std::int64_t{0});
  if (const std::string text = request.value("period", ""); !text.empty()) {
    const auto period = accounting::parse_period(text, now);
    if (!period) return bad_request(no_period(text));
    filter.from = period->from;
    filter.to = period->to;
  }
  filter.is_limited = !caller.is_admin;
  filter.viewer = caller.user;
  filter.funds = caller.led_funds;
  filter.funds.push_back("user:" + caller.user);
  for (const std::string& group : caller.groups) filter.funds.push_back("group:" + group);
  const auto rows = accounting::usage(dispatcher.database(), filter, *group_by);
  if (!rows) return failed(rows.error().message);
  const std::string format = request.value("format", "text");
  if (format == "json") return good({{"rows", json::parse(accounting::usage_json(*rows))}});
  if (format == "csv") return good({{"body", accounting::usage_csv(*rows)}});
  std::string title = by;
  for (char& c : title) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return good({{"body", accounting::usage_text(*rows, title)}});
}

json answer_burn_down(Dispatcher& dispatcher, const Caller& caller, const json& request,
                      UtcSeconds now) {
  const std::int64_t days = request.value("days", std::int64_t{30});
  if (days < 1 || days > 3'660) return bad_request("days is a whole number from 1 to 3660");
  const auto burns =
      accounting::burn_down(dispatcher.database(), dispatcher.ledger(), days, now);
  if (!burns) return failed(burns.error().message);
  json out = json::array();
  for (const accounting::BurnDown& burn : *burns) {
    if (!may_see_fund(caller, burn.fund)) continue;
    json row{{"fund", burn.fund},
             {"available", burn.available.milli_gpu_s},
             {"used", burn.used.milli_gpu_s},
             {"days", burn.days},
             {"days_left", burn.days_left ? json(*burn.days_left) : json(nullptr)},
             {"next_expiry", burn.next_expiry ? json(*burn.next_expiry) : json(nullptr)}};
    if (burn.available_minor) row["available_minor"] = *burn.available_minor;
    if (burn.used_cost_minor) row["used_cost_minor"] = *burn.used_cost_minor;
    if (!burn.currency.empty()) row["currency"] = burn.currency;
    out.push_back(std::move(row));
  }
  return good({{"funds", std::move(out)}});
}

json answer_export(Dispatcher& dispatcher, const Caller& caller, const json& request,
                   UtcSeconds now) {
  if (!caller.is_admin) return refused({std::string(kAdminsOnly)});
  const std::string what = request.at("what");
  const std::string named = request.value("format", "hledger");
  const auto format = accounting::parse_journal_format(named);
  if (!format) return bad_request("format = \"" + named + "\" is none of hledger, beancount");
  if (what != "journal" && request.contains("format")) {
    return bad_request("format is the journal's: " + what + " has one form only");
  }
  if (what == "journal") {
    const auto journal = accounting::export_journal(dispatcher.database(), *format);
    if (!journal) return failed(journal.error().message);
    return good({{"body", *journal}});
  }
  const auto balances = dispatcher.ledger().balances();
  if (!balances) return failed(balances.error().message);
  if (what == "ondemand") {
    return good({{"body", accounting::ondemand_balances(*balances, group_members, now)}});
  }
  if (what == "prometheus") return good({{"body", accounting::prometheus_text(*balances)}});
  return bad_request("what = \"" + what + "\" is none of journal, ondemand, prometheus");
}

json answer_backup(Dispatcher& dispatcher, const Site& site, const Caller& caller,
                   const json& request, UtcSeconds now) {
  if (!caller.is_admin) return refused({std::string(kAdminsOnly)});
  const std::string path = request.at("path");
  if (!path.starts_with('/') || path == site.database) {
    return bad_request("path = \"" + path + "\" is no absolute path beside the books themselves");
  }
  const auto head = dispatcher.ledger().head();
  if (!head) return failed(head.error().message);
  const auto done = dispatcher.database().backup(path);
  if (!done) return failed("backup: " + done.error().message);
  if (const auto kept = dispatcher.till().record({now, caller.user, "backup", path}); !kept) {
    return failed(kept.error().message);
  }
  return good({{"path", path}, {"seq", head->seq}, {"hash", head->hash}});
}

// Each wallet that was ever opened.
Expected<void> give_allowances(Dispatcher& dispatcher, const Site& site, UtcSeconds now) {
  if (site.tiers.empty()) return {};
  const auto balances = dispatcher.ledger().balances();
  if (!balances) return tl::unexpected(Error{balances.error().message});
  for (const accounting::FundBalance& balance : *balances) {
    if (!balance.fund.starts_with("user:")) continue;
    const std::string user = balance.fund.substr(5);
    if (const auto given = give_allowance(dispatcher.ledger(), site, user, now); !given) {
      return given;
    }
  }
  return {};
}

}  // namespace

accounting::Expected<QuoteHolds> quote_holds(const accounting::Ledger& ledger,
                                             const std::string& quote) {
  QuoteHolds holds;
  for (int number = 1;; ++number) {
    std::string id = fmt::format("{}{}", kQuoteHolds, quote);
    if (number > 1) id += fmt::format("+{}", number);
    const auto state = ledger.hold_state(id);
    if (!state) return tl::unexpected(state.error());
    if (!*state) {
      holds.next = id;
      return holds;
    }
    // Another quote may have such an id.
    if ((*state)->is_open && (*state)->hold.quote == quote) holds.open = id;
  }
}

accounting::Expected<void> release_quote(accounting::Ledger& ledger, const std::string& quote,
                                         const std::string& why, UtcSeconds now) {
  const auto holds = quote_holds(ledger, quote);
  if (!holds) return tl::unexpected(holds.error());
  if (holds->open.empty()) return {};
  const auto released = ledger.release(holds->open, why, now);
  if (!released) return tl::unexpected(released.error());
  return {};
}

std::optional<json> answer_funds_desk(Dispatcher& dispatcher, const Site& site,
                                      const Caller& caller, const json& request, UtcSeconds now) {
  const std::string verb = request.at("verb");
  if (verb == "set") return answer_set(dispatcher, caller, request, now);
  if (verb == "refund") return answer_refund(dispatcher, caller, request, now);
  if (verb == "fund") return answer_fund(dispatcher, site, caller, request);
  if (verb == "usage") return answer_usage(dispatcher, caller, request, now);
  if (verb == "burn_down") return answer_burn_down(dispatcher, caller, request, now);
  if (verb == "export") return answer_export(dispatcher, caller, request, now);
  if (verb == "backup") return answer_backup(dispatcher, site, caller, request, now);
  return std::nullopt;
}

std::optional<json> answer_books(Dispatcher& dispatcher, const Site& site, const Caller& caller,
                                 const json& request, UtcSeconds now) {
  if (auto answer = answer_funds_desk(dispatcher, site, caller, request, now)) return answer;
  if (auto answer = answer_people(dispatcher, site, caller, request, now)) return answer;
  return answer_till(dispatcher, site, caller, request, now);
}

Expected<std::vector<std::string>> turn_books(Dispatcher& dispatcher, const Site& site,
                                              UtcSeconds now) {
  const auto fail = [](const accounting::Error& error) {
    return tl::unexpected(Error{"the books: " + error.message});
  };
  if (const auto turned = dispatcher.ledger().turn(now); !turned) return fail(turned.error());
  if (const auto given = give_allowances(dispatcher, site, now); !given) {
    return tl::unexpected(given.error());
  }
  const auto expired = dispatcher.ledger().expired_holds(now);
  if (!expired) return fail(expired.error());
  for (const accounting::HoldState& state : *expired) {
    if (!state.hold.id.starts_with(kQuoteHolds)) continue;
    const auto released = dispatcher.ledger().release(state.hold.id, "the quote expired", now);
    if (!released) return fail(released.error());
  }
  const auto raised = accounting::raise_alerts(dispatcher.database(), dispatcher.ledger(),
                                               alert_channels(site), now);
  if (!raised) return fail(raised.error());
  std::vector<std::string> messages;
  for (const accounting::Alert& alert : *raised) messages.push_back(text_of(alert));
  return messages;
}

}  // namespace scheduler
