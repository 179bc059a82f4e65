// SPDX-License-Identifier: Apache-2.0
// trainer/contract/line_fault.h
//
// A fault in a text of which only the caller knows the file, and the words that such faults share.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace contract {

struct LineFault {
  int line = 0;  // From 1; 0: of the text as a whole.
  std::string message;
};

// `text` fit for a terminal: control characters and broken UTF-8 as \x1b, cut to `bytes_max`.
[[nodiscard]] std::string printable(std::string_view text, std::size_t bytes_max = 80);

// The first byte that is no UTF-8, with its line.
[[nodiscard]] std::optional<LineFault> utf8_fault(std::string_view text);

// "1 row", "3 rows", "3 classes".
[[nodiscard]] std::string counted(long long count, std::string_view noun);

}  // namespace contract
