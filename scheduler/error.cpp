// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/error.h"

#include "scheduler/text_file.h"

namespace scheduler {

std::string to_text(const std::vector<Fault>& faults) {
  std::string text;
  for (const Fault& fault : faults) {
    const std::string line =
        fault.where.empty() ? fault.message : fault.where + ": " + fault.message;
    text += one_line(line) + "\n";  // A quoted key of a TOML file may hold anything.
  }
  return text;
}

}  // namespace scheduler
