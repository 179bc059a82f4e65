// SPDX-License-Identifier: GPL-3.0-or-later
//
// train, resume, check: from what the user wrote to a job in Slurm. The order is the safety: the run
// id and folder first, then the hold, then the job. Whatever dies in between, a retry or the service
// finds its way by the run id.
#include <unistd.h>

#include <cstdlib>
#include <ctime>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "scheduler/client.h"
#include "scheduler/cluster.h"
#include "scheduler/console.h"
#include "scheduler/estimate.h"
#include "scheduler/job_script.h"
#include "scheduler/plan.h"
#include "scheduler/run_folder.h"
#include "scheduler/service.h"
#include "scheduler/submission.h"
#include "trainer/contract/dataset.h"

extern char** environ;

namespace scheduler {
namespace {

using nlohmann::json;

constexpr std::size_t kFaultsShown = 20;

// What the job shall see of the user's environment: not what describes the shell's own place, and
// nothing of another job or MPI.
std::vector<std::string> job_environment() {
  static const char* const kKept[] = {"HOME", "USER", "LOGNAME", "SHELL", "PATH", "LANG", "TZ",
                                      "LD_LIBRARY_PATH", "SLURM_CONF", "MODULEPATH"};
  static const char* const kKeptPrefixes[] = {"LC_", "NCCL_", "OMPI_MCA_", "CUDA_", "UCX_"};
  std::vector<std::string> kept;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    const std::string name = text.substr(0, text.find('='));
    bool is_kept = false;
    for (const char* known : kKept) is_kept |= name == known;
    for (const char* prefix : kKeptPrefixes) is_kept |= name.rfind(prefix, 0) == 0;
    if (is_kept) kept.push_back(text);
  }
  char host[256] = "";
  gethostname(host, sizeof host - 1);
  kept.push_back(fmt::format("SLURM_SUBMIT_HOST={}", host));
  return kept;
}

struct DataCheck {
  DataFacts facts;
  std::size_t classes = 0;
  std::vector<std::string> faults;  // Each "where: message".
  std::int64_t skipped = 0;
};

DataCheck look_at_data(const std::string& yaml_path, bool skip_bad_labels) {
  const contract::DatasetReport report = contract::load_dataset(yaml_path);
  DataCheck check;
  check.facts = {static_cast<std::int64_t>(report.dataset.train.size()),
                 static_cast<std::int64_t>(report.dataset.val.size())};
  check.classes = report.dataset.names.size();
  check.skipped = report.skipped_images;
  std::size_t other = 0;
  for (const contract::DataFault& fault : report.faults) {
    if (!fault.is_fatal && skip_bad_labels) continue;
    if (check.faults.size() >= kFaultsShown) {
      ++other;
      continue;
    }
    check.faults.push_back(fmt::format("{}: {}", fault.where, fault.message));
  }
  const std::int64_t unlisted = report.faults_total - static_cast<std::int64_t>(report.faults.size());
  if (!check.faults.empty() && static_cast<std::int64_t>(other) + unlisted > 0) {
    check.faults.push_back(fmt::format("... and {} more faults. `trainyard check {}` lists them.",
                                       static_cast<std::int64_t>(other) + unlisted, yaml_path));
  }
  if (!report.has_fatal() && !check.faults.empty()) {
    check.faults.emplace_back(
        "Mend the labels, or train without these images: --skip-bad-labels.");
  }
  return check;
}

void print_plan(const Plan& plan, const DataCheck& data, const TrainingRequest& request) {
  const double weight = static_cast<double>(plan.quote.weight_milli) / 1000;
  const std::string batch =
      plan.batch_per_rank == 0
          ? "batch found by trial"
          : fmt::format("batch {} = {} x {}", plan.batch_per_rank * plan.ranks, plan.ranks,
                        plan.batch_per_rank);
  fmt::print("data     {}: {} train and {} val images, {} classes{}\n", request.args.data,
             data.facts.train_images, data.facts.val_images, data.classes,
             data.skipped > 0 ? fmt::format(" ({} with faulty labels are left out)", data.skipped) : "");
  fmt::print("plan     {} x {} on {} node{}: {} rank{}, {}, {} CPU{} a rank, limit {}, "
             "partition {}{}\n",
             plan.gpus, plan.type, plan.nodes, plan.nodes == 1 ? "" : "s", plan.ranks,
             plan.ranks == 1 ? "" : "s", batch, plan.cpus_per_rank, plan.cpus_per_rank == 1 ? "" : "s",
             duration_text(plan.time_limit_s), plan.partition,
             plan.job_limit_s > 0 ? ", in further jobs until its hours are over" : "");
  fmt::print("quote    about {} ({} GPU x {} s x {:.3f}), {} {}, from fund {}\n",
             gpu_hours(plan.quote.expected.milli_gpu_s), plan.gpus, plan.quote.expected_s, weight,
             plan.is_timed ? "never more than" : "extended while the fund can pay; first hold",
             gpu_hours(plan.quote.hold.milli_gpu_s), plan.fund);
  if (const std::string money = money_text(plan); !money.empty()) {
    fmt::print("money    {}\n", money);
  }
  fmt::print("estimate {}\n", estimate_text(plan.quote));
}

// When it starts and ends, as far as Slurm and the estimate know.
void print_times(const Expected<StartEstimate>& start, const Plan& plan) {
  if (!start || start->start <= 0) return;
  fmt::print("times    expected to start at {}{}, to end at {}\n", local_time(start->start),
             start->nodes.empty() ? "" : " on " + start->nodes,
             local_time(start->start + plan.quote.expected_s));
}

// Expected start and end, null where Slurm does not know.
void put_times(json& out, const Expected<StartEstimate>& start, const Plan& plan) {
  const bool is_known = start && start->start > 0;
  out["expected_start"] = is_known ? json(start->start) : json(nullptr);
  out["expected_end"] = is_known ? json(start->start + plan.quote.expected_s) : json(nullptr);
}

// Who pays where the request names no fund, as the service will have it; empty: the user.
std::string default_fund_of_service(const Site& site) {
  const auto answer = ask_service(site, {{"verb", "hello"}});
  if (!answer || !answer->value("ok", false)) return "";
  return answer->at("result").value("default_fund", "");
}

void put_price_of_service(const Site& site, Quote& quote) {
  const auto answer = ask_service(site, {{"verb", "prices"}});
  if (!answer || !answer->value("ok", false)) return;
  const json& result = answer->at("result");
  if (result.at("now").is_null()) return;
  quote.price_minor = result.at("now");
  quote.currency = result.at("currency");
}

// The rates that the service knows; where it does not answer, plans are made by the site's prior.
accounting::RateLookup rates_of_service(const Site& site) {
  const auto answer = ask_service(site, {{"verb", "estimates"}});
  if (!answer || !answer->value("ok", false)) return {};
  return rates_from_json(answer->at("result").at("rates"));
}

Expected<ClusterFacts> facts_of(const Site& site, Cluster& cluster) {
  auto facts = cluster.facts();
  if (facts && !site.cluster.empty() && facts->name != site.cluster) {
    return tl::unexpected(Error{fmt::format("{}: cluster = \"{}\", but Slurm here calls itself \"{}\"",
                                            site.path, site.cluster, facts->name)});
  }
  return facts;
}

// What is launched: a new run or a further segment of one.
struct Launch {
  SegmentName name;
  std::string run_dir;
  TrainingRequest request;
  Progress progress;
};

json plan_to_answer(const Launch& launch, const Plan& plan, const DataCheck& data) {
  return {{"run", launch.name.run_id},
          {"segment", launch.name.segment},
          {"run_dir", launch.run_dir},
          {"plan", plan},
          {"train_images", data.facts.train_images},
          {"val_images", data.facts.val_images},
          {"request", launch.request}};
}

ExitStatus show_dry_run(const Client& client, Cluster& cluster, const Launch& launch,
                        const Plan& plan, const DataCheck& data) {
  const auto start = cluster.estimate_start(
      make_job_spec(plan, launch.name, launch.run_dir, client.site, job_environment()));
  const std::string script = render_job_script(plan, launch.name, launch.run_dir, client.site);
  std::optional<std::int64_t> available;
  std::int64_t credit_limit = 0;
  const auto funds = ask_service(client.site, {{"verb", "funds"}});
  if (funds && funds->value("ok", false)) {
    for (const json& fund : funds->at("result").at("funds")) {
      if (fund.at("fund") != plan.fund) continue;
      available = fund.at("available").get<std::int64_t>();
      credit_limit = fund.value("credit_limit", std::int64_t{0});
    }
  }
  if (client.json) {
    json out = plan_to_answer(launch, plan, data);
    out["dry_run"] = true;
    out["script"] = script;
    out["available"] = available ? json(*available) : json(nullptr);
    out["balance_after"] =
        available ? json(*available - plan.quote.expected.milli_gpu_s) : json(nullptr);
    out["credit_limit"] = available ? json(credit_limit) : json(nullptr);
    put_times(out, start, plan);
    fmt::print("{}\n", out.dump(2));
    return ExitStatus::kDone;
  }
  print_plan(plan, data, launch.request);
  print_times(start, plan);
  if (available) {
    fmt::print("fund     {}\n", fund_text(plan, *available, credit_limit));
  } else {
    fmt::print("fund     {} has no GPU-hours, or the service does not answer\n", plan.fund);
  }
  fmt::print("script   nothing was submitted and nothing held; this would run:\n\n{}", script);
  return ExitStatus::kDone;
}

ExitStatus complain_of(const Client& client, const Launch& launch, const Submission& submission) {
  const std::string& run_id = launch.name.run_id;
  if (const auto* unsure = std::get_if<Unsure>(&submission)) {
    return complain(client, ExitStatus::kEnvironment,
                    {unsure->why.message,
                     fmt::format("Whether Slurm took the job of run {0} is not known. If it did, the run goes "
                                 "on: trainyard show {0}. If it did not, its hold is released after {1} s.",
                                 run_id, client.site.unclaimed_hold_s)});
  }
  const std::string& why = std::get<NotSubmitted>(submission).why.message;
  (void)ask_service(client.site, {{"verb", "submission_failed"},
                                  {"run", run_id},
                                  {"segment", launch.name.segment},
                                  {"message", why}});
  return complain(client, ExitStatus::kEnvironment,
                  {why, fmt::format("Nothing was submitted; the hold of run {} is released.", run_id)});
}

ExitStatus submit(const Client& client, Cluster& cluster, const Launch& launch, const DataCheck& data,
                  const TrainOptions& options) {
  json admit = {{"verb", "admit"},
                      {"run", launch.name.run_id},
                      {"segment", launch.name.segment},
                      {"run_dir", launch.run_dir},
                      {"request", launch.request},
                      {"train_images", data.facts.train_images},
                      {"val_images", data.facts.val_images},
                      {"epochs_done", launch.progress.epochs_done}};
  if (!options.quote.empty()) admit["quote"] = options.quote;
  const auto admitted = ask(client, admit);
  if (const auto* status = std::get_if<ExitStatus>(&admitted)) {
    if (*status == ExitStatus::kRefused && launch.name.segment == 0) remove_run_folder(launch.run_dir);
    return *status;
  }
  // The service's plan is the one that is held for.
  const Plan plan = std::get<json>(admitted).at("plan").get<Plan>();
  const bool was_known = std::get<json>(admitted).at("was_known");
  if (was_known) {
    const auto shown = ask(client, {{"verb", "show"}, {"run", launch.name.run_id}});
    if (const auto* status = std::get_if<ExitStatus>(&shown)) return *status;
    const json& segments = std::get<json>(shown).at("segments");
    const json& job = segments.at(static_cast<std::size_t>(launch.name.segment)).at("job");
    if (!job.is_null()) {
      if (client.json) {
        json out = plan_to_answer(launch, plan, data);
        out["job"] = job;
        fmt::print("{}\n", out.dump(2));
      } else {
        fmt::print("run      {} is known already: job {}\n", launch.name.run_id, job.get<JobId>());
      }
      return options.follow ? watch_run(client, launch.name.run_id) : ExitStatus::kDone;
    }
  }
  const JobSpec spec =
      make_job_spec(plan, launch.name, launch.run_dir, client.site, job_environment());
  // Asked before the job is in the queue: afterwards it would stand in its own way.
  const auto estimate = cluster.estimate_start(spec);
  const Submission submission = submit_once(cluster, spec, ::getuid(), was_known);
  const auto* submitted = std::get_if<Submitted>(&submission);
  if (submitted == nullptr) return complain_of(client, launch, submission);
  // Lost words do no harm: the service finds the job by its comment.
  (void)ask_service(client.site, {{"verb", "submitted"},
                                  {"run", launch.name.run_id},
                                  {"segment", launch.name.segment},
                                  {"job", submitted->id}});
  if (client.json) {
    json out = plan_to_answer(launch, plan, data);
    out["job"] = submitted->id;
    put_times(out, estimate, plan);
    fmt::print("{}\n", out.dump(2));
  } else {
    fmt::print("run      {} in {}\n", launch.name.run_id, launch.run_dir);
    print_plan(plan, data, launch.request);
    fmt::print("job      {}\n", submitted->id);
    print_times(estimate, plan);
    if (!submitted->message.empty()) fmt::print("         {}\n", submitted->message);
    if (!options.follow) {
      fmt::print("next     trainyard watch {0} | logs -f {0} | stop {0}\n", launch.name.run_id);
    }
    std::fflush(stdout);
  }
  return options.follow ? watch_run(client, launch.name.run_id) : ExitStatus::kDone;
}

ExitStatus ask_for_quote(const Client& client, Cluster& cluster, const Launch& launch,
                         const Plan& plan, const DataCheck& data) {
  const auto answer = ask(client, {{"verb", "quote"},
                                   {"id", random_id(10)},
                                   {"request", launch.request},
                                   {"train_images", data.facts.train_images},
                                   {"val_images", data.facts.val_images}});
  if (const auto* status = std::get_if<ExitStatus>(&answer)) return *status;
  json quote = std::get<json>(answer);
  const auto start = cluster.estimate_start(
      make_job_spec(plan, launch.name, launch.run_dir, client.site, job_environment()));
  quote["expected_start"] = start && start->start > 0 ? json(start->start) : json(nullptr);
  return print_quote(client, quote);
}

ExitStatus plan_and_launch(const Client& client, const Launch& launch, const DataCheck& data,
                           const TrainOptions& options) {
  auto cluster = open_slurm_cluster();
  if (!cluster) return complain(client, ExitStatus::kEnvironment, {cluster.error().message});
  const auto facts = facts_of(client.site, **cluster);
  if (!facts) return complain(client, ExitStatus::kEnvironment, {facts.error().message});
  // What is sent to the service stays as it was written; the service knows the default by itself.
  TrainingRequest request = launch.request;
  if (request.resources.fund.empty()) {
    request.resources.fund = default_fund_of_service(client.site);
  }
  PlanOutcome outcome = make_plan(request, client.site, *facts, data.facts, launch.progress,
                                  client.user, std::time(nullptr), rates_of_service(client.site));
  if (const auto* refusal = std::get_if<Refusal>(&outcome)) {
    return complain(client, ExitStatus::kRefused, refusal->reasons);
  }
  Plan& plan = std::get<Plan>(outcome);
  put_price_of_service(client.site, plan.quote);
  if (options.quote_only) return ask_for_quote(client, **cluster, launch, plan, data);
  if (options.dry_run) return show_dry_run(client, **cluster, launch, plan, data);
  const auto written =
      write_run_folder(launch.run_dir, launch.name, launch.request,
                       render_job_script(plan, launch.name, launch.run_dir, client.site));
  if (!written) return complain(client, ExitStatus::kBadRequest, {written.error().message});
  return submit(client, **cluster, launch, data, options);
}

std::string work_dir() {
  char path[4096];
  return getcwd(path, sizeof path) != nullptr ? path : "/";
}

// Faults of the request and of its data set, all at once.
std::optional<ExitStatus> complain_of_faults(const Client& client, const std::vector<Fault>& faults,
                                             const DataCheck& data) {
  std::vector<std::string> messages;
  for (const Fault& fault : faults) messages.push_back(fmt::format("{}: {}", fault.where, fault.message));
  messages.insert(messages.end(), data.faults.begin(), data.faults.end());
  if (messages.empty()) return std::nullopt;
  return complain(client, ExitStatus::kBadRequest, messages);
}

}  // namespace

ExitStatus train(const Client& client, const TrainOptions& options) {
  const RequestOutcome outcome = read_request(options.file, options.settings, work_dir());
  Launch launch;
  launch.request = outcome.request;
  launch.name = {options.run_id.empty() ? random_id(10) : options.run_id, 0};
  DataCheck data;
  if (!launch.request.args.data.empty()) {
    data = look_at_data(launch.request.args.data, options.skip_bad_labels);
  }
  std::vector<Fault> faults = outcome.faults;
  const std::string& type = launch.request.resources.type;
  if (!type.empty() && client.site.find_type(type) == nullptr) {
    std::vector<std::string> known;
    for (const InstanceType& each : client.site.types) known.push_back(each.name);
    faults.push_back({"type", fmt::format("type = \"{}\" is not known. Known types: {} ({}).", type,
                                          fmt::join(known, ", "), client.site.path)});
  }
  const std::string& pretrained = launch.request.args.pretrained;
  if (!pretrained.empty() && access(pretrained.c_str(), R_OK) != 0) {
    faults.push_back({"pretrained", fmt::format("{} cannot be read", pretrained)});
  }
  if (const auto status = complain_of_faults(client, faults, data)) return *status;
  const std::string runs =
      launch.request.resources.runs.empty() ? client.site.runs : launch.request.resources.runs;
  launch.run_dir = expand_path(runs) + "/" + launch.name.run_id;
  return plan_and_launch(client, launch, data, options);
}

ExitStatus resume(const Client& client, const std::string& run, const TrainOptions& options) {
  const auto id = resolve_run(client, run);
  if (const auto* status = std::get_if<ExitStatus>(&id)) return *status;
  const auto shown = ask(client, {{"verb", "show"}, {"run", std::get<std::string>(id)}});
  if (const auto* status = std::get_if<ExitStatus>(&shown)) return *status;
  const json& known = std::get<json>(shown);
  const std::string state = known.at("state");
  if (state == "finished") {
    return complain(client, ExitStatus::kRefused,
                    {fmt::format("run {} is finished; there is nothing to resume",
                                 std::get<std::string>(id))});
  }
  if (state == "paused") {
    const auto done = ask(client, {{"verb", "resume"}, {"run", known.at("run")}});
    if (const auto* status = std::get_if<ExitStatus>(&done)) return *status;
    if (client.json) {
      fmt::print("{}\n", json{{"run", known.at("run")}, {"requested", "resume"}}.dump(2));
    } else {
      fmt::print("{} goes on as soon as its fund can pay; `trainyard show {}` tells\n",
                 known.at("run").get<std::string>(), known.at("run").get<std::string>());
    }
    return ExitStatus::kDone;
  }
  if (state != "stopped" && state != "cancelled" && state != "failed") {
    return complain(client, ExitStatus::kRefused,
                    {fmt::format("run {} is {}; it can be resumed once it has ended",
                                 std::get<std::string>(id), state)});
  }
  Launch launch;
  launch.request = known.at("request").get<TrainingRequest>();
  // New resources may be asked for; what is trained stays what it was.
  std::vector<Setting> settings;
  for (const auto& [key, text] : contract::to_texts(launch.request.args)) {
    settings.push_back({"run " + std::get<std::string>(id), key, text});
  }
  const RequestOutcome outcome = [&] {
    std::vector<Setting> all = settings;
    all.insert(all.end(), options.settings.begin(), options.settings.end());
    return read_request("", all, work_dir());
  }();
  const Resources& asked = outcome.request.resources;
  Resources& resources = launch.request.resources;
  if (asked.gpus) {
    resources.gpus = asked.gpus;
    resources.nodes = asked.nodes;
  } else if (asked.nodes) {
    resources.nodes = asked.nodes;
  }
  if (!asked.type.empty()) resources.type = asked.type;
  // Who paid last goes on paying, whatever the default has become since.
  resources.fund = asked.fund.empty() ? known.at("fund").get<std::string>() : asked.fund;
  if (!asked.account.empty()) resources.account = asked.account;
  if (!asked.partition.empty()) resources.partition = asked.partition;
  if (!asked.qos.empty()) resources.qos = asked.qos;
  if (asked.auto_resume) resources.auto_resume = true;
  if (asked.time_limit_s) resources.time_limit_s = asked.time_limit_s;
  for (const auto& [key, value] : asked.slurm) resources.slurm[key] = value;

  launch.name = {known.at("run"), static_cast<int>(known.at("segments").size()),
                 known.at("allocated_s")};
  launch.run_dir = known.at("run_dir");
  launch.progress = {read_progress(launch.run_dir).epochs_done, known.at("allocated_s")};
  const DataCheck data = look_at_data(launch.request.args.data, true);
  if (const auto status = complain_of_faults(client, outcome.faults, data)) return *status;
  return plan_and_launch(client, launch, data, options);
}

ExitStatus check_data(const Client& client, const std::string& yaml_path) {
  const contract::DatasetReport report = contract::load_dataset(expand_path(yaml_path));
  std::vector<std::int64_t> boxes(report.dataset.names.size(), 0);
  for (const auto* split : {&report.dataset.train, &report.dataset.val}) {
    for (const contract::ImageEntry& image : *split) {
      for (const contract::Label& label : image.labels) ++boxes[static_cast<std::size_t>(label.cls)];
    }
  }
  if (client.json) {
    json faults = json::array();
    for (const contract::DataFault& fault : report.faults) {
      faults.push_back({{"where", fault.where}, {"message", fault.message}, {"fatal", fault.is_fatal}});
    }
    const json out = {{"ok", report.faults_total == 0},
                      {"names", report.dataset.names},
                      {"train_images", report.dataset.train.size()},
                      {"val_images", report.dataset.val.size()},
                      {"test_images", report.dataset.test.size()},
                      {"background_images", report.background_images},
                      {"skipped_images", report.skipped_images},
                      {"boxes_per_class", boxes},
                      {"faults_total", report.faults_total},
                      {"faults", std::move(faults)}};
    fmt::print("{}\n", out.dump(2));
  } else {
    fmt::print("{}: {} train, {} val, {} test images; {} background, {} left out\n",
               report.dataset.yaml_path, report.dataset.train.size(), report.dataset.val.size(),
               report.dataset.test.size(), report.background_images, report.skipped_images);
    for (std::size_t i = 0; i < boxes.size(); ++i) {
      fmt::print("  {:>3} {:<20} {:>8} boxes\n", i, report.dataset.names[i], boxes[i]);
    }
    for (const contract::DataFault& fault : report.faults) {
      fmt::print(stderr, "{}: {}\n", fault.where, fault.message);
    }
    fmt::print("{}\n", report.has_fatal()          ? "not ready: mend the faults above"
                       : report.faults_total > 0 ? "ready with --skip-bad-labels"
                                                 : "ready to train");
  }
  return report.faults_total == 0 ? ExitStatus::kDone : ExitStatus::kBadRequest;
}

}  // namespace scheduler
