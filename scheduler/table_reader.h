// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/table_reader.h
//
// Private to the reading of site.toml: one table, every fault with its line.
#pragma once

#include <toml++/toml.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "accounting/amount.h"
#include "scheduler/text_file.h"
#include "scheduler/toml_types.h"
#include "trainer/contract/train_args.h"

namespace scheduler {

struct LineFault {
  int line = 0;
  std::string message;
};

// Reads one table of site.toml. Every call names a key that the table may have; finish() makes
// faults of the others. A value that is wrong becomes a fault and leaves its field as it was.
class TableReader {
 public:
  TableReader(const toml::table& table, std::string prefix, std::vector<LineFault>& faults)
      : table_(table), prefix_(std::move(prefix)), faults_(faults) {}

  int line() const { return static_cast<int>(table_.source().begin.line); }

  // The line of `key`, or of the table where the key is missing.
  int line_of(std::string_view key) const {
    const auto found = table_.find(key);
    return found == table_.end() ? line() : static_cast<int>(found->first.source().begin.line);
  }

  void fault(std::string_view key, std::string message) {
    fault_at(line_of(key), std::move(message));
  }

  void fault_at(int line, std::string message) { faults_.push_back({line, std::move(message)}); }

  const toml::node* find(std::string_view key) {
    known_.emplace_back(key);
    return table_.get(key);
  }

  void require(std::string_view key) {
    if (!table_.contains(key)) fault(key, fmt::format("{}{} is missing.", prefix_, key));
  }

  void wrong_type(std::string_view key, std::string_view expected, const toml::node& node) {
    fault(key,
          fmt::format("{}{} is {}. It takes {}.", prefix_, key, type_text(node.type()), expected));
  }

  void read(std::string_view key, std::string& out) {
    const toml::node* node = find(key);
    if (node == nullptr) return;
    const toml::value<std::string>* text = node->as_string();
    if (text == nullptr) {
      wrong_type(key, "a string", *node);
    } else if (has_control_character(text->get())) {
      fault(key, fmt::format("{}{} has a control character in it.", prefix_, key));
    } else {
      out = text->get();
    }
  }

  void read(std::string_view key, std::vector<std::string>& out) {
    const toml::node* node = find(key);
    if (node == nullptr) return;
    const toml::array* array = node->as_array();
    if (array == nullptr) {
      wrong_type(key, "an array of strings", *node);
      return;
    }
    std::vector<std::string> texts;
    for (const toml::node& element : *array) {
      const toml::value<std::string>* text = element.as_string();
      if (text == nullptr) {
        wrong_type(key, "an array of strings", element);
        return;
      }
      texts.push_back(text->get());
    }
    out = std::move(texts);
  }

  // A sub-table of strings whose keys are the site's own.
  void read(std::string_view key, std::map<std::string, std::string>& out) {
    const toml::node* node = find(key);
    if (node == nullptr) return;
    const toml::table* table = node->as_table();
    if (table == nullptr) {
      wrong_type(key, "a table of strings", *node);
      return;
    }
    for (const auto& [name, value] : *table) {
      if (const toml::value<std::string>* text = value.as_string()) {
        out[std::string(name.str())] = text->get();
      } else {
        wrong_type(key, "a table of strings", value);
      }
    }
  }

  void read(std::string_view key, bool& out) {
    const toml::node* node = find(key);
    if (node == nullptr) return;
    if (const toml::value<bool>* value = node->as_boolean()) {
      out = value->get();
    } else {
      wrong_type(key, "true or false", *node);
    }
  }

  // GPU-hours as a text, such as "10h".
  void read_hours(std::string_view key, accounting::Amount& out) {
    std::string text;
    read(key, text);
    if (text.empty()) return;
    const auto amount = accounting::parse_gpu_hours(text);
    if (amount) out = *amount;
    if (!amount) {
      fault(key, fmt::format("{} = \"{}\" is no amount of GPU-hours. Examples: \"10h\", \"90m\".",
                             key, text));
    }
  }

  template <typename Integer>
  void read_integer(std::string_view key, Integer& out, std::int64_t low, std::int64_t high) {
    const toml::node* node = find(key);
    if (node == nullptr) return;
    const toml::value<std::int64_t>* number = node->as_integer();
    if (number == nullptr) {
      wrong_type(key, "a whole number", *node);
    } else if (is_within(key, number->get(), low, high)) {
      out = static_cast<Integer>(number->get());
    }
  }

  template <typename Integer>
  void read_integer(std::string_view key, std::optional<Integer>& out, std::int64_t low,
                    std::int64_t high) {
    Integer number = 0;
    const std::size_t faults_before = faults_.size();
    read_integer(key, number, low, high);
    if (table_.contains(key) && faults_.size() == faults_before) out = number;
  }

  void read_float(std::string_view key, double& out, double low, double high) {
    const toml::node* node = find(key);
    if (node == nullptr) return;
    if (!node->is_number()) {
      wrong_type(key, "a number", *node);
      return;
    }
    const double number = node->value<double>().value_or(std::numeric_limits<double>::quiet_NaN());
    if (!std::isfinite(number)) {
      fault(key, fmt::format("{}{} = {} is not a number.", prefix_, key, number));
    } else if (is_within(key, number, low, high)) {
      out = number;
    }
  }

  // A sub-table, read by `read_table(TableReader&)`; unknown keys in it are faults.
  template <typename Read>
  void read_table(std::string_view key, Read read_table) {
    const toml::node* node = find(key);
    if (node == nullptr) return;
    if (const toml::table* table = node->as_table()) {
      TableReader reader(*table, fmt::format("{}{}.", prefix_, key), faults_);
      read_table(reader);
      reader.finish();
    } else {
      wrong_type(key, "a table", *node);
    }
  }

  // An array of tables, at least one.
  template <typename Read>
  void read_tables(std::string_view key, Read read_table) {
    const toml::node* node = find(key);
    const toml::array* array = node == nullptr ? nullptr : node->as_array();
    if (node != nullptr && array == nullptr) {
      wrong_type(key, "an array of tables", *node);
      return;
    }
    if (array == nullptr || array->empty()) {
      fault(key, fmt::format("{}{} is missing. Give at least one.", prefix_, key));
      return;
    }
    for (const toml::node& element : *array) {
      const toml::table* table = element.as_table();
      if (table == nullptr) {
        wrong_type(key, "an array of tables", element);
        return;
      }
      TableReader reader(*table, fmt::format("{}{}.", prefix_, key), faults_);
      read_table(reader);
      reader.finish();
    }
  }

  void finish() {
    for (const auto& [key, node] : table_) {
      if (std::find(known_.begin(), known_.end(), key.str()) != known_.end()) continue;
      const auto nearest = contract::nearest_name(key.str(), known_);
      fault_at(static_cast<int>(key.source().begin.line),
               fmt::format("{}{} is not known.{}", prefix_, key.str(),
                           nearest ? fmt::format(" Did you mean \"{}\"?", *nearest) : ""));
    }
  }

 private:
  template <typename Number>
  bool is_within(std::string_view key, Number number, Number low, Number high) {
    if (number < low) {
      fault(key, fmt::format("{}{} = {} is below the smallest allowed value {}.", prefix_, key,
                             number, low));
    } else if (number > high) {
      fault(key, fmt::format("{}{} = {} is above the largest allowed value {}.", prefix_, key,
                             number, high));
    } else {
      return true;
    }
    return false;
  }

  const toml::table& table_;
  std::string prefix_;  // "limits."
  std::vector<LineFault>& faults_;
  std::vector<std::string> known_;
};

}  // namespace scheduler
