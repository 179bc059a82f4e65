// SPDX-License-Identifier: Apache-2.0
#include "trainer/id_exchange.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <stdexcept>
#include <system_error>
#include <thread>
#include <utility>

#include "trainer/durable_file.h"

namespace trainer {

namespace {

constexpr std::chrono::milliseconds kPause(50);
constexpr int kSocketSeconds = 5;  // For a message of a few hundred bytes.

double seconds_now() {
  using Seconds = std::chrono::duration<double>;
  return Seconds(std::chrono::steady_clock::now().time_since_epoch()).count();
}

class Wire {
 public:
  explicit Wire(int descriptor) : descriptor_(descriptor) {
    const timeval limit{.tv_sec = kSocketSeconds, .tv_usec = 0};
    setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  }
  Wire(Wire&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
  Wire& operator=(Wire&&) = delete;
  ~Wire() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  [[nodiscard]] int descriptor() const { return descriptor_; }

  // False where the other end has gone or is too slow.
  [[nodiscard]] bool send(const std::string& text) const {
    const auto length = static_cast<std::uint32_t>(text.size());
    std::string message(reinterpret_cast<const char*>(&length), sizeof length);
    message += text;
    for (std::size_t at = 0; at < message.size();) {
      const ssize_t count =
          ::send(descriptor_, message.data() + at, message.size() - at, MSG_NOSIGNAL);
      if (count <= 0) return false;
      at += static_cast<std::size_t>(count);
    }
    return true;
  }
  [[nodiscard]] std::optional<std::string> receive() const {
    constexpr std::uint32_t kLengthMax = 1 << 20;
    std::uint32_t length = 0;
    if (!receive_into(&length, sizeof length) || length > kLengthMax) return std::nullopt;
    std::string text(length, '\0');
    if (!receive_into(text.data(), text.size())) return std::nullopt;
    return text;
  }

 private:
  bool receive_into(void* memory, std::size_t size) const {
    for (std::size_t at = 0; at < size;) {
      const ssize_t count = ::recv(descriptor_, static_cast<char*>(memory) + at, size - at, 0);
      if (count <= 0) return false;
      at += static_cast<std::size_t>(count);
    }
    return true;
  }

  int descriptor_;
};

using Addresses = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

Addresses resolve(const char* host, std::uint16_t port) {
  addrinfo wanted{};
  wanted.ai_family = AF_UNSPEC;
  wanted.ai_socktype = SOCK_STREAM;
  wanted.ai_flags = host == nullptr ? AI_PASSIVE : 0;
  addrinfo* found = nullptr;
  const int status = getaddrinfo(host, std::to_string(port).c_str(), &wanted, &found);
  if (status != 0) {
    throw std::runtime_error(
        fmt::format("{}: {}", host == nullptr ? "any address" : host, gai_strerror(status)));
  }
  return {found, &freeaddrinfo};
}

Wire listen_at(std::uint16_t port) {
  const Addresses addresses = resolve(nullptr, port);
  int error = 0;
  for (const addrinfo* each = addresses.get(); each != nullptr; each = each->ai_next) {
    Wire wire(::socket(each->ai_family, each->ai_socktype | SOCK_CLOEXEC, each->ai_protocol));
    const int on = 1;
    setsockopt(wire.descriptor(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (wire.descriptor() >= 0 && ::bind(wire.descriptor(), each->ai_addr, each->ai_addrlen) == 0 &&
        ::listen(wire.descriptor(), SOMAXCONN) == 0) {
      return wire;
    }
    error = errno;
  }
  throw std::runtime_error(
      fmt::format("rank 0 cannot listen at port {}: {}", port, std::strerror(error)));
}

std::optional<Wire> connect_to(const Address& address) {
  const Addresses addresses = resolve(address.host.c_str(), address.port);
  for (const addrinfo* each = addresses.get(); each != nullptr; each = each->ai_next) {
    Wire wire(::socket(each->ai_family, each->ai_socktype | SOCK_CLOEXEC, each->ai_protocol));
    if (wire.descriptor() >= 0 &&
        ::connect(wire.descriptor(), each->ai_addr, each->ai_addrlen) == 0) {
      return wire;
    }
  }
  return std::nullopt;
}

std::vector<std::byte> to_bytes(std::string_view text) {
  const auto* first = reinterpret_cast<const std::byte*>(text.data());
  return {first, first + text.size()};
}

std::string to_text(const std::vector<std::byte>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// Rank 0: the bytes to every rank that asks with the key, until all have them.
void serve(const Exchange& exchange, const Address& address, const std::string& bytes) {
  const Wire listener = listen_at(address.port);
  const double since = seconds_now();
  std::set<int> missing;
  for (int rank = 1; rank < exchange.size; ++rank) missing.insert(rank);
  while (!missing.empty()) {
    if (seconds_now() - since > exchange.limit_s) {
      throw std::runtime_error(
          fmt::format("rank 0 has waited {} s at port {} for {} of {} ranks: {}", exchange.limit_s,
                      address.port, missing.size(), exchange.size - 1, fmt::join(missing, ", ")));
    }
    pollfd wait{.fd = listener.descriptor(), .events = POLLIN, .revents = 0};
    if (::poll(&wait, 1, static_cast<int>(kPause.count())) != 1) continue;
    const int descriptor = ::accept4(listener.descriptor(), nullptr, nullptr, SOCK_CLOEXEC);
    if (descriptor < 0) continue;
    const Wire wire(descriptor);
    const std::optional<std::string> question = wire.receive();
    for (const int rank : missing) {
      if (question != fmt::format("{} {}", exchange.key, rank)) continue;
      // Only what the other end has confirmed counts.
      if (wire.send(bytes) && wire.receive() == "got it") missing.erase(rank);
      break;
    }
  }
}

std::string fetch(const Exchange& exchange, const Address& address) {
  const double since = seconds_now();
  const std::string question = fmt::format("{} {}", exchange.key, exchange.rank);
  for (;;) {
    if (const std::optional<Wire> wire = connect_to(address); wire && wire->send(question)) {
      if (std::optional<std::string> answer = wire->receive()) {
        if (wire->send("got it")) return *answer;
      }
    }
    if (seconds_now() - since > exchange.limit_s) {
      throw std::runtime_error(
          fmt::format("rank {} has had no answer from rank 0 at {}:{} for {} s", exchange.rank,
                      address.host, address.port, exchange.limit_s));
    }
    std::this_thread::sleep_for(kPause);
  }
}

}  // namespace

Address parse_address(const std::string& text) {
  const std::size_t colon = text.rfind(':');
  Address address;
  if (colon != std::string::npos && colon > 0) {
    address.host = text.substr(0, colon);
    const char* const end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data() + colon + 1, end, address.port);
    if (error == std::errc{} && stop == end && address.port > 0) return address;
  }
  throw std::invalid_argument(fmt::format("\"{}\" is not of the form HOST:PORT.", text));
}

std::vector<std::byte> share_over_tcp(const Exchange& exchange, const Address& address,
                                      const std::vector<std::byte>& bytes) {
  if (exchange.rank != 0) return to_bytes(fetch(exchange, address));
  serve(exchange, address, to_text(bytes));
  return bytes;
}

std::vector<std::byte> share_over_file(const Exchange& exchange, const std::string& path,
                                       const std::vector<std::byte>& bytes) {
  const std::string head = exchange.key + "\n";
  if (exchange.rank == 0) {
    write_durably(path, head + to_text(bytes));
    return bytes;
  }
  const double since = seconds_now();
  for (;;) {
    if (std::filesystem::exists(path)) {
      const std::string text = read_file(path);
      if (text.starts_with(head)) return to_bytes(std::string_view(text).substr(head.size()));
    }
    if (seconds_now() - since > exchange.limit_s) {
      throw std::runtime_error(
          fmt::format("rank {} has waited {} s for rank 0's file {} of attempt {}", exchange.rank,
                      exchange.limit_s, path, exchange.key));
    }
    std::this_thread::sleep_for(kPause);
  }
}

}  // namespace trainer
