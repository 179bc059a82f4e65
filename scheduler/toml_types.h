// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/toml_types.h
//
// Private to the readers of TOML: the type of a value in words.
#pragma once

#include <toml++/toml.h>

#include <string_view>

namespace scheduler {

inline std::string_view type_text(toml::node_type type) {
  switch (type) {
    case toml::node_type::table:
      return "a table";
    case toml::node_type::array:
      return "an array";
    case toml::node_type::string:
      return "a string";
    case toml::node_type::integer:
      return "a whole number";
    case toml::node_type::floating_point:
      return "a float";
    case toml::node_type::boolean:
      return "true or false";
    case toml::node_type::date:
      return "a date";
    case toml::node_type::time:
      return "a time";
    case toml::node_type::date_time:
      return "a date and time";
    case toml::node_type::none:
      break;
  }
  return "nothing";
}

}  // namespace scheduler
