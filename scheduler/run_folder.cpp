// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/run_folder.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <sstream>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "trainer/contract/preflight.h"
#include "trainer/contract/train_spec.h"

namespace scheduler {
namespace {

namespace fs = std::filesystem;

constexpr const char* kRequestFile = "request.toml";
constexpr std::int64_t kFileBytes = 64 << 20;  // As much of a file as is read at a time.

std::string script_name(int segment) {
  return fmt::format("job-{}.sh", segment);
}

// Aside, synced, renamed: a crash leaves the old file or the new one.
Expected<void> write_file(const std::string& path, const std::string& text, mode_t mode) {
  const std::string aside = path + ".new";
  const auto fail = [&] {
    return tl::unexpected(Error{fmt::format("{}: {}", path, std::strerror(errno))});
  };
  const int fd = open(aside.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
  if (fd < 0) return fail();
  std::size_t written = 0;
  while (written < text.size()) {
    const ssize_t put = write(fd, text.data() + written, text.size() - written);
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) {
      const auto error = fail();
      close(fd);
      return error;
    }
    written += static_cast<std::size_t>(put);
  }
  const bool is_synced = fsync(fd) == 0;
  if (close(fd) != 0 || !is_synced || rename(aside.c_str(), path.c_str()) != 0) return fail();
  return {};
}

// A file of a run's folder, which is the user's, and the reader may be an admin: nothing but a
// regular file is opened, so that no pipe makes him wait and no device goes on for ever.
class FolderFile {
 public:
  explicit FolderFile(const std::string& path)
      : fd_(open(path.c_str(), O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC)) {
    struct stat found {};
    if (fd_ >= 0 && (fstat(fd_, &found) != 0 || !S_ISREG(found.st_mode))) {
      close(fd_);
      fd_ = -1;
    }
    size_ = found.st_size;
  }
  FolderFile(const FolderFile&) = delete;
  FolderFile& operator=(const FolderFile&) = delete;
  ~FolderFile() {
    if (fd_ >= 0) close(fd_);
  }

  [[nodiscard]] bool is_open() const { return fd_ >= 0; }
  [[nodiscard]] std::int64_t size() const { return is_open() ? size_ : 0; }

  // Up to `most` bytes from there.
  [[nodiscard]] std::string read_from(std::int64_t offset, std::int64_t most) const {
    std::string text;
    char part[65536];
    while (is_open() && std::ssize(text) < most) {
      const auto wanted = std::min<std::int64_t>(sizeof part, most - std::ssize(text));
      const ssize_t got =
          pread(fd_, part, static_cast<std::size_t>(wanted), offset + std::ssize(text));
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) break;
      text.append(part, static_cast<std::size_t>(got));
    }
    return text;
  }

 private:
  int fd_;
  std::int64_t size_ = 0;
};

// The file's end, whole lines only where it is longer than that; empty where it cannot be read.
std::string tail_of(const std::string& path, std::int64_t bytes_max) {
  const FolderFile file(path);
  const std::int64_t from = std::max<std::int64_t>(0, file.size() - bytes_max);
  std::string text = file.read_from(from, bytes_max);
  if (from > 0) text.erase(0, text.find('\n') + 1);
  return text;
}

}  // namespace

std::string expand_path(const std::string& path) {
  std::string out = path;
  if (out == "~" || out.rfind("~/", 0) == 0) {
    const char* home = std::getenv("HOME");
    out = std::string(home != nullptr ? home : "") + out.substr(1);
  }
  std::error_code error;
  const fs::path absolute = fs::absolute(out, error);
  return error ? out : absolute.lexically_normal().string();
}

Expected<void> write_run_folder(const std::string& run_dir, const SegmentName& name,
                                const TrainingRequest& request, const std::string& script) {
  std::error_code error;
  fs::create_directories(run_dir, error);
  if (error) {
    return tl::unexpected(
        Error{fmt::format("{}: {}. Choose another folder with --runs.", run_dir, error.message())});
  }
  const auto write_all = [&]() -> Expected<void> {
    contract::TrainSpec spec;
    spec.run_id = name.run_id;
    spec.run_dir = run_dir;
    spec.args = request.args;
    const auto wrote_spec = write_file(run_dir + "/" + std::string(contract::kSpecFile),
                                       contract::to_json_text(spec) + "\n", 0644);
    if (!wrote_spec) return wrote_spec;
    const auto wrote_request = write_file(run_dir + "/" + kRequestFile, to_toml(request), 0644);
    if (!wrote_request) return wrote_request;
    return write_file(run_dir + "/" + script_name(name.segment), script, 0755);
  };
  const auto written = write_all();
  if (!written && name.segment == 0) remove_run_folder(run_dir);
  return written;
}

void remove_run_folder(const std::string& run_dir) {
  std::error_code error;
  for (const std::string& file :
       {std::string(contract::kSpecFile), std::string(kRequestFile), script_name(0)}) {
    fs::remove(run_dir + "/" + file, error);
    fs::remove(run_dir + "/" + file + ".new", error);
  }
  fs::remove(run_dir, error);  // Only where it is empty.
}

std::vector<std::string> last_lines(const std::string& path, int count) {
  constexpr std::int64_t kBytes = 65'536;
  std::istringstream text(tail_of(path, kBytes));
  std::vector<std::string> lines;
  if (count <= 0) return lines;
  for (std::string line; std::getline(text, line);) {
    // Of a line that a progress display overwrote, the last state is what was to be seen.
    const std::size_t start = line.find_last_of('\r', line.size() >= 2 ? line.size() - 2 : 0);
    lines.push_back(start == std::string::npos ? line : line.substr(start + 1));
  }
  if (lines.size() > static_cast<std::size_t>(count)) {
    lines.erase(lines.begin(), lines.end() - count);
  }
  return lines;
}

RunProgress read_progress(const std::string& run_dir) {
  RunProgress progress;
  PaceKeeper keeper;
  std::istringstream text(tail_of(run_dir + "/" + std::string(contract::kMetricsFile), kFileBytes));
  for (std::string line; std::getline(text, line);) {
    auto record = contract::parse_metrics_line(line);
    if (!record) continue;
    keeper.take(*record);
    if (record->kind == "epoch") {
      progress.epochs_done = record->epoch;
      progress.last_epoch = std::move(record);
    } else if (record->kind == "step") {
      progress.last_step = std::move(record);
    }
  }
  progress.pace = keeper.pace();
  return progress;
}

std::vector<AttemptEnd> read_attempt_ends(const std::string& run_dir) {
  std::vector<AttemptEnd> ends;
  std::istringstream text(tail_of(run_dir + "/attempts.jsonl", kFileBytes));
  for (std::string line; std::getline(text, line);) {
    try {
      const nlohmann::json json = nlohmann::json::parse(line);
      if (!json.contains("end")) continue;
      ends.push_back(
          {json.at("segment"), json.at("attempt"), json.at("code"), json.at("bad_nodes")});
    } catch (const nlohmann::json::exception&) {
      // Torn, or somebody else's.
    }
  }
  return ends;
}

std::string preflight_report(const std::string& run_dir, const AttemptEnd& end) {
  std::string name = contract::preflight_file(end.segment, end.attempt);
  return FolderFile(run_dir + "/" + name).is_open() ? name : std::string();
}

std::string exit_message(const std::string& run_dir) {
  const std::string text = tail_of(run_dir + "/" + std::string(contract::kExitFile), kFileBytes);
  const nlohmann::json record = nlohmann::json::parse(text, nullptr, false);
  if (!record.is_object() || !record.contains("message") || !record["message"].is_string())
    return {};
  return record["message"];
}

std::string log_path(const std::string& run_dir, std::int64_t job) {
  return fmt::format("{}/slurm-{}.out", run_dir, job);
}

std::vector<std::string> LineFollower::take() {
  std::vector<std::string> lines;
  const std::string added = FolderFile(path_).read_from(offset_, kFileBytes);
  offset_ += std::ssize(added);
  rest_ += added;
  std::size_t end = 0;
  while ((end = rest_.find('\n')) != std::string::npos) {
    lines.push_back(rest_.substr(0, end));
    rest_.erase(0, end + 1);
  }
  return lines;
}

}  // namespace scheduler
