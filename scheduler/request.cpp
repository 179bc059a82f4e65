// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/request.h"

#include <fmt/format.h>

#include <toml++/toml.h>
#include <algorithm>
#include <charconv>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <utility>

#include "scheduler/text_file.h"
#include "scheduler/toml_types.h"
#include "trainer/contract/architecture.h"
#include "trainer/contract/run_words.h"

namespace scheduler {
namespace {

using Answer = std::optional<std::string>;  // What is wrong.

constexpr std::int64_t kDay_s = 24 * 3'600;
constexpr std::int64_t kDurationMax_s = 3'660 * kDay_s;
constexpr std::string_view kSlurmPrefix = "slurm.";

const std::vector<std::string>& resource_keys() {
  static const std::vector<std::string> kKeys = {
      "gpus", "nodes", "type", "fund", "account", "partition", "qos", "time_limit", "name", "runs",
      "auto_resume"};
  return kKeys;
}

// Options of Slurm that follow from the plan, and what to use instead.
const std::map<std::string, std::string>& reserved_slurm_options() {
  static const std::map<std::string, std::string> kOptions = {
      {"account", "account= or --account"},
      {"array", ""},
      {"chdir", ""},
      {"comment", "name= or --name"},
      {"cpus-per-gpu", ""},
      {"cpus-per-task", ""},
      {"deadline", "time= or --time-limit"},
      {"error", ""},
      {"export", ""},
      {"gpus", "gpus= or --gpus"},
      {"gpus-per-node", "gpus= or --gpus"},
      {"gpus-per-task", "gpus= or --gpus"},
      {"gres", "gpus= or --gpus"},
      {"job-name", "name= or --name"},
      {"mem", ""},
      {"mem-per-cpu", ""},
      {"mem-per-gpu", ""},
      {"no-requeue", ""},
      {"nodes", "nodes= or --nodes"},
      {"ntasks", "gpus= or --gpus"},
      {"ntasks-per-gpu", "gpus= or --gpus"},
      {"ntasks-per-node", "gpus= or --gpus"},
      {"open-mode", ""},
      {"output", ""},
      {"partition", "partition= or --partition"},
      {"qos", "qos= or --qos"},
      {"requeue", ""},
      {"signal", ""},
      {"time", "time= or --time-limit"},
      {"time-min", "time= or --time-limit"},
      {"uid", ""}};
  return kOptions;
}

bool contains(const std::vector<std::string>& words, std::string_view word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

std::string did_you_mean(std::string_view word, const std::vector<std::string>& known) {
  const std::optional<std::string> nearest = contract::nearest_name(word, known);
  return nearest ? fmt::format(" Did you mean \"{}\"?", *nearest) : "";
}

const contract::ArgInfo* find_train_arg(std::string_view key) {
  for (const contract::ArgInfo& info : contract::train_arg_table()) {
    if (info.name == key) return &info;
  }
  return nullptr;
}

// ---- Texts -------------------------------------------------------------------------------------

// How many bytes the UTF-8 sequence at the front has; 0: it is none.
std::size_t utf8_length(std::string_view text) {
  const auto byte = [text](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return 1;
  const std::size_t length = lead >= 0xc2 && lead < 0xe0   ? 2
                             : lead >= 0xe0 && lead < 0xf0 ? 3
                             : lead >= 0xf0 && lead < 0xf5 ? 4
                                                           : 0;
  if (length == 0 || text.size() < length) return 0;
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  // Longer than need be, a surrogate, or beyond U+10FFFF.
  if (lead == 0xe0 && byte(1) < 0xa0) return 0;
  if (lead == 0xed && byte(1) > 0x9f) return 0;
  if (lead == 0xf0 && byte(1) < 0x90) return 0;
  if (lead == 0xf4 && byte(1) > 0x8f) return 0;
  return length;
}

// Texts end up in TOML, JSON, a batch script and Slurm's tables.
Answer check_text(std::string_view key, std::string_view text) {
  constexpr std::size_t kBytesMax = 4'096;
  if (text.size() > kBytesMax) {
    return fmt::format("{} has {} bytes; at most {} are allowed.", key, text.size(), kBytesMax);
  }
  if (has_control_character(text)) return fmt::format("{} has a control character in it.", key);
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t length = utf8_length(text.substr(i));
    if (length == 0) return fmt::format("{} is not UTF-8 at byte {}.", key, i + 1);
    i += length;
  }
  return std::nullopt;
}

// A word of letters, digits and ._@+-, not beginning like an option.
bool is_word(std::string_view text) {
  constexpr std::size_t kBytesMax = 128;
  if (text.empty() || text.size() > kBytesMax || text.front() == '-' || text.front() == '.') {
    return false;
  }
  return std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
           std::string_view("._@+-").find(c) != std::string_view::npos;
  });
}

std::optional<std::int64_t> parse_integer(std::string_view text) {
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return number;
}

// ---- Resources ---------------------------------------------------------------------------------

Answer set_count(std::optional<int>& out, std::string_view key, std::string_view text) {
  constexpr std::int64_t kCountMax = 1'000'000;
  const std::optional<std::int64_t> number = parse_integer(text);
  if (!number) return fmt::format("{} = \"{}\" is not a whole number.", key, text);
  if (*number < 1) {
    return fmt::format("{} = {} is below the smallest allowed value 1.", key, *number);
  }
  if (*number > kCountMax) {
    return fmt::format("{} = {} is above the largest allowed value {}.", key, *number, kCountMax);
  }
  out = static_cast<int>(*number);
  return std::nullopt;
}

// "4", or "2-4": at least 2, at most 4.
Answer set_gpus(Resources& resources, std::string_view text) {
  const std::size_t dash = text.find('-', 1);  // "-4" is a number that is too small.
  std::optional<int> least, most;
  if (dash != std::string_view::npos && dash + 1 < text.size()) {
    if (Answer wrong = set_count(least, "gpus", text.substr(0, dash))) return wrong;
    text.remove_prefix(dash + 1);
  }
  if (Answer wrong = set_count(most, "gpus", text)) return wrong;
  if (least && *least > *most) {
    return fmt::format("gpus = {}-{}: the least comes first.", *least, *most);
  }
  resources.gpus = most;
  resources.gpus_min = least == most ? std::nullopt : least;
  return std::nullopt;
}

std::string gpus_text(const Resources& resources) {
  return resources.gpus_min ? fmt::format("{}-{}", *resources.gpus_min, *resources.gpus)
                            : std::to_string(*resources.gpus);
}

Answer set_fund(std::string& out, std::string_view text) {
  const std::size_t colon = text.find(':');
  const std::string_view kind = text.substr(0, colon);
  if (colon == std::string_view::npos || (kind != "user" && kind != "group") ||
      !is_word(text.substr(colon + 1))) {
    return fmt::format(
        "fund = \"{}\" is not the name of a fund. Write \"user:NAME\" or "
        "\"group:NAME\", NAME of letters, digits and \"._@+-\".",
        text);
  }
  out = text;
  return std::nullopt;
}

Answer set_word(std::string& out, std::string_view key, std::string_view text) {
  if (!is_word(text)) {
    return fmt::format("{} = \"{}\" is not one word of letters, digits and \"._@+-\".", key, text);
  }
  out = text;
  return std::nullopt;
}

Answer set_slurm(Resources& resources, const std::string& option, std::string_view text) {
  const auto reserved = reserved_slurm_options().find(option);
  if (reserved != reserved_slurm_options().end()) {
    return fmt::format("slurm.{} is set by Trainyard; {}.", option,
                       reserved->second.empty() ? "leave it out" : "use " + reserved->second);
  }
  if (!contains(passable_slurm_keys(), option)) {
    return fmt::format("slurm.{} is not passed on.{} Known: {}.", option,
                       did_you_mean(option, passable_slurm_keys()),
                       fmt::join(passable_slurm_keys(), ", "));
  }
  if (text.empty()) return fmt::format("slurm.{} is empty. Leave it out.", option);
  if ((option == "nice" || option == "begin") && !parse_integer(text)) {
    return fmt::format("slurm.{} = \"{}\" is not a whole number.", option, text);
  }
  if (option == "exclusive" && text != "true" && text != "false") {
    return fmt::format("slurm.exclusive = \"{}\" is neither true nor false.", text);
  }
  static const std::vector<std::string> kMailTypes = {"BEGIN", "END", "FAIL", "ALL", "NONE"};
  if (option == "mail-type" && !contains(kMailTypes, text)) {
    return fmt::format("slurm.mail-type = \"{}\" is not known. Known: {}.", text,
                       fmt::join(kMailTypes, ", "));
  }
  resources.slurm[option] = text;
  return std::nullopt;
}

// `key` is one of resource_keys().
Answer set_resource(Resources& resources, std::string_view key, std::string_view text) {
  if (key == "gpus") return set_gpus(resources, text);
  if (key == "nodes") return set_count(resources.nodes, key, text);
  if (key == "type") return set_word(resources.type, key, text);
  if (key == "fund") return set_fund(resources.fund, text);
  if (key == "account") return set_word(resources.account, key, text);
  if (key == "partition") return set_word(resources.partition, key, text);
  if (key == "qos") return set_word(resources.qos, key, text);
  if (key == "time_limit") {
    const std::optional<std::int64_t> limit_s = parse_duration_s(text);
    if (!limit_s) {
      return fmt::format(
          "time_limit = \"{}\" is not a duration. Write \"90m\", \"2h\", "
          "\"1:30:00\" or \"1-12:00:00\".",
          text);
    }
    resources.time_limit_s = *limit_s;
    return std::nullopt;
  }
  if (text.empty()) return fmt::format("{} is empty. Leave it out.", key);
  if (key == "auto_resume") {
    if (text != "true" && text != "false") {
      return fmt::format("auto_resume = \"{}\" is neither true nor false.", text);
    }
    resources.auto_resume = text == "true";
    return std::nullopt;
  }
  if (key == "name") {
    constexpr std::size_t kNameMax = 100;
    if (text.size() > kNameMax) {
      return fmt::format("name has {} bytes; at most {} are allowed.", text.size(), kNameMax);
    }
    resources.name = text;
  } else {
    resources.runs = text;
  }
  return std::nullopt;
}

// ---- One setting, wherever it came from --------------------------------------------------------

bool is_path_key(std::string_view key) {
  return key == "data" || key == "model" || key == "pretrained" || key == "runs";
}

// The empty text, names of models and Ultralytics' switches of `pretrained` are no paths.
bool is_path_text(std::string_view key, std::string_view text) {
  if (key == "model") return contract::is_model_file(text);
  if (key != "pretrained") return !text.empty();
  contract::TrainArgs scratch;
  return !contract::set_train_arg(scratch, key, text) && !scratch.pretrained.empty();
}

Answer set_train(contract::TrainArgs& args, std::string_view key, std::string_view text) {
  const std::optional<contract::ArgFault> fault = contract::set_train_arg(args, key, text);
  return fault ? Answer(fault->message) : std::nullopt;
}

// Ultralytics' words for where a run lies and what computes it are the plan's here.
Answer set_run_word(TrainingRequest& request, std::string_view key, std::string_view text,
                    const std::filesystem::path& base) {
  contract::RunWords words;
  if (const auto fault = contract::set_run_word(words, key, text)) return fault->message;
  const bool has_no_place = !words.save_dir.empty() || words.resume ||
                            words.device == contract::RunWords::Device::kCpu;
  if (has_no_place) return set_train(request.args, key, text);  // Says what there is instead.
  if (!words.project.empty()) {  // The caller knows the home folder.
    request.resources.runs = words.project.starts_with('~')
                                 ? words.project
                                 : (base / words.project).lexically_normal().string();
  }
  if (words.device == contract::RunWords::Device::kGpus) {
    return set_resource(request.resources, "gpus", std::to_string(words.gpus.size()));
  }
  return std::nullopt;
}

// `base`: the folder that relative paths start from.
Answer set_any(TrainingRequest& request, const std::string& key, std::string text,
               const std::filesystem::path& base) {
  if (Answer wrong = check_text(key, text)) return wrong;
  if (key == "data") {  // As it was written: a list is no path.
    contract::TrainArgs scratch;
    if (Answer wrong = set_train(scratch, key, text)) return wrong;
  }
  if (is_path_key(key) && is_path_text(key, text)) {
    // "~" belongs to shells; a folder of that name would be made by mistake. The caller knows the
    // home folder of runs.
    if (text.starts_with('~') && key != "runs") {
      return fmt::format(
          "{} = \"{}\" begins with \"~\", which is not expanded here. Give the "
          "whole path.",
          key, text);
    }
    if (!text.starts_with('~')) text = (base / text).lexically_normal().string();
  }
  if (key.starts_with(kSlurmPrefix)) {
    return set_slurm(request.resources, key.substr(kSlurmPrefix.size()), text);
  }
  if (contains(resource_keys(), key)) return set_resource(request.resources, key, text);
  if (contract::is_run_word(key)) return set_run_word(request, key, text, base);
  return set_train(request.args, key, text);
}

// ---- Request files -----------------------------------------------------------------------------

// Strings, numbers, booleans and arrays of numbers as the texts that the command line would have.
std::optional<std::string> to_setting_text(const toml::node& node) {
  if (const toml::array* array = node.as_array()) {
    std::vector<std::string> numbers;
    for (const toml::node& each : *array) {
      if (!each.is_number()) return std::nullopt;
      numbers.push_back(*to_setting_text(each));
    }
    return fmt::format("[{}]", fmt::join(numbers, ", "));
  }
  if (const toml::value<std::string>* text = node.as_string()) return text->get();
  if (const toml::value<std::int64_t>* number = node.as_integer()) {
    return std::to_string(number->get());
  }
  if (const toml::value<double>* number = node.as_floating_point()) {
    return fmt::format("{}", number->get());
  }
  if (const toml::value<bool>* flag = node.as_boolean()) return flag->get() ? "true" : "false";
  return std::nullopt;
}

Answer wrong_type(const std::string& key, std::string_view expected, const toml::node& node) {
  return fmt::format("{} is {}. It takes {}.", key, type_text(node.type()), expected);
}

Answer check_train_type(const std::string& key, const toml::node& node) {
  const contract::ArgInfo* info = find_train_arg(key);
  if (info == nullptr) return std::nullopt;  // set_train_arg says so.
  if (info->type == "int" && !node.is_integer()) return wrong_type(key, "a whole number", node);
  const bool is_pair = key == "fraction" && node.is_array() && to_setting_text(node);
  if (info->type == "float" && !node.is_number() && !is_pair) {
    return wrong_type(key, "a number", node);
  }
  if (info->type == "bool" && !node.is_boolean()) return wrong_type(key, "true or false", node);
  const toml::array* array = node.as_array();
  const bool is_list =
      array != nullptr && (array->empty() || array->is_homogeneous(toml::node_type::integer));
  if (info->type == "list" && !node.is_integer() && !is_list) {
    return wrong_type(key, "a whole number or an array of whole numbers", node);
  }
  // Ultralytics' files say "amp: true", "cache: false" and "pretrained: false".
  const bool takes_switch = key == "amp" || key == "cache" || key == "pretrained";
  if (info->type == "string" && !node.is_string() && !(takes_switch && node.is_boolean())) {
    return wrong_type(key, "a string", node);
  }
  return std::nullopt;
}

Answer check_resource_type(const std::string& key, const toml::node& node) {
  if (key == "gpus" && node.is_string()) return std::nullopt;  // "2-4"
  if (key == "gpus" || key == "nodes") {
    return node.is_integer() ? std::nullopt : wrong_type(key, "a whole number", node);
  }
  if (key == "auto_resume") {
    return node.is_boolean() ? std::nullopt : wrong_type(key, "true or false", node);
  }
  if (node.is_string()) return std::nullopt;
  return wrong_type(key, key == "time_limit" ? "a string such as \"90m\"" : "a string", node);
}

// Gathers a request in the order file, command line, and every fault on the way.
class RequestReader {
 public:
  RequestReader(std::string toml_path, std::filesystem::path work_dir)
      : toml_path_(std::move(toml_path)), work_dir_(std::move(work_dir)) {}

  void read_file() {
    const std::filesystem::path path = work_dir_ / toml_path_;
    folder_ = path.parent_path();
    const Expected<std::string> text = read_text_file(path.string());
    if (!text) {
      is_readable_ = false;
      outcome_.faults.push_back({toml_path_, text.error().message});
      return;
    }
    try {
      read_document(toml::parse(*text, toml_path_));
    } catch (const toml::parse_error& error) {
      is_readable_ = false;
      const toml::source_position at = error.source().begin;
      outcome_.faults.push_back(syntax_fault(toml_path_, at.line, at.column, error.description()));
    }
  }

  void read_settings(const std::vector<Setting>& settings) {
    for (const Setting& setting : settings) {
      where_[setting.key] = setting.where;
      Answer wrong = unknown_setting(setting.key);
      if (!wrong) wrong = set_any(outcome_.request, setting.key, setting.value, work_dir_);
      if (wrong) add_fault(setting.key, setting.where, *wrong);
    }
  }

  RequestOutcome finish() {
    // Of a file that could not be read nothing is known to be missing.
    if (is_readable_) check_whole();
    return std::move(outcome_);
  }

 private:
  struct Entry {
    toml::source_index line = 0;
    std::string key;
    Answer wrong;
    std::string text;
  };

  void add_fault(const std::string& key, const std::string& where, const std::string& message) {
    faulty_.insert(key);
    outcome_.faults.push_back({one_line(where), one_line(message)});
  }

  std::string at(toml::source_index line) const { return fmt::format("{}:{}", toml_path_, line); }

  // Tables are sorted by key; people read by line.
  void read_document(const toml::table& document) {
    std::vector<Entry> entries;
    for (const auto& [key, node] : document) {
      const std::string name(key.str());
      const toml::source_index line = key.source().begin.line;
      if (name != "train" && name != "resources" && name != "slurm") {
        entries.push_back({line, name, unknown_table(name), ""});
      } else if (const toml::table* table = node.as_table()) {
        read_table(name, *table, entries);
      } else {
        entries.push_back({line, name, wrong_type(name, "a table", node), ""});
      }
    }
    std::stable_sort(entries.begin(), entries.end(),
                     [](const Entry& a, const Entry& b) { return a.line < b.line; });
    for (Entry& entry : entries) {
      where_[entry.key] = at(entry.line);
      if (!entry.wrong) {
        entry.wrong = set_any(outcome_.request, entry.key, std::move(entry.text), folder_);
      }
      if (entry.wrong) add_fault(entry.key, at(entry.line), *entry.wrong);
    }
  }

  void read_table(const std::string& table_name, const toml::table& table,
                  std::vector<Entry>& entries) {
    for (const auto& [key, node] : table) {
      Entry entry{key.source().begin.line, std::string(key.str()), std::nullopt, ""};
      if (table_name == "train") {
        entry.wrong = misplaced(entry.key);
        if (!entry.wrong) entry.wrong = check_train_type(entry.key, node);
      } else if (table_name == "resources") {
        entry.wrong = unknown_resource(entry.key);
        if (!entry.wrong) entry.wrong = check_resource_type(entry.key, node);
      } else {
        entry.key = std::string(kSlurmPrefix) + entry.key;
      }
      const std::optional<std::string> text = to_setting_text(node);
      if (!entry.wrong && (!text || (node.is_array() && table_name == "slurm"))) {
        entry.wrong = wrong_type(entry.key, "a string, a number or true or false", node);
      }
      entry.text = text.value_or("");
      entries.push_back(std::move(entry));
    }
  }

  static Answer unknown_table(const std::string& name) {
    if (find_train_arg(name) != nullptr) {
      return fmt::format("{} stands in no table. Put it under [train].", name);
    }
    if (contains(resource_keys(), name)) {
      return fmt::format("{} stands in no table. Put it under [resources].", name);
    }
    static const std::vector<std::string> kTables = {"train", "resources", "slurm"};
    return fmt::format("{} is not known here.{} Known tables: {}.", name,
                       did_you_mean(name, kTables), fmt::join(kTables, ", "));
  }

  static Answer misplaced(const std::string& key) {
    if (find_train_arg(key) != nullptr || !contains(resource_keys(), key) ||
        contract::is_run_word(key)) {
      return std::nullopt;
    }
    return fmt::format("{} is not a train argument. Put it under [resources].", key);
  }

  static Answer unknown_resource(const std::string& key) {
    if (contains(resource_keys(), key)) return std::nullopt;
    if (find_train_arg(key) != nullptr) {
      return fmt::format("{} is not a resource. Put it under [train].", key);
    }
    return fmt::format("{} is not known here.{} Known: {}.", key,
                       did_you_mean(key, resource_keys()), fmt::join(resource_keys(), ", "));
  }

  // On the command line a misspelt word may have meant a resource as well.
  static Answer unknown_setting(const std::string& key) {
    if (find_train_arg(key) != nullptr || contains(resource_keys(), key) ||
        contract::is_run_word(key) || key.starts_with(kSlurmPrefix)) {
      return std::nullopt;
    }
    contract::TrainArgs scratch;
    const Answer wrong = set_train(scratch, key, "");
    const std::string unknown = key + " is not a train argument";
    if (!wrong || !wrong->starts_with(unknown)) return wrong;
    std::vector<std::string> known;
    for (const contract::ArgInfo& info : contract::train_arg_table()) known.push_back(info.name);
    known.insert(known.end(), resource_keys().begin(), resource_keys().end());
    return fmt::format("{} is not known.{}", key, did_you_mean(key, known));
  }

  void check_whole() {
    std::vector<contract::ArgFault> faults = contract::check_train_args(outcome_.request.args);
    if (auto fault = contract::check_model(outcome_.request.args)) faults.push_back(*fault);
    for (const contract::ArgFault& fault : faults) {
      if (faulty_.contains(fault.key)) continue;
      const auto where = where_.find(fault.key);
      const std::string fallback = toml_path_.empty() ? fault.key + "=" : toml_path_;
      add_fault(fault.key, where == where_.end() ? fallback : where->second, fault.message);
    }
    const Resources& resources = outcome_.request.resources;
    if (outcome_.request.args.time_h && resources.time_limit_s) {
      add_fault("time_limit", where_["time_limit"],
                fmt::format("time = {} sets the length of the run already. Leave time_limit out.",
                            *outcome_.request.args.time_h));
    }
  }

  std::string toml_path_;
  std::filesystem::path work_dir_;
  std::filesystem::path folder_;
  bool is_readable_ = true;
  std::map<std::string, std::string> where_;  // The last place that set a key.
  std::set<std::string> faulty_;
  RequestOutcome outcome_;
};

// ---- Durations ---------------------------------------------------------------------------------

// "30" or, between colons, "05". Nothing where anything but up to nine digits stands.
std::optional<std::int64_t> parse_digits(std::string_view text) {
  constexpr std::size_t kDigitsMax = 9;
  if (text.empty() || text.size() > kDigitsMax ||
      text.find_first_not_of("0123456789") != std::string_view::npos) {
    return std::nullopt;
  }
  return parse_integer(text);
}

// "1:30:00" and "30:00"; all but the first part are below 60.
std::optional<std::int64_t> parse_clock_s(std::string_view text) {
  std::int64_t seconds = 0;
  for (int part = 0;; ++part) {
    const std::size_t colon = text.find(':');
    const std::optional<std::int64_t> number = parse_digits(text.substr(0, colon));
    if (!number || part > 2 || (part > 0 && *number > 59)) return std::nullopt;
    seconds = seconds * 60 + *number;
    if (colon == std::string_view::npos) return seconds;
    text.remove_prefix(colon + 1);
  }
}

std::optional<std::int64_t> parse_any_duration_s(std::string_view text) {
  const std::size_t dash = text.find('-');
  if (dash != std::string_view::npos) {
    const std::optional<std::int64_t> days = parse_digits(text.substr(0, dash));
    std::string clock(text.substr(dash + 1));
    const auto colons = std::count(clock.begin(), clock.end(), ':');
    if (colons < 2) clock += colons == 0 ? ":00:00" : ":00";  // Slurm's "1-12" and "1-12:30".
    const std::optional<std::int64_t> seconds = parse_clock_s(clock);
    if (!days || !seconds || *seconds >= kDay_s) return std::nullopt;
    return *days * kDay_s + *seconds;
  }
  if (text.find(':') != std::string_view::npos) return parse_clock_s(text);
  std::int64_t unit_s = 1;
  if (!text.empty()) {
    const char unit = text.back();
    if (unit == 'd') unit_s = kDay_s;
    if (unit == 'h') unit_s = 3'600;
    if (unit == 'm') unit_s = 60;
    if (unit == 'd' || unit == 'h' || unit == 'm' || unit == 's') text.remove_suffix(1);
  }
  const std::optional<std::int64_t> number = parse_digits(text);
  return number ? std::optional(*number * unit_s) : std::nullopt;
}

// ---- Writing -----------------------------------------------------------------------------------

std::string toml_string(std::string_view text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') quoted += '\\';
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      quoted += fmt::format("\\u{:04X}", static_cast<unsigned>(c));
    } else {
      quoted += c;
    }
  }
  return quoted + "\"";
}

// The resources as texts that set_resource takes; only those that are set.
std::vector<std::pair<std::string, std::string>> to_texts(const Resources& resources) {
  std::vector<std::pair<std::string, std::string>> texts;
  const auto add = [&texts](const char* key, const std::string& text) {
    if (!text.empty()) texts.emplace_back(key, text);
  };
  if (resources.gpus) add("gpus", gpus_text(resources));
  if (resources.nodes) add("nodes", std::to_string(*resources.nodes));
  add("type", resources.type);
  add("fund", resources.fund);
  add("account", resources.account);
  add("partition", resources.partition);
  add("qos", resources.qos);
  if (resources.time_limit_s) add("time_limit", fmt::format("{}s", *resources.time_limit_s));
  add("name", resources.name);
  add("runs", resources.runs);
  if (resources.auto_resume) add("auto_resume", "true");
  return texts;
}

}  // namespace

RequestOutcome read_request(const std::string& toml_path, const std::vector<Setting>& settings,
                            const std::string& work_dir) {
  RequestReader reader(toml_path, work_dir);
  if (!toml_path.empty()) reader.read_file();
  reader.read_settings(settings);
  return reader.finish();
}

const std::vector<std::string>& passable_slurm_keys() {
  static const std::vector<std::string> kKeys = {
      "begin",     "constraint", "dependency", "exclude",  "exclusive",   "licenses",
      "mail-type", "mail-user",  "nice",       "nodelist", "reservation", "wckey"};
  return kKeys;
}

const std::vector<std::string>& reserved_slurm_keys() {
  static const std::vector<std::string> kKeys = [] {
    std::vector<std::string> keys;
    for (const auto& [key, instead] : reserved_slurm_options()) keys.push_back(key);
    return keys;
  }();
  return kKeys;
}

std::optional<std::int64_t> parse_duration_s(std::string_view text) {
  const std::optional<std::int64_t> seconds = parse_any_duration_s(text);
  if (!seconds || *seconds < 1 || *seconds > kDurationMax_s) return std::nullopt;
  return seconds;
}

void to_json(nlohmann::json& json, const TrainingRequest& request) {
  nlohmann::json resources = nlohmann::json::object();
  for (const auto& [key, text] : to_texts(request.resources)) resources[key] = text;
  if (request.resources.gpus && !request.resources.gpus_min) {
    resources["gpus"] = *request.resources.gpus;
  }
  if (request.resources.nodes) resources["nodes"] = *request.resources.nodes;
  json = {{"train", request.args}, {"resources", resources}, {"slurm", request.resources.slurm}};
}

void from_json(const nlohmann::json& json, TrainingRequest& request) {
  const auto must = [](const Answer& wrong) {
    if (wrong) throw std::invalid_argument(*wrong);
  };
  TrainingRequest result;
  json.at("train").get_to(result.args);
  for (const auto& [key, text] : contract::to_texts(result.args)) must(check_text(key, text));
  for (const auto& [key, value] : json.at("resources").items()) {
    if (!contains(resource_keys(), key)) must(fmt::format("resources.{} is not known.", key));
    const std::string text = value.is_string() ? value.get<std::string>() : value.dump();
    must(check_text(key, text));
    must(set_resource(result.resources, key, text));
  }
  for (const auto& [key, value] : json.at("slurm").items()) {
    const auto text = value.get<std::string>();
    must(check_text(key, text));
    must(set_slurm(result.resources, key, text));
  }
  request = std::move(result);
}

std::string to_toml(const TrainingRequest& request) {
  std::string text = "[train]\n";
  for (const auto& [key, value] : contract::to_texts(request.args)) {
    const contract::ArgInfo* info = find_train_arg(key);
    if (info->type == "string") {
      if (!value.empty()) text += fmt::format("{} = {}\n", key, toml_string(value));
    } else if (value != "none") {
      text += fmt::format("{} = {}\n", key, value);
    }
  }
  text += "\n[resources]\n";
  for (const auto& [key, value] : to_texts(request.resources)) {
    const bool is_number = (key == "gpus" && !request.resources.gpus_min) || key == "nodes" ||
                           key == "auto_resume";
    text += fmt::format("{} = {}\n", key, is_number ? value : toml_string(value));
  }
  if (!request.resources.slurm.empty()) text += "\n[slurm]\n";
  for (const auto& [key, value] : request.resources.slurm) {
    text += fmt::format("{} = {}\n", key, toml_string(value));
  }
  return text;
}

}  // namespace scheduler
