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

#include "scheduler/answers.h"
#include "scheduler/remote.h"
#include "scheduler/service.h"
#include "scheduler/socket_address.h"

namespace scheduler {
namespace {

using nlohmann::json;

constexpr std::size_t kRequestBytesMax = 1 << 20;
constexpr std::size_t kClientsMax = 256;
constexpr std::size_t kRemoteClientsMax = 128;  // They never keep the local ones out.
constexpr int kIdleSecondsMax = 15;

struct Client {
  int fd = -1;
  Caller caller;
  std::string in, out;
  std::chrono::steady_clock::time_point last_active;
  bool is_finished = false;  // Close once `out` is written.
  bool is_remote = false;    // Each of its lines says who asks.
};

Expected<Caller> caller_of(int fd, const Site& site, const CallerLookup& look_up) {
  ucred peer{};
  socklen_t size = sizeof peer;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) {
    return tl::unexpected(Error{fmt::format("SO_PEERCRED: {}", std::strerror(errno))});
  }
  return look_up(peer.uid, site);
}

}  // namespace

struct Service::Impl {
  int listener = -1, remote_listener = -1;
  std::string path;
  CallerLookup look_up;
  Credentials* credentials = nullptr;  // Of questions from other nodes.
  std::optional<QuestionReader> questions;
  std::vector<Client> clients;

  ~Impl() {
    for (const Client& client : clients) close(client.fd);
    if (remote_listener >= 0) close(remote_listener);
    if (listener >= 0) {
      close(listener);
      unlink(path.c_str());
    }
  }

  void accept_clients(const Site& site) {
    while (clients.size() < kClientsMax + kRemoteClientsMax) {
      const int fd = accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
      if (fd < 0) return;
      Client client;
      client.fd = fd;
      client.last_active = std::chrono::steady_clock::now();
      if (auto caller = caller_of(fd, site, look_up)) {
        client.caller = std::move(*caller);
      } else {
        client.out = failed(caller.error().message).dump() + "\n";
        client.is_finished = true;
      }
      clients.push_back(std::move(client));
    }
  }

  void accept_remote_clients() {
    const auto is_remote = [](const Client& client) { return client.is_remote; };
    auto count = static_cast<std::size_t>(std::count_if(clients.begin(), clients.end(), is_remote));
    for (; count < kRemoteClientsMax; ++count) {
      Client client;
      client.fd = accept4(remote_listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
      if (client.fd < 0) return;
      client.is_remote = true;
      client.last_active = std::chrono::steady_clock::now();
      clients.push_back(std::move(client));
    }
  }

  std::string answer(const Caller& caller, const std::string& line, Dispatcher& dispatcher,
                     const Site& site) const {
    const json request = json::parse(line, nullptr, false);
    const json reply = request.is_object()
                           ? answer_request(dispatcher, site, caller, request, std::time(nullptr))
                           : bad_request("the request is no JSON object");
    return reply.dump(-1, ' ', false, json::error_handler_t::replace);
  }

  // What cannot be opened is answered without a credential: there is nobody whom it could be for.
  std::string answer_remote(const std::string& line, Dispatcher& dispatcher, const Site& site) {
    const auto question = questions->open(line, std::chrono::steady_clock::now());
    if (!question) return refused({question.error().message}).dump();
    const auto caller = look_up(question->uid, site);
    const std::string text = caller ? answer(*caller, question->text, dispatcher, site)
                                    : failed(caller.error().message).dump();
    const auto sealed = seal_answer(*credentials, *question, text);
    return sealed ? *sealed : failed(sealed.error().message).dump();
  }

  void read_from(Client& client, Dispatcher& dispatcher, const Site& site) {
    char buffer[16384];
    while (!client.is_finished) {
      const ssize_t got = read(client.fd, buffer, sizeof buffer);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) break;
      if (got <= 0) {
        client.is_finished = true;
        break;
      }
      client.in.append(buffer, static_cast<std::size_t>(got));
      client.last_active = std::chrono::steady_clock::now();
      if (client.in.size() > kRequestBytesMax) {
        client.out += bad_request(fmt::format("a request is longer than {} bytes", kRequestBytesMax))
                          .dump() + "\n";
        client.is_finished = true;
      }
    }
    std::size_t end = 0;
    while ((end = client.in.find('\n')) != std::string::npos) {
      const std::string line = client.in.substr(0, end);
      client.in.erase(0, end + 1);
      client.out += (client.is_remote ? answer_remote(line, dispatcher, site)
                                      : answer(client.caller, line, dispatcher, site)) + "\n";
    }
  }

  static void write_to(Client& client) {
    while (!client.out.empty()) {
      const ssize_t put = send(client.fd, client.out.data(), client.out.size(), MSG_NOSIGNAL);
      if (put < 0 && errno == EINTR) continue;
      if (put < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
      if (put <= 0) {
        client.out.clear();
        client.is_finished = true;
        return;
      }
      client.last_active = std::chrono::steady_clock::now();
      client.out.erase(0, static_cast<std::size_t>(put));
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
  auto impl = std::make_unique<Impl>();
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
  impl->look_up = std::move(look_up);
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
  impl_->credentials = &credentials;
  impl_->questions.emplace(credentials);
  return bound.ss_family == AF_INET6
             ? ntohs(reinterpret_cast<const sockaddr_in6&>(bound).sin6_port)
             : ntohs(reinterpret_cast<const sockaddr_in&>(bound).sin_port);
}

void Service::serve(Dispatcher& dispatcher, const Site& site, int timeout_ms) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
  while (true) {
    const auto now = std::chrono::steady_clock::now();
    if (now >= end) return;
    // poll(2) passes over a descriptor below zero.
    std::vector<pollfd> watched{{impl_->listener, POLLIN, 0}, {impl_->remote_listener, POLLIN, 0}};
    for (const Client& client : impl_->clients) {
      watched.push_back({client.fd, static_cast<short>(client.out.empty() ? POLLIN : POLLOUT), 0});
    }
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - now).count();
    const int ready = poll(watched.data(), watched.size(), static_cast<int>(left) + 1);
    if (ready < 0) return;  // A signal: the main looks why.
    for (std::size_t i = 0; i < impl_->clients.size(); ++i) {
      Client& client = impl_->clients[i];
      if (watched[i + 2].revents == 0) continue;
      if (client.out.empty()) impl_->read_from(client, dispatcher, site);
      Impl::write_to(client);
    }
    if (watched[0].revents != 0) impl_->accept_clients(site);
    if (watched[1].revents != 0) impl_->accept_remote_clients();
    const auto stale = std::chrono::steady_clock::now() - std::chrono::seconds(kIdleSecondsMax);
    std::erase_if(impl_->clients, [&](const Client& client) {
      const bool is_over = (client.is_finished && client.out.empty()) || client.last_active < stale;
      if (is_over) close(client.fd);
      return is_over;
    });
  }
}

}  // namespace scheduler
