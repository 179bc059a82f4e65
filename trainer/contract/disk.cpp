// SPDX-License-Identifier: Apache-2.0
#include "trainer/contract/disk.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <set>
#include <system_error>
#include <utility>

namespace contract {
namespace {

std::string system_words(int error) {
  return std::generic_category().message(error);
}

enum class Length { kWhole, kStart };

class OpenFile {
 public:
  // Without O_NONBLOCK a pipe with an image's name would be waited on for ever.
  explicit OpenFile(const std::string& path)
      : descriptor_(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC)) {}
  ~OpenFile() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;
  [[nodiscard]] int get() const { return descriptor_; }

 private:
  int descriptor_;
};

FileBytes problem_of(int error) {
  return {.bytes = {}, .problem = system_words(error), .is_missing = error == ENOENT};
}

FileBytes read_file(const std::string& path, std::size_t bytes_max, Length length) {
  if (path.find('\0') != std::string::npos) return problem_of(EINVAL);
  const OpenFile file(path);
  struct stat status {};
  if (file.get() < 0 || ::fstat(file.get(), &status) != 0) return problem_of(errno);
  if (!S_ISREG(status.st_mode)) return {.bytes = {}, .problem = "not a regular file"};
  const auto size = static_cast<std::size_t>(status.st_size);
  if (length == Length::kWhole && size > bytes_max) {
    return {.bytes = {},
            .problem = fmt::format("{} bytes, more than the limit of {}", size, bytes_max)};
  }
  FileBytes result;
  result.bytes.resize(std::min(size, bytes_max));
  std::size_t done = 0;
  while (done < result.bytes.size()) {
    const ssize_t count =
        ::read(file.get(), result.bytes.data() + done, result.bytes.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return problem_of(errno);
    if (count == 0) break;  // Cut short meanwhile.
    done += static_cast<std::size_t>(count);
  }
  result.bytes.resize(done);
  return result;
}

using FolderId = std::pair<dev_t, ino_t>;
constexpr int kDepthMax = 64;

class Walk {
 public:
  explicit Walk(const std::function<bool(std::string_view)>& wanted) : wanted_(wanted) {}

  void visit(const std::string& folder, int depth) {
    struct stat status {};
    if (::stat(folder.c_str(), &status) != 0) return problem(folder, errno);
    if (!seen_.emplace(status.st_dev, status.st_ino).second) return;
    DIR* open = ::opendir(folder.c_str());
    if (open == nullptr) return problem(folder, errno);

    std::vector<std::string> folders;
    while (const dirent* entry = ::readdir(open)) {
      if (entry->d_name[0] == '.') continue;
      std::string path = folder + (folder.ends_with('/') ? "" : "/") + entry->d_name;
      const bool may_be_folder =
          entry->d_type == DT_DIR || entry->d_type == DT_LNK || entry->d_type == DT_UNKNOWN;
      if (may_be_folder && is_folder(path)) {
        folders.push_back(std::move(path));
      } else if (wanted_(path)) {
        listing_.files.push_back(std::move(path));
      }
    }
    ::closedir(open);

    std::sort(folders.begin(), folders.end());
    for (const std::string& path : folders) {
      if (depth == kDepthMax) {
        listing_.problems.push_back({path, fmt::format("deeper than {} folders", kDepthMax)});
      } else {
        visit(path, depth + 1);
      }
    }
  }

  FolderListing take() {
    std::sort(listing_.files.begin(), listing_.files.end());
    return std::move(listing_);
  }

 private:
  void problem(const std::string& folder, int error) {
    listing_.problems.push_back({folder, system_words(error)});
  }

  const std::function<bool(std::string_view)>& wanted_;
  std::set<FolderId> seen_;
  FolderListing listing_;
};

}  // namespace

FileBytes read_whole_file(const std::string& path, std::size_t bytes_max) {
  return read_file(path, bytes_max, Length::kWhole);
}

FileBytes read_file_start(const std::string& path, std::size_t bytes_max) {
  return read_file(path, bytes_max, Length::kStart);
}

FolderListing list_files(const std::string& folder,
                         const std::function<bool(std::string_view)>& wanted) {
  Walk walk(wanted);
  walk.visit(folder, 0);
  return walk.take();
}

bool is_folder(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
}

bool is_regular_file(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode);
}

}  // namespace contract
