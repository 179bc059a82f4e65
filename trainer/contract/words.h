// SPDX-License-Identifier: Apache-2.0
// trainer/contract/words.h
//
// How values are written in Ultralytics' arguments: flags, none, lists.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace contract {

// ASCII letters alone.
[[nodiscard]] std::string lower(std::string_view text);

// Nothing, "none" and "null" in any case.
[[nodiscard]] bool is_none(std::string_view text);

// true, 1, yes, on and their contraries, in any case.
[[nodiscard]] std::optional<bool> parse_bool(std::string_view text);

// The words of "a", "a, b" or "[a, b]" without blanks around them; at least one word, which may be
// empty.
[[nodiscard]] std::vector<std::string_view> list_words(std::string_view text);

}  // namespace contract
