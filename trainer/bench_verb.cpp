// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <stdlib.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <system_error>

#include "trainer/bench.h"
#include "trainer/bench_collectives.h"
#include "trainer/scenes.h"
#include "trainer/verbs.h"
#include "trainer/rank_setup.h"

namespace trainer {

namespace {

constexpr const char* kSynthetic = "synthetic";

struct BenchRequest {
  BenchOptions options;
  bool is_loader_only = false, is_collectives = false, is_step = false, is_half = false;
  CollectiveBenchOptions collectives;
  double bucket_mib = 0;
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

std::unique_ptr<Communicator> ranks_of(const Launch& launch) {
  Ranks ranks = make_ranks(
      launch,
      {.limit_s = launch.watchdog_s,
       .last_words = [](const LastWords& words) { fmt::print(stderr, "{}\n", words.message); }},
      nullptr, nullptr);
  if (ranks.communicator->rank() == 0 && launch.has_ranks) {
    fmt::print(stderr, "{}\n", ranks.report);
    if (!ranks.warning.empty()) fmt::print(stderr, "{}\n", ranks.warning);
  }
  return std::move(ranks.communicator);
}

template <typename Report>
void print_report(const Report& report, const BenchRequest& request, const Communicator& ranks) {
  if (ranks.rank() != 0) return;
  fmt::print("{}", request.is_json ? to_json_text(report) + "\n" : to_table(report));
}

// Made by rank 0 where all ranks see it.
std::string shared_data(std::unique_ptr<DrawnData>& drawn, const contract::TrainArgs& args,
                        Communicator& ranks) {
  if (args.data != kSynthetic) return args.data;
  std::string yaml;
  if (ranks.rank() == 0) {
    drawn = std::make_unique<DrawnData>(args);
    yaml = drawn->yaml();
  }
  const auto all = ranks.all_gather(std::as_bytes(std::span(yaml)));
  return {reinterpret_cast<const char*>(all.front().data()), all.front().size()};
}

int measure(const BenchRequest& request, const Launch& launch, Communicator& ranks) {
  if (request.is_collectives) {
    const CollectiveReport report = bench_collectives(request.collectives, ranks, steady_now);
    print_report(report, request, ranks);
    const auto is_wrong = [](const CollectiveRow& row) { return row.wrong > 0; };
    constexpr int kEnvironment = 30;
    return std::any_of(report.rows.begin(), report.rows.end(), is_wrong) ? kEnvironment : 0;
  }
  BenchOptions options = request.options;
  options.scope = request.is_loader_only ? BenchScope::kLoaderOnly : BenchScope::kStep;
  options.threads = launch.cpus;
  constexpr double kMebibyte = 1 << 20;
  options.bucket_bytes_max = static_cast<std::size_t>(request.bucket_mib * kMebibyte);
  options.wire = request.is_half ? Wire::kBfloat16 : Wire::kFloat32;
  std::unique_ptr<DrawnData> drawn;
  options.args.data = shared_data(drawn, options.args, ranks);
  print_report(bench(options, ranks, steady_now), request, ranks);
  ranks.barrier();  // The data is there until all have done.
  return 0;
}

int run_bench(const BenchRequest& request, const Launch& launch) {
  const std::unique_ptr<Communicator> ranks = ranks_of(launch);
  if (ranks->size() == 1) return measure(request, launch, *ranks);
  try {
    return measure(request, launch, *ranks);
  } catch (const std::exception& error) {
    fmt::print(stderr, "rank {} ({}): {}\n", ranks->rank(), ranks->host(), error.what());
    std::fflush(nullptr);
  }
  constexpr int kInternal = 40;
  ranks->abort(kInternal);
  return kInternal;
}

}  // namespace

Verb add_bench_verb(CLI::App& program, const Launch& launch) {
  CLI::App* command = program.add_subcommand("bench", "Measure where the time of a step goes");
  const auto request = std::make_shared<BenchRequest>();
  BenchOptions& options = request->options;
  options.args.data = kSynthetic;
  options.args.imgsz = 320;
  command
      ->add_option("--model", options.args.model, "a known one or a .yaml file; default: yolov8n")
      ->check([](const std::string& model) {
        contract::TrainArgs args;
        args.model = model;
        const auto fault = contract::check_model(args);
        return fault ? fault->message : std::string();
      });
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
  command->add_flag("--step", request->is_step, "a training step: the default");
  command->add_option("--bucket-mib", request->bucket_mib, "of gradients at most, default 4")
      ->check(CLI::Range(0.001, 4096.0));
  command->add_flag("--bf16", request->is_half, "gradients travel as bfloat16");
  command->add_flag("--collectives", request->is_collectives,
                    "bandwidth of the ranks' messages against their size");
  command->add_option("--bytes-max", request->collectives.bytes_max,
                      "the largest message, default 33554432")
      ->check(CLI::Range(std::size_t{8}, std::size_t{1} << 32));
  command->add_flag("--json", request->is_json, "for programs");
  return {command, [request, &launch] { return run_bench(*request, launch); }};
}

}  // namespace trainer
