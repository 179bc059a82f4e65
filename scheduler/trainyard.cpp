// SPDX-License-Identifier: GPL-3.0-or-later
//
// trainyard: what a person types. The options stand in one place; the verbs are in client.h.
#include <pwd.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <exception>
#include <system_error>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "scheduler/books_commands.h"
#include "scheduler/client.h"
#include "scheduler/console.h"
#include "scheduler/people_commands.h"
#include "trainer/contract/train_args.h"

namespace {

using scheduler::Client;
using scheduler::ExitStatus;

std::string user_of_this_process() {
  const passwd* entry = getpwuid(geteuid());
  return entry != nullptr ? entry->pw_name : "";
}

// The train arguments by group, for the help text.
std::string train_arguments_help() {
  std::string text = "Train arguments (key=value):\n";
  std::string group;
  for (const contract::ArgInfo& info : contract::train_arg_table()) {
    if (info.group != group) {
      group = info.group;
      text += fmt::format("  {}\n", group);
    }
    text += fmt::format("    {:<16} {:<10} {}{}\n", info.name,
                        info.default_text.empty() ? "-" : info.default_text, info.help,
                        info.range.empty() ? "" : " (" + info.range + ")");
  }
  return text + "\nExit codes: 0 done, 1 refused, 2 bad request, 3 environment, 4 internal, "
                "5 followed run did not finish\n";
}

// The resource options that train and resume share; each becomes a setting.
class ResourceOptions {
 public:
  void add_to(CLI::App& app) {
    add(app, "--gpus", "gpus", "GPUs in all; 2-4: as many as can be had when it starts or is resumed");
    add(app, "--nodes", "nodes", "nodes; default: as few as hold the GPUs");
    add(app, "--type", "type", "instance type of site.toml");
    add(app, "--fund", "fund", "who pays: user:NAME or group:NAME; default: your default fund, else you");
    add(app, "--account", "account", "Slurm account");
    add(app, "--partition", "partition", "Slurm partition");
    add(app, "--qos", "qos", "Slurm QOS");
    add(app, "--time-limit", "time_limit", "first limit of an epochs run, extended while its fund pays: 90m, 2h, 1-12:00:00");
    add(app, "--name", "name", "a name for people");
    add(app, "--runs", "runs", "folder that gets the run's folder");
    app.add_flag("--auto-resume", auto_resume_,
                 "it goes on by itself: after preemption, past a job's limit, an epochs run when paid");
    app.add_option("--slurm", passed_, "passed through to Slurm: KEY=VALUE, several times")
        ->allow_extra_args(false);
  }
  // Settings of "key=value" words and of the options, in this order.
  [[nodiscard]] std::vector<scheduler::Setting> settings(const std::vector<std::string>& words) const {
    std::vector<scheduler::Setting> out;
    for (const std::string& word : words) {
      const std::size_t equals = word.find('=');
      const std::string key = word.substr(0, equals);
      out.push_back({key + "=", key, equals == std::string::npos ? "" : word.substr(equals + 1)});
    }
    for (const auto& [option, value] : values_) {
      if (option.first->count() > 0) out.push_back({option.first->get_name(), option.second, *value});
    }
    if (auto_resume_) out.push_back({"--auto-resume", "auto_resume", "true"});
    for (const std::string& word : passed_) {
      const std::size_t equals = word.find('=');
      out.push_back({"--slurm", "slurm." + word.substr(0, equals),
                     equals == std::string::npos ? "" : word.substr(equals + 1)});
    }
    return out;
  }

 private:
  void add(CLI::App& app, const char* name, const char* key, const char* help) {
    auto value = std::make_shared<std::string>();
    CLI::Option* option = app.add_option(name, *value, help);
    option->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
    values_.push_back({{option, key}, value});
  }
  std::vector<std::pair<std::pair<CLI::Option*, std::string>, std::shared_ptr<std::string>>> values_;
  std::vector<std::string> passed_;
  bool auto_resume_ = false;
};

int run(int argc, char** argv) {
  CLI::App app("trainyard: YOLO training on a Slurm cluster, paid in GPU-hours");
  app.require_subcommand(1);
  app.fallthrough();
  app.set_version_flag("--version", TRAINYARD_VERSION);
  std::string site_path = "/etc/trainyard/site.toml";
  bool json = false;
  app.add_option("--site", site_path, "the site's description")->envname("TRAINYARD_SITE");
  app.add_flag("--json", json, "one JSON object on standard output");

  scheduler::TrainOptions train_options, resume_options;
  ResourceOptions train_resources, resume_resources;
  std::vector<std::string> words;
  CLI::App* train = app.add_subcommand("train", "quote, set the hours aside, submit");
  train->add_option("words", words, "request file (*.toml) and key=value train arguments");
  train_resources.add_to(*train);
  train->add_option("--run-id", train_options.run_id, "your own id, so that a script's retry is safe");
  train->add_option("--quote", train_options.quote, "by a quote that is still valid (trainyard quote)");
  train->add_flag("--dry-run,-n", train_options.dry_run, "print plan, quote and batch script; do nothing");
  train->add_flag("--follow,-f", train_options.follow, "watch the run to its end");
  train->add_flag("--skip-bad-labels", train_options.skip_bad_labels,
                  "train without images whose labels are faulty");
  train->footer(train_arguments_help);

  scheduler::TrainOptions quote_options;
  ResourceOptions quote_resources;
  CLI::App* quote = app.add_subcommand("quote", "the price of a run, kept for a while; `train --quote ID` uses it");
  quote->add_option("words", words, "as for train");
  quote_resources.add_to(*quote);

  std::string run_name;
  std::vector<std::string> resume_words;
  CLI::App* resume = app.add_subcommand("resume", "go on with a run that was stopped or failed");
  resume->add_option("run", run_name, "run id, its beginning, or last")->required();
  resume_resources.add_to(*resume);
  resume->add_flag("--dry-run,-n", resume_options.dry_run, "print plan, quote and batch script; do nothing");
  resume->add_flag("--follow,-f", resume_options.follow, "watch the run to its end");

  std::string data_path;
  CLI::App* check = app.add_subcommand("check", "check a data set before it is trained on");
  check->add_option("data", data_path, "its YAML file")->required();

  bool everybody = false;
  int count = 20;
  CLI::App* ls = app.add_subcommand("ls", "your runs, newest first");
  ls->add_flag("--all,-a", everybody, "everybody's (admins), or those you lead (coordinators)");
  ls->add_option("--count,-n", count, "at most so many")->capture_default_str();

  bool wait = false, follow = false;
  int lines = 50;
  const auto verb = [&](const char* name, const char* help) {
    CLI::App* sub = app.add_subcommand(name, help);
    sub->add_option("run", run_name, "run id, its beginning, or last")->required();
    return sub;
  };
  CLI::App* show = verb("show", "one run: state, reason, metrics, charges");
  CLI::App* watch = verb("watch", "follow a run to its end");
  CLI::App* logs = verb("logs", "the log of a run's newest job");
  logs->add_flag("--follow,-f", follow, "go on as it grows");
  logs->add_option("--lines,-n", lines, "at most so many")->capture_default_str();
  CLI::App* stop = verb("stop", "save a checkpoint and leave; ends the charge");
  stop->add_flag("--wait,-w", wait, "until it has ended and is charged");
  CLI::App* pause = verb("pause", "save and wait; `resume` goes on, in the same job with --auto-resume");
  CLI::App* cancel = verb("cancel", "end at once; resumable from the last checkpoint");
  cancel->add_flag("--wait,-w", wait, "until it has ended and is charged");

  scheduler::StatementOptions statement_options;
  bool csv = false;
  CLI::App* statement = app.add_subcommand("statement", "every transfer of a fund or a run");
  statement->add_option("run", statement_options.run, "of one run only");
  statement->add_option("--fund", statement_options.fund, "user:NAME or group:NAME; default: you");
  statement->add_flag("--csv", csv, "as CSV");
  statement->add_option("--period", statement_options.period, scheduler::kPeriodHelp);
  CLI::App* funds = app.add_subcommand("funds", "what you may spend");
  funds->add_flag("--csv", csv, "as CSV");

  CLI::App* admin = app.add_subcommand(
      "admin", "for admins: grant, refund, release, set, funds, runs, price, voucher, receipts, acts, "
               "audit, export, backup");
  admin->require_subcommand(1);
  scheduler::GrantOptions grant_options;
  CLI::App* grant = admin->add_subcommand("grant", "give GPU-hours to a fund");
  grant->add_option("fund", grant_options.fund, "user:NAME or group:NAME")->required();
  grant->add_option("hours", grant_options.hours, "10h, 0.5h, 90m")->required();
  grant->add_option("--note", grant_options.note, "kept in the ledger");
  grant->add_option("--id", grant_options.id, "your own id, so that a script's retry is safe");
  grant->add_option("--from", grant_options.from, "available from this day on (UTC); default: now");
  grant->add_option("--expires", grant_options.expires, "what is left on this day is taken back");
  CLI::App* admin_funds = admin->add_subcommand("funds", "all funds");
  admin_funds->add_flag("--csv", csv, "as CSV");
  CLI::App* admin_runs = admin->add_subcommand("runs", "everybody's runs");
  admin_runs->add_option("--count,-n", count, "at most so many")->capture_default_str();
  CLI::App* audit = admin->add_subcommand("audit", "recompute the books, compare with slurmdbd");
  std::string audit_since;
  audit->add_option("--since", audit_since,
                    "SEQ:HASH that a backup told: the books of today must hold that transfer");

  std::uint32_t gate_job = 0;
  CLI::App* gate = app.add_subcommand("gate", "may this job start? Asked by Slurm's start gate");
  gate->add_option("job", gate_job, "Slurm's job id")->required();

  const scheduler::BooksCommands books(app, *admin);
  const scheduler::PeopleCommands people(app);

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == 0 ? 0 : static_cast<int>(ExitStatus::kBadRequest);
  }

  Client client;
  client.json = json;
  client.user = user_of_this_process();
  const auto done = [](ExitStatus status) { return static_cast<int>(status); };
  if (*check) return done(scheduler::check_data(client, data_path));
  const auto outcome = scheduler::read_site(site_path);
  if (!outcome.faults.empty()) {
    std::vector<std::string> messages;
    for (const auto& fault : outcome.faults) {
      messages.push_back(fmt::format("{}: {}", fault.where, fault.message));
    }
    return done(scheduler::complain(client, ExitStatus::kEnvironment, messages));
  }
  client.site = outcome.site;
  const bool submits = (*train && !train_options.dry_run) || (*resume && !resume_options.dry_run);
  if (submits && geteuid() == 0) {
    return done(scheduler::complain(
        client, ExitStatus::kRefused,
        {"a run belongs to the person who trains: submit it as an ordinary user, not as root"}));
  }

  if (const auto status = books.run(client)) return done(*status);
  if (const auto status = people.run(client)) return done(*status);
  if (*quote) {
    quote_options.quote_only = true;
    for (const std::string& word : words) {
      if (word.find('=') == std::string::npos) quote_options.file = word;
    }
    std::erase_if(words, [](const std::string& word) { return word.find('=') == std::string::npos; });
    quote_options.settings = quote_resources.settings(words);
    return done(scheduler::train(client, quote_options));
  }
  if (*train) {
    for (const std::string& word : words) {
      if (word.find('=') == std::string::npos) train_options.file = word;
    }
    std::erase_if(words, [](const std::string& word) { return word.find('=') == std::string::npos; });
    train_options.settings = train_resources.settings(words);
    return done(scheduler::train(client, train_options));
  }
  if (*resume) {
    resume_options.settings = resume_resources.settings({});
    return done(scheduler::resume(client, run_name, resume_options));
  }
  if (*ls) return done(scheduler::list_runs(client, everybody, count));
  if (*show) return done(scheduler::show_run(client, run_name));
  if (*watch) return done(scheduler::watch_run(client, run_name));
  if (*logs) return done(scheduler::print_log(client, run_name, lines, follow));
  if (*stop) return done(scheduler::stop_run(client, run_name, wait));
  if (*pause) return done(scheduler::pause_run(client, run_name));
  if (*cancel) return done(scheduler::cancel_run(client, run_name, wait));
  if (*statement) {
    statement_options.format = csv ? "csv" : "text";
    return done(scheduler::statement(client, statement_options));
  }
  if (*funds || *admin_funds) return done(scheduler::list_funds(client, csv));
  if (*grant) return done(scheduler::grant(client, grant_options));
  if (*admin_runs) return done(scheduler::list_runs(client, true, count));
  if (*gate) return done(scheduler::gate(client, gate_job));
  if (*audit) return done(scheduler::audit(client, audit_since));
  return done(ExitStatus::kInternal);
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);
  try {
    return run(argc, argv);
  } catch (const std::system_error& error) {
    // The reader of a pipe has seen enough: ends as any other program of a pipe does.
    if (error.code().value() == EPIPE) {
      std::signal(SIGPIPE, SIG_DFL);
      std::raise(SIGPIPE);
    }
    fmt::print(stderr, "trainyard: a fault of its own: {}\n", error.what());
    return static_cast<int>(ExitStatus::kInternal);
  } catch (const std::exception& error) {
    fmt::print(stderr, "trainyard: a fault of its own: {}\n", error.what());
    return static_cast<int>(ExitStatus::kInternal);
  }
}
