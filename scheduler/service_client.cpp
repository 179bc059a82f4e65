// SPDX-License-Identifier: GPL-3.0-or-later
//
// The client's end of the service's sockets.
#include <netdb.h>
#include <pwd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "scheduler/remote.h"
#include "scheduler/service.h"
#include "scheduler/socket_address.h"

namespace scheduler {

using nlohmann::json;

namespace {

constexpr time_t kPatience_s = 30;

// What is known of a question that was sent and not answered.
std::string what_is_known(const json& request) {
  const std::string verb = request.value("verb", "");
  std::string text = "Whether it was executed is not known";
  const bool has_option_id = verb == "grant" || verb == "voucher_make" || verb == "tier_upgrade" ||
                             (verb == "set" && request.value("name", "") != "default_fund");
  if (has_option_id) {
    text += fmt::format(": asked again with --id {} it counts once", request.value("id", ""));
  } else if (verb == "admit") {
    text += ": hours that it set aside come back by themselves, for no job was submitted";
  }
  return text;
}

// The whole exchange over a connected socket, which is closed.
Expected<std::string> send_and_read(int fd, const std::string& line, const json& request) {
  timeval patience{kPatience_s, 0};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  const auto fail = [fd](const std::string& why) {
    close(fd);
    return tl::unexpected(Error{why});
  };
  std::size_t sent = 0;
  int fault = 0;
  while (sent < line.size() && fault == 0) {
    const ssize_t put = send(fd, line.data() + sent, line.size() - sent, MSG_NOSIGNAL);
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) fault = errno;
    if (put > 0) sent += static_cast<std::size_t>(put);
  }
  std::string reply;  // One that has no place for us says so before it has read anything.
  char buffer[16384];
  while (reply.find('\n') == std::string::npos) {
    const ssize_t got = read(fd, buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got == 0) errno = ECONNRESET;
    if (got <= 0 && fault != 0) {  // The service executes whole lines alone.
      return fail(fmt::format("sending: {}. It was not executed", std::strerror(fault)));
    }
    if (got <= 0) {
      const bool is_late = errno == EAGAIN || errno == EWOULDBLOCK;
      return fail(fmt::format("{}. {}",
                              is_late ? fmt::format("no answer within {} s", kPatience_s)
                                      : fmt::format("reading the answer: {}", std::strerror(errno)),
                              what_is_known(request)));
    }
    reply.append(buffer, static_cast<std::size_t>(got));
  }
  close(fd);
  return reply.substr(0, reply.find('\n'));
}

Expected<json> parse_answer(const std::string& from, const std::string& text) {
  json parsed = json::parse(text, nullptr, false);
  if (!parsed.is_object() || !parsed.contains("ok")) {
    return tl::unexpected(Error{from + ": the answer is no JSON object"});
  }
  return parsed;
}

std::optional<std::uint32_t> uid_of_service(const Site& site) {
  const passwd* entry = getpwnam(site.service_user.c_str());
  return entry == nullptr ? std::nullopt : std::optional<std::uint32_t>{entry->pw_uid};
}

Expected<int> connect_to(const std::string& address) {
  const auto parts = parse_host_port(address);
  if (!parts) return tl::unexpected(Error{fmt::format("\"{}\" is no HOST:PORT", address)});
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int code = getaddrinfo(parts->host.c_str(), parts->port.c_str(), &hints, &found);
  if (code != 0) return tl::unexpected(Error{fmt::format("{}: {}", address, gai_strerror(code))});
  int fd = -1, fault = 0;
  for (const addrinfo* each = found; each != nullptr && fd < 0; each = each->ai_next) {
    fd = socket(each->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    timeval patience{kPatience_s, 0};
    if (fd >= 0) setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (fd >= 0 && connect(fd, each->ai_addr, each->ai_addrlen) == 0) break;
    fault = errno;
    if (fd >= 0) close(fd);
    fd = -1;
  }
  freeaddrinfo(found);
  if (fd >= 0) return fd;
  return tl::unexpected(Error{
      fmt::format("{}: connect: {}. Is trainyardd running?", address, std::strerror(fault))});
}

}  // namespace

Expected<json> ask_remote_service(const Site& site, Credentials& credentials, const json& request) {
  const std::string& address = site.remote.address;
  const auto service = uid_of_service(site);
  const std::string question = request.dump();
  const auto sealed = seal_question(credentials, question, service);
  if (!sealed) return tl::unexpected(sealed.error());
  const auto fd = connect_to(address);
  if (!fd) return tl::unexpected(fd.error());
  const auto line = send_and_read(*fd, *sealed + "\n", request);
  if (!line) return tl::unexpected(Error{address + ": " + line.error().message});
  const auto answer = open_answer(credentials, *line, question, service);
  if (answer) return parse_answer(address, *answer);
  // The service says without a credential why it could not read ours; nothing of it is believed.
  const json plain = json::parse(*line, nullptr, false);
  if (plain.is_object() && plain.contains("messages") && plain.at("messages").is_array() &&
      !plain.at("messages").empty() && plain.at("messages").at(0).is_string()) {
    return tl::unexpected(Error{fmt::format("{}: not answered, it says: {}", address,
                                            plain.at("messages").at(0).get<std::string>())});
  }
  return tl::unexpected(Error{address + ": " + answer.error().message});
}

Expected<json> ask_service(const Site& site, const json& request) {
  if (!site.remote.address.empty() && access(site.socket.c_str(), F_OK) != 0) {
    const auto munge = open_munge(site.remote.munge_socket);
    return ask_remote_service(site, *munge, request);
  }
  const auto address = socket_address(site.socket);
  if (!address) return tl::unexpected(address.error());
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return tl::unexpected(Error{fmt::format("socket: {}", std::strerror(errno))});
  const auto fail = [&](const std::string& what) {
    const int error = errno;
    close(fd);
    return tl::unexpected(Error{fmt::format("{}: {}: {}. Is trainyardd running?", site.socket, what,
                                            std::strerror(error))});
  };
  if (connect(fd, reinterpret_cast<const sockaddr*>(&*address), sizeof *address) != 0) {
    return fail("connect");
  }
  ucred peer{};
  socklen_t size = sizeof peer;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return fail("SO_PEERCRED");
  const auto service = uid_of_service(site);
  if (peer.uid != 0 && peer.uid != getuid() && service != peer.uid) {
    close(fd);
    return tl::unexpected(Error{fmt::format("{}: the service runs as uid {}, not as {} ({})",
                                            site.socket, peer.uid, site.service_user, site.path)});
  }
  const auto line = send_and_read(fd, request.dump() + "\n", request);
  if (!line) {
    return tl::unexpected(
        Error{fmt::format("{}: {}. Is trainyardd running?", site.socket, line.error().message)});
  }
  return parse_answer(site.socket, *line);
}

}  // namespace scheduler
