// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/secret_key.h"

#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include <fmt/format.h>

namespace scheduler {
namespace {

constexpr std::size_t kLengthMin = 32;

Error trouble(const std::string& path) {
  return {fmt::format("{}: {}", path, std::strerror(errno))};
}

Expected<void> make(const std::string& path) {
  std::array<unsigned char, 32> bytes{};
  if (getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) {
    return tl::unexpected(trouble("getrandom"));
  }
  std::string text;
  for (const unsigned char byte : bytes) text += fmt::format("{:02x}", byte);
  text += '\n';
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0) return tl::unexpected(trouble(path));
  const bool is_written = write(fd, text.data(), text.size()) == std::ssize(text) && fsync(fd) == 0;
  const Error error = trouble(path);
  close(fd);
  if (is_written) return {};
  unlink(path.c_str());
  return tl::unexpected(error);
}

}  // namespace

Expected<std::string> secret_key(const std::string& path) {
  int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0 && errno == ENOENT) {
    if (const auto made = make(path); !made) return tl::unexpected(made.error());
    fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  }
  if (fd < 0) return tl::unexpected(trouble(path));
  struct stat about {};
  std::array<char, 4096> buffer{};
  const bool is_known = fstat(fd, &about) == 0;
  const ssize_t length = read(fd, buffer.data(), buffer.size());
  close(fd);
  if (!is_known || length < 0) return tl::unexpected(trouble(path));
  if ((about.st_mode & 077) != 0) {
    return tl::unexpected(Error{fmt::format(
        "{}: others than its owner may read this key (mode {:o}). Do: chmod 600 {}", path,
        about.st_mode & 0777u, path)});
  }
  std::string key(buffer.data(), static_cast<std::size_t>(length));
  key.erase(key.find_last_not_of(" \t\r\n") + 1);
  if (key.size() < kLengthMin) {
    return tl::unexpected(Error{fmt::format("{}: the key has {} characters; at least {} are needed",
                                            path, key.size(), kLengthMin)});
  }
  return key;
}

}  // namespace scheduler
