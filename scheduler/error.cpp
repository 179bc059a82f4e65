// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/error.h"

#include <algorithm>

namespace scheduler {
namespace {

bool is_control_character(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return byte < 0x20 || byte == 0x7f;
}

}  // namespace

std::string to_text(const std::vector<Fault>& faults) {
  std::string text;
  for (const Fault& fault : faults) {
    std::string line = fault.where.empty() ? fault.message : fault.where + ": " + fault.message;
    // A quoted key of a TOML file may hold anything.
    std::replace_if(line.begin(), line.end(), is_control_character, '?');
    text += line + "\n";
  }
  return text;
}

}  // namespace scheduler
