// SPDX-License-Identifier: GPL-3.0-or-later
//
// The one file that knows libmicrohttpd.
#include "scheduler/hook_listener.h"

#include <microhttpd.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include <fmt/format.h>

#include "scheduler/remote.h"

namespace scheduler {
namespace {

constexpr unsigned kThreads = 4;
constexpr std::size_t kMemoryOfConnection = 16'384;  // Bounds request line and headers together.

// What is read of a body that is refused: an answer before its end would be lost with the connection.
constexpr std::size_t kReadMax = 1 << 20;

struct Message {
  std::string body;
  std::size_t bytes = 0;  // Of the body, also where it is not kept.
  unsigned status = 0;    // Decided before the body is read; 0: not yet.
};

MHD_Result reply(MHD_Connection* connection, unsigned status) {
  const std::string text = fmt::format(
      "{{\"ok\": {}}}\n", status == static_cast<unsigned>(HookAnswer::kTaken) ? "true" : "false");
  std::string copy = text;
  MHD_Response* response =
      MHD_create_response_from_buffer(copy.size(), copy.data(), MHD_RESPMEM_MUST_COPY);
  if (response == nullptr) return MHD_NO;
  MHD_add_response_header(response, "Content-Type", "application/json");
  if (status == MHD_HTTP_METHOD_NOT_ALLOWED) MHD_add_response_header(response, "Allow", "POST");
  if (status == static_cast<unsigned>(HookAnswer::kNotNow)) {
    MHD_add_response_header(response, "Retry-After", "60");
  }
  const MHD_Result queued = MHD_queue_response(connection, status, response);
  MHD_destroy_response(response);
  return queued;
}

}  // namespace

struct HookListener::Impl {
  HookSettings settings;
  HookForward forward;
  MHD_Daemon* daemon = nullptr;
  int port = 0;

  ~Impl() {
    if (daemon != nullptr) MHD_stop_daemon(daemon);
  }

  // 0: the body is wanted.
  [[nodiscard]] unsigned first_look(MHD_Connection* connection, const std::string& url,
                                    const std::string& method) const {
    if (url != settings.path) return MHD_HTTP_NOT_FOUND;
    if (method != "POST") return MHD_HTTP_METHOD_NOT_ALLOWED;
    if (header_of(connection, settings.header.c_str()).empty()) return MHD_HTTP_BAD_REQUEST;
    const std::string length = header_of(connection, "Content-Length");
    const bool is_long = length.size() > 9 || (!length.empty() &&
                                               std::strtoull(length.c_str(), nullptr, 10) >
                                                   settings.body_bytes_max);
    return is_long ? MHD_HTTP_CONTENT_TOO_LARGE : 0;
  }

  static std::string header_of(MHD_Connection* connection, const char* name) {
    const char* value = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, name);
    return value != nullptr ? value : "";
  }

  static MHD_Result handle(void* self, MHD_Connection* connection, const char* url,
                           const char* method, const char*, const char* upload,
                           std::size_t* upload_size, void** state) {
    const Impl& impl = *static_cast<const Impl*>(self);
    auto* message = static_cast<Message*>(*state);
    if (message == nullptr) {
      message = new Message;
      *state = message;
      message->status = impl.first_look(connection, url, method);
      return MHD_YES;
    }
    if (*upload_size > 0) {
      message->bytes += *upload_size;
      if (message->bytes > kReadMax) return MHD_NO;
      if (message->status == 0 && message->bytes > impl.settings.body_bytes_max) {
        message->status = MHD_HTTP_CONTENT_TOO_LARGE;
      }
      if (message->status == 0) message->body.append(upload, *upload_size);
      *upload_size = 0;
      return MHD_YES;
    }
    if (message->status != 0) return reply(connection, message->status);
    const HookAnswer answer =
        impl.forward(header_of(connection, impl.settings.header.c_str()), message->body);
    return reply(connection, static_cast<unsigned>(answer));
  }

  static void forget(void*, MHD_Connection*, void** state, MHD_RequestTerminationCode) {
    delete static_cast<Message*>(*state);
    *state = nullptr;
  }
};

HookListener::HookListener(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
HookListener::HookListener(HookListener&&) noexcept = default;
HookListener::~HookListener() = default;
int HookListener::port() const { return impl_->port; }

Expected<HookListener> HookListener::start(const HookSettings& settings, HookForward forward) {
  const auto parts = parse_host_port(settings.listen);
  if (!parts) return tl::unexpected(Error{fmt::format("\"{}\" is no HOST:PORT", settings.listen)});
  addrinfo hints{};
  hints.ai_flags = AI_PASSIVE;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int code = getaddrinfo(parts->host.c_str(), parts->port.c_str(), &hints, &found);
  if (code != 0) {
    return tl::unexpected(Error{fmt::format("{}: {}", settings.listen, gai_strerror(code))});
  }
  auto impl = std::make_unique<Impl>();
  impl->settings = settings;
  impl->forward = std::move(forward);
  unsigned flags = MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_POLL;
  if (found->ai_family == AF_INET6) flags |= MHD_USE_IPv6;
  impl->daemon = MHD_start_daemon(
      flags, 0, nullptr, nullptr, &Impl::handle, impl.get(), MHD_OPTION_SOCK_ADDR, found->ai_addr,
      MHD_OPTION_THREAD_POOL_SIZE, kThreads, MHD_OPTION_CONNECTION_LIMIT, settings.connections_max,
      MHD_OPTION_CONNECTION_TIMEOUT, settings.timeout_s, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
      kMemoryOfConnection, MHD_OPTION_NOTIFY_COMPLETED, &Impl::forget, nullptr, MHD_OPTION_END);
  const int fault = errno;
  freeaddrinfo(found);
  if (impl->daemon == nullptr) {
    return tl::unexpected(Error{fmt::format("{}: {}", settings.listen, std::strerror(fault))});
  }
  const MHD_DaemonInfo* info = MHD_get_daemon_info(impl->daemon, MHD_DAEMON_INFO_BIND_PORT);
  impl->port = info != nullptr ? info->port : 0;
  return HookListener(std::move(impl));
}

}  // namespace scheduler
