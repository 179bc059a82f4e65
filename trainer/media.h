// SPDX-License-Identifier: Apache-2.0
// trainer/media.h
//
// Pictures and videos that a user names: found, read and written frame by frame. Private, for it
// shows OpenCV's types.
#pragma once

#include <opencv2/core.hpp>
#include <opencv2/videoio.hpp>
#include <string>
#include <vector>

namespace trainer {

struct MediaSource {
  std::string path;
  // Of the file, with a number where another source has the same: "cat_2". "clip_2" beside a video
  // "clip" counts as the same: its second frame has that name.
  std::string stem;
  enum class Kind { kImage, kVideo } kind = Kind::kImage;
};

// Files, folders (the pictures and videos right in them, by name), patterns with * ? [ ]. In the
// order given, a file once. Throws std::invalid_argument naming what is not there, holds nothing,
// or is neither picture nor video by its extension.
[[nodiscard]] std::vector<MediaSource> find_media(const std::vector<std::string>& given);

class VideoReader {
 public:
  // Throws std::runtime_error where the file cannot be opened or has no frame.
  explicit VideoReader(const std::string& path);
  [[nodiscard]] bool next(cv::Mat& frame);  // BGR. False at the end.
  [[nodiscard]] double frames_per_s() const { return frames_per_s_; }

 private:
  cv::VideoCapture capture_;
  cv::Mat first_;
  double frames_per_s_ = 0;
};

// An MPEG-4 file at `path` (.mp4). Throws std::runtime_error where it cannot be written.
class VideoFile {
 public:
  VideoFile(const std::string& path, double frames_per_s, cv::Size size);
  void add(const cv::Mat& frame);

 private:
  cv::VideoWriter writer_;
};

}  // namespace trainer
