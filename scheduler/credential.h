// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/credential.h
//
// The wall before MUNGE: who made a message on another node, and that it was not changed. Both
// calls ask the local munged, which answers in milliseconds or not at all.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "scheduler/error.h"

namespace scheduler {

struct Credential {
  std::uint32_t uid = 0;  // Of the process that made it.
  std::string payload;
  std::chrono::seconds life{3'600};  // That it was made for; MUNGE lets none live for longer.
};

class Credentials {
 public:
  virtual ~Credentials() = default;
  // By this process. `reader`: the only uid, besides root, that may read it; nothing: anybody.
  [[nodiscard]] virtual Expected<std::string> make(const std::string& payload,
                                                   std::optional<std::uint32_t> reader) = 0;
  // An Error where it is forged, expired, was read before on this node, or is for another reader.
  [[nodiscard]] virtual Expected<Credential> read(const std::string& text) = 0;
};

// `socket`: munged's; empty: its usual one.
[[nodiscard]] std::unique_ptr<Credentials> open_munge(const std::string& socket);

}  // namespace scheduler
