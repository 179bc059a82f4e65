// SPDX-License-Identifier: Apache-2.0
// trainer/contract/model_yaml.h
//
// The rows of a model description (docs/formats/model.md), scaled, before any shape is looked at.
// Pure; any bytes may be given.
#pragma once

#include <string_view>
#include <vector>

#include "trainer/contract/architecture.h"
#include "trainer/contract/line_fault.h"

namespace contract {

struct ModelRow {
  int line = 0;
  std::vector<int> from = {};  // Indices of earlier rows, or Layer::kImage.
  LayerKind module = LayerKind::kConv;
  int repeats = 1;   // After scaling.
  int channels = 0;  // After scaling; 0 where the module has no say in it.
  int kernel = 1, step = 1;
  bool has_shortcut = false, is_nested = false;
  double expansion = 0.5;
};

struct ModelYaml {
  std::vector<ModelRow> rows;  // Detect is the last one, where there are no faults.
};

// `size`: the letter of the scale that is wished for, or 0. Faults are added, in the order of
// lines.
[[nodiscard]] ModelYaml parse_model_yaml(std::string_view text, char size,
                                         std::vector<LineFault>& faults);

}  // namespace contract
