// SPDX-License-Identifier: Apache-2.0
#include "trainer/run_folder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <system_error>
#include <utility>

#include "trainer/contract/json_text.h"
#include "trainer/contract/train_spec.h"
#include "trainer/durable_file.h"

namespace trainer {

namespace {

namespace fs = std::filesystem;

constexpr std::string_view kResultsHeader =
    "epoch,time,train/box_loss,train/cls_loss,train/dfl_loss,metrics/precision(B),"
    "metrics/recall(B),metrics/mAP50(B),metrics/mAP50-95(B),val/box_loss,val/cls_loss,"
    "val/dfl_loss,lr/pg0,lr/pg1,lr/pg2";

std::string to_line(const ResultsRow& row) {
  const auto measured = [](double value) {
    return std::isnan(value) ? std::string() : fmt::format("{:.5f}", value);
  };
  return fmt::format("{},{:.6g},{:.5f},{:.5f},{:.5f},{},{},{},{},{},{},{},{:.6g},{:.6g},{:.6g}",
                     row.epoch, row.time_s, row.train_losses[0], row.train_losses[1],
                     row.train_losses[2], measured(row.precision), measured(row.recall),
                     measured(row.map50), measured(row.map50_95), measured(row.val_losses[0]),
                     measured(row.val_losses[1]), measured(row.val_losses[2]), row.lr[0],
                     row.lr[1], row.lr[2]);
}

// The lines of the first `epochs` epochs of a results file, header included.
std::string kept_lines(const std::string& text, int epochs) {
  std::string kept = fmt::format("{}\n", kResultsHeader);
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    int epoch = 0;
    const auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), epoch);
    if (error == std::errc{} && *end == ',' && epoch <= epochs) kept += line + "\n";
  }
  return kept;
}

std::string text_or_nothing(const std::string& path) {
  return fs::exists(path) ? read_file(path) : std::string();
}

}  // namespace

std::string_view reason_of(contract::ExitCode code) {
  switch (code) {
    case contract::ExitCode::kFinished:
      return "finished";
    case contract::ExitCode::kStopped:
      return "stopped";
    case contract::ExitCode::kDeadline:
      return "deadline";
    case contract::ExitCode::kBadInput:
      return "bad_input";
    case contract::ExitCode::kNotANumber:
      return "not_a_number";
    case contract::ExitCode::kOutOfMemory:
      return "out_of_memory";
    case contract::ExitCode::kEnvironment:
      return "environment";
    case contract::ExitCode::kStalled:
      return "stalled";
    case contract::ExitCode::kBadNode:
      return "bad_node";
    case contract::ExitCode::kInternal:
      return "internal";
  }
  return "internal";
}

std::optional<Deadline> read_deadline(const std::string& path) {
  std::ifstream file(path);
  Deadline deadline;
  if (!(file >> deadline.time) || !(deadline.time > 0)) return std::nullopt;
  if (int is_last = 0; file >> is_last) deadline.is_last = is_last != 0;
  return deadline;
}

RunFolder::RunFolder(std::string path) : path_(std::move(path)) {
  fs::create_directories(weights());
}

std::string RunFolder::weights() const {
  return fmt::format("{}/{}", path_, contract::kWeightsFolder);
}

bool RunFolder::stop_file_exists() const {
  return ::access(fmt::format("{}/{}", path_, contract::kStopFile).c_str(), F_OK) == 0;
}

bool RunFolder::is_stop_file_of_a_signal() const {
  std::ifstream file(fmt::format("{}/{}", path_, contract::kStopFile));
  std::string word;
  return file >> word && word == "signal";  // docs/formats/run_folder.md
}

void RunFolder::remove_exit_record() {
  fs::remove(fmt::format("{}/{}", path_, contract::kExitFile));
}

void RunFolder::remove_stop_file() {
  fs::remove(fmt::format("{}/{}", path_, contract::kStopFile));
}

void RunFolder::write_exit_record(const ExitRecord& record) {
  nlohmann::ordered_json json;
  json["code"] = static_cast<int>(record.code);
  json["reason"] = reason_of(record.code);
  json["message"] = record.message;
  json["epoch"] = record.epoch;
  json["step"] = record.step;
  json["attempt"] = record.attempt;
  // One text: a batch script reads it.
  if (!record.bad_nodes.empty()) {
    json["bad_nodes"] = fmt::format("{}", fmt::join(record.bad_nodes, ","));
  }
  if (record.code == contract::ExitCode::kStopped) {
    json["asked_by"] = record.is_by_stop_file ? "file" : "signal";
  }
  // Ranks that fail together may write at once: the last one stays.
  write_durably(fmt::format("{}/{}", path_, contract::kExitFile),
                contract::json_text(json, 2) + "\n");
}

void RunFolder::write_args(const contract::TrainArgs& args) {
  // Texts are quoted as JSON, which YAML reads; numbers and booleans stand as they are.
  const nlohmann::json json = args;
  std::string text;
  for (const contract::ArgInfo& info : contract::train_arg_table()) {
    text += fmt::format("{}: {}\n", info.name, contract::json_text(json.at(info.name)));
  }
  write_durably(fmt::format("{}/{}", path_, contract::kArgsFile), text);
}

void RunFolder::append_metrics(const contract::MetricsRecord& record) {
  const std::string line = contract::to_json_line(record) + "\n";
  const std::string path = fmt::format("{}/{}", path_, contract::kMetricsFile);
  constexpr mode_t kMode = 0644;
  const int descriptor = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, kMode);
  if (descriptor < 0) throw std::system_error(errno, std::generic_category(), path + ": open");
  const ssize_t written = ::write(descriptor, line.data(), line.size());
  const int error = errno;
  ::close(descriptor);
  if (written != static_cast<ssize_t>(line.size())) {
    throw std::system_error(written < 0 ? error : ENOSPC, std::generic_category(),
                            path + ": write");
  }
}

double RunFolder::seconds_recorded() const {
  constexpr std::streamoff kTailBytes = 1 << 16;  // A line is much shorter.
  std::ifstream file(fmt::format("{}/{}", path_, contract::kMetricsFile), std::ios::ate);
  if (!file) return 0;
  file.seekg(std::max<std::streamoff>(0, std::streamoff{file.tellg()} - kTailBytes));
  double seconds = 0;
  for (std::string line; std::getline(file, line);) {
    const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object()) continue;  // The first may be a part of one, the last may be torn.
    const auto said = json.find("train_seconds");
    if (said != json.end() && said->is_number()) seconds = said->get<double>();
  }
  return seconds;
}

void RunFolder::add_results(const ResultsRow& row) {
  const std::string path = fmt::format("{}/{}", path_, contract::kResultsFile);
  write_durably(path, kept_lines(text_or_nothing(path), row.epoch - 1) + to_line(row) + "\n");
}

void RunFolder::trim_results(int epochs) {
  const std::string path = fmt::format("{}/{}", path_, contract::kResultsFile);
  const std::string text = text_or_nothing(path);
  if (!text.empty()) write_durably(path, kept_lines(text, epochs));
}

}  // namespace trainer
