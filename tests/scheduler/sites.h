// SPDX-License-Identifier: GPL-3.0-or-later
// tests/scheduler/sites.h
//
// A small site.toml for tests, and reading one from a text.
#pragma once

#include <string>

#include "scheduler/site.h"
#include "tests/scheduler/files.h"

namespace scheduler {

inline const std::string kInstanceType = R"([[instance_type]]
name = "h100"
partition = "gpu"
gres = "gpu:h100"
nodes = 2
gpus_per_node = 2
images_per_s = 3
weights = [{from = "2026-01-01", weight = "1.000"}]
)";

// Faults name "site.toml:LINE", without the folder, which has another name each time.
inline SiteOutcome read_site_text(const std::string& text) {
  const test::Folder folder;
  const std::string path = (folder.path() / "site.toml").string();
  test::write_file(path, text);
  SiteOutcome outcome = read_site(path);
  for (Fault& fault : outcome.faults) {
    fault.where = fault.where.substr(fault.where.find("site.toml"));
  }
  return outcome;
}

}  // namespace scheduler
