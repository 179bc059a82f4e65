// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>

#include "trainer/contract/dataset.h"
#include "trainer/contract/exit_code.h"
#include "trainer/contract/json_text.h"
#include "trainer/dataset_check.h"
#include "trainer/verbs.h"

namespace trainer {

namespace {

using contract::ExitCode;
using nlohmann::ordered_json;

struct CheckRequest {
  std::string data;
  bool is_json = false;
  bool decodes = false;
  int threads = 0;
  int faults_max = 20;
};

ordered_json to_json(const Spread& spread) {
  return {
      {"min", spread.min}, {"median", spread.median}, {"mean", spread.mean}, {"max", spread.max}};
}

ordered_json to_json(const SplitFacts& facts) {
  return {{"images", facts.images},
          {"background", facts.background},
          {"boxes", facts.boxes},
          {"small", facts.small},
          {"medium", facts.medium},
          {"large", facts.large},
          {"boxes_per_image", to_json(facts.boxes_per_image)},
          {"aspect", to_json(facts.aspect)},
          {"width", to_json(facts.width)},
          {"height", to_json(facts.height)},
          {"sizes_unknown", facts.sizes_unknown},
          {"boxes_per_class", facts.boxes_per_class},
          {"images_per_class", facts.images_per_class}};
}

ordered_json to_json(const contract::DatasetReport& report, const DatasetCheck& check) {
  const contract::Dataset& dataset = report.dataset;
  ordered_json json;
  json["ok"] = check.is_ready();
  json["missing"] = check.missing;
  json["yaml"] = dataset.yaml_path;
  json["images"] = {{"train", dataset.train.size()},
                    {"val", dataset.val.size()},
                    {"test", dataset.test.size()},
                    {"skipped", report.skipped_images},
                    {"background", report.background_images}};
  json["classes"] = ordered_json::array();
  for (std::size_t i = 0; i < dataset.names.size(); ++i) {
    std::int64_t boxes = 0;
    for (const SplitFacts& facts : check.splits) boxes += facts.boxes_per_class[i];
    json["classes"].push_back({{"name", dataset.names[i]}, {"boxes", boxes}});
  }
  for (const SplitFacts& facts : check.splits) json["splits"][facts.name] = to_json(facts);
  json["leaks"] = {{"exact", check.leaks_exact}, {"alike", check.leaks_alike}};
  json["doubles"] = {{"exact", check.doubles_exact}, {"alike", check.doubles_alike}};
  json["alike_bits_max"] = kAlikeBitsMax;
  json["twins"] = ordered_json::array();
  for (const Twins& twins : check.twins) {
    json["twins"].push_back({{"first", twins.first},
                             {"second", twins.second},
                             {"splits", {twins.first_split, twins.second_split}},
                             {"exact", twins.is_exact},
                             {"bits", twins.bits}});
  }
  json["decoded"] = check.decoded;
  json["findings"] = ordered_json::array();
  for (const ImageFinding& finding : check.findings) {
    json["findings"].push_back(
        {{"path", finding.path}, {"message", finding.message}, {"usable", finding.is_usable}});
  }
  json["faults_total"] = report.faults_total;
  json["faults"] = ordered_json::array();
  for (const contract::DataFault& fault : report.faults) {
    json["faults"].push_back(
        {{"where", fault.where}, {"message", fault.message}, {"is_fatal", fault.is_fatal}});
  }
  return json;
}

// Prints the first lines and how many there are besides.
class ShortList {
 public:
  explicit ShortList(int lines_max) : left_(lines_max) {}
  void print(const std::string& line) {
    if (left_-- > 0) fmt::print("{}\n", line);
  }
  void close(std::int64_t total, int lines_max) const {
    if (total > lines_max) fmt::print("... {} more (--json lists up to 1000)\n", total - lines_max);
  }

 private:
  int left_;
};

// "320..640 x 240..640 (640 x 480)"; images whose size nobody knows are counted apart.
std::string sizes_of(const SplitFacts& facts) {
  if (facts.sizes_unknown == facts.images) return "unknown";
  const std::string known = fmt::format(
      "{:.0f}..{:.0f} x {:.0f}..{:.0f} ({:.0f} x {:.0f})", facts.width.min, facts.width.max,
      facts.height.min, facts.height.max, facts.width.median, facts.height.median);
  return facts.sizes_unknown == 0 ? known
                                  : fmt::format("{}, {} unknown", known, facts.sizes_unknown);
}

void print_splits(const DatasetCheck& check) {
  fmt::print("\n{:<6} {:>8} {:>10} {:>9} {:>9} {:>8} {:>8} {:>8}  {}\n", "split", "images",
             "background", "boxes", "an image", "small", "medium", "large", "image sizes (median)");
  for (const SplitFacts& facts : check.splits) {
    if (facts.images == 0) continue;
    fmt::print("{:<6} {:>8} {:>10} {:>9} {:>9.1f} {:>8} {:>8} {:>8}  {}\n", facts.name,
               facts.images, facts.background, facts.boxes, facts.boxes_per_image.mean, facts.small,
               facts.medium, facts.large, sizes_of(facts));
  }
  for (const SplitFacts& facts : check.splits) {
    if (facts.boxes == 0) continue;
    const std::string shapes =
        facts.aspect.max > 0
            ? fmt::format("; width by height of a box {:.2f}..{:.2f}, median {:.2f}",
                          facts.aspect.min, facts.aspect.max, facts.aspect.median)
            : "";
    fmt::print("{}: up to {:.0f} boxes an image{}\n", facts.name, facts.boxes_per_image.max,
               shapes);
  }
}

void print_classes(const std::vector<std::string>& names, const DatasetCheck& check) {
  constexpr double kBarMax = 30;
  std::int64_t most = 1;
  for (const std::int64_t boxes : check.splits[0].boxes_per_class) most = std::max(most, boxes);
  fmt::print("\n{:<24} {:>8} {:>8} {:>8}   boxes\n", "class", "train", "val", "test");
  for (std::size_t i = 0; i < names.size(); ++i) {
    const std::int64_t boxes = check.splits[0].boxes_per_class[i];
    const auto bar =
        static_cast<std::size_t>(kBarMax * static_cast<double>(boxes) / static_cast<double>(most));
    fmt::print("{:<24} {:>8} {:>8} {:>8}   {}\n", names[i], boxes,
               check.splits[1].boxes_per_class[i], check.splits[2].boxes_per_class[i],
               std::string(bar, '#'));
  }
}

void print_twins(const DatasetCheck& check, int lines_max) {
  const std::int64_t all =
      check.leaks_exact + check.leaks_alike + check.doubles_exact + check.doubles_alike;
  if (all == 0) return;
  fmt::print("\n");
  ShortList list(lines_max);
  for (const Twins& twins : check.twins) {
    list.print(fmt::format("{}: {} ({}) {} {} ({})", twins.is_leak() ? "leak" : "double",
                           twins.second, twins.second_split,
                           twins.is_exact
                               ? "is the same file as"
                               : fmt::format("looks like ({} of 64 bits differ)", twins.bits),
                           twins.first, twins.first_split));
  }
  list.close(all, lines_max);
  fmt::print("between splits: {} same, {} alike; inside a split: {} same, {} alike\n",
             check.leaks_exact, check.leaks_alike, check.doubles_exact, check.doubles_alike);
}

void print_text(const contract::DatasetReport& report, const DatasetCheck& check, int lines_max) {
  ShortList faults(lines_max);
  // What stops a run must not hide behind what does not.
  for (const bool is_fatal : {true, false}) {
    for (const contract::DataFault& fault : report.faults) {
      if (fault.is_fatal == is_fatal) {
        faults.print(fmt::format("{}: {}", fault.where, fault.message));
      }
    }
  }
  faults.close(report.faults_total, lines_max);
  ShortList findings(lines_max);
  for (const ImageFinding& finding : check.findings) {
    findings.print(fmt::format("{}: {}", finding.path, finding.message));
  }
  findings.close(std::ssize(check.findings), lines_max);
  if (!report.dataset.names.empty()) {
    print_splits(check);
    print_classes(report.dataset.names, check);
  }
  print_twins(check, lines_max);
  const contract::Dataset& dataset = report.dataset;
  fmt::print(
      "\n{} training, {} validation, {} test images; {} background, {} skipped; {} fault{}{}\n",
      dataset.train.size(), dataset.val.size(), dataset.test.size(), report.background_images,
      report.skipped_images, report.faults_total, report.faults_total == 1 ? "" : "s",
      check.decoded > 0
          ? fmt::format("; {} decoded, {} with findings", check.decoded, check.findings.size())
          : "");
  if (check.is_ready()) {
    fmt::print("ready to train\n");
  } else {
    fmt::print("not ready to train:\n");
    for (const std::string& condition : check.missing) fmt::print("  {}\n", condition);
  }
}

int run_check(const CheckRequest& request) {
  const contract::DatasetReport report = contract::load_dataset(request.data);
  const int threads = request.threads > 0
                          ? request.threads
                          : static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  const DatasetCheck check =
      check_dataset(report, {.decode_images = request.decodes, .threads = threads});
  if (request.is_json) {
    fmt::print("{}\n", contract::json_text(to_json(report, check), 2));
  } else {
    print_text(report, check, request.faults_max);
  }
  return static_cast<int>(check.is_ready() ? ExitCode::kFinished : ExitCode::kBadInput);
}

}  // namespace

Verb add_check_verb(CLI::App& program) {
  constexpr int kThreadsMax = 256, kLinesMax = 1000;
  CLI::App* command =
      program.add_subcommand("check", "Check a data set: faults, counts, boxes, doubles and leaks");
  const auto request = std::make_shared<CheckRequest>();
  command->add_option("data", request->data, "YAML file, folder or archive of the data set")
      ->required();
  command->add_flag("--json", request->is_json, "for programs");
  command->add_flag("--images", request->decodes,
                    "decode every image: finds broken ones and those that look alike");
  command->add_option("--threads", request->threads, "to read with; default: all cores")
      ->check(CLI::Range(1, kThreadsMax));
  command->add_option("--lines", request->faults_max, "of each kind of finding, at most")
      ->check(CLI::Range(0, kLinesMax))
      ->capture_default_str();
  return {command, [request] { return run_check(*request); }};
}

}  // namespace trainer
