// SPDX-License-Identifier: GPL-3.0-or-later
// tests/scheduler/files.h
//
// Files of the tests: reading, a folder that goes with the test, and golden texts. Where a golden
// text changed on purpose: TRAINYARD_ACCEPT=1 ctest -L unit.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

namespace test {

inline const std::filesystem::path kSource = TRAINYARD_SOURCE_DIR;

inline std::string read_file(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

inline void write_file(const std::filesystem::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << text;
}

// Sorted, so that a failure is found again.
inline std::vector<std::filesystem::path> files_in(const std::filesystem::path& folder,
                                                   const std::string& extension) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() == extension) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

// The ```LANGUAGE blocks of a Markdown page.
inline std::vector<std::string> blocks_of(const std::filesystem::path& page,
                                          const std::string& language) {
  const std::string fence = "```";
  const std::string begin = fence + language + "\n";
  const std::string text = read_file(page);
  std::vector<std::string> blocks;
  for (std::size_t at = text.find(begin); at != std::string::npos; at = text.find(begin, at)) {
    at += begin.size();
    const std::size_t end = text.find("\n" + fence, at);
    blocks.push_back(text.substr(at, end - at) + "\n");
    at = end == std::string::npos ? end : end + fence.size() + 1;
  }
  return blocks;
}

inline void expect_golden(const std::filesystem::path& golden, const std::string& text) {
  if (std::getenv("TRAINYARD_ACCEPT") != nullptr) write_file(golden, text);
  EXPECT_EQ(read_file(golden), text)
      << "in " << golden << "; where this is meant: TRAINYARD_ACCEPT=1 ctest -L unit";
}

class Folder {
 public:
  explicit Folder(const std::string& name = "") {
    std::string pattern = (std::filesystem::temp_directory_path() / "trainyard-XXXXXX").string();
    root_ = mkdtemp(pattern.data());
    path_ = name.empty() ? root_ : root_ / name;
    std::filesystem::create_directories(path_);
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(root_, ignored);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path root_, path_;
};

}  // namespace test
