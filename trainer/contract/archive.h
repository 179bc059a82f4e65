// SPDX-License-Identifier: Apache-2.0
// trainer/contract/archive.h
//
// Data sets that come as one ZIP (or TAR) file: unpacked once, into "set.zip.unpacked" beside the
// archive or, where that cannot be written, below the user's cache folder. Nothing in an archive is
// trusted: names that leave the folder, links, devices, encrypted or too many or too large files
// refuse the whole of it. Any number of processes may unpack the same archive at once: each works
// aside, and the first to be done wins.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace contract {

inline constexpr std::int64_t kArchiveFilesMax = 20'000'000;
inline constexpr std::int64_t kArchiveFileBytesMax = std::int64_t{1} << 30;  // Of one file.
inline constexpr std::int64_t kArchiveBytesMax = std::int64_t{1} << 39;      // Of all, unpacked.

// By its name: .zip, .tar, .tar.gz, .tgz.
[[nodiscard]] bool has_archive_extension(std::string_view path);

struct Unpacked {
  std::string folder;   // Absolute where `archive` is; empty where it cannot be used.
  std::string problem;  // Then: why ("images/../../x: the name leaves the archive.").
};

// Unpacks `archive`, or finds what was unpacked from it before: it counts as the same while size
// and time of the archive are. Never throws for what is on disk. Calls `on_progress` for each file and
// each block of 64 KiB that it has read.
[[nodiscard]] Unpacked unpack_archive(const std::string& archive,
                                      const std::function<void()>& on_progress = nullptr);

}  // namespace contract
