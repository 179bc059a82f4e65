// SPDX-License-Identifier: Apache-2.0
// trainer/durable_file.h
//
// Files that are there whole or not at all: written aside, synced, renamed, and the folder synced.
// A crash at any point leaves the file that was there before, and perhaps the part beside it. No
// two writers share a part: PATH.HOST.PID.N.part. Failures throw std::system_error naming the path
// and the system's reason.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace trainer {

inline constexpr std::string_view kPartEnd = ".part";

class DurableFile {
 public:
  explicit DurableFile(std::string path);  // Opens its part.
  ~DurableFile();                          // Removes the part where not committed.
  DurableFile(const DurableFile&) = delete;
  DurableFile& operator=(const DurableFile&) = delete;

  void write(std::span<const std::byte> bytes);
  void commit();  // Fails, too, where somebody has removed the part.

  // Of what was written so far.
  [[nodiscard]] std::uint32_t crc32() const { return crc32_; }
  [[nodiscard]] std::uint64_t size() const { return size_; }

 private:
  std::string path_;
  std::string part_path_;
  int descriptor_ = -1;
  std::uint32_t crc32_ = 0;
  std::uint64_t size_ = 0;
};

void write_durably(const std::string& path, std::string_view text);

// The whole file. Throws std::system_error.
[[nodiscard]] std::string read_file(const std::string& path);
[[nodiscard]] std::uint32_t crc32_of(std::string_view bytes);

}  // namespace trainer
