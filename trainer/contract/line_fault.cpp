// SPDX-License-Identifier: Apache-2.0
#include "trainer/contract/line_fault.h"

#include <fmt/format.h>

namespace contract {
namespace {

// Length of the well-formed UTF-8 character at the front, 0 where there is none.
std::size_t utf8_length(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  const std::size_t length = lead < 0x80   ? 1
                             : lead < 0xc2 ? 0
                             : lead < 0xe0 ? 2
                             : lead < 0xf0 ? 3
                             : lead < 0xf5 ? 4
                                           : 0;
  if (length == 0 || length > text.size()) return 0;
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  if (lead == 0xe0 && byte(1) < 0xa0) return 0;  // Overlong.
  if (lead == 0xed && byte(1) > 0x9f) return 0;  // Surrogate.
  if (lead == 0xf0 && byte(1) < 0x90) return 0;
  if (lead == 0xf4 && byte(1) > 0x8f) return 0;
  return length;
}

}  // namespace

std::string printable(std::string_view text, std::size_t bytes_max) {
  std::string result;
  while (!text.empty() && result.size() < bytes_max) {
    const std::size_t length = utf8_length(text);
    const auto lead = static_cast<unsigned char>(text[0]);
    const bool is_c1_control =
        length == 2 && lead == 0xc2 && static_cast<unsigned char>(text[1]) < 0xa0;
    if (length == 0 || lead < 0x20 || lead == 0x7f || is_c1_control) {
      result += fmt::format("\\x{:02x}", lead);
      text.remove_prefix(1);
    } else {
      result += text.substr(0, length);
      text.remove_prefix(length);
    }
  }
  if (!text.empty()) result += "...";
  return result;
}

std::optional<LineFault> utf8_fault(std::string_view text) {
  for (int line = 1; !text.empty();) {
    const std::size_t length = utf8_length(text);
    if (length == 0) {
      return LineFault{line, fmt::format("the byte {} is not UTF-8. Save the file as UTF-8.",
                                         printable(text.substr(0, 1)))};
    }
    if (text[0] == '\n') ++line;
    text.remove_prefix(length);
  }
  return std::nullopt;
}

std::string counted(long long count, std::string_view noun) {
  return fmt::format("{} {}{}", count, noun, count == 1 ? "" : noun.ends_with('s') ? "es" : "s");
}

}  // namespace contract
