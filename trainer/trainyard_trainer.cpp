// SPDX-License-Identifier: Apache-2.0
//
// trainyard-trainer: one process of a training run, and small helpers around it. Exceptions rise to
// here and nowhere else; they become one line with the rank, RUN/exit.json and an exit code.
#include <fmt/format.h>
#include <torch/cuda.h>
#include <torch/utils.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <new>
#include <nlohmann/json.hpp>

#include "trainer/contract/dataset.h"
#include "trainer/durable_file.h"
#include "trainer/launch.h"
#include "trainer/run_folder.h"
#include "trainer/scenes.h"
#include "trainer/train.h"
#include "trainer/validate.h"
#include "trainer/weights_file.h"

namespace trainer {

namespace {

using contract::ExitCode;

std::atomic<bool> stop_requested = false;

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

// What an exception means to the run.
struct Failure {
  ExitCode code = ExitCode::kInternal;
  std::string message;
};

Failure failure_of(const std::exception& error) {
  const std::string text = error.what();
  if (dynamic_cast<const BadInput*>(&error) != nullptr ||
      dynamic_cast<const std::invalid_argument*>(&error) != nullptr) {
    return {ExitCode::kBadInput, text};
  }
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr) {
    return {ExitCode::kOutOfMemory, "out of host memory. Use a smaller batch or imgsz."};
  }
  if (dynamic_cast<const c10::Error*>(&error) != nullptr) {
    const bool is_memory = text.find("out of memory") != std::string::npos ||
                           text.find("can't allocate memory") != std::string::npos;
    const std::string first_line = text.substr(0, text.find('\n'));
    return {is_memory ? ExitCode::kOutOfMemory : ExitCode::kInternal, first_line};
  }
  if (dynamic_cast<const std::logic_error*>(&error) != nullptr) return {ExitCode::kInternal, text};
  return {ExitCode::kEnvironment, text};
}

void write_exit_record(const std::string& run_dir, const Failure& failure, int attempt) {
  try {
    RunFolder(run_dir).write_exit_record(
        {.code = failure.code, .message = failure.message, .attempt = attempt});
  } catch (const std::exception& error) {
    fmt::print(stderr, "exit.json: {}\n", error.what());  // The code says it all the same.
  }
}

int run_training(const contract::TrainSpec& spec, const Launch& launch, double started, int* argc,
                 char*** argv) {
  const std::unique_ptr<Communicator> communicator =
      launch.has_ranks ? make_mpi_communicator(argc, argv) : make_local_communicator();
  try {
    install_stop_signals();
    const bool is_terminal = isatty(STDOUT_FILENO) == 1;
    const Surroundings around{
        .communicator = *communicator,
        .now = utc_now,
        .stop_requested = stop_requested,
        .allocation_start = launch.allocation_start > 0 ? launch.allocation_start : started,
        .deadline = launch.deadline,
        .seconds_used_before = launch.seconds_used_before,
        .threads = launch.cpus,
        .attempt = launch.attempt,
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
    fmt::print(stderr, "rank {} ({}): {}\n", communicator->rank(), communicator->host(),
               failure.message);
    std::fflush(nullptr);
    write_exit_record(spec.run_dir, failure, launch.attempt);
    if (communicator->size() > 1) communicator->abort(static_cast<int>(failure.code));
    return static_cast<int>(failure.code);
  }
}

// The spec of a run without a scheduler, from key=value words.
contract::TrainSpec spec_from_words(const std::vector<std::string>& words,
                                    const std::string& run_dir) {
  contract::TrainSpec spec;
  std::string faults;
  for (const std::string& word : words) {
    const std::size_t equals = word.find('=');
    if (equals == std::string::npos) {
      faults += fmt::format("{} is not of the form key=value.\n", word);
    } else if (const auto fault = contract::set_train_arg(spec.args, word.substr(0, equals),
                                                          word.substr(equals + 1))) {
      faults += fault->message + "\n";
    }
  }
  if (!faults.empty()) {
    faults.pop_back();
    throw std::invalid_argument(faults);
  }
  spec.run_dir = std::filesystem::absolute(run_dir);
  spec.run_id = std::filesystem::path(spec.run_dir).filename();
  if (!spec.args.data.empty()) spec.args.data = std::filesystem::absolute(spec.args.data);
  return spec;
}

int check_dataset(const std::string& path, bool is_json) {
  const contract::DatasetReport report = contract::load_dataset(path);
  const contract::Dataset& dataset = report.dataset;
  std::vector<std::int64_t> boxes(dataset.names.size(), 0);
  for (const auto* split : {&dataset.train, &dataset.val, &dataset.test}) {
    for (const contract::ImageEntry& image : *split) {
      for (const contract::Label& label : image.labels) {
        ++boxes.at(static_cast<std::size_t>(label.cls));
      }
    }
  }
  if (is_json) {
    nlohmann::ordered_json json;
    json["ok"] = !report.has_fatal();
    json["images"] = {{"train", dataset.train.size()},
                      {"val", dataset.val.size()},
                      {"test", dataset.test.size()},
                      {"skipped", report.skipped_images},
                      {"background", report.background_images}};
    json["classes"] = nlohmann::ordered_json::array();
    for (std::size_t i = 0; i < boxes.size(); ++i) {
      json["classes"].push_back({{"name", dataset.names[i]}, {"boxes", boxes[i]}});
    }
    json["faults_total"] = report.faults_total;
    json["faults"] = nlohmann::ordered_json::array();
    for (const contract::DataFault& fault : report.faults) {
      json["faults"].push_back(
          {{"where", fault.where}, {"message", fault.message}, {"is_fatal", fault.is_fatal}});
    }
    fmt::print("{}\n", json.dump(2));
  } else {
    for (const contract::DataFault& fault : report.faults) {
      fmt::print("{}: {}\n", fault.where, fault.message);
    }
    fmt::print(
        "{} training, {} validation, {} test images; {} background, {} skipped; {} fault{}\n",
        dataset.train.size(), dataset.val.size(), dataset.test.size(), report.background_images,
        report.skipped_images, report.faults_total, report.faults_total == 1 ? "" : "s");
    for (std::size_t i = 0; i < boxes.size(); ++i) {
      fmt::print("{:>8} boxes  {}\n", boxes[i], dataset.names[i]);
    }
  }
  return static_cast<int>(report.has_fatal() ? ExitCode::kBadInput : ExitCode::kFinished);
}

struct ValRequest {
  std::string weights, data, split = "val";
  int imgsz = 0;  // 0: that of the training.
  int batch = 16;
  double iou = 0.7;
  int max_det = 300;
};

int validate_weights(const ValRequest& request, const Launch& launch) {
  torch::set_num_threads(launch.cpus);
  LoadedModel loaded = load_model(request.weights);
  contract::DatasetReport report = contract::load_dataset(request.data);
  for (const contract::DataFault& fault : report.faults) {
    if (fault.is_fatal) throw BadInput(fmt::format("{}: {}", fault.where, fault.message));
  }
  const auto& images = request.split == "test"    ? report.dataset.test
                       : request.split == "train" ? report.dataset.train
                                                  : report.dataset.val;
  if (images.empty()) {
    throw BadInput(fmt::format("{}: the split {} has no images.", request.data, request.split));
  }
  const bool is_single = loaded.info.class_names.size() == 1 && report.dataset.names.size() > 1;
  if (!is_single && report.dataset.names.size() != loaded.info.class_names.size()) {
    throw BadInput(fmt::format("{} has {} classes, {} has {}.", request.weights,
                               loaded.info.class_names.size(), request.data,
                               report.dataset.names.size()));
  }
  const torch::Device device = torch::cuda::is_available() ? torch::kCUDA : torch::kCPU;
  loaded.model->to(device);
  ValLoader loader(images, request.imgsz > 0 ? request.imgsz : loaded.info.imgsz, request.batch,
                   launch.cpus, is_single, Shard{});
  ValidationOptions options;
  options.nms = {.iou = request.iou, .max_det = request.max_det};
  options.class_names = loaded.info.class_names;
  const auto local = make_local_communicator();
  const Validation result = validate(*loaded.model, loader, options, device, *local);
  fmt::print("{}", to_table(result.metrics, loaded.info.class_names.size()));
  return 0;
}

std::string train_arguments_help() {
  std::string text = "Train arguments (key=value):\n", group;
  for (const contract::ArgInfo& info : contract::train_arg_table()) {
    if (info.group != group) text += fmt::format(" {}\n", group = info.group);
    const std::string value = info.default_text.empty() ? "" : "=" + info.default_text;
    const std::string range = info.range.empty() ? "" : fmt::format(" ({})", info.range);
    text += fmt::format("  {:<24} {}{}\n", info.name + value, info.help, range);
  }
  return text;
}

int run_command(int argc, char** argv) {
  const double started = utc_now();
  const Launch launch = read_launch();
  settle_thread_environment(launch, argv);

  CLI::App app("Trains, validates and checks; started by trainyard or by hand.",
               "trainyard-trainer");
  app.require_subcommand(1);
  app.set_version_flag("--version", TRAINYARD_VERSION);

  CLI::App* train = app.add_subcommand("train", "Start a run or continue it where it stopped");
  std::string spec_path, run_dir;
  std::vector<std::string> words;
  train->add_option("--spec", spec_path, "RUN/train_spec.json of the scheduler");
  train->add_option("--run", run_dir, "folder of the run, with key=value arguments");
  train->add_option("arguments", words, "key=value");
  train->footer(train_arguments_help());

  CLI::App* check = app.add_subcommand("check", "Check a data set: faults, counts, classes");
  std::string data;
  bool is_json = false;
  check->add_option("data", data, "YAML file of the data set")->required();
  check->add_flag("--json", is_json, "for programs");

  CLI::App* val = app.add_subcommand("val", "Measure weights on a data set");
  ValRequest request;
  val->add_option("--weights", request.weights, "a .safetensors file of a run")->required();
  val->add_option("--data", request.data, "YAML file of the data set")->required();
  val->add_option("--split", request.split)->check(CLI::IsMember({"train", "val", "test"}));
  val->add_option("--imgsz", request.imgsz, "default: that of the training");
  val->add_option("--batch", request.batch)->check(CLI::Range(1, 4096));
  val->add_option("--iou", request.iou)->check(CLI::Range(0.1, 0.9));
  val->add_option("--max-det", request.max_det)->check(CLI::Range(1, 10'000));

  CLI::App* scenes = app.add_subcommand("scenes", "Make a small data set of drawn scenes");
  SceneOptions scene;
  scenes->add_option("--out", scene.out, "folder to write to")->required();
  scenes->add_option("--seed", scene.seed);
  scenes->add_option("--train", scene.train, "training images")->check(CLI::Range(1, 1'000'000));
  scenes->add_option("--val", scene.val, "validation images")->check(CLI::Range(1, 1'000'000));
  scenes->add_option("--size", scene.size, "side of an image in pixels")
      ->check(CLI::Range(64, 4096));

  constexpr int kBadUsage = 2;
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kBadUsage;
  }
  if (check->parsed()) return check_dataset(data, is_json);
  if (val->parsed()) return validate_weights(request, launch);
  if (scenes->parsed()) {
    make_scenes(scene);
    return 0;
  }

  if (spec_path.empty() == run_dir.empty()) {
    fmt::print(stderr, "train: give either --spec FILE, or --run DIR with key=value arguments.\n");
    return kBadUsage;
  }
  contract::TrainSpec spec;
  try {
    spec = spec_path.empty() ? spec_from_words(words, run_dir)
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
