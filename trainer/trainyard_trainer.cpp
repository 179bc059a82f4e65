// SPDX-License-Identifier: Apache-2.0
//
// trainyard-trainer: one process of a training run; the other verbs stand in files of their own.
// Exceptions rise to here and nowhere else; they become one line with the rank, RUN/exit.json and
// an exit code.
#include <fmt/format.h>
#include <malloc.h>
#include <torch/utils.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <new>
#include <set>

#include "trainer/contract/architecture.h"
#include "trainer/device.h"
#include "trainer/durable_file.h"
#include "trainer/launch.h"
#include "trainer/preflight.h"
#include "trainer/rank_setup.h"
#include "trainer/run_folder.h"
#include "trainer/run_owner.h"
#include "trainer/train.h"
#include "trainer/train_words.h"
#include "trainer/verbs.h"
#include "trainer/watchdog.h"

namespace trainer {

namespace {

using contract::ExitCode;

std::atomic<bool> stop_requested = false;
Position position;
std::unique_ptr<RunOwner> owner;  // Of the run's folder; null where there is none yet.
std::string exit_record_before;   // exit.json as an earlier attempt left it.

void request_stop(int) {
  stop_requested = true;
}

// A second signal of the same kind ends the process as if there were no handler.
void install_stop_signals() {
  struct sigaction action {};
  action.sa_handler = request_stop;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  for (const int signal : {SIGUSR2, SIGTERM}) sigaction(signal, &action, nullptr);
  action.sa_flags = static_cast<int>(SA_RESTART | SA_RESETHAND);
  sigaction(SIGINT, &action, nullptr);
}

double utc_now() {
  using Seconds = std::chrono::duration<double>;
  return Seconds(std::chrono::system_clock::now().time_since_epoch()).count();
}

// Every step needs the memory that the last one gave back. By default glibc returns large blocks to
// the kernel, which hands them out again page by page, zeroed: a tenth of a step.
void keep_freed_memory() {
  constexpr int kNever = -1, kGrowBytes = 64 << 20;
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, kNever);
  mallopt(M_TOP_PAD, kGrowBytes);
}

// What an exception means to the run.
struct Failure {
  ExitCode code = ExitCode::kInternal;
  std::string message;
  std::vector<std::string> bad_nodes = {};
};

Failure failure_of(const std::exception& error) {
  const std::string text = error.what();
  if (dynamic_cast<const BadInput*>(&error) != nullptr ||
      dynamic_cast<const std::invalid_argument*>(&error) != nullptr) {
    return {ExitCode::kBadInput, text};
  }
  if (dynamic_cast<const OutOfMemory*>(&error) != nullptr) return {ExitCode::kOutOfMemory, text};
  const std::string first_line = text.substr(0, text.find('\n'));
  if (is_out_of_memory(error)) {
    return {ExitCode::kOutOfMemory,
            fmt::format("out of memory: {}. Use a smaller batch, imgsz or model.", first_line)};
  }
  if (dynamic_cast<const c10::Error*>(&error) != nullptr) return {ExitCode::kInternal, first_line};
  if (dynamic_cast<const std::logic_error*>(&error) != nullptr) return {ExitCode::kInternal, text};
  return {ExitCode::kEnvironment, text};
}

// And says so: the folder is to be left alone.
bool is_taken_over() {
  const std::string why = owner ? owner->why_lost() : std::string();
  if (!why.empty()) fmt::print(stderr, "exit.json is left alone: {}\n", why);
  return !why.empty();
}

void write_exit_record(const std::string& run_dir, const Failure& failure, int attempt) {
  if (is_taken_over()) return;
  try {
    const int epoch = position.epoch;
    const Reached reached = epoch < 0 ? saved_position(run_dir) : Reached{epoch, position.step};
    RunFolder(run_dir).write_exit_record({.code = failure.code,
                                          .message = failure.message,
                                          .epoch = reached.epoch,
                                          .step = reached.step,
                                          .attempt = attempt,
                                          .bad_nodes = failure.bad_nodes});
  } catch (const std::exception& error) {
    fmt::print(stderr, "exit.json: {}\n", error.what());  // The code says it all the same.
  }
}

std::string exit_record_in(const std::string& run_dir) {
  std::ifstream file(fmt::format("{}/{}", run_dir, contract::kExitFile));
  return {std::istreambuf_iterator<char>(file), {}};
}

// Ranks that cannot hear each other each end by a watch of their own. The first, rank 0 where it lives,
// knows best who is missing: what this attempt has left already stays.
bool has_exit_record(const std::string& run_dir) {
  const std::string now = exit_record_in(run_dir);
  return !now.empty() && now != exit_record_before;
}

// Says why the ranks end, and leaves it in the run's folder. Only a node that kept the preflight from
// ending is bad: what stops a rank later may be anybody's fault.
std::function<void(const LastWords&)> last_words_of(const contract::TrainSpec& spec,
                                                    const Launch& launch) {
  const PreflightPlace place{spec.run_dir, launch.segment, launch.attempt};
  return [place](const LastWords& words) {
    fmt::print(stderr, "{}\n", words.message);
    std::fflush(nullptr);
    if (words.is_over) return;  // What the training came to stands there already.
    if (is_taken_over() || has_exit_record(place.run_dir)) return;
    Failure failure{static_cast<ExitCode>(words.exit_code), words.message};
    if (failure.code == ExitCode::kBadNode) {
      leave_unfinished_preflight(place, words);
      std::set<std::string> hosts;
      for (const LastWords::Missing& each : words.missing) hosts.insert(each.host);
      failure.bad_nodes.assign(hosts.begin(), hosts.end());
    }
    write_exit_record(place.run_dir, failure, place.attempt);
  };
}

Ranks ranks_of(const contract::TrainSpec& spec, const Launch& launch, int* argc, char*** argv) {
  Ranks ranks = make_ranks(launch,
                           {.limit_s = launch.watchdog_s,
                            .exit_code = static_cast<int>(ExitCode::kStalled),
                            .last_words = last_words_of(spec, launch)},
                           argc, argv);
  if (!ranks.warning.empty() && ranks.communicator->rank() == 0) {
    fmt::print(stderr, "{}\n", ranks.warning);
  }
  return ranks;
}

int run_training(const contract::TrainSpec& spec, const Launch& launch, double started, int* argc,
                 char*** argv) {
  Ranks ranks;
  owner = std::make_unique<RunOwner>(spec.run_dir, launch.job, launch.attempt);
  exit_record_before = exit_record_in(spec.run_dir);
  try {
    ranks = ranks_of(spec, launch, argc, argv);
  } catch (const std::exception& error) {
    const Failure failure = failure_of(error);
    fmt::print(stderr, "rank {}: {}\n", launch.rank, failure.message);
    write_exit_record(spec.run_dir, failure, launch.attempt);
    return static_cast<int>(failure.code);
  }
  const std::unique_ptr<Communicator>& communicator = ranks.communicator;
  try {
    install_stop_signals();
    const bool is_terminal = isatty(STDOUT_FILENO) == 1;
    const Surroundings around{
        .communicator = *communicator,
        .now = utc_now,
        .stop_requested = stop_requested,
        .allocation_start = launch.allocation_start > 0 ? launch.allocation_start : started,
        .deadline = launch.deadline,
        .deadline_file = launch.deadline_file,
        .is_last = launch.is_last,
        .seconds_used_before = launch.seconds_used_before,
        .threads = launch.cpus,
        .segment = launch.segment,
        .attempt = launch.attempt,
        .position = &position,
        .owner = owner.get(),
        .stop_at_step = launch.stop_at_step,
        .is_traced = launch.is_traced,
        .preflight = launch.has_preflight ? std::optional(contract::PreflightLimits())
                                          : std::nullopt,
        .preflight_s = launch.preflight_s,
        .last_words = last_words_of(spec, launch),
        .version = "trainyard " TRAINYARD_VERSION,
        .launch_report = ranks.report,
        .cpu_report = launch.cpu_report,
        .output = is_terminal ? Surroundings::Output::kTerminal : Surroundings::Output::kLog};
    return static_cast<int>(train(spec, around).code);
  } catch (const BadInput& error) {
    // All ranks are here: no abort.
    if (communicator->rank() == 0) {
      fmt::print(stderr, "{}\n", error.what());
      write_exit_record(spec.run_dir, failure_of(error), launch.attempt);
    }
    communicator->barrier();
    return static_cast<int>(ExitCode::kBadInput);
  } catch (const std::exception& error) {
    const Failure failure = failure_of(error);
    communicator->take_last_word();
    fmt::print(stderr, "rank {} ({}): {}\n", communicator->rank(), communicator->host(),
               failure.message);
    std::fflush(nullptr);
    write_exit_record(spec.run_dir, failure, launch.attempt);
    if (communicator->size() > 1) communicator->abort(static_cast<int>(failure.code));
    return static_cast<int>(failure.code);
  }
}

std::string train_arguments_help() {
  std::string text = "Train arguments (key=value):\n", group;
  for (const contract::ArgInfo& info : contract::train_arg_table()) {
    if (info.group != group) text += fmt::format(" {}\n", group = info.group);
    const std::string value = info.default_text.empty() ? "" : "=" + info.default_text;
    const std::string range = info.range.empty() ? "" : fmt::format(" ({})", info.range);
    text += fmt::format("  {:<24} {}{}\n", info.name + value, info.help, range);
  }
  return text + kRunWordsHelp;
}

int run_command(int argc, char** argv) {
  const double started = utc_now() - process_age_s();
  const Launch launch = read_launch();
  settle_thread_environment(launch, argv);
  keep_freed_memory();

  CLI::App app("Trains, validates, exports and checks; started by trainyard or by hand.",
               "trainyard-trainer");
  app.require_subcommand(1);
  app.set_version_flag("--version", TRAINYARD_VERSION);

  CLI::App* train = app.add_subcommand("train", "Start a run or continue it where it stopped");
  std::string spec_path, run_dir;
  std::vector<std::string> words;
  train->add_option("--spec", spec_path, "RUN/train_spec.json of the scheduler");
  train->add_option("--run", run_dir, "folder of the run, begun or gone on with; else project=, name=");
  train->add_option("arguments", words, "key=value");
  train->footer(train_arguments_help());

  const Verb verbs[] = {add_check_verb(app),          add_val_verb(app, launch),
                        add_predict_verb(app, launch), add_export_verb(app, launch),
                        add_bench_verb(app, launch),   add_scenes_verb(app)};

  constexpr int kBadUsage = 2;
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kBadUsage;
  }
  for (const Verb& verb : verbs) {
    if (verb.command->parsed()) return verb.run();
  }

  if (!spec_path.empty() && !(run_dir.empty() && words.empty())) {
    fmt::print(stderr, "train: give either --spec FILE, or --run DIR with key=value arguments.\n");
    return kBadUsage;
  }
  contract::TrainSpec spec;
  try {
    spec = spec_path.empty() ? spec_from_words(words, run_dir, launch)
                             : contract::parse_train_spec(read_file(spec_path));
  } catch (const std::invalid_argument& error) {
    // The scheduler reads exit.json; the spec lies in the run folder.
    if (!spec_path.empty()) {
      write_exit_record(std::filesystem::absolute(spec_path).parent_path(), failure_of(error),
                        launch.attempt);
    }
    throw;
  }
  return run_training(spec, launch, started, &argc, &argv);
}

}  // namespace

}  // namespace trainer

int main(int argc, char** argv) {
  try {
    return trainer::run_command(argc, argv);
  } catch (const std::exception& error) {
    const trainer::Failure failure = trainer::failure_of(error);
    fmt::print(stderr, "trainyard-trainer: {}\n", failure.message);
    return static_cast<int>(failure.code);
  }
}
