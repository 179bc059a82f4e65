// SPDX-License-Identifier: Apache-2.0
// trainer/contract/label_file.h
//
// The text of one label file: a box a row, `class xc yc w h`, or a polygon, `class x1 y1 x2 y2 x3
// y3
// ...`, of which the box around it is taken (docs/formats/dataset.md). Pure; any bytes may be
// given.
#pragma once

#include <cstddef>
#include <string_view>
#include <vector>

#include "trainer/contract/dataset.h"
#include "trainer/contract/line_fault.h"

namespace contract {

inline constexpr std::size_t kLabelFileBytesMax = 8 << 20;

struct LabelFile {
  std::vector<Label> labels;      // In the order of the rows, without repeated rows.
  std::vector<LineFault> faults;  // Bad rows; not empty: the image is to be skipped.
  std::vector<LineFault> notes;   // Rows left out that harm nothing else.
};

[[nodiscard]] LabelFile parse_label_file(std::string_view text, int class_count);

}  // namespace contract
