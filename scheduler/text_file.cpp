// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/text_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <memory>
#include <system_error>

namespace scheduler {
namespace {

bool is_control_character(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return byte < 0x20 || byte == 0x7f;
}

}  // namespace

Expected<std::string> read_text_file(const std::string& path) {
  constexpr std::size_t kBytesMax = 1'048'576;
  const auto cannot_be_read = [](int code) {
    return tl::unexpected(
        Error{fmt::format("cannot be read: {}.", std::generic_category().message(code))});
  };
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "re"),
                                                             &std::fclose);
  if (file == nullptr) return cannot_be_read(errno);
  std::string text(kBytesMax + 1, '\0');
  errno = 0;
  text.resize(std::fread(text.data(), 1, text.size(), file.get()));
  if (std::ferror(file.get()) != 0) return cannot_be_read(errno);
  if (text.size() > kBytesMax) {
    return tl::unexpected(Error{fmt::format("is larger than {} bytes.", kBytesMax)});
  }
  return text;
}

bool has_control_character(std::string_view text) {
  return std::any_of(text.begin(), text.end(), is_control_character);
}

std::string one_line(std::string text) {
  std::replace_if(text.begin(), text.end(), is_control_character, '?');
  return text;
}

Fault syntax_fault(const std::string& path, unsigned line, unsigned column,
                   std::string_view description) {
  constexpr std::string_view kPreamble = "Error while parsing ";
  if (description.starts_with(kPreamble)) description.remove_prefix(kPreamble.size());
  // The parser quotes what it saw, line ends included.
  return {fmt::format("{}:{}:{}", path, line, column),
          one_line(fmt::format("not TOML: {}.", description))};
}

}  // namespace scheduler
