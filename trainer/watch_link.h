// SPDX-License-Identifier: Apache-2.0
// trainer/watch_link.h
//
// The watchdog's wires: rank 0 listens, the others connect; messages of one size. Nothing blocks
// but connecting, which has a time limit. A token that only the ranks know keeps strangers out.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace trainer {

// What a rank says of itself, some times in a limit.
struct Beat {
  // kClaim: a rank has failed and wants to say why; kGrant: it may, it is the first.
  enum class Kind : std::uint32_t { kAlive, kBye, kEnd, kClaim, kGrant };
  std::uint64_t token = 0;
  Kind kind = Kind::kAlive;
  std::int32_t rank = 0;
  std::int32_t exit_code = 0;   // Of kEnd.
  std::uint32_t is_inside = 0;  // A call.
  std::uint64_t call = 0;       // How many there were, the current one included.
  std::uint64_t bytes = 0;      // Of that call.
  double inside_s = 0;
  double ticked_s = -1;  // Since it last said that it gets on; -1: it never did.
  std::array<char, 40> name{};
};
static_assert(sizeof(Beat) == 96, "All ranks read the same bytes.");

class Socket {
 public:
  Socket() = default;
  explicit Socket(int descriptor) : descriptor_(descriptor) {}
  Socket(Socket&& other) noexcept;
  Socket& operator=(Socket&& other) noexcept;
  ~Socket();
  [[nodiscard]] bool is_open() const { return descriptor_ >= 0; }
  [[nodiscard]] int descriptor() const { return descriptor_; }
  void close();
  // What cannot be sent at once is dropped: a later beat says the same.
  void send(const Beat& beat) const;
  // The beats that are there. Closes itself where the other end did.
  [[nodiscard]] std::vector<Beat> receive();

 private:
  int descriptor_ = -1;
  std::vector<char> partial_;
};

// Listens on all addresses of the host, IPv4 and IPv6, at a port that the system chooses. Throws
// std::system_error.
[[nodiscard]] Socket listen_anywhere();
// "port token address address ...": how to reach it.
[[nodiscard]] std::string describe_listener(const Socket& listener, std::uint64_t token);
// A waiting connection, if there is one.
[[nodiscard]] std::optional<Socket> accept_one(const Socket& listener);

struct Reached {
  Socket socket;
  std::uint64_t token = 0;
};
// Tries the addresses of `description` in turn, `is_same_host`: loopback first. Each answers within
// a few seconds with a beat that holds the token, or is not the right one.
[[nodiscard]] std::optional<Reached> reach(const std::string& description, const Beat& hello,
                                           bool is_same_host);

}  // namespace trainer
