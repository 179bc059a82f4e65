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
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <ctime>
#include <string_view>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "scheduler/answers.h"
#include "scheduler/fair_turns.h"
#include "scheduler/remote.h"
#include "scheduler/service.h"
#include "scheduler/socket_address.h"

namespace scheduler {
namespace {

using nlohmann::json;

constexpr std::size_t kRequestBytesMax = 1 << 20;
constexpr std::size_t kClientsMax = 256;
constexpr std::size_t kClientsOfOneMax = 128;   // Of one user, on this machine.
constexpr std::size_t kRemoteClientsMax = 128;  // They never keep the local ones out.
constexpr int kThrottledLook_ms = 100;
constexpr int kIdleSecondsMax = 15;

// A line that was read and waits for its turn.
struct Waiting {
  Caller caller;
  std::string request;  // Not parsed: that takes many times the room.
  std::optional<RemoteQuestion> remote;
  FairTurns::Question turn;
};

struct Client {
  int fd = -1;
  Caller caller;
  std::string in, out;
  bool has_line_in = false;        // `in` has a whole line.
  std::optional<Waiting> waiting;  // Nothing more is read before it is answered.
  std::chrono::steady_clock::time_point last_active;
  bool is_finished = false;  // Close once all is answered and `out` is written.
  bool is_remote = false;    // Each of its lines says who asks.

  bool has_line() const { return waiting || has_line_in; }
};

// Neither bound in what he changes nor in his connections: many gates may ask at once.
bool is_trusted(const Caller& caller, const Site& site) {
  return caller.uid == 0 || caller.user == site.managed.slurm_user || caller.is_admin;
}

// What leaves the books as they are, and a payment's message, which counts by its signature.
bool is_change(const json& request) {
  static constexpr std::array<std::string_view, 18> kReads{
      "hello", "list",   "show",     "funds",  "fund", "statement",  "usage", "tiers", "estimates",
      "gate",  "prices", "receipts", "export", "acts", "burn_down", "audit", "backup", "webhook"};
  const auto verb = request.find("verb");
  if (verb == request.end() || !verb->is_string()) return true;
  const auto& name = verb->get_ref<const std::string&>();
  return std::find(kReads.begin(), kReads.end(), name) == kReads.end();
}

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
  FairTurns turns;
  std::uint64_t questions_taken = 0;

  ~Impl() {
    for (const Client& client : clients) close(client.fd);
    if (remote_listener >= 0) close(remote_listener);
    if (listener >= 0) {
      close(listener);
      unlink(path.c_str());
    }
  }

  bool has_room(bool is_remote) const {
    const auto count = std::count_if(clients.begin(), clients.end(), [&](const Client& client) {
      return client.is_remote == is_remote;
    });
    return static_cast<std::size_t>(count) < (is_remote ? kRemoteClientsMax : kClientsMax);
  }

  void accept_clients(const Site& site) {
    while (has_room(false)) {
      const int fd = accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
      if (fd < 0) return;
      Client client;
      client.fd = fd;
      client.last_active = std::chrono::steady_clock::now();
      if (auto caller = caller_of(fd, site, look_up)) {
        client.caller = std::move(*caller);
        const auto count = std::count_if(clients.begin(), clients.end(), [&](const Client& other) {
          return !other.is_remote && other.caller.uid == client.caller.uid;
        });
        if (!is_trusted(client.caller, site) &&
            static_cast<std::size_t>(count) >= kClientsOfOneMax) {
          client.out = text_of(refused({fmt::format(
                           "{} has {} connections to the service, and may have no more at once. "
                           "Try again", client.caller.user, count)})) + "\n";
          client.is_finished = true;
        }
      } else {
        client.out = failed(caller.error().message).dump() + "\n";
        client.is_finished = true;
      }
      clients.push_back(std::move(client));
    }
  }

  void accept_remote_clients() {
    while (has_room(true)) {
      Client client;
      client.fd = accept4(remote_listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
      if (client.fd < 0) return;
      client.is_remote = true;
      client.last_active = std::chrono::steady_clock::now();
      clients.push_back(std::move(client));
    }
  }

  static std::string text_of(const json& reply) {
    return reply.dump(-1, ' ', false, json::error_handler_t::replace);
  }

  // An answer to what came from another node is sealed for who asked.
  void put(Client& client, const std::optional<RemoteQuestion>& remote, const json& reply) {
    client.out += text_of(reply);
    if (remote) {
      const auto sealed = seal_answer(*credentials, *remote, client.out);
      client.out = sealed ? *sealed : text_of(failed(sealed.error().message));
    }
    client.out += "\n";
    client.last_active = std::chrono::steady_clock::now();
  }

  // Reads until there is a line; what is behind it stays with the client for now.
  static void read_from(Client& client) {
    char buffer[16384];
    while (!client.is_finished && !client.has_line()) {
      const ssize_t got = read(client.fd, buffer, sizeof buffer);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) break;
      if (got <= 0) {
        client.is_finished = true;
        break;
      }
      client.in.append(buffer, static_cast<std::size_t>(got));
      client.has_line_in = std::find(buffer, buffer + got, '\n') != buffer + got;
      client.last_active = std::chrono::steady_clock::now();
      if (!client.has_line() && client.in.size() > kRequestBytesMax) {
        const auto text = fmt::format("a request is longer than {} bytes", kRequestBytesMax);
        client.out += text_of(bad_request(text)) + "\n";
        client.is_finished = true;
      }
    }
  }

  // Makes the client's next line a question that waits for its turn. What is none is answered at
  // once; what cannot be opened is so without a credential: there is nobody whom it could be for.
  void take_line(Client& client, const Site& site) {
    if (client.waiting || !client.out.empty() || !client.has_line_in) return;
    const std::size_t end = client.in.find('\n');
    Waiting next;
    next.caller = client.caller;
    std::string line = client.in.substr(0, end);
    client.in.erase(0, end + 1);
    client.has_line_in = client.in.find('\n') != std::string::npos;
    if (client.is_remote) {
      auto question = questions->open(line, std::chrono::steady_clock::now());
      if (!question) return put(client, std::nullopt, refused({question.error().message}));
      next.remote = std::move(*question);
      const auto caller = look_up(next.remote->uid, site);
      if (!caller) return put(client, next.remote, failed(caller.error().message));
      next.caller = *caller;
      line = next.remote->text;
    }
    const json request = json::parse(line, nullptr, false);
    if (!request.is_object()) {
      return put(client, next.remote, bad_request("the request is no JSON object"));
    }
    next.request = std::move(line);
    const Caller& caller = next.caller;
    next.turn = {.uid = caller.uid,
                 .number = ++questions_taken,
                 .is_change = is_change(request),
                 .is_trusted = is_trusted(caller, site)};
    client.waiting = std::move(next);
  }

  // One pass over those who wait, or the part of it that fits before `end`; at least one answer.
  // Whether somebody waits still, and may be answered now.
  bool answer_pass(Dispatcher& dispatcher, const Site& site,
                   std::chrono::steady_clock::time_point end) {
    std::vector<FairTurns::Question> waiting;
    std::vector<std::size_t> of_client;
    for (std::size_t i = 0; i < clients.size(); ++i) {
      if (!clients[i].waiting) continue;
      waiting.push_back(clients[i].waiting->turn);
      of_client.push_back(i);
    }
    const auto order = turns.pass(waiting, std::chrono::steady_clock::now());
    for (const std::size_t position : order) {
      Client& client = clients[of_client[position]];
      const Waiting next = std::move(*client.waiting);
      client.waiting.reset();
      const json request = json::parse(next.request, nullptr, false);
      put(client, next.remote,
          answer_request(dispatcher, site, next.caller, request, std::time(nullptr)));
      const auto now = std::chrono::steady_clock::now();
      turns.answered(next.turn, now);
      write_to(client);
      if (now >= end) break;
    }
    return !order.empty();
  }

  static void write_to(Client& client) {
    while (!client.out.empty()) {
      const ssize_t put = send(client.fd, client.out.data(), client.out.size(), MSG_NOSIGNAL);
      if (put < 0 && errno == EINTR) continue;
      if (put < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
      if (put <= 0) {
        // Nobody is there to be answered.
        client.out.clear();
        client.has_line_in = false;
        client.waiting.reset();
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
  bool is_anybody_next = true;  // The last call may have ended amid a pass.
  while (true) {
    const auto now = std::chrono::steady_clock::now();
    if (now >= end) return;
    // poll(2) passes over a descriptor below zero.
    const int local = impl_->has_room(false) ? impl_->listener : -1;
    const int remote = impl_->has_room(true) ? impl_->remote_listener : -1;
    std::vector<pollfd> watched{{local, POLLIN, 0}, {remote, POLLIN, 0}};
    bool does_anybody_wait = false;
    for (const Client& client : impl_->clients) {
      const bool is_asked = client.has_line() || client.is_finished;
      const int events = !client.out.empty() ? POLLOUT : is_asked ? 0 : POLLIN;
      watched.push_back({events == 0 ? -1 : client.fd, static_cast<short>(events), 0});
      does_anybody_wait = does_anybody_wait || (client.out.empty() && client.has_line());
    }
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - now).count();
    int patience_ms = static_cast<int>(left) + 1;
    if (does_anybody_wait) patience_ms = std::min(patience_ms, kThrottledLook_ms);
    if (is_anybody_next) patience_ms = 0;
    const int ready = poll(watched.data(), watched.size(), patience_ms);
    if (ready < 0) return;  // A signal: the main looks why.
    for (std::size_t i = 0; i < impl_->clients.size(); ++i) {
      Client& client = impl_->clients[i];
      if (watched[i + 2].revents != 0 && client.out.empty()) Impl::read_from(client);
      impl_->take_line(client, site);
      Impl::write_to(client);
    }
    is_anybody_next = impl_->answer_pass(dispatcher, site, end);
    if (watched[0].revents != 0) impl_->accept_clients(site);
    if (watched[1].revents != 0) impl_->accept_remote_clients();
    const auto stale = std::chrono::steady_clock::now() - std::chrono::seconds(kIdleSecondsMax);
    std::erase_if(impl_->clients, [&](const Client& client) {
      const bool waits_for_us = client.out.empty() && client.has_line();
      const bool is_over =
          !waits_for_us &&
          ((client.is_finished && client.out.empty()) || client.last_active < stale);
      if (is_over) close(client.fd);
      return is_over;
    });
  }
}

}  // namespace scheduler
