// SPDX-License-Identifier: Apache-2.0
#include "trainer/contract/archive.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <locale.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <stdexcept>
#include <system_error>
#include <vector>

#include "trainer/contract/disk.h"
#include "trainer/contract/line_fault.h"

namespace contract {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kStampName = ".trainyard-unpacked";  // Written last.
constexpr std::size_t kStampBytesMax = 4096;

// What is wrong with the archive or the disk; stays inside this file.
struct Problem : std::runtime_error {
  using std::runtime_error::runtime_error;
};

std::string system_words() {
  return std::generic_category().message(errno);
}

// Size and time of the archive: while they stay, so does what was unpacked.
std::string stamp_of(const std::string& archive) {
  struct stat status {};
  if (::stat(archive.c_str(), &status) != 0) throw Problem(system_words() + ".");
  if (!S_ISREG(status.st_mode)) throw Problem("not a regular file.");
  return fmt::format("{} bytes, {}.{:09}\n", status.st_size, status.st_mtim.tv_sec,
                     status.st_mtim.tv_nsec);
}

bool is_unpacked(const std::string& folder, const std::string& stamp) {
  return read_whole_file(fmt::format("{}/{}", folder, kStampName), kStampBytesMax).bytes == stamp;
}

std::vector<std::string> candidate_folders(const std::string& archive) {
  std::vector<std::string> folders = {archive + ".unpacked"};
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  std::string base;
  if (cache != nullptr && cache[0] == '/') {
    base = cache;
  } else if (home != nullptr && home[0] == '/') {
    base = std::string(home) + "/.cache";
  }
  if (!base.empty()) {
    folders.push_back(fmt::format("{}/trainyard/{}-{:016x}", base,
                                  fs::path(archive).filename().string(),
                                  std::hash<std::string>{}(archive)));
  }
  return folders;
}

// A path below the folder, as it is to be written; empty: nothing to write (rubbish of a desktop).
std::string safe_name(const char* raw) {
  if (raw == nullptr) throw Problem("an entry has a name in an unknown character set.");
  const std::string_view name = raw;
  const std::string shown = printable(name, 200);
  if (name.empty()) throw Problem("an entry has no name.");
  if (name.front() == '/' || name.find('\\') != std::string_view::npos || name.size() > 1024) {
    throw Problem(fmt::format("{}: the name is not a path below the archive.", shown));
  }
  std::string safe;
  bool is_rubbish = false;
  for (std::size_t at = 0; at <= name.size();) {
    const std::size_t end = std::min(name.find('/', at), name.size());
    const std::string_view part = name.substr(at, end - at);
    at = end + 1;
    if (part.empty() || part == ".") continue;
    if (part == "..") throw Problem(fmt::format("{}: the name leaves the archive.", shown));
    is_rubbish = is_rubbish || part == "__MACOSX" || part.front() == '.';
    safe += (safe.empty() ? "" : "/") + std::string(part);
  }
  return is_rubbish ? std::string() : safe;
}

// libarchive turns names into the locale's character set, and in that of a batch job, "C", it has
// none for "bücher". For the calling thread alone.
class Utf8Names {
 public:
  Utf8Names() : locale_(::newlocale(LC_CTYPE_MASK, "C.UTF-8", nullptr)) {
    if (locale_ != nullptr) before_ = ::uselocale(locale_);
  }
  ~Utf8Names() {
    if (locale_ == nullptr) return;
    ::uselocale(before_);
    ::freelocale(locale_);
  }
  Utf8Names(const Utf8Names&) = delete;
  Utf8Names& operator=(const Utf8Names&) = delete;

 private:
  locale_t locale_, before_ = nullptr;
};

class Unpacker {
 public:
  Unpacker(const std::string& archive_path, std::string folder,
           const std::function<void()>& on_progress)
      : folder_(std::move(folder)), on_progress_(on_progress), reader_(archive_read_new(), &archive_read_free) {
    constexpr std::size_t kBlockBytes = std::size_t{1} << 16;
    archive_read_support_format_zip(reader_.get());
    archive_read_support_format_tar(reader_.get());
    archive_read_support_filter_gzip(reader_.get());
    must(archive_read_open_filename(reader_.get(), archive_path.c_str(), kBlockBytes));
  }

  void run() {
    for (archive_entry* entry = nullptr; next(entry);) {
      if (on_progress_) on_progress_();
      const std::string name = safe_name(archive_entry_pathname(entry));
      if (name.empty()) continue;
      if (archive_entry_is_encrypted(entry) != 0) {
        throw Problem(
            fmt::format("{}: is encrypted. Pack it without a password.", printable(name, 200)));
      }
      const auto type = archive_entry_filetype(entry);
      if (type == AE_IFDIR) continue;  // Folders come with their files.
      if (type != AE_IFREG || archive_entry_hardlink(entry) != nullptr ||
          archive_entry_symlink(entry) != nullptr) {
        throw Problem(
            fmt::format("{}: is a link or a device. Pack files only.", printable(name, 200)));
      }
      if (++files_ > kArchiveFilesMax) {
        throw Problem(fmt::format("more than {} files.", kArchiveFilesMax));
      }
      write(name);
    }
    if (files_ == 0) throw Problem("no file in it.");
  }

 private:
  void must(int status) {
    if (status == ARCHIVE_OK) return;
    const char* words = archive_error_string(reader_.get());
    throw Problem(fmt::format("{}.", words == nullptr ? "is no archive" : printable(words, 200)));
  }

  bool next(archive_entry*& entry) {
    const int status = archive_read_next_header(reader_.get(), &entry);
    if (status == ARCHIVE_EOF) return false;
    if (status != ARCHIVE_WARN) must(status);  // Warned of: times or owners, which play no part.
    return true;
  }

  void write(const std::string& name) {
    const std::string path = folder_ + "/" + name;
    fs::create_directories(fs::path(path).parent_path());
    constexpr mode_t kMode = 0644;
    const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, kMode);
    if (file < 0) {
      throw Problem(fmt::format("{}: {}.", printable(name, 200),
                                errno == EEXIST ? "stands in it twice" : system_words()));
    }
    const std::unique_ptr<const int, void (*)(const int*)> closer(
        &file, [](const int* f) { ::close(*f); });
    std::int64_t bytes = 0;
    std::array<char, std::size_t{1} << 16> block{};
    for (;;) {
      const la_ssize_t count = archive_read_data(reader_.get(), block.data(), block.size());
      if (count == 0) break;
      if (count < 0) {
        const char* words = archive_error_string(reader_.get());
        throw Problem(fmt::format("{}: {}.", printable(name, 200),
                                  words == nullptr ? "cannot be read" : printable(words, 200)));
      }
      if (on_progress_) on_progress_();
      bytes += count, bytes_ += count;
      if (bytes > kArchiveFileBytesMax || bytes_ > kArchiveBytesMax) {
        throw Problem(
            fmt::format("{}: unpacks to more than {} bytes.", printable(name, 200),
                        bytes > kArchiveFileBytesMax ? kArchiveFileBytesMax : kArchiveBytesMax));
      }
      keep_disk_free(count);
      for (la_ssize_t done = 0; done < count;) {
        const ssize_t written =
            ::write(file, block.data() + done, static_cast<std::size_t>(count - done));
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) {
          throw Problem(fmt::format("{}: {}.", printable(path, 300), system_words()));
        }
        done += written;
      }
    }
  }

  // A run that fills a shared disk stops everybody's.
  void keep_disk_free(std::int64_t about_to_write) {
    constexpr std::int64_t kLookEvery = std::int64_t{64} << 20;
    constexpr std::uintmax_t kFreeBytesMin = std::uintmax_t{1} << 30;
    since_look_ += about_to_write;
    if (since_look_ < kLookEvery) return;
    since_look_ = 0;
    std::error_code error;
    const fs::space_info space = fs::space(folder_, error);
    if (!error && space.available < kFreeBytesMin) {
      throw Problem(fmt::format("{}: only {} bytes of disk are free; at least {} stay so.",
                                printable(folder_, 300), space.available, kFreeBytesMin));
    }
  }

  Utf8Names utf8_names_;
  std::string folder_;
  const std::function<void()>& on_progress_;
  std::unique_ptr<archive, int (*)(archive*)> reader_;
  std::int64_t files_ = 0, bytes_ = 0, since_look_ = 0;
};

// Unpacks aside and moves it into place. False: `folder` cannot be made.
bool unpack_into(const std::string& archive_path, const std::string& folder,
                 const std::string& stamp, const std::function<void()>& on_progress) {
  std::error_code error;
  fs::create_directories(fs::path(folder).parent_path(), error);
  std::string aside = folder + ".XXXXXX";
  if (error || ::mkdtemp(aside.data()) == nullptr) return false;
  struct Remover {
    const std::string& path;
    ~Remover() {
      std::error_code ignored;
      fs::remove_all(path, ignored);
    }
  } const remover{aside};
  Unpacker(archive_path, aside, on_progress).run();
  constexpr auto kReadable = fs::perms::owner_all | fs::perms::group_read | fs::perms::group_exec |
                             fs::perms::others_read | fs::perms::others_exec;
  fs::permissions(aside, kReadable);
  const std::string stamp_path = fmt::format("{}/{}", aside, kStampName);
  const int file = ::open(stamp_path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (file < 0) throw Problem(fmt::format("{}: {}.", stamp_path, system_words()));
  const ssize_t written = ::write(file, stamp.data(), stamp.size());
  ::close(file);
  if (written != static_cast<ssize_t>(stamp.size())) throw Problem("the disk is full.");

  if (::rename(aside.c_str(), folder.c_str()) == 0 || is_unpacked(folder, stamp)) return true;
  // What an older archive of that name had in it goes, but only where we once put it there.
  if (read_whole_file(fmt::format("{}/{}", folder, kStampName), kStampBytesMax).problem) {
    throw Problem(fmt::format("{} is in the way. Remove it.", printable(folder, 300)));
  }
  fs::remove_all(folder, error);
  if (::rename(aside.c_str(), folder.c_str()) == 0 || is_unpacked(folder, stamp)) return true;
  throw Problem(fmt::format("{}: {}.", printable(folder, 300), system_words()));
}

}  // namespace

bool has_archive_extension(std::string_view path) {
  constexpr std::array<std::string_view, 4> kExtensions = {".zip", ".tar", ".tar.gz", ".tgz"};
  std::string lower(path);
  std::transform(lower.begin(), lower.end(), lower.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  return std::any_of(kExtensions.begin(), kExtensions.end(),
                     [&](std::string_view extension) { return lower.ends_with(extension); });
}

Unpacked unpack_archive(const std::string& archive, const std::function<void()>& on_progress) {
  try {
    const std::string stamp = stamp_of(archive);
    const std::vector<std::string> folders = candidate_folders(archive);
    for (const std::string& folder : folders) {
      if (is_unpacked(folder, stamp)) return {folder, {}};
    }
    for (const std::string& folder : folders) {
      if (unpack_into(archive, folder, stamp, on_progress)) return {folder, {}};
    }
    return {{},
            fmt::format("{} cannot be made. Unpack the archive yourself and give data = FOLDER.",
                        fmt::join(folders, " or "))};
  } catch (const std::exception& error) {  // Ours and those of the file system.
    return {{}, error.what()};
  }
}

}  // namespace contract
