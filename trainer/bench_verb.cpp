// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <stdlib.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <memory>
#include <system_error>

#include "trainer/bench.h"
#include "trainer/contract/architecture.h"
#include "trainer/scenes.h"
#include "trainer/verbs.h"

namespace trainer {

namespace {

constexpr const char* kSynthetic = "synthetic";

struct BenchRequest {
  BenchOptions options;
  bool is_loader_only = false;
  bool is_json = false;
};

// A folder of drawn scenes, for the time of one measurement.
class DrawnData {
 public:
  explicit DrawnData(const contract::TrainArgs& args) {
    std::string name = (std::filesystem::temp_directory_path() / "trainyard-bench-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) {
      throw std::system_error(errno, std::generic_category(), name);
    }
    folder_ = name;
    constexpr int kImagesMin = 64;
    make_scenes({.out = name,
                 .train = std::max(kImagesMin, 4 * args.batch),
                 .val = 1,
                 .size = std::max(64, args.imgsz)});
  }
  ~DrawnData() {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  DrawnData(const DrawnData&) = delete;
  DrawnData& operator=(const DrawnData&) = delete;

  [[nodiscard]] std::string yaml() const { return (folder_ / "data.yaml").string(); }

 private:
  std::filesystem::path folder_;
};

double steady_now() {
  using Seconds = std::chrono::duration<double>;
  return Seconds(std::chrono::steady_clock::now().time_since_epoch()).count();
}

int run_bench(const BenchRequest& request, const Launch& launch) {
  BenchOptions options = request.options;
  options.scope = request.is_loader_only ? BenchScope::kLoaderOnly : BenchScope::kStep;
  options.threads = launch.cpus;
  std::unique_ptr<DrawnData> drawn;
  if (options.args.data == kSynthetic) {
    drawn = std::make_unique<DrawnData>(options.args);
    options.args.data = drawn->yaml();
  }
  const auto local = make_local_communicator();
  const BenchReport report = bench(options, *local, steady_now);
  fmt::print("{}", request.is_json ? to_json_text(report) + "\n" : to_table(report));
  return 0;
}

}  // namespace

Verb add_bench_verb(CLI::App& program, const Launch& launch) {
  CLI::App* command = program.add_subcommand("bench", "Measure where the time of a step goes");
  const auto request = std::make_shared<BenchRequest>();
  BenchOptions& options = request->options;
  options.args.data = kSynthetic;
  options.args.imgsz = 320;
  command->add_option("--model", options.args.model, "default: yolov8n")
      ->check(CLI::IsMember(contract::known_models()));
  command->add_option("--imgsz", options.args.imgsz, "default: 320");
  command->add_option("--batch", options.args.batch, "default: 16");
  command->add_option("--data", options.args.data, "YAML file of a data set; default: synthetic");
  command->add_option("--steps", options.batches, "batches to measure, default 20")
      ->check(CLI::Range(1, 1'000'000));
  command->add_option("--warmup", options.warmup, "batches before, default 3")
      ->check(CLI::Range(0, 1000));
  command->add_option("--workers", options.args.workers, "loader threads at most, default 8");
  command->add_option("--cache", options.args.cache, "ram: keep decoded images")
      ->check(CLI::IsMember({"ram", "false"}));
  command->add_flag("--loader", request->is_loader_only, "the loader alone, as fast as it can");
  command->add_flag("--json", request->is_json, "for programs");
  return {command, [request, &launch] { return run_bench(*request, launch); }};
}

}  // namespace trainer
