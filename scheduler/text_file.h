// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/text_file.h
//
// What the parsers of request files and site.toml have in common before and beside TOML. Private to
// the scheduler.
#pragma once

#include <string>
#include <string_view>

#include "scheduler/error.h"

namespace scheduler {

// The whole file. An Error says why not, without the path: "cannot be read: No such file ...".
// Files above 1 MiB are refused: nobody writes such a request.
[[nodiscard]] Expected<std::string> read_text_file(const std::string& path);

// A line end or its like, which would let a text pass for several lines.
[[nodiscard]] bool has_control_character(std::string_view text);
// The text with a question mark for each of them.
[[nodiscard]] std::string one_line(std::string text);

// "train.toml:3:8: not TOML: value: could not determine value type."
[[nodiscard]] Fault syntax_fault(const std::string& path, unsigned line, unsigned column,
                                 std::string_view description);

}  // namespace scheduler
