// SPDX-License-Identifier: GPL-3.0-or-later
//
// Connections on pairs of sockets and a clock of the test's own.
#include "scheduler/connections.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "scheduler/fair_turns.h"

namespace scheduler {
namespace {

using nlohmann::json;

const Caller kAda{1000, "ada", {}, false};
const Caller kBob{1001, "bob", {}, false};

class Pairs : public testing::Test {
 protected:
  void TearDown() override {
    for (const int fd : ends) close(fd);
  }
  int connect_as(const Caller& caller) {
    asker = caller;
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) != 0) std::abort();
    connections.add(pair[0], site);
    ends.push_back(pair[1]);
    return pair[1];
  }
  void hang_up(int fd) {
    close(fd);
    std::erase(ends, fd);
  }
  static void say(int fd, const std::string& text) {
    ASSERT_EQ(send(fd, text.data(), text.size(), MSG_NOSIGNAL), std::ssize(text));
  }
  static std::string heard(int fd) {
    std::string text;
    char buffer[65536];
    for (ssize_t got = 0; (got = recv(fd, buffer, sizeof buffer, MSG_DONTWAIT)) > 0;) {
      text.append(buffer, static_cast<std::size_t>(got));
    }
    return text;
  }
  void round() {
    std::vector<pollfd> watched;
    connections.watch(watched);
    ASSERT_GE(poll(watched.data(), watched.size(), 0), 0);
    connections.attend(watched.data(), site);
    connections.answer_pass(
        [this](const Caller& caller, const json& request) {
          asked.push_back(caller.user + ":" + request.value("verb", ""));
          if (while_answering) while_answering();
          return json{{"ok", true}};
        },
        now + std::chrono::hours(1));
    connections.close_idle();
  }

  Site site;
  Caller asker = kBob;
  Connections::Time now{};
  Connections connections{[this](std::uint32_t, const Site&) { return Expected<Caller>{asker}; },
                          [this] { return now; }};
  std::vector<int> ends;
  std::vector<std::string> asked;
  std::function<void()> while_answering;
};

TEST_F(Pairs, WhoHangsUpWhileAnotherIsAnsweredIsNotAskedFor) {
  const int first = connect_as(kBob), second = connect_as(kAda);
  say(first, "{\"verb\":\"one\"}\n");
  say(second, "{\"verb\":\"two\"}\n");
  while_answering = [&] {
    if (asked.size() == 1) hang_up(second);
  };

  round();
  EXPECT_EQ(asked, (std::vector<std::string>{"bob:one"}));
  EXPECT_EQ(connections.size(), 1u);
}

TEST_F(Pairs, WhoWaitsForAChangeAndHangsUpLosesPlaceAndChange) {
  const int fd = connect_as(kBob);
  for (std::int64_t i = 0; i < FairTurns::kChangesAtOnce; ++i) {
    say(fd, "{\"verb\":\"stop\"}\n");
    round();
    heard(fd);
  }
  ASSERT_EQ(std::ssize(asked), FairTurns::kChangesAtOnce);
  say(fd, "{\"verb\":\"stop\"}\n");
  round();
  round();
  ASSERT_EQ(std::ssize(asked), FairTurns::kChangesAtOnce);  // It waits.
  ASSERT_EQ(connections.size(), 1u);

  hang_up(fd);
  round();
  EXPECT_EQ(connections.size(), 0u);
  now += std::chrono::minutes(1);
  round();
  EXPECT_EQ(std::ssize(asked), FairTurns::kChangesAtOnce);
}

TEST_F(Pairs, ALineIsAsLongAsItMayBeAndNoLonger) {
  const auto line_of = [](std::size_t length) {
    return "{\"verb\":\"" + std::string(length - 11, 'x') + "\"}\n";
  };
  const auto answer_to = [&](std::string line) {
    const int fd = connect_as(kBob);
    while (!line.empty()) {
      const ssize_t sent = send(fd, line.data(), line.size(), MSG_NOSIGNAL);
      if (sent > 0) line.erase(0, static_cast<std::size_t>(sent));
      if (sent <= 0 && errno != EAGAIN) break;
      round();
    }
    round();
    return heard(fd);
  };
  EXPECT_EQ(answer_to(line_of(Connections::kRequestBytesMax)), "{\"ok\":true}\n");
  EXPECT_NE(answer_to(line_of(Connections::kRequestBytesMax + 1)).find("a request is longer than"),
            std::string::npos);
}

}  // namespace
}  // namespace scheduler
