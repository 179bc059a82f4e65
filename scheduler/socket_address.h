// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/socket_address.h
//
// Private to the two ends of the service's sockets.
#pragma once

#include <sys/un.h>

#include <cstring>
#include <string>

#include <fmt/format.h>

#include "scheduler/error.h"

namespace scheduler {

inline Expected<sockaddr_un> socket_address(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) {
    return tl::unexpected(Error{fmt::format("socket path {} has {} bytes; at most {} are possible",
                                            path, path.size(), sizeof address.sun_path - 1)});
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

}  // namespace scheduler
