// SPDX-License-Identifier: Apache-2.0
#include "trainer/contract/run_words.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>
#include <set>

#include "trainer/contract/words.h"

namespace contract {

namespace {

constexpr int kGpuNumberMax = 1'023;

// "0,1" and "[0, 1]"; nothing where that is no list of numbers that differ.
std::optional<std::vector<int>> parse_gpus(std::string_view text) {
  std::vector<int> gpus;
  std::set<int> seen;
  for (const std::string_view word : list_words(text)) {
    int number = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), number);
    if (error != std::errc{} || end != word.data() + word.size()) return std::nullopt;
    if (number < -1 || number > kGpuNumberMax) return std::nullopt;
    if (number >= 0 && !seen.insert(number).second) return std::nullopt;
    gpus.push_back(number);
  }
  return gpus;
}

std::optional<std::string> set_device(RunWords& words, std::string_view text) {
  const std::string word = lower(text);
  if (is_none(text) || word == "auto") {
    words.device = RunWords::Device::kAny;
    words.gpus.clear();
    return std::nullopt;
  }
  if (word == "cpu") {
    words.device = RunWords::Device::kCpu;
    words.gpus.clear();
    return std::nullopt;
  }
  const auto gpus = parse_gpus(text);
  if (!gpus) {
    return fmt::format("device = \"{}\" is neither cpu nor GPU numbers such as 0 or [0, 1].", text);
  }
  words.device = RunWords::Device::kGpus;
  words.gpus = *gpus;
  return std::nullopt;
}

std::optional<std::string> set_resume(RunWords& words, std::string_view text) {
  const std::optional<bool> flag = parse_bool(text);
  words.resume = is_none(text) ? false : flag.value_or(true);
  words.resume_from = flag || is_none(text) ? std::string() : std::string(text);
  return std::nullopt;
}

}  // namespace

std::string RunWords::folder() const {
  namespace fs = std::filesystem;
  if (!resume_from.empty()) {
    const fs::path path = fs::path(resume_from).lexically_normal();
    const fs::path parent =
        path.has_filename() ? path.parent_path() : path.parent_path().parent_path();
    return parent.filename() == "weights" ? parent.parent_path() : path;
  }
  if (!save_dir.empty()) return save_dir;
  if (project.empty() && name.empty()) return {};
  return fs::path(project.empty() ? "runs/detect" : project) / (name.empty() ? "train" : name);
}

bool is_run_word(std::string_view key) {
  constexpr std::array kWords = {"project", "name", "save_dir", "exist_ok", "resume", "device"};
  return std::find(kWords.begin(), kWords.end(), key) != kWords.end();
}

std::optional<ArgFault> set_run_word(RunWords& words, std::string_view key, std::string_view text) {
  const auto fault = [key](std::optional<std::string> wrong) {
    return wrong ? std::optional(ArgFault{std::string(key), *wrong}) : std::nullopt;
  };
  if (key == "device") return fault(set_device(words, text));
  if (key == "resume") return fault(set_resume(words, text));
  if (key == "exist_ok") {
    const std::optional<bool> flag = parse_bool(text);
    if (!flag) return fault(fmt::format("exist_ok = \"{}\" is neither true nor false.", text));
    words.exist_ok = *flag;
    return std::nullopt;
  }
  std::string& field = key == "project" ? words.project
                       : key == "name"  ? words.name
                                        : words.save_dir;
  field = is_none(text) ? std::string() : std::string(text);
  return std::nullopt;
}

}  // namespace contract
