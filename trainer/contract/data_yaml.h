// SPDX-License-Identifier: Apache-2.0
// trainer/contract/data_yaml.h
//
// What data.yaml says, before anything else on disk is looked at (docs/formats/dataset.md). Pure;
// any bytes may be given. Every fault is fatal.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "trainer/contract/line_fault.h"

namespace contract {

inline constexpr std::size_t kDataYamlBytesMax = 4 << 20;
inline constexpr int kClassesMax = 65'536;

struct DataYaml {
  struct Entry {
    std::string path;  // A folder or a list file, as written.
    int line = 0;
  };
  Entry root;  // `path`; empty: the folder of the YAML file.
  std::vector<Entry> train, val, test;
  std::vector<std::string> names;
  std::vector<LineFault> faults;
};

[[nodiscard]] DataYaml parse_data_yaml(std::string_view text);

}  // namespace contract
