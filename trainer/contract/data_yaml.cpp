// SPDX-License-Identifier: Apache-2.0
#include "trainer/contract/data_yaml.h"

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <charconv>
#include <iterator>
#include <map>
#include <optional>
#include <system_error>
#include <utility>

namespace contract {
namespace {

bool is_path(const YAML::Node& node) {
  return node.IsScalar() && !node.Scalar().empty() && node.Scalar().find('\0') == std::string::npos;
}

int line_of(const YAML::Node& node) {
  return node.Mark().line + 1;
}

std::optional<int> whole_number(const std::string& text) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

class Parser {
 public:
  DataYaml parse(const YAML::Node& document) {
    if (!document.IsMap()) {
      fault(0, "no mapping of keys (path, train, val, names).");
      return std::move(yaml_);
    }
    collect_keys(document);
    if (const YAML::Node* path = key("path")) {
      if (is_path(*path)) {
        yaml_.root = {path->Scalar(), line_of(*path)};
      } else {
        fault(line_of(*path), "path is not one folder.");
      }
    }
    const YAML::Node* val = key("val") != nullptr ? key("val") : key("validation");
    yaml_.train = split("train", key("train"));
    yaml_.val = split("val", val);
    if (const YAML::Node* test = key("test")) yaml_.test = split("test", test);
    read_classes();
    std::stable_sort(yaml_.faults.begin(), yaml_.faults.end(),
                     [](const LineFault& a, const LineFault& b) { return a.line < b.line; });
    return std::move(yaml_);
  }

 private:
  void fault(int line, std::string message) { yaml_.faults.push_back({line, std::move(message)}); }

  const YAML::Node* key(const std::string& name) const {
    const auto found = keys_.find(name);
    return found == keys_.end() ? nullptr : &found->second;
  }

  // A key without a value counts as not given. Other keys than ours (download, author) are let be.
  void collect_keys(const YAML::Node& document) {
    for (const auto& pair : document) {
      if (!pair.first.IsScalar() || pair.second.IsNull()) continue;
      const std::string& name = pair.first.Scalar();
      const auto [known, is_new] = keys_.emplace(name, pair.second);
      if (is_new) continue;
      fault(line_of(pair.first), fmt::format("{} is given twice (first on line {}).",
                                             printable(name, 40), line_of(known->second)));
    }
  }

  std::vector<DataYaml::Entry> split(std::string_view name, const YAML::Node* node) {
    std::vector<DataYaml::Entry> entries;
    if (node == nullptr) {
      fault(0, fmt::format("{} is missing. Name a folder of images or a list file.", name));
      return entries;
    }
    const auto add = [&](const YAML::Node& entry) {
      if (is_path(entry)) {
        entries.push_back({entry.Scalar(), line_of(entry)});
      } else {
        fault(line_of(entry), fmt::format("{} holds an entry that is no path.", name));
      }
    };
    if (node->IsSequence()) {
      for (const YAML::Node& entry : *node) add(entry);
      if (node->size() == 0) fault(line_of(*node), fmt::format("{} is an empty list.", name));
    } else {
      add(*node);
    }
    return entries;
  }

  void read_classes() {
    const YAML::Node* names = key("names");
    const YAML::Node* nc = key("nc");
    const int count = nc == nullptr ? 0 : read_count(*nc);  // 0: none.
    if (names == nullptr) {
      if (nc == nullptr) fault(0, "names is missing. List the classes, as in names: [cat, dog].");
      for (int i = 0; i < count; ++i) yaml_.names.push_back(fmt::format("class_{}", i));
      return;
    }
    const std::size_t faults_before = yaml_.faults.size();
    if (names->IsSequence()) {
      for (const YAML::Node& name : *names) add_name(name);
    } else if (names->IsMap()) {
      read_name_map(*names);
    } else {
      fault(line_of(*names), "names is neither a list nor a mapping from class to name.");
    }
    if (yaml_.faults.size() != faults_before) return;
    const auto named = static_cast<int>(yaml_.names.size());
    if (named == 0) fault(line_of(*names), "names is empty.");
    if (named > 0 && nc != nullptr && count > 0 && count != named) {
      fault(line_of(*nc), fmt::format("nc = {}, but names (line {}) lists {}.", count,
                                      line_of(*names), counted(named, "class")));
    }
  }

  int read_count(const YAML::Node& node) {
    const std::optional<int> count =
        node.IsScalar() ? whole_number(node.Scalar()) : std::optional<int>();
    if (count && *count >= 1 && *count <= kClassesMax) return *count;
    fault(line_of(node),
          fmt::format("nc = {} is not a whole number of 1..{}.",
                      node.IsScalar() ? printable(node.Scalar(), 40) : "?", kClassesMax));
    return 0;
  }

  void add_name(const YAML::Node& node) {
    constexpr auto kMax = static_cast<std::size_t>(kClassesMax);
    if (yaml_.names.size() > kMax) return;  // Said once.
    if (yaml_.names.size() == kMax) {
      fault(line_of(node), fmt::format("names has more than {} entries.", kClassesMax));
    }
    if (!node.IsScalar() || node.Scalar().empty()) {
      fault(line_of(node), fmt::format("the name of class {} is not a text.", yaml_.names.size()));
    }
    yaml_.names.push_back(node.IsScalar() ? node.Scalar() : std::string());
  }

  void read_name_map(const YAML::Node& map) {
    const std::size_t faults_before = yaml_.faults.size();
    std::map<int, YAML::Node> classes;
    for (const auto& pair : map) {
      const std::optional<int> cls =
          pair.first.IsScalar() ? whole_number(pair.first.Scalar()) : std::optional<int>();
      if (!cls) {
        fault(line_of(pair.first),
              fmt::format("names: \"{}\" is not a class number.",
                          pair.first.IsScalar() ? printable(pair.first.Scalar(), 40) : "?"));
      } else if (!classes.emplace(*cls, pair.second).second) {
        fault(line_of(pair.first), fmt::format("names: class {} is given twice.", *cls));
      }
    }
    if (yaml_.faults.size() != faults_before) return;
    int expected = 0;
    for (const auto& [cls, name] : classes) {
      if (cls != expected) {
        fault(line_of(name), fmt::format("names: class {} stands where {} is due; {} are "
                                         "numbered 0..{}.",
                                         cls, expected, counted(std::ssize(classes), "class"),
                                         classes.size() - 1));
        return;
      }
      add_name(name);
      ++expected;
    }
  }

  DataYaml yaml_;
  std::map<std::string, YAML::Node> keys_;
};

}  // namespace

DataYaml parse_data_yaml(std::string_view text) {
  // Names of classes go into weights and metrics, which are JSON.
  if (const std::optional<LineFault> fault = utf8_fault(text)) {
    DataYaml yaml;
    yaml.faults.push_back(*fault);
    return yaml;
  }
  try {
    return Parser().parse(YAML::Load(std::string(text)));
  } catch (const YAML::Exception& exception) {
    DataYaml yaml;
    const int line = exception.mark.is_null() ? 0 : exception.mark.line + 1;
    yaml.faults.push_back({line, fmt::format("is no YAML: {}.", printable(exception.msg, 120))});
    return yaml;
  }
}

}  // namespace contract
