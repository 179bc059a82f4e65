// SPDX-License-Identifier: GPL-3.0-or-later
#include "trainer/watch_link.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <string>
#include <thread>

namespace trainer {
namespace {

bool has_ipv6() {
  const int fd = ::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in6 own{};
  own.sin6_family = AF_INET6;
  own.sin6_addr = in6addr_loopback;
  const bool has = fd >= 0 && ::bind(fd, reinterpret_cast<const sockaddr*>(&own), sizeof own) == 0;
  if (fd >= 0) ::close(fd);
  return has;
}

// Rank 0's end: says hello to whoever comes.
class Listener {
 public:
  Listener() : thread_([this] { answer(); }) {}
  ~Listener() {
    is_over_ = true;
    thread_.join();
  }
  // How `address` is told of it.
  [[nodiscard]] std::string at(const std::string& address) const {
    const std::string all = describe_listener(socket_, kToken);
    return all.substr(0, all.find(' ')) + " " + std::to_string(kToken) + " " + address;
  }
  static constexpr std::uint64_t kToken = 4711;

 private:
  void answer() {
    std::vector<Socket> held;
    while (!is_over_) {
      pollfd wait{.fd = socket_.descriptor(), .events = POLLIN, .revents = 0};
      if (::poll(&wait, 1, 10) != 1) continue;
      if (auto one = accept_one(socket_)) {
        Beat hello;
        hello.token = kToken;
        one->send(hello);
        held.push_back(std::move(*one));
      }
    }
  }
  Socket socket_ = listen_anywhere();
  std::atomic<bool> is_over_{false};
  std::thread thread_;
};

int family_of(const Socket& socket) {
  sockaddr_storage peer{};
  socklen_t size = sizeof peer;
  ::getpeername(socket.descriptor(), reinterpret_cast<sockaddr*>(&peer), &size);
  return peer.ss_family;
}

TEST(WatchLink, ReachesRankZeroOverIpv4) {
  const Listener listener;
  const auto reached = reach(listener.at("127.0.0.1"), Beat{}, false);
  ASSERT_TRUE(reached);
  EXPECT_EQ(reached->token, Listener::kToken);
  EXPECT_EQ(family_of(reached->socket), AF_INET);
}

TEST(WatchLink, ReachesRankZeroOverIpv6) {
  if (!has_ipv6()) GTEST_SKIP() << "this machine has no ::1";
  const Listener listener;
  const auto reached = reach(listener.at("::1"), Beat{}, false);
  ASSERT_TRUE(reached);
  EXPECT_EQ(reached->token, Listener::kToken);
  EXPECT_EQ(family_of(reached->socket), AF_INET6);
}

}  // namespace
}  // namespace trainer
