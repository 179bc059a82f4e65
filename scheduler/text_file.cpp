// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/text_file.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstdio>
#include <memory>
#include <system_error>

namespace scheduler {

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

}  // namespace scheduler
