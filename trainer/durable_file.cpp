// SPDX-License-Identifier: Apache-2.0
#include "trainer/durable_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <climits>
#include <filesystem>
#include <system_error>
#include <utility>

namespace trainer {

namespace {

[[noreturn]] void throw_errno(const std::string& what) {
  throw std::system_error(errno, std::generic_category(), what);
}

std::uint32_t crc32_on(std::uint32_t crc, const void* data, std::size_t size) {
  return static_cast<std::uint32_t>(crc32_z(crc, static_cast<const Bytef*>(data), size));
}

void sync_folder_of(const std::string& path) {
  std::filesystem::path folder = std::filesystem::path(path).parent_path();
  if (folder.empty()) folder = ".";
  const int descriptor = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) throw_errno(folder.string() + ": open");
  // Some network file systems cannot sync a folder; the rename is then as durable as they make it.
  const int status = ::fsync(descriptor);
  const int error = errno;
  ::close(descriptor);
  if (status != 0 && error != EINVAL && error != EROFS && error != ENOTSUP) {
    errno = error;
    throw_errno(folder.string() + ": fsync");
  }
}

// Of this writer alone, whatever else writes the same file on other hosts, or in this process.
std::string part_of(const std::string& path) {
  static std::atomic<int> count = 0;
  std::array<char, HOST_NAME_MAX + 1> host{};
  static_cast<void>(::gethostname(host.data(), HOST_NAME_MAX));
  return fmt::format("{}.{}.{}.{}{}", path, host.data(), ::getpid(), count++, kPartEnd);
}

}  // namespace

DurableFile::DurableFile(std::string path) : path_(std::move(path)), part_path_(part_of(path_)) {
  constexpr mode_t kMode = 0644;
  descriptor_ = ::open(part_path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, kMode);
  if (descriptor_ < 0) throw_errno(part_path_ + ": open");
}

DurableFile::~DurableFile() {
  if (descriptor_ < 0) return;
  ::close(descriptor_);
  ::unlink(part_path_.c_str());
}

void DurableFile::write(std::span<const std::byte> bytes) {
  crc32_ = crc32_on(crc32_, bytes.data(), bytes.size());
  size_ += bytes.size();
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) throw_errno(part_path_ + ": write");
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
}

void DurableFile::commit() {
  if (::fsync(descriptor_) != 0) throw_errno(part_path_ + ": fsync");
  const int descriptor = std::exchange(descriptor_, -1);
  if (::close(descriptor) != 0) throw_errno(part_path_ + ": close");
  if (::rename(part_path_.c_str(), path_.c_str()) != 0) throw_errno(path_ + ": rename");
  sync_folder_of(path_);
}

void write_durably(const std::string& path, std::string_view text) {
  DurableFile file(path);
  file.write(std::as_bytes(std::span(text)));
  file.commit();
}

std::string read_file(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) throw_errno(path + ": open");
  struct stat status {};
  std::string bytes;
  ssize_t got = ::fstat(descriptor, &status);
  if (got == 0) {
    bytes.resize(static_cast<std::size_t>(status.st_size));
    std::size_t at = 0;
    while (at < bytes.size() &&
           (got = ::read(descriptor, bytes.data() + at, bytes.size() - at)) != 0) {
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) break;
      at += static_cast<std::size_t>(got);
    }
    if (got >= 0) bytes.resize(at);
  }
  const int error = errno;
  ::close(descriptor);
  if (got < 0) {
    errno = error;
    throw_errno(path + ": read");
  }
  return bytes;
}

std::uint32_t crc32_of(std::string_view bytes) {
  return crc32_on(0, bytes.data(), bytes.size());
}

}  // namespace trainer
