// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>

#include "trainer/contract/dataset.h"
#include "trainer/contract/exit_code.h"
#include "trainer/verbs.h"

namespace trainer {

namespace {

using contract::ExitCode;

struct CheckRequest {
  std::string data;
  bool is_json = false;
};

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

}  // namespace

Verb add_check_verb(CLI::App& program) {
  CLI::App* command = program.add_subcommand("check", "Check a data set: faults, counts, classes");
  const auto request = std::make_shared<CheckRequest>();
  command->add_option("data", request->data, "YAML file of the data set")->required();
  command->add_flag("--json", request->is_json, "for programs");
  return {command, [request] { return check_dataset(request->data, request->is_json); }};
}

}  // namespace trainer
