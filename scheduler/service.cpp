// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/service.h"

#include <algorithm>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "accounting/measured.h"
#include "accounting/period.h"
#include "accounting/statement.h"
#include "accounting/till.h"
#include "scheduler/answers.h"
#include "scheduler/books_desk.h"
#include "scheduler/estimate.h"
#include "scheduler/request_id.h"

namespace scheduler {
namespace {

using nlohmann::json;

json fund_to_json(const accounting::FundBalance& balance) {
  return {{"fund", balance.fund},
          {"available", balance.available.milli_gpu_s},
          {"held", balance.held.milli_gpu_s},
          {"granted", balance.granted.milli_gpu_s},
          {"charged", balance.charged.milli_gpu_s},
          {"owed", balance.owed.milli_gpu_s},
          {"later", balance.later.milli_gpu_s},
          {"expired", balance.expired.milli_gpu_s},
          {"credit_limit", balance.credit_limit.milli_gpu_s}};
}

json job_to_json(const JobSnapshot& job) {
  return {{"id", job.id},           {"state", to_name(job.state)}, {"reason", job.reason},
          {"nodes", job.nodes},     {"partition", job.partition},  {"start", job.start},
          {"submit", job.submit},   {"time_limit_s", job.time_limit_s},
          {"attempt", job.attempt}, {"gpus", job.gpus},
          {"excluded_nodes", job.excluded_nodes}};
}

json charge_to_json(const Segment& segment, const AttemptCharged& charge,
                    const accounting::ChargeBill& bill) {
  json out = {{"job", charge.job},
              {"attempt", charge.attempt},
              {"state", to_name(charge.state)},
              {"start", charge.start},
              {"end", charge.end},
              {"seconds", charge.end - charge.start},
              {"gpus", charge.gpus},
              {"weight_milli", segment.plan.quote.weight_milli},
              {"charged", bill.charged.milli_gpu_s},
              {"owed", bill.owed.milli_gpu_s},
              {"excess", charge.excess.milli_gpu_s},
              {"refunded", bill.refunded.milli_gpu_s}};
  if (bill.cost_minor) {
    out["cost_minor"] = *bill.cost_minor;
    out["currency"] = bill.currency;
  }
  return out;
}

// Of the charges that are shown.
void add_sums(json& shown) {
  std::int64_t charged = 0, refunded = 0;
  for (const json& segment : shown.at("segments")) {
    for (const json& charge : segment.at("charges")) {
      charged += charge.at("charged").get<std::int64_t>() + charge.at("owed").get<std::int64_t>();
      refunded += charge.at("refunded").get<std::int64_t>();
    }
  }
  shown["charged"] = charged;
  shown["refunded"] = refunded;
}

using Bills = std::map<std::string, accounting::ChargeBill>;

// What a charge came to is what the ledger has of it, as in a statement: CLUSTER/RUN/SEGMENT/NUMBER.
json charges_to_json(const Run& run, const Segment& segment, const Bills& bills) {
  json charges = json::array();
  for (const AttemptCharged& charge : segment.charges) {
    const std::string ending = fmt::format("/{}/{}/{}", run.id, segment.index, charge.attempt);
    const auto bill = std::find_if(bills.begin(), bills.end(), [&ending](const auto& each) {
      return each.first.ends_with(ending);
    });
    if (bill != bills.end()) charges.push_back(charge_to_json(segment, charge, bill->second));
  }
  return charges;
}

json segment_to_json(const Run& run, const Segment& segment, const Bills& bills) {
  json entry = {{"segment", segment.index},
                {"plan", segment.plan},
                {"hold_id", segment.hold_id},
                {"opened", segment.opened},
                {"job", segment.job ? json(*segment.job) : json(nullptr)},
                {"charges", charges_to_json(run, segment, bills)},
                {"outcome", segment.closed ? json(to_name(segment.closed->outcome)) : json(nullptr)},
                {"reason", segment.closed ? json(segment.closed->reason) : json(nullptr)}};
  if (segment.running) {
    entry["nodes"] = segment.running->nodes;
    entry["start"] = segment.running->start;
  }
  if (segment.ended) {
    entry["slurm_state"] = to_name(segment.ended->state);
    entry["exit_code"] = segment.ended->exit_code;
    entry["end"] = segment.ended->end;
  }
  return entry;
}

accounting::Expected<json> run_to_json(Dispatcher& dispatcher, const Dispatcher::RunView& view) {
  const Run& run = view.run;
  const auto bills = accounting::bills_of(dispatcher.database(), run.id);
  if (!bills) return tl::unexpected(bills.error());
  json segments = json::array();
  for (const Segment& segment : run.segments) {
    segments.push_back(segment_to_json(run, segment, *bills));
  }
  json out = {{"run", run.id},
              {"user", run.about.user},
              {"uid", run.about.uid},
              {"name", run.about.name},
              {"fund", run.last().plan.fund},
              {"run_dir", run.about.run_dir},
              {"state", to_name(run.state)},
              {"reason", run.reason},
              {"created", run.created},
              {"ended", run.ended},
              {"held", is_terminal(run.state) ? 0 : run.last().remaining().milli_gpu_s},
              {"allocated_s", run.allocated_s()},
              {"segments", std::move(segments)},
              {"job", view.job ? job_to_json(*view.job) : json(nullptr)}};
  if (const std::int64_t longest_s = dispatcher.longest_job_s(run.last().plan); longest_s > 0) {
    out["job_longest_s"] = longest_s;
  }
  add_sums(out);
  return accounting::Expected<json>(tl::in_place, std::move(out));
}

// Leaves out what funds that the caller may not see paid for another's run.
void hide_foreign_funds(json& shown, const Run& run, const Caller& caller) {
  for (std::size_t i = 0; i < run.segments.size(); ++i) {
    const Segment& segment = run.segments[i];
    if (may_see_fund(caller, segment.plan.fund)) continue;
    json& entry = shown.at("segments").at(i);
    entry["charges"] = json::array();
    entry["plan"]["fund"] = "";
    entry["reason"] = nullptr;  // May name the balance.
  }
  add_sums(shown);
  if (may_see_fund(caller, run.last().plan.fund)) return;
  shown["fund"] = "";
  shown["held"] = 0;
  shown["reason"] = "";
}

// Has nobody told yet how much it trained?
accounting::Expected<bool> is_untold(Dispatcher& dispatcher, const Run& run) {
  bool is_told = !is_to_be_told(run);
  if (is_told) return false;
  const auto read = dispatcher.database().query(
      "SELECT 1 FROM measured_run WHERE run = ?1", {run.id},
      [&is_told](const accounting::Row&) { is_told = true; });
  if (!read) return tl::unexpected(read.error());
  return !is_told;
}

json answer_admit(Dispatcher& dispatcher, const Caller& caller, const json& request, UtcSeconds now) {
  Admission admission;
  admission.run_id = request.at("run");
  admission.segment = request.at("segment");
  admission.run_dir = request.at("run_dir");
  admission.request = request.at("request").get<TrainingRequest>();
  admission.data = {request.at("train_images"), request.at("val_images")};
  admission.epochs_done = request.value("epochs_done", 0);
  admission.quote = request.value("quote", "");
  const auto outcome = dispatcher.admit(caller, admission, now);
  if (!outcome) return failed(outcome.error().message);
  if (const auto* refusal = std::get_if<Refusal>(&*outcome)) return refused(refusal->reasons);
  const Admitted& admitted = std::get<Admitted>(*outcome);
  return good({{"plan", admitted.plan}, {"hold_id", admitted.hold_id}, {"was_known", admitted.was_known}});
}

json answer_statement(Dispatcher& dispatcher, const Caller& caller, const json& request,
                      UtcSeconds now) {
  std::string fund = request.value("fund", "");
  const std::string run = request.value("run", "");
  bool is_own_run = false;
  if (!run.empty()) {
    const auto view = dispatcher.find(run);
    if (!view) return failed(view.error().message);
    if (!*view) return refused({"run " + run + " is not known"});
    const auto& about = (*view)->run.about;
    if (about.uid != caller.uid && !may_see_fund(caller, about.fund)) {
      return refused({fmt::format("run {} belongs to {}", run, about.user)});
    }
    is_own_run = about.uid == caller.uid;
  } else {
    if (fund.empty()) fund = "user:" + caller.user;
    if (!may_see_fund(caller, fund)) {
      return refused({fmt::format("fund {} is not yours to see", fund)});
    }
  }
  accounting::Period period;
  if (const std::string text = request.value("period", ""); !text.empty()) {
    const auto parsed = accounting::parse_period(text, now);
    if (!parsed) return bad_request(no_period(text));
    period = *parsed;
  }
  auto lines = dispatcher.ledger().lines(run.empty() ? fund : "", run, period);
  if (!lines) return failed(lines.error().message);
  // A later segment of a run may have been paid from a wallet of its owner.
  if (!run.empty() && !is_own_run) {
    std::erase_if(*lines, [&caller](const accounting::StatementLine& line) {
      return !may_see_fund(caller, line.fund);
    });
  }
  const auto priced = accounting::add_costs(dispatcher.database(), *lines);
  if (!priced) return failed(priced.error().message);
  const std::string format = request.value("format", "text");
  std::string body;
  if (format == "json") {
    return good({{"lines", json::parse(accounting::statement_json(*lines))}});
  }
  if (format == "csv") {
    body = accounting::statement_csv(*lines);
  } else if (format == "text") {
    body = accounting::statement_text(*lines);
  } else {
    return bad_request("format " + format + " is none of text, csv, json");
  }
  return good({{"body", body}});
}

json answer_funds(Dispatcher& dispatcher, const Caller& caller) {
  const auto balances = dispatcher.ledger().balances();
  if (!balances) return failed(balances.error().message);
  json out = json::array();
  for (const auto& balance : *balances) {
    if (may_see_fund(caller, balance.fund)) out.push_back(fund_to_json(balance));
  }
  return good({{"funds", std::move(out)}});
}

constexpr int kRunsListed = 10'000;  // At most, and as far back as a coordinator's list looks.

json answer_list(Dispatcher& dispatcher, const Caller& caller, const json& request) {
  const bool all = request.value("all", false);
  const bool is_leader = !caller.led_accounts.empty();
  if (all && !caller.is_admin && !is_leader) {
    return refused({"only an admin sees everybody's runs, and a coordinator those he leads"});
  }
  const int count = std::clamp(request.value("count", 20), 1, kRunsListed);
  const bool sees_some = all && !caller.is_admin;
  const auto is_hidden = [&caller](const Dispatcher::RunView& view) {
    const Plan& plan = view.run.last().plan;
    return view.run.about.uid != caller.uid && !leads_run(caller, plan.account, plan.fund);
  };
  // What a coordinator may see lies among the runs of all: further back, until there are enough.
  std::vector<Dispatcher::RunView> views;
  for (int looked_at = count;; looked_at = std::min(4 * looked_at, kRunsListed)) {
    auto found = dispatcher.latest(all ? "" : caller.user, looked_at);
    if (!found) return failed(found.error().message);
    const bool is_all = std::ssize(*found) < looked_at || looked_at == kRunsListed;
    if (sees_some) std::erase_if(*found, is_hidden);
    views = std::move(*found);
    if (!sees_some || is_all || std::ssize(views) >= count) break;
  }
  if (std::ssize(views) > count) views.erase(views.begin() + count, views.end());
  json out = json::array();
  for (const auto& view : views) {
    auto run = run_to_json(dispatcher, view);
    if (!run) return failed(run.error().message);
    if (view.run.about.uid != caller.uid) hide_foreign_funds(*run, view.run, caller);
    out.push_back(std::move(*run));
  }
  return good({{"runs", std::move(out)}, {"trouble", dispatcher.trouble()}});
}

json answer_show(Dispatcher& dispatcher, const Caller& caller, const json& request) {
  const std::string id = request.at("run");
  const auto view = dispatcher.find(id);
  if (!view) return failed(view.error().message);
  if (!*view) return refused({"run " + id + " is not known"});
  const Run& run = (*view)->run;
  if (run.about.uid != caller.uid && !may_see_fund(caller, run.about.fund)) {
    return refused({fmt::format("run {} belongs to {}", id, run.about.user)});
  }
  auto shown = run_to_json(dispatcher, **view);
  if (!shown) return failed(shown.error().message);
  json out = std::move(*shown);
  out["request"] = run.about.request;
  const auto untold = is_untold(dispatcher, run);
  if (!untold) return failed(untold.error().message);
  if (*untold && run.about.uid == caller.uid) out["is_to_be_told"] = true;
  if (run.about.uid != caller.uid) hide_foreign_funds(out, run, caller);
  out["trouble"] = dispatcher.trouble();
  const auto balance = dispatcher.ledger().balance(run.last().plan.fund);
  if (!balance) return failed(balance.error().message);
  if (*balance && may_see_fund(caller, run.last().plan.fund)) {
    out["available"] = (*balance)->available.milli_gpu_s;
  }
  return good(std::move(out));
}

json answer_trained(Dispatcher& dispatcher, const Site& site, const Caller& caller,
                    const json& request, UtcSeconds now) {
  const std::string id = request.at("run");
  const auto view = dispatcher.find(id);
  if (!view) return failed(view.error().message);
  if (!*view || (*view)->run.about.uid != caller.uid) return refused({"run " + id + " is not yours"});
  const Run& run = (*view)->run;
  const auto& args = run.about.request.args;
  const auto rate = accounting::measured_rate(
      dispatcher.database(), {args.model, args.imgsz, run.last().plan.type, run.last().plan.ranks});
  if (!rate) return failed(rate.error().message);
  const auto untold = is_untold(dispatcher, run);
  if (!untold) return failed(untold.error().message);
  const auto measured =
      measure_told(run, site, request.at("epochs_milli").get<std::int64_t>(), *rate, now);
  const bool is_kept = *untold && measured;
  if (is_kept) {
    const auto kept = accounting::keep_measured(dispatcher.database(), *measured);
    if (!kept) return failed(kept.error().message);
  }
  return good({{"is_measured", is_kept}});
}

json answer_grant(Dispatcher& dispatcher, const Caller& caller, const json& request, UtcSeconds now) {
  if (!caller.is_admin) {
    return refused({fmt::format("{} is not an admin of Trainyard (admin_users and admin_groups of "
                                "site.toml)", caller.user)});
  }
  accounting::Grant grant;
  const std::string asked_id = request.at("id");
  if (const std::string why = why_no_id(asked_id); !why.empty()) return bad_request(why);
  const auto id = id_of_admin(dispatcher.database(), "grant", caller.user, asked_id);
  if (!id) return failed(id.error().message);
  grant.id = *id;
  grant.fund = request.at("fund");
  grant.amount.milli_gpu_s = request.at("amount");
  grant.actor = caller.user;
  grant.note = request.value("note", "");
  grant.from = request.value("from", std::int64_t{0});
  grant.expires = request.value("expires", std::int64_t{0});
  const auto status = dispatcher.ledger().grant(grant, now);
  if (!status) return failed(status.error().message);
  switch (*status) {
    case accounting::GrantStatus::kGranted:
    case accounting::GrantStatus::kAlreadyGranted: break;
    case accounting::GrantStatus::kExistsWithDifferentContent:
      return refused({fmt::format("grant {} exists with other content", asked_id)});
    case accounting::GrantStatus::kInvalid:
      return refused({fmt::format(
          "{} to \"{}\" is no grant: a fund is user:NAME or group:NAME with a name of letters, digits "
          "and \"._@+-\" (64 at most), an amount is above zero, an expiry lies ahead",
          accounting::to_gpu_hours(grant.amount), grant.fund)});
  }
  const auto balance = dispatcher.ledger().balance(grant.fund);
  if (!balance) return failed(balance.error().message);
  return good({{"was_known", *status == accounting::GrantStatus::kAlreadyGranted},
               {"fund", *balance ? fund_to_json(**balance) : json(nullptr)}});
}

json answer_audit(Dispatcher& dispatcher, const Caller& caller, const json& request) {
  if (!caller.is_admin) return refused({"only an admin audits"});
  std::optional<accounting::Head> remembered;
  if (request.contains("since_seq")) {
    remembered = accounting::Head{request.at("since_seq").get<std::int64_t>(),
                                  request.at("since_hash").get<std::string>()};
    if (remembered->seq < 1 || remembered->hash.size() != 64) {
      return bad_request("since_seq and since_hash are the number and the hash of a transfer, as a "
                         "backup and the end of `admin export journal` tell them");
    }
  }
  const auto report = dispatcher.audit(remembered);
  if (!report) return failed(report.error().message);
  if (report->is_pending) return good({{"pending", true}});
  return good({{"faults", report->faults}, {"notes", report->notes},
               {"charges_compared", report->charges_compared},
               {"unallocated_gpu_s", report->unallocated_gpu_s}});
}

json outcome_of(const Expected<std::optional<Refusal>>& outcome);

json answer_gate(Dispatcher& dispatcher, const Site& site, const Caller& caller, const json& request,
                 UtcSeconds now) {
  if (caller.uid != 0 && caller.user != site.managed.slurm_user && !caller.is_admin) {
    return refused({"only Slurm itself asks whether a job may start"});
  }
  return outcome_of(dispatcher.may_start(request.at("job"), now));
}

json outcome_of(const Expected<std::optional<Refusal>>& outcome) {
  if (!outcome) return failed(outcome.error().message);
  if (*outcome) return refused((*outcome)->reasons);
  return good(json::object());
}

json outcome_of(const Expected<void>& outcome) {
  return outcome ? good(json::object()) : failed(outcome.error().message);
}

}  // namespace

namespace {

// An admin's act that is no transfer and no entry of the till by itself.
json logged(Dispatcher& dispatcher, const Caller& caller, const std::string& act,
            const std::string& detail, UtcSeconds now, json answer) {
  if (!answer.value("ok", false)) return answer;
  const auto kept = dispatcher.till().record({now, caller.user, act, detail});
  return kept ? std::move(answer) : failed(kept.error().message);
}

// Stopped, cancelled, paused or resumed; logged where it is another's run.
json answer_change(Dispatcher& dispatcher, const Caller& caller, const json& request, UtcSeconds now) {
  const std::string verb = request.at("verb"), id = request.at("run");
  const auto view = dispatcher.find(id);
  if (!view) return failed(view.error().message);
  const auto change = [&] {
    return outcome_of(verb == "stop"    ? dispatcher.request_stop(caller, id, now)
                      : verb == "pause"  ? dispatcher.request_pause(caller, id, now)
                      : verb == "resume" ? dispatcher.request_resume(caller, id, now)
                                         : dispatcher.request_cancel(caller, id, now));
  };
  if (!*view || (*view)->run.about.uid == caller.uid) return change();
  accounting::Till till = dispatcher.till();
  // Both or neither, whenever the service dies; the entry first, so that without it nothing is changed.
  const std::string detail = fmt::format("run {} of {}", id, (*view)->run.about.user);
  json answer;
  const auto done = dispatcher.transact_with(id, [&]() -> accounting::Expected<void> {
    if (const auto kept = till.record({now, caller.user, verb, detail}); !kept) return kept;
    answer = change();
    if (answer.value("ok", false)) return {};
    return tl::unexpected(accounting::Error{"refused"});  // Nothing was done: no entry either.
  });
  const bool was_answered = done || (!answer.is_null() && !answer.value("ok", false));
  return was_answered ? answer : failed(done.error().message);
}

}  // namespace

json answer_request(Dispatcher& dispatcher, const Site& site, const Caller& caller,
                    const json& request, UtcSeconds now) {
  try {
    const std::string verb = request.at("verb");
    if (verb == "hello") {
      json out = {{"user", caller.user}, {"is_admin", caller.is_admin},
                  {"version", TRAINYARD_VERSION}, {"poll_interval_s", site.poll_interval_s},
                  {"last_poll", dispatcher.last_poll()}, {"trouble", dispatcher.trouble()}};
      if (dispatcher.facts()) {
        out["cluster"] = dispatcher.facts()->name;
        out["kill_wait_s"] = dispatcher.facts()->kill_wait_s;
        out["over_time_limit_s"] = dispatcher.facts()->over_time_limit_s;
      }
      const auto fund = dispatcher.ledger().setting("user:" + caller.user, "default_fund");
      if (!fund) return failed(fund.error().message);
      if (*fund) out["default_fund"] = **fund;
      return good(std::move(out));
    }
    if (verb == "admit") return answer_admit(dispatcher, caller, request, now);
    if (verb == "submitted") {
      return outcome_of(dispatcher.submitted(caller, request.at("run"), request.at("segment"),
                                             request.at("job"), now));
    }
    if (verb == "submission_failed") {
      return outcome_of(dispatcher.submission_failed(caller, request.at("run"), request.at("segment"),
                                                     request.at("message"), now));
    }
    if (verb == "stop" || verb == "cancel" || verb == "pause" || verb == "resume") {
      return answer_change(dispatcher, caller, request, now);
    }
    if (verb == "list") return answer_list(dispatcher, caller, request);
    if (verb == "show") return answer_show(dispatcher, caller, request);
    if (verb == "trained") return answer_trained(dispatcher, site, caller, request, now);
    if (verb == "funds") return answer_funds(dispatcher, caller);
    if (verb == "statement") return answer_statement(dispatcher, caller, request, now);
    if (verb == "grant") return answer_grant(dispatcher, caller, request, now);
    if (verb == "gate") return answer_gate(dispatcher, site, caller, request, now);
    if (verb == "release") {
      if (!caller.is_admin) return refused({"only an admin releases what is set aside"});
      const std::string id = request.at("run"), note = request.value("note", "");
      return outcome_of(dispatcher.release_by_admin(caller, id, note, now));
    }
    if (verb == "audit") {
      json answer = answer_audit(dispatcher, caller, request);
      if (answer.value("ok", false) && answer.at("result").contains("pending")) return answer;
      return logged(dispatcher, caller, "audit", "", now, std::move(answer));
    }
    if (verb == "export") {
      auto answer = answer_books(dispatcher, site, caller, request, now);
      // Metrics and the balance file are asked for by timers, each minute for years.
      if (request.at("what") != "journal") return answer.value();
      return logged(dispatcher, caller, "export", request.at("what"), now,
                    std::move(answer.value()));
    }
    if (auto answer = answer_books(dispatcher, site, caller, request, now)) return *answer;
    return bad_request("verb \"" + verb + "\" is not known");
  } catch (const std::exception& error) {
    return bad_request(error.what());
  }
}

}  // namespace scheduler
