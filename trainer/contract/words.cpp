// SPDX-License-Identifier: Apache-2.0
#include "trainer/contract/words.h"

#include <algorithm>
#include <cctype>

namespace contract {

namespace {

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kBlank = " \t";
  const std::size_t first = text.find_first_not_of(kBlank);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kBlank) - first + 1);
}

}  // namespace

std::string lower(std::string_view text) {
  std::string result(text);
  std::transform(result.begin(), result.end(), result.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return result;
}

bool is_none(std::string_view text) {
  const std::string word = lower(text);
  return word.empty() || word == "none" || word == "null";
}

std::optional<bool> parse_bool(std::string_view text) {
  const std::string word = lower(text);
  if (word == "true" || word == "1" || word == "yes" || word == "on") return true;
  if (word == "false" || word == "0" || word == "no" || word == "off") return false;
  return std::nullopt;
}

std::vector<std::string_view> list_words(std::string_view text) {
  std::string_view rest = trimmed(text);
  if (rest.starts_with('[') && rest.ends_with(']')) {
    rest = trimmed(rest.substr(1, rest.size() - 2));
  }
  std::vector<std::string_view> words;
  for (;;) {
    const std::size_t comma = rest.find(',');
    words.push_back(trimmed(rest.substr(0, comma)));
    if (comma == std::string_view::npos) return words;
    rest.remove_prefix(comma + 1);
  }
}

}  // namespace contract
