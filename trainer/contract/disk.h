// SPDX-License-Identifier: Apache-2.0
// trainer/contract/disk.h
//
// The few ways in which data sets are read: never blocking on a pipe, never past a bound, never
// into a loop of links, never throwing. A problem is the system's words ("No such file or
// directory").
#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace contract {

struct FileBytes {
  std::string bytes;
  std::optional<std::string> problem;  // Set: `bytes` is empty.
  bool is_missing = false;             // No such file, as one kind of problem.
};

// The whole of a regular file; a longer one than `bytes_max` is a problem.
[[nodiscard]] FileBytes read_whole_file(const std::string& path, std::size_t bytes_max);
// Its first `bytes_max` bytes, or all of a shorter one.
[[nodiscard]] FileBytes read_file_start(const std::string& path, std::size_t bytes_max);

struct FolderListing {
  std::vector<std::string> files;  // Absolute where `folder` is, sorted.
  struct Problem {
    std::string path, message;
  };
  std::vector<Problem> problems;  // Folders below that could not be read.
};

// Every file below `folder` that `wanted` accepts by path; hidden names (".x") are passed over.
// Links are followed; a folder reached twice is read once.
[[nodiscard]] FolderListing list_files(const std::string& folder,
                                       const std::function<bool(std::string_view)>& wanted);

[[nodiscard]] bool is_folder(const std::string& path);
[[nodiscard]] bool is_regular_file(const std::string& path);

}  // namespace contract
