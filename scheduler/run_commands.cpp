// SPDX-License-Identifier: GPL-3.0-or-later
//
// The life of a run as its owner sees it: ls, show, watch, logs, stop, cancel.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <map>
#include <thread>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "accounting/till.h"
#include "scheduler/client.h"
#include "scheduler/console.h"
#include "scheduler/run_folder.h"
#include "scheduler/service.h"
#include "scheduler/text_file.h"
#include "trainer/contract/train_spec.h"

namespace scheduler {
namespace {

using nlohmann::json;
using contract::MetricsRecord;

// Each look from another node is a credential, which its service has to remember.
std::chrono::milliseconds look_every(const Client& client) {
  constexpr std::chrono::milliseconds kHere{500}, kFromElsewhere{2'000};
  return access(client.site.socket.c_str(), F_OK) == 0 ? kHere : kFromElsewhere;
}
constexpr int kLogLinesOfFailure = 12;

bool is_over(const std::string& state) {
  return state == "finished" || state == "stopped" || state == "cancelled" || state == "failed";
}

double value_of(const MetricsRecord& record, const std::string& key) {
  const auto found = record.values.find(key);
  return found == record.values.end() ? 0 : found->second;
}

// "finished" plus where it stands: "epoch 7/30" or "Resources, start expected 10:33:05".
std::string situation(const json& run) {
  const json& job = run.at("job");
  if (job.is_object() && job.at("state") == "PENDING") {
    const std::int64_t start = job.at("start");
    return fmt::format("waits for {}{}", job.at("reason").get<std::string>(),
                       start > 0 ? ", start expected " + local_time(start) : "");
  }
  return run.at("reason");
}

const json* last_job(const json& run) {
  for (auto segment = run.at("segments").rbegin(); segment != run.at("segments").rend(); ++segment) {
    if (!segment->at("job").is_null()) return &segment->at("job");
  }
  return nullptr;
}

std::string step_line(const MetricsRecord& record) {
  const std::int64_t total = std::max<std::int64_t>(1, record.steps_per_epoch);
  return fmt::format("epoch {}/{}  step {}/{}  box {:.3f}  cls {:.3f}  dfl {:.3f}  {:.1f} img/s",
                     record.epoch, record.epochs, (record.step - 1) % total + 1, total,
                     value_of(record, "train/box_loss"), value_of(record, "train/cls_loss"),
                     value_of(record, "train/dfl_loss"), value_of(record, "images_per_s"));
}

// The user's files may hold what a terminal obeys, and the reader may be an admin.
std::string printable(std::string line) {
  std::replace(line.begin(), line.end(), '\t', ' ');
  return one_line(std::move(line));
}

void print_failure_log(const json& run) {
  const std::string message = exit_message(run.at("run_dir"));
  if (!message.empty()) fmt::print("trainer  {}\n", printable(message));
  const json* job = last_job(run);
  if (job == nullptr) return;
  const std::string path = log_path(run.at("run_dir"), *job);
  const auto lines = last_lines(path, kLogLinesOfFailure);
  if (lines.empty()) return;
  fmt::print("the last lines of {}:\n", path);
  for (const std::string& line : lines) fmt::print("  | {}\n", printable(line));
}

void print_bill(const json& run) {
  for (const json& segment : run.at("segments")) {
    for (const json& charge : segment.at("charges")) {
      const std::string cost =
          charge.contains("cost_minor")
              ? fmt::format(" ({})", accounting::format_money(charge.at("cost_minor"),
                                                              charge.at("currency")))
              : "";
      fmt::print("charged  {}{}: job {} attempt {} {}, {} GPU x {} s x {:.3f}\n",
                 gpu_hours(charge.at("charged")), cost, charge.at("job").get<std::int64_t>(),
                 charge.at("attempt").get<int>(), charge.at("state").get<std::string>(),
                 charge.at("gpus").get<int>(), charge.at("seconds").get<std::int64_t>(),
                 charge.at("weight_milli").get<double>() / 1000);
      const std::int64_t owed = charge.value("owed", std::int64_t{0});
      const std::int64_t refunded = charge.value("refunded", std::int64_t{0});
      if (charge.at("excess").get<std::int64_t>() > 0) {
        fmt::print("         {} more were used than held: {}\n", gpu_hours(charge.at("excess")),
                   owed > 0 ? "charged to the fund as well" : "the site's, not yours");
      }
      if (refunded > 0) fmt::print("         {} of it were given back\n", gpu_hours(refunded));
    }
  }
}

// Nodes that the preflight found bad, and where the run is placed without them.
void print_left_out(const json& run, const std::vector<AttemptEnd>& ends) {
  for (const AttemptEnd& end : ends) {
    if (end.bad_nodes.empty()) continue;
    const std::string report = preflight_report(run.at("run_dir"), end);
    fmt::print("left out {}: bad in attempt {} of segment {}{}\n", end.bad_nodes, end.attempt,
               end.segment, report.empty() ? "" : fmt::format(" ({})", report));
  }
  const json& job = run.at("job");
  const std::string excluded = job.is_object() ? job.value("excluded_nodes", "") : "";
  if (!excluded.empty()) fmt::print("job      is kept from {}\n", excluded);
}

// How long the newest segment was expected to take; while it runs also by its own first epochs, which
// only the run's folder tells and which therefore moves no money.
void print_estimate(const json& run, const RunProgress& progress) {
  const json& segment = run.at("segments").back();
  const Plan plan = segment.at("plan").get<Plan>();
  if (plan.quote.basis.empty()) return;
  if (const std::string money = money_text(plan); !money.empty()) {
    fmt::print("money    {}\n", money);
  }
  fmt::print("estimate {}\n", estimate_text(plan.quote));
  if (segment.contains("start") && !is_over(run.at("state"))) {
    fmt::print("times    started at {}, expected to end at {}\n",
               local_time(segment.at("start")),
               local_time(segment.at("start").get<std::int64_t>() + plan.quote.expected_s));
  }
  const auto now = reestimate_of(run, progress.pace);
  if (!now) return;
  fmt::print("so far   {} of {} epochs at {:.1f} s each: {}\n", now->pace.epochs_done,
             now->pace.epochs, now->pace.epoch_s, rest_text(*now));
  fmt::print("by that  {}{} in all\n", gpu_hours(now->cost.milli_gpu_s),
             now->cost_minor
                 ? fmt::format(", {}", accounting::format_money(*now->cost_minor, plan.quote.currency))
                 : "");
}

void add_reestimate(json& run, const RunProgress& progress) {
  const auto now = reestimate_of(run, progress.pace);
  if (!now) return;
  const json& quote = run.at("segments").back().at("plan").at("quote");
  run["reestimate"] = reestimate_json(*now, quote.value("currency", ""));
}

// How much the run trained, for the estimates of later ones: the service reads no user's files. Nobody
// waits for it, and nothing is lost where it is not taken.
void tell_trained(const Client& client, const json& run, const RunProgress& progress) {
  if (!run.value("is_to_be_told", false)) return;
  double epochs = 0;
  for (const auto& record : {progress.last_epoch, progress.last_step}) {
    if (!record || record->steps_per_epoch <= 0) continue;
    epochs = std::max(epochs, static_cast<double>(record->step) /
                                  static_cast<double>(record->steps_per_epoch));
  }
  constexpr double kEpochsMax = 1e9;
  if (!(epochs > 0) || epochs > kEpochsMax) return;
  (void)ask_service(client.site, {{"verb", "trained"}, {"run", run.at("run")},
                                  {"epochs_milli", std::llround(epochs * 1'000)}});
}

std::variant<json, ExitStatus> look_up(const Client& client, const std::string& run) {
  const auto id = resolve_run(client, run);
  if (const auto* status = std::get_if<ExitStatus>(&id)) return *status;
  return ask(client, {{"verb", "show"}, {"run", std::get<std::string>(id)}});
}

ExitStatus end_run(const Client& client, const std::string& run, const std::string& verb, bool wait) {
  const auto id = resolve_run(client, run);
  if (const auto* status = std::get_if<ExitStatus>(&id)) return *status;
  const std::string& run_id = std::get<std::string>(id);
  const auto done = ask(client, {{"verb", verb}, {"run", run_id}});
  if (const auto* status = std::get_if<ExitStatus>(&done)) return *status;
  json shown;
  while (wait) {
    const auto answer = ask(client, {{"verb", "show"}, {"run", run_id}});
    if (const auto* status = std::get_if<ExitStatus>(&answer)) return *status;
    shown = std::get<json>(answer);
    if (is_over(shown.at("state"))) break;
    std::this_thread::sleep_for(look_every(client));
  }
  if (client.json) {
    fmt::print("{}\n", (wait ? shown : json{{"run", run_id}, {"requested", verb}}).dump(2));
  } else if (wait) {
    fmt::print("{}: {}\n", shown.at("state").get<std::string>(), shown.at("reason").get<std::string>());
    print_bill(shown);
  } else {
    fmt::print("{} was asked to {}; `trainyard show {}` tells when it has\n", run_id, verb, run_id);
  }
  return ExitStatus::kDone;
}

// What a watcher has printed already, so that it prints only what is new.
class Watcher {
 public:
  explicit Watcher(bool on_terminal) : on_terminal_(on_terminal) {}

  void show_state(const json& run) {
    std::string text = run.at("state");
    const std::string more = situation(run);
    if (text == "running") {
      const json& segment = run.at("segments").back();
      if (segment.contains("nodes")) text += " on " + segment.at("nodes").get<std::string>();
    } else if (!more.empty() && !is_over(run.at("state"))) {
      // The expected start moves with every look: it is part of the line, not of what is new.
      if (on_terminal_ && text == state_) overwrite(fmt::format("{}  {}", text, more));
    }
    if (text == state_) return;
    state_ = text;
    print_line(more.empty() || is_over(run.at("state")) ? text : fmt::format("{}  {}", text, more));
  }

  // What is left is said behind the newest epoch alone: of the others it is known by now.
  void show_metrics(const json& run, const std::vector<std::string>& lines) {
    std::vector<MetricsRecord> records;
    std::size_t newest = 0;
    for (const std::string& line : lines) {
      auto record = contract::parse_metrics_line(line);
      if (!record) continue;
      keeper_.take(*record);
      if (record->kind == "epoch") newest = records.size();
      records.push_back(std::move(*record));
    }
    for (const MetricsRecord& record : records) {
      if (record.kind == "epoch") {
        const bool is_newest = &record == &records[newest];
        const auto now = is_newest ? reestimate_of(run, keeper_.pace()) : std::nullopt;
        print_line(epoch_text(record) + (now ? "  " + rest_text(*now) : ""));
      } else if (record.kind == "step" && on_terminal_) {
        overwrite(step_line(record));
      } else if (record.kind == "start" && !record.text.empty()) {
        print_line(record.text);
      }
    }
  }

  void print_line(const std::string& text) {
    clear();
    fmt::print("{}\n", text);
    std::fflush(stdout);
  }
  void clear() {
    if (has_progress_) fmt::print("\r\033[K");
    has_progress_ = false;
  }

 private:
  void overwrite(const std::string& text) {
    fmt::print("\r\033[K{}", text);
    std::fflush(stdout);
    has_progress_ = true;
  }
  bool on_terminal_;
  bool has_progress_ = false;
  std::string state_;
  PaceKeeper keeper_;
};

}  // namespace

ExitStatus list_runs(const Client& client, bool everybody, int count) {
  const auto answer = ask(client, {{"verb", "list"}, {"all", everybody}, {"count", count}});
  if (const auto* status = std::get_if<ExitStatus>(&answer)) return *status;
  json result = std::get<json>(answer);
  if (client.json) {
    for (json& run : result.at("runs")) add_reestimate(run, read_progress(run.at("run_dir")));
    fmt::print("{}\n", result.dump(2));
    return ExitStatus::kDone;
  }
  const json& runs = result.at("runs");
  if (runs.empty()) {
    if (everybody) {
      fmt::print("no runs that you may see.\n");
    } else {
      fmt::print("no runs yet. `trainyard train data=... model=yolov8n epochs=...` makes one.\n");
    }
    return ExitStatus::kDone;
  }
  fmt::print("{:<12} {:<10} {:<9} {:<20} {:>6} {:>15} {:>8} {}\n", "RUN", "USER", "STATE", "NAME", "JOB",
             "CHARGED", "EPOCH", "");
  for (const json& run : runs) {
    const json* job = last_job(run);
    const auto progress = read_progress(run.at("run_dir"));
    const auto now = reestimate_of(run, progress.pace);
    const std::string more = situation(run);
    fmt::print("{:<12} {:<10} {:<9} {:<20} {:>6} {:>15} {:>8} {}\n", run.at("run").get<std::string>(),
               run.at("user").get<std::string>(), run.at("state").get<std::string>(),
               run.at("name").get<std::string>(), job == nullptr ? "-" : job->dump(),
               gpu_hours(run.at("charged")),
               progress.last_epoch
                   ? fmt::format("{}/{}", progress.epochs_done, progress.last_epoch->epochs)
                   : "-",
               now ? rest_text(*now) + (more.empty() ? "" : "; " + more) : more);
  }
  if (!result.at("trouble").get<std::string>().empty()) {
    fmt::print(stderr, "the service cannot see Slurm now: {}\n",
               result.at("trouble").get<std::string>());
  }
  return ExitStatus::kDone;
}

ExitStatus show_run(const Client& client, const std::string& run) {
  const auto answer = look_up(client, run);
  if (const auto* status = std::get_if<ExitStatus>(&answer)) return *status;
  json result = std::get<json>(answer);
  const std::string run_dir = result.at("run_dir");
  const auto progress = read_progress(run_dir);
  const auto ends = read_attempt_ends(run_dir);
  tell_trained(client, result, progress);
  if (client.json) {
    result["attempt_ends"] = json::array();
    for (const AttemptEnd& end : ends) {
      result["attempt_ends"].push_back({{"segment", end.segment}, {"attempt", end.attempt},
                                        {"code", end.code}, {"bad_nodes", end.bad_nodes}});
    }
    result["epochs_done"] = progress.epochs_done;
    result["metrics"] = progress.last_epoch ? json(progress.last_epoch->values) : json(nullptr);
    if (progress.pace) {
      result["seconds_an_epoch"] = progress.pace->epoch_s;
    }
    add_reestimate(result, progress);
    fmt::print("{}\n", result.dump(2));
    return ExitStatus::kDone;
  }
  const std::string state = result.at("state");
  fmt::print("run      {} {} of {}, made {}\n", result.at("run").get<std::string>(),
             result.at("name").get<std::string>(), result.at("user").get<std::string>(),
             local_time(result.at("created")));
  const std::string more = situation(result);
  fmt::print("state    {}{}\n", state, more.empty() || more == state ? "" : ": " + more);
  fmt::print("folder   {}\n", run_dir);
  for (const json& segment : result.at("segments")) {
    const json& job = segment.at("job");
    fmt::print("segment  {}: job {}{}{}{}\n", segment.at("segment").get<int>(),
               job.is_null() ? "-" : job.dump(),
               segment.contains("nodes") ? " on " + segment.at("nodes").get<std::string>() : "",
               segment.contains("slurm_state")
                   ? fmt::format(", Slurm: {} (exit code {})",
                                 segment.at("slurm_state").get<std::string>(),
                                 segment.at("exit_code").get<int>())
                   : "",
               segment.at("reason").is_null() ? "" : ", " + segment.at("reason").get<std::string>());
  }
  print_left_out(result, ends);
  if (progress.last_epoch) fmt::print("metrics  {}\n", epoch_text(*progress.last_epoch));
  print_estimate(result, progress);
  const std::int64_t held = result.at("held");
  if (held > 0) fmt::print("held     {} of fund {}\n", gpu_hours(held), result.at("fund").get<std::string>());
  if (result.contains("available") && !is_over(state)) {
    const Plan plan = result.at("segments").back().at("plan").get<Plan>();
    const auto now = reestimate_of(result, progress.pace);
    const std::int64_t after = now && now->after
                                   ? now->after->milli_gpu_s
                                   : result.at("available").get<std::int64_t>() + held -
                                         std::min(held, plan.quote.expected.milli_gpu_s);
    fmt::print("fund     {} available; about {} after the run\n", gpu_hours(result.at("available")),
               gpu_hours(after));
  }
  print_bill(result);
  if (state == "failed") print_failure_log(result);
  const std::string trouble = result.value("trouble", "");
  if (!trouble.empty()) fmt::print(stderr, "the service cannot see Slurm now: {}\n", trouble);
  return ExitStatus::kDone;
}

ExitStatus watch_run(const Client& client, const std::string& run) {
  auto answer = look_up(client, run);
  if (const auto* status = std::get_if<ExitStatus>(&answer)) return *status;
  json shown = std::get<json>(answer);
  const std::string run_id = shown.at("run");
  LineFollower metrics(std::string(shown.at("run_dir")) + "/" + std::string(contract::kMetricsFile));
  Watcher watcher(prints_to_terminal() && !client.json);
  int silence = 0;
  while (true) {
    if (!client.json) {
      watcher.show_state(shown);
      watcher.show_metrics(shown, metrics.take());
    }
    if (is_over(shown.at("state"))) break;
    std::this_thread::sleep_for(look_every(client));
    const auto reply = ask_service(client.site, {{"verb", "show"}, {"run", run_id}});
    if (reply && reply->value("ok", false)) {
      shown = reply->at("result");
      silence = 0;
    } else if (++silence == 20) {
      // The run goes on without the service; so does the watching.
      watcher.print_line("the service does not answer; the run is not affected. Waiting for it.");
    }
  }
  watcher.clear();
  const std::string state = shown.at("state");
  const auto progress = read_progress(shown.at("run_dir"));
  tell_trained(client, shown, progress);
  if (client.json) {
    shown["metrics"] = progress.last_epoch ? json(progress.last_epoch->values) : json(nullptr);
    fmt::print("{}\n", shown.dump(2));
  } else {
    const std::string reason = shown.at("reason");
    if (reason != state) fmt::print("{}\n", reason);
    print_bill(shown);
    if (state == "failed") print_failure_log(shown);
  }
  return state == "finished" ? ExitStatus::kDone : ExitStatus::kRunNotFinished;
}

ExitStatus print_log(const Client& client, const std::string& run, int lines, bool follow) {
  auto answer = look_up(client, run);
  if (const auto* status = std::get_if<ExitStatus>(&answer)) return *status;
  json shown = std::get<json>(answer);
  const std::string run_id = shown.at("run");
  while (follow && last_job(shown) == nullptr && !is_over(shown.at("state"))) {
    std::this_thread::sleep_for(look_every(client));
    answer = ask(client, {{"verb", "show"}, {"run", run_id}});
    if (const auto* status = std::get_if<ExitStatus>(&answer)) return *status;
    shown = std::get<json>(answer);
  }
  const json* job = last_job(shown);
  if (job == nullptr) {
    return complain(client, ExitStatus::kRefused,
                    {fmt::format("run {} has no job yet, so there is no log", run_id)});
  }
  const std::string path = log_path(shown.at("run_dir"), *job);
  if (client.json) {
    fmt::print("{}\n", json({{"run", run_id}, {"path", path}, {"lines", last_lines(path, lines)}})
                           .dump(2, ' ', false, json::error_handler_t::replace));
    return ExitStatus::kDone;
  }
  if (!follow) {
    if (access(path.c_str(), R_OK) != 0) {
      return complain(client, ExitStatus::kRefused,
                      {fmt::format("{} cannot be read (yet)", path)});
    }
    for (const std::string& line : last_lines(path, lines)) fmt::print("{}\n", printable(line));
    return ExitStatus::kDone;
  }
  LineFollower log(path);
  while (true) {
    for (const std::string& line : log.take()) fmt::print("{}\n", printable(line));
    std::fflush(stdout);
    if (is_over(shown.at("state"))) return ExitStatus::kDone;
    std::this_thread::sleep_for(look_every(client));
    const auto reply = ask_service(client.site, {{"verb", "show"}, {"run", run_id}});
    if (reply && reply->value("ok", false)) shown = reply->at("result");
  }
}

ExitStatus stop_run(const Client& client, const std::string& run, bool wait) {
  return end_run(client, run, "stop", wait);
}

ExitStatus pause_run(const Client& client, const std::string& run) {
  return end_run(client, run, "pause", false);
}

ExitStatus cancel_run(const Client& client, const std::string& run, bool wait) {
  return end_run(client, run, "cancel", wait);
}

}  // namespace scheduler
