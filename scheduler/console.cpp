// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/console.h"

#include <sys/random.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <ctime>

#include <fmt/format.h>

#include "accounting/amount.h"
#include "accounting/till.h"
#include "scheduler/service.h"

namespace scheduler {

using nlohmann::json;

ExitStatus complain(const Client& client, ExitStatus status,
                    const std::vector<std::string>& messages) {
  static const char* const kKinds[] = {"done", "refused", "bad_request", "environment", "internal",
                                       "run_not_finished"};
  if (client.json) {
    const json out = {{"ok", false},
                      {"kind", kKinds[static_cast<int>(status)]},
                      {"messages", messages}};
    fmt::print("{}\n", out.dump(2));
    return status;
  }
  for (const std::string& message : messages) {
    fmt::print(stderr, "{}{}\n", status == ExitStatus::kRefused ? "refused: " : "", message);
  }
  return status;
}

std::variant<json, ExitStatus> ask(const Client& client, const json& request) {
  const auto reply = ask_service(client.site, request);
  if (!reply) return complain(client, ExitStatus::kEnvironment, {reply.error().message});
  if (reply->value("ok", false)) return reply->at("result");
  const std::string kind = reply->value("kind", "error");
  const ExitStatus status = kind == "refused"       ? ExitStatus::kRefused
                            : kind == "bad_request" ? ExitStatus::kBadRequest
                                                    : ExitStatus::kEnvironment;
  return complain(client, status, reply->value("messages", std::vector<std::string>{}));
}

std::variant<std::string, ExitStatus> resolve_run(const Client& client, const std::string& run) {
  // A whole id may be somebody else's (an admin's view); a beginning is looked up in one's own.
  if (run != "last" && run.size() >= 10) return run;
  const auto answer = ask(client, {{"verb", "list"}, {"count", run == "last" ? 1 : 1000}});
  if (const auto* status = std::get_if<ExitStatus>(&answer)) return *status;
  std::vector<std::string> fitting;
  for (const json& entry : std::get<json>(answer).at("runs")) {
    const std::string id = entry.at("run");
    if (run == "last" || id.rfind(run, 0) == 0) fitting.push_back(id);
  }
  if (fitting.size() == 1) return fitting.front();
  if (run == "last") return complain(client, ExitStatus::kRefused, {"you have no runs yet"});
  if (fitting.empty()) {
    return complain(client, ExitStatus::kRefused,
                    {fmt::format("no run of yours begins with \"{}\". `trainyard ls` lists them.", run)});
  }
  return complain(client, ExitStatus::kBadRequest,
                  {fmt::format("\"{}\" fits {} runs: {}. Give more of the id.", run, fitting.size(),
                               fmt::join(fitting, ", "))});
}

std::string random_id(int count) {
  static constexpr char kAlphabet[] = "23456789abcdefghijkmnpqrstuvwxyz";  // 32 of them.
  static_assert(sizeof kAlphabet == 33);
  std::string bytes(static_cast<std::size_t>(count), '\0');
  if (getrandom(bytes.data(), bytes.size(), 0) != count) std::abort();
  for (char& c : bytes) c = kAlphabet[static_cast<unsigned char>(c) % 32];
  return bytes;
}

std::string local_time(std::int64_t utc_seconds) {
  const std::time_t when = utc_seconds;
  const std::time_t now = std::time(nullptr);
  std::tm local{}, today{};
  localtime_r(&when, &local);
  localtime_r(&now, &today);
  char text[32];
  const bool is_today = local.tm_yday == today.tm_yday && local.tm_year == today.tm_year;
  std::strftime(text, sizeof text, is_today ? "%H:%M:%S" : "%Y-%m-%d %H:%M", &local);
  return text;
}

std::string duration_text(std::int64_t seconds) {
  if (seconds < 0) seconds = 0;
  if (seconds >= 3600) {
    return fmt::format("{}:{:02}:{:02}", seconds / 3600, seconds % 3600 / 60, seconds % 60);
  }
  return fmt::format("{}:{:02}", seconds / 60, seconds % 60);
}

std::string gpu_hours(std::int64_t milli_gpu_s) {
  return accounting::to_gpu_hours(accounting::Amount{milli_gpu_s});
}

std::string estimate_text(const Quote& quote) {
  const std::string band =
      quote.high_s > 0 ? fmt::format(" ({} to {})", duration_text(quote.low_s),
                                     duration_text(quote.high_s))
                       : "";
  return fmt::format("about {}{}; {}", duration_text(quote.expected_s), band, quote.basis);
}

std::string money_text(const Plan& plan) {
  const Quote& quote = plan.quote;
  const auto expected = accounting::cost_minor(quote.expected, quote.price_minor);
  const auto most = accounting::cost_minor(quote.hold, quote.price_minor);
  if (quote.price_minor <= 0 || !expected || !most) return "";
  // Of an epochs run the hold may grow.
  return fmt::format("about {}, {} {}, at {} a GPU-hour",
                     accounting::format_money(*expected, quote.currency),
                     plan.is_timed ? "never more than" : "first hold",
                     accounting::format_money(*most, quote.currency),
                     accounting::format_money(quote.price_minor, quote.currency));
}

std::string fund_text(const Plan& plan, std::int64_t available, std::int64_t credit_limit) {
  const std::string has =
      fmt::format("{} has {} available{}", plan.fund, gpu_hours(available),
                  credit_limit > 0 ? fmt::format(" and {} of credit", gpu_hours(credit_limit)) : "");
  const std::int64_t hold = plan.quote.hold.milli_gpu_s;
  if (available + credit_limit < hold) return has + ": this run would be refused";
  return fmt::format("{}; {} would be left beside the hold, about {} after the run", has,
                     gpu_hours(available - hold),
                     gpu_hours(available - plan.quote.expected.milli_gpu_s));
}

std::string epoch_text(const contract::MetricsRecord& record) {
  const auto value = [&](const char* key, int digits) -> std::string {
    const auto found = record.values.find(key);
    if (found == record.values.end() || std::isnan(found->second)) return "-";
    return fmt::format("{:.{}f}", found->second, digits);
  };
  return fmt::format(
      "epoch {}/{}  box {}  cls {}  dfl {}  mAP50 {}  mAP50-95 {}  {} img/s", record.epoch,
      record.epochs, value("train/box_loss", 3), value("train/cls_loss", 3),
      value("train/dfl_loss", 3), value("metrics/mAP50(B)", 3), value("metrics/mAP50-95(B)", 3),
      value("images_per_s", 1));
}

namespace {

// Between the jobs of the newest segment; before the first of them where there is one only.
std::int64_t mean_wait_s(const json& segment) {
  std::int64_t waited_s = 0, waits = 0, end = 0;
  const auto add = [&](std::int64_t start) {
    if (end != 0) waited_s += std::max<std::int64_t>(0, start - end);
    if (end != 0) ++waits;
  };
  for (const json& charge : segment.at("charges")) {
    add(charge.at("start"));
    charge.at("end").get_to(end);
  }
  const std::int64_t start = segment.at("start");
  if (start > end) add(start);
  if (waits > 0) return waited_s / waits;
  return std::max<std::int64_t>(0, start - segment.value("opened", start));
}

}  // namespace

std::optional<Reestimate> reestimate_of(const json& run, const std::optional<Pace>& pace) {
  const json& segments = run.at("segments");
  if (!pace || segments.empty()) return std::nullopt;
  const std::string state = run.at("state");
  if (state != "running" && state != "stopping") return std::nullopt;
  const json& segment = segments.back();
  if (!segment.contains("start")) return std::nullopt;
  const Plan plan = segment.at("plan").get<Plan>();
  Standing standing;
  segment.at("start").get_to(standing.start);
  run.at("charged").get_to(standing.charged.milli_gpu_s);
  standing.charged.milli_gpu_s -= run.value("refunded", std::int64_t{0});
  run.at("held").get_to(standing.held.milli_gpu_s);
  standing.job_longest_s = run.value("job_longest_s", std::int64_t{0});
  standing.wait_s = mean_wait_s(segment);
  for (const json& each : segments) {
    for (const json& charge : each.at("charges")) {
      standing.charged_minor += charge.value("cost_minor", std::int64_t{0});
    }
  }
  if (run.contains("available")) {
    standing.available = accounting::Amount{run.at("available").get<std::int64_t>()};
  }
  return reestimate(plan, *pace, standing);
}

json reestimate_json(const Reestimate& estimate, const std::string& currency) {
  json out = {{"epochs_done", estimate.pace.epochs_done},
              {"epochs", estimate.pace.epochs},
              {"seconds_an_epoch", estimate.pace.epoch_s},
              {"left_s", estimate.left_s},
              {"end", estimate.end},
              {"seconds", estimate.seconds},
              {"cost", estimate.cost.milli_gpu_s}};
  if (estimate.jobs > 0) out["further_jobs"] = estimate.jobs;
  if (estimate.cost_minor) {
    out["cost_minor"] = *estimate.cost_minor;
    out["currency"] = currency;
  }
  if (estimate.after) out["available_after"] = estimate.after->milli_gpu_s;
  return out;
}

std::string rest_text(const Reestimate& estimate) {
  const std::string jobs = estimate.jobs == 0
                               ? ""
                               : fmt::format(" with the waits for {} more job{}", estimate.jobs,
                                             estimate.jobs == 1 ? "" : "s");
  return fmt::format("about {} more{}, to {}", duration_text(estimate.left_s), jobs,
                     local_time(estimate.end));
}

bool prints_to_terminal() { return isatty(STDOUT_FILENO) == 1; }

ExitStatus show(const Client& client, const nlohmann::json& request,
                const std::function<void(const nlohmann::json&)>& print) {
  const auto answer = ask(client, request);
  if (const auto* status = std::get_if<ExitStatus>(&answer)) return *status;
  const nlohmann::json& result = std::get<nlohmann::json>(answer);
  if (client.json) {
    fmt::print("{}\n", result.dump(2));
  } else {
    print(result);
  }
  return ExitStatus::kDone;
}

void print_body(const nlohmann::json& result) { fmt::print("{}", result.at("body").get<std::string>()); }

std::string hours_of(const nlohmann::json& object, const char* key) {
  return gpu_hours(object.at(key).get<std::int64_t>());
}

}  // namespace scheduler
