// SPDX-License-Identifier: Apache-2.0
#include "trainer/watch_link.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <sstream>
#include <system_error>
#include <utility>

namespace trainer {

namespace {

constexpr int kReachMilliseconds = 3000;

void set_nonblocking(int descriptor) {
  fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) | O_NONBLOCK);
  const int on = 1;
  setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

// Connected within the time, or closed.
Socket connect_to(const std::string& address, std::uint16_t port) {
  sockaddr_in target{};
  target.sin_family = AF_INET;
  target.sin_port = htons(port);
  if (inet_pton(AF_INET, address.c_str(), &target.sin_addr) != 1) return {};
  Socket socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket.is_open()) return {};
  set_nonblocking(socket.descriptor());
  const int status =
      ::connect(socket.descriptor(), reinterpret_cast<const sockaddr*>(&target), sizeof target);
  if (status != 0 && errno != EINPROGRESS) return {};
  pollfd wait{.fd = socket.descriptor(), .events = POLLOUT, .revents = 0};
  if (::poll(&wait, 1, kReachMilliseconds) != 1) return {};
  int error = 0;
  socklen_t size = sizeof error;
  getsockopt(socket.descriptor(), SOL_SOCKET, SO_ERROR, &error, &size);
  return error == 0 ? std::move(socket) : Socket();
}

bool answers(Socket& socket, std::uint64_t token) {
  pollfd wait{.fd = socket.descriptor(), .events = POLLIN, .revents = 0};
  if (::poll(&wait, 1, kReachMilliseconds) != 1) return false;
  const std::vector<Beat> beats = socket.receive();
  return !beats.empty() && beats.front().token == token;
}

}  // namespace

Socket::Socket(Socket&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)), partial_(std::move(other.partial_)) {}

Socket& Socket::operator=(Socket&& other) noexcept {
  if (this == &other) return *this;
  close();
  descriptor_ = std::exchange(other.descriptor_, -1);
  partial_ = std::move(other.partial_);
  return *this;
}

Socket::~Socket() {
  close();
}

void Socket::close() {
  if (descriptor_ >= 0) ::close(descriptor_);
  descriptor_ = -1;
}

void Socket::send(const Beat& beat) const {
  if (descriptor_ < 0) return;
  // A part of a message in a full buffer cannot happen before dozens of beats were not read, and
  // then the other end is given up anyway.
  static_cast<void>(::send(descriptor_, &beat, sizeof beat, MSG_NOSIGNAL | MSG_DONTWAIT));
}

std::vector<Beat> Socket::receive() {
  std::vector<Beat> beats;
  while (descriptor_ >= 0) {
    std::array<char, 32 * sizeof(Beat)> bytes{};
    const ssize_t count = ::recv(descriptor_, bytes.data(), bytes.size(), MSG_DONTWAIT);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) break;
    if (count <= 0) close();
    if (count > 0) partial_.insert(partial_.end(), bytes.data(), bytes.data() + count);
  }
  std::size_t at = 0;
  for (; at + sizeof(Beat) <= partial_.size(); at += sizeof(Beat)) {
    std::memcpy(&beats.emplace_back(), partial_.data() + at, sizeof(Beat));
  }
  partial_.erase(partial_.begin(), partial_.begin() + static_cast<std::ptrdiff_t>(at));
  return beats;
}

Socket listen_anywhere() {
  constexpr int kWaiting = 512;
  Socket socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in any{};
  any.sin_family = AF_INET;
  any.sin_addr.s_addr = htonl(INADDR_ANY);
  if (!socket.is_open() ||
      ::bind(socket.descriptor(), reinterpret_cast<const sockaddr*>(&any), sizeof any) != 0 ||
      ::listen(socket.descriptor(), kWaiting) != 0) {
    throw std::system_error(errno, std::generic_category(), "watchdog: a listening socket");
  }
  set_nonblocking(socket.descriptor());
  return socket;
}

std::string describe_listener(const Socket& listener, std::uint64_t token) {
  sockaddr_in own{};
  socklen_t size = sizeof own;
  getsockname(listener.descriptor(), reinterpret_cast<sockaddr*>(&own), &size);
  std::string text = fmt::format("{} {}", ntohs(own.sin_port), token);
  ifaddrs* first = nullptr;
  if (getifaddrs(&first) != 0) return text;
  for (const ifaddrs* each = first; each != nullptr; each = each->ifa_next) {
    if (each->ifa_addr == nullptr || each->ifa_addr->sa_family != AF_INET) continue;
    if ((each->ifa_flags & IFF_UP) == 0 || (each->ifa_flags & IFF_LOOPBACK) != 0) continue;
    std::array<char, INET_ADDRSTRLEN> name{};
    const auto* address = reinterpret_cast<const sockaddr_in*>(each->ifa_addr);
    inet_ntop(AF_INET, &address->sin_addr, name.data(), name.size());
    text += fmt::format(" {}", name.data());
  }
  freeifaddrs(first);
  return text;
}

std::optional<Socket> accept_one(const Socket& listener) {
  Socket socket(::accept4(listener.descriptor(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!socket.is_open()) return std::nullopt;
  set_nonblocking(socket.descriptor());
  return socket;
}

std::optional<Reached> reach(const std::string& description, const Beat& hello,
                             bool is_same_host) {
  std::istringstream text(description);
  std::uint16_t port = 0;
  Reached reached;
  text >> port >> reached.token;
  std::vector<std::string> addresses;
  if (is_same_host) addresses.emplace_back("127.0.0.1");
  for (std::string address; text >> address;) addresses.push_back(address);
  if (!is_same_host) addresses.emplace_back("127.0.0.1");  // Hosts of other names on one machine.
  Beat own = hello;
  own.token = reached.token;
  for (const std::string& address : addresses) {
    reached.socket = connect_to(address, port);
    reached.socket.send(own);
    if (reached.socket.is_open() && answers(reached.socket, reached.token)) return reached;
  }
  return std::nullopt;
}

}  // namespace trainer
