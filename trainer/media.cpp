// SPDX-License-Identifier: Apache-2.0
#include "trainer/media.h"

#include <fmt/format.h>
#include <glob.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <stdexcept>
#include <string_view>

#include "trainer/contract/image_header.h"

namespace trainer {
namespace {

namespace fs = std::filesystem;

std::optional<MediaSource::Kind> kind_of(const std::string& path) {
  if (contract::has_image_extension(path)) return MediaSource::Kind::kImage;
  constexpr std::array<std::string_view, 9> kVideos = {".avi",  ".m4v", ".mkv",  ".mov", ".mp4",
                                                       ".mpeg", ".mpg", ".webm", ".wmv"};
  std::string extension = fs::path(path).extension().string();
  std::transform(extension.begin(), extension.end(), extension.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  if (std::find(kVideos.begin(), kVideos.end(), extension) == kVideos.end()) return std::nullopt;
  return MediaSource::Kind::kVideo;
}

std::vector<std::string> files_in(const std::string& folder) {
  std::vector<std::string> files;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    const std::string path = entry.path().string();
    if (!entry.is_directory() && kind_of(path)) files.push_back(path);
  }
  std::sort(files.begin(), files.end());
  if (files.empty()) {
    throw std::invalid_argument(folder + ": there is no picture and no video in this folder.");
  }
  return files;
}

std::vector<std::string> files_like(const std::string& pattern) {
  glob_t found{};
  const int status = glob(pattern.c_str(), 0, nullptr, &found);
  std::vector<std::string> files;
  for (std::size_t i = 0; status == 0 && i < found.gl_pathc; ++i) {
    const std::string path = found.gl_pathv[i];
    if (!fs::is_directory(path) && kind_of(path)) files.push_back(path);
  }
  globfree(&found);
  if (files.empty()) {
    throw std::invalid_argument(pattern + ": no picture and no video has a name like this.");
  }
  return files;
}

std::vector<std::string> files_of(const std::string& given) {
  if (fs::is_directory(given)) return files_in(given);
  if (fs::exists(given)) {
    if (!kind_of(given)) {
      throw std::invalid_argument(given + ": by its name this is neither a picture nor a video.");
    }
    return {given};
  }
  if (given.find_first_of("*?[") != std::string::npos) return files_like(given);
  throw std::invalid_argument(given + ": no such file or folder.");
}

// Gives each source a name that no other has, and no frame of a video, which is NAME_FRAME.
class Stems {
 public:
  std::string take(const std::string& own, MediaSource::Kind kind) {
    std::string stem = own;
    for (int i = 2; is_taken(stem, kind); ++i) stem = fmt::format("{}_{}", own, i);
    taken_.emplace(stem, kind);
    return stem;
  }

 private:
  [[nodiscard]] bool is_taken(const std::string& stem, MediaSource::Kind kind) const {
    if (taken_.contains(stem)) return true;
    if (kind == MediaSource::Kind::kImage) {
      const std::size_t end = stem.rfind('_');
      if (end == std::string::npos || !is_frame(stem, end)) return false;
      const auto video = taken_.find(stem.substr(0, end));
      return video != taken_.end() && video->second == MediaSource::Kind::kVideo;
    }
    for (auto it = taken_.lower_bound(stem + "_"); it != taken_.end(); ++it) {
      if (!it->first.starts_with(stem + "_")) return false;
      if (it->second == MediaSource::Kind::kImage && is_frame(it->first, stem.size())) return true;
    }
    return false;
  }

  // A number without zeros in front stands behind the "_" at `end`.
  static bool is_frame(const std::string& stem, std::size_t end) {
    const std::string number = stem.substr(end + 1);
    return !number.empty() && number.front() != '0' &&
           number.find_first_not_of("0123456789") == std::string::npos;
  }

  std::map<std::string, MediaSource::Kind> taken_;
};

}  // namespace

std::vector<MediaSource> find_media(const std::vector<std::string>& given) {
  std::vector<MediaSource> sources;
  std::set<std::string> seen;
  Stems stems;
  for (const std::string& name : given) {
    for (const std::string& path : files_of(name)) {
      if (!seen.insert(fs::weakly_canonical(path).string()).second) continue;
      const MediaSource::Kind kind = *kind_of(path);
      sources.push_back({path, stems.take(fs::path(path).stem().string(), kind), kind});
    }
  }
  return sources;
}

VideoReader::VideoReader(const std::string& path) {
  if (!capture_.open(path) || !capture_.read(first_) || first_.empty()) {
    throw std::runtime_error(path + ": is no video that can be decoded.");
  }
  constexpr double kUsual = 25;
  const double said = capture_.get(cv::CAP_PROP_FPS);
  frames_per_s_ = said > 0 && said <= 1000 ? said : kUsual;
}

bool VideoReader::next(cv::Mat& frame) {
  if (!first_.empty()) {
    frame = first_.clone();
    first_.release();
    return true;
  }
  cv::Mat own;  // The reader's buffer is used again for the next frame.
  if (!capture_.read(own) || own.empty()) return false;
  frame = own.clone();
  return true;
}

VideoFile::VideoFile(const std::string& path, double frames_per_s, cv::Size size) {
  const int codec = cv::VideoWriter::fourcc('m', 'p', '4', 'v');
  if (!writer_.open(path, codec, frames_per_s, size)) {
    throw std::runtime_error(
        fmt::format("{}: a video of {} x {} pixels cannot be written: no room, or OpenCV lacks "
                    "MPEG-4. Use --no-images.",
                    path, size.width, size.height));
  }
}

void VideoFile::add(const cv::Mat& frame) {
  writer_.write(frame);
}

}  // namespace trainer
