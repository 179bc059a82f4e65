// SPDX-License-Identifier: GPL-3.0-or-later
//
// The sockets of trainyardd: the local one, whose peers the kernel names, and the one for other
// nodes, whose peers MUNGE names.
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <ctime>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "scheduler/connections.h"
#include "scheduler/remote.h"
#include "scheduler/service.h"
#include "scheduler/socket_address.h"

namespace scheduler {
namespace {

constexpr int kThrottledLook_ms = 100;
constexpr int kAcceptedAtOnce = 32;  // So that who is new is read before he makes way for others.

}  // namespace

struct Service::Impl {
  explicit Impl(CallerLookup look_up) : connections(std::move(look_up)) {}

  int listener = -1, remote_listener = -1;
  std::string path;
  Connections connections;

  ~Impl() {
    if (remote_listener >= 0) close(remote_listener);
    if (listener >= 0) {
      close(listener);
      unlink(path.c_str());
    }
  }

  // Nothing where nobody is there, or there are no places.
  std::optional<int> accept_one(bool is_remote) const {
    if (!connections.has_room(is_remote)) return std::nullopt;
    const int fd = accept4(is_remote ? remote_listener : listener, nullptr, nullptr,
                           SOCK_NONBLOCK | SOCK_CLOEXEC);
    return fd < 0 ? std::nullopt : std::optional(fd);
  }

  void accept_clients(const Site& site) {
    for (int i = 0; i < kAcceptedAtOnce; ++i) {
      const auto fd = accept_one(false);
      if (!fd) return;
      connections.add(*fd, site);
    }
  }

  void accept_remote_clients() {
    for (int i = 0; i < kAcceptedAtOnce; ++i) {
      const auto fd = accept_one(true);
      if (!fd) return;
      connections.add_remote(*fd);
    }
  }
};

Service::Service(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Service::Service(Service&& other) noexcept = default;
Service::~Service() = default;

Expected<Service> Service::listen(const Site& site, CallerLookup look_up) {
  const auto address = socket_address(site.socket);
  if (!address) return tl::unexpected(address.error());
  const auto* name = reinterpret_cast<const sockaddr*>(&*address);
  auto impl = std::make_unique<Impl>(std::move(look_up));
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return tl::unexpected(Error{fmt::format("socket: {}", std::strerror(errno))});
  // A file without a listener is what a killed service left behind.
  const int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const bool is_live = probe >= 0 && connect(probe, name, sizeof *address) == 0;
  if (probe >= 0) close(probe);
  if (is_live) {
    close(fd);
    return tl::unexpected(Error{fmt::format("{}: another trainyardd listens there", site.socket)});
  }
  unlink(site.socket.c_str());
  if (bind(fd, name, sizeof *address) != 0 || chmod(site.socket.c_str(), 0666) != 0 ||
      ::listen(fd, 128) != 0) {
    const int error = errno;
    close(fd);
    return tl::unexpected(Error{fmt::format("{}: {}", site.socket, std::strerror(error))});
  }
  impl->listener = fd;
  impl->path = site.socket;
  return Service(std::move(impl));
}

Expected<int> Service::listen_remote(const std::string& address, Credentials& credentials) {
  const auto parts = parse_host_port(address);
  if (!parts) return tl::unexpected(Error{fmt::format("\"{}\" is no HOST:PORT", address)});
  addrinfo hints{};
  hints.ai_flags = AI_PASSIVE;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int code = getaddrinfo(parts->host.c_str(), parts->port.c_str(), &hints, &found);
  if (code != 0) return tl::unexpected(Error{fmt::format("{}: {}", address, gai_strerror(code))});
  const int on = 1;
  const int fd = socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  const bool is_bound = fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 &&
                        bind(fd, found->ai_addr, found->ai_addrlen) == 0 && ::listen(fd, 128) == 0;
  const int fault = errno;
  freeaddrinfo(found);
  sockaddr_storage bound{};
  socklen_t size = sizeof bound;
  if (!is_bound || getsockname(fd, reinterpret_cast<sockaddr*>(&bound), &size) != 0) {
    if (fd >= 0) close(fd);
    return tl::unexpected(Error{fmt::format("{}: {}", address, std::strerror(fault))});
  }
  impl_->remote_listener = fd;
  impl_->connections.open_with(credentials);
  return bound.ss_family == AF_INET6
             ? ntohs(reinterpret_cast<const sockaddr_in6&>(bound).sin6_port)
             : ntohs(reinterpret_cast<const sockaddr_in&>(bound).sin_port);
}

void Service::serve(Dispatcher& dispatcher, const Site& site, int timeout_ms) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
  const auto answer = [&](const Caller& caller, const nlohmann::json& request) {
    return answer_request(dispatcher, site, caller, request, std::time(nullptr));
  };
  Connections& connections = impl_->connections;
  bool is_anybody_next = true;  // The last call may have ended amid a pass.
  while (true) {
    const auto now = std::chrono::steady_clock::now();
    if (now >= end) return;
    // poll(2) passes over a descriptor below zero.
    const int local = connections.has_room(false) ? impl_->listener : -1;
    const int remote = connections.has_room(true) ? impl_->remote_listener : -1;
    std::vector<pollfd> watched{{local, POLLIN, 0}, {remote, POLLIN, 0}};
    connections.watch(watched);
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - now).count();
    int patience_ms = static_cast<int>(left) + 1;
    if (connections.does_anybody_wait()) patience_ms = std::min(patience_ms, kThrottledLook_ms);
    if (is_anybody_next) patience_ms = 0;
    const int ready = poll(watched.data(), watched.size(), patience_ms);
    if (ready < 0) return;  // A signal: the main looks why.
    connections.attend(watched.data() + 2, site);
    // All that is answered in one pass was asked before it.
    dispatcher.share_look();
    is_anybody_next = connections.answer_pass(answer, end);
    if (watched[0].revents != 0) impl_->accept_clients(site);
    if (watched[1].revents != 0) impl_->accept_remote_clients();
    connections.close_idle();
  }
}

}  // namespace scheduler
