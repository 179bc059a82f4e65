// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/disk_space.h"

#include <sys/statvfs.h>

#include <filesystem>

#include <fmt/format.h>

namespace scheduler {

std::optional<Refusal> why_no_room(const Site& site) {
  const std::string folder = std::filesystem::path(site.database).parent_path().string();
  struct statvfs disk{};
  if (site.least_free_mb == 0 || statvfs(folder.c_str(), &disk) != 0) return std::nullopt;
  constexpr std::uint64_t kMb = 1024 * 1024;
  // What is kept for root is not the service's.
  const std::uint64_t free_mb = std::uint64_t{disk.f_bavail} * disk.f_frsize / kMb;
  if (free_mb >= static_cast<std::uint64_t>(site.least_free_mb)) return std::nullopt;
  return Refusal{{fmt::format(
      "the books take no new hold: {} MiB are free in {}, and {} MiB are kept for what runs already "
      "(least_free_mb of {}). An admin makes room there; what was held is charged and released as ever",
      free_mb, folder, site.least_free_mb, site.path)}};
}

}  // namespace scheduler
