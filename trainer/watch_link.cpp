// SPDX-License-Identifier: Apache-2.0
#include "trainer/watch_link.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
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

// An address of either family as numbers, which needs nobody's answer; null: it is none.
using Address = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;
Address parse_address(const std::string& text, std::uint16_t port) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  if (getaddrinfo(text.c_str(), std::to_string(port).c_str(), &hints, &found) != 0) found = nullptr;
  return {found, &freeaddrinfo};
}

// Connected within the time, or closed.
Socket connect_to(const std::string& address, std::uint16_t port) {
  const Address target = parse_address(address, port);
  if (target == nullptr) return {};
  Socket socket(::socket(target->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket.is_open()) return {};
  set_nonblocking(socket.descriptor());
  const int status = ::connect(socket.descriptor(), target->ai_addr, target->ai_addrlen);
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

namespace {

constexpr int kWaiting = 512;

// On every address of both families, or where the host has no IPv6 of the one; else closed.
Socket listen_on(int family) {
  Socket socket(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_storage any{};  // All zero: any address, any port.
  any.ss_family = static_cast<sa_family_t>(family);
  const int off = 0;
  if (family == AF_INET6) {
    setsockopt(socket.descriptor(), IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
  }
  const socklen_t size = family == AF_INET6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
  const bool listens =
      socket.is_open() &&
      ::bind(socket.descriptor(), reinterpret_cast<const sockaddr*>(&any), size) == 0 &&
      ::listen(socket.descriptor(), kWaiting) == 0;
  return listens ? std::move(socket) : Socket();
}

std::uint16_t port_of(const Socket& listener) {
  sockaddr_storage own{};
  socklen_t size = sizeof own;
  getsockname(listener.descriptor(), reinterpret_cast<sockaddr*>(&own), &size);
  return ntohs(own.ss_family == AF_INET6 ? reinterpret_cast<const sockaddr_in6&>(own).sin6_port
                                         : reinterpret_cast<const sockaddr_in&>(own).sin_port);
}

// As numbers; empty where it is of no use to another host: neither of the two families, or of IPv6 and
// valid on one link alone.
std::string name_of(const sockaddr* address) {
  std::array<char, INET6_ADDRSTRLEN> name{};
  if (address != nullptr && address->sa_family == AF_INET) {
    inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(address)->sin_addr, name.data(),
              name.size());
  } else if (address != nullptr && address->sa_family == AF_INET6) {
    const in6_addr& of_6 = reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr;
    if (!IN6_IS_ADDR_LINKLOCAL(&of_6)) inet_ntop(AF_INET6, &of_6, name.data(), name.size());
  }
  return name.data();
}

}  // namespace

Socket listen_anywhere() {
  Socket socket = listen_on(AF_INET6);
  if (!socket.is_open()) socket = listen_on(AF_INET);
  if (!socket.is_open()) {
    throw std::system_error(errno, std::generic_category(), "watchdog: a listening socket");
  }
  set_nonblocking(socket.descriptor());
  return socket;
}

std::string describe_listener(const Socket& listener, std::uint64_t token) {
  std::string text = fmt::format("{} {}", port_of(listener), token);
  ifaddrs* first = nullptr;
  if (getifaddrs(&first) != 0) return text;
  std::string of_6;  // Behind the others: each that is not reached takes seconds.
  for (const ifaddrs* each = first; each != nullptr; each = each->ifa_next) {
    if ((each->ifa_flags & IFF_UP) == 0 || (each->ifa_flags & IFF_LOOPBACK) != 0) continue;
    const std::string name = name_of(each->ifa_addr);
    if (name.empty()) continue;
    (each->ifa_addr->sa_family == AF_INET ? text : of_6) += " " + name;
  }
  freeifaddrs(first);
  return text + of_6;
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
  const auto add_loopback = [&addresses] {
    addresses.insert(addresses.end(), {"127.0.0.1", "::1"});
  };
  if (is_same_host) add_loopback();
  for (std::string address; text >> address;) addresses.push_back(address);
  if (!is_same_host) add_loopback();  // Hosts of other names on one machine.
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
