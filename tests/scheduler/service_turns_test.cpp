// SPDX-License-Identifier: GPL-3.0-or-later
//
// Users who ask without end: nobody else waits for more than one of their answers, the look at
// Slurm comes at its time, and the books are filled no faster than the limit of changes.
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include <fmt/format.h>

#include "files.h"
#include "scheduler/fair_turns.h"
#include "scheduler/service.h"
#include "scheduler/socket_address.h"
#include "world.h"

namespace scheduler {
namespace {

using nlohmann::json;
using Question = FairTurns::Question;
using std::chrono::milliseconds;
const FairTurns::Time kStart{};

TEST(FairTurns, GiveEachUserOneAnswerAPassAndTheLongestWaitingFirst) {
  FairTurns turns;
  const std::vector<Question> waiting{{.uid = 1, .number = 2}, {.uid = 1, .number = 1},
                                      {.uid = 2, .number = 3}, {.uid = 3, .number = 4}};
  EXPECT_EQ(turns.pass(waiting, kStart), (std::vector<std::size_t>{1, 2, 3}));
  // The pass was cut off after its first: who was answered stands behind the others.
  turns.answered(waiting[1], kStart);
  EXPECT_EQ(turns.pass({waiting[0], waiting[2], waiting[3]}, kStart),
            (std::vector<std::size_t>{1, 2, 0}));
}

TEST(FairTurns, AnswerAllOfSlurmsQuestions) {
  FairTurns turns;
  const std::vector<Question> waiting{{.uid = 1, .number = 1},
                                      {.uid = 64, .number = 2, .is_trusted = true},
                                      {.uid = 64, .number = 3, .is_trusted = true}};
  EXPECT_EQ(turns.pass(waiting, kStart).size(), 3u);
}

TEST(FairTurns, BoundTheChangesOfOneUserAndNothingElse) {
  FairTurns turns;
  const Question change{.uid = 1, .number = 1, .is_change = true};
  const auto changes_at = [&](FairTurns::Time now) {
    std::int64_t count = 0;
    for (; !turns.pass({change}, now).empty(); ++count) turns.answered(change, now);
    return count;
  };

  EXPECT_EQ(changes_at(kStart), FairTurns::kChangesAtOnce);
  EXPECT_EQ(turns.pass({{.uid = 1, .number = 2}}, kStart).size(), 1u);  // A question.
  EXPECT_EQ(turns.pass({{.uid = 2, .number = 2, .is_change = true}}, kStart).size(), 1u);
  EXPECT_EQ(turns.pass({{.uid = 1, .is_change = true, .is_trusted = true}}, kStart).size(), 1u);
  EXPECT_EQ(changes_at(kStart + milliseconds(499)), 0);
  EXPECT_EQ(changes_at(kStart + milliseconds(10'000)), 10 * FairTurns::kChangesASecond);
  EXPECT_EQ(changes_at(kStart + std::chrono::hours(24)), FairTurns::kChangesAtOnce);
}

// The service on a socket of this machine. Whose connection is whose is said by the test.
class Flood : public testing::Test {
 protected:
  void SetUp() override {
    world.site.socket = (folder.path() / "socket").string();
    world.grant("user:bob", 10);
    world.tick();
    auto listening = Service::listen(world.site, [this](std::uint32_t, const Site&) {
      ++accepted;
      return Expected<Caller>{asker};
    });
    ASSERT_TRUE(listening) << listening.error().message;
    service.emplace(std::move(*listening));
  }
  void TearDown() override {
    for (const int fd : sockets) close(fd);
  }
  void serve(int ms = 5) { service->serve(world.dispatcher(), world.site, ms); }
  int connect_as(const Caller& caller) {
    asker = caller;
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const auto address = *socket_address(world.site.socket);
    if (connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
      throw std::runtime_error("no connection to the service");
    }
    const int before = accepted;
    while (accepted == before) serve();
    sockets.push_back(fd);
    return fd;
  }
  // As much as the socket takes. How many whole lines that were.
  static std::int64_t send_to(int fd, const std::string& text) {
    const ssize_t sent = send(fd, text.data(), text.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    return sent <= 0 ? 0 : std::count(text.begin(), text.begin() + sent, '\n');
  }
  static std::string received(int fd) {
    std::string text;
    char buffer[65536];
    for (ssize_t got = 0; (got = recv(fd, buffer, sizeof buffer, MSG_DONTWAIT)) > 0;) {
      text.append(buffer, static_cast<std::size_t>(got));
    }
    return text;
  }
  json ask(int fd, const json& request) {
    send_to(fd, request.dump() + "\n");
    std::string text;
    while (!text.ends_with('\n')) {
      serve();
      text += received(fd);
    }
    return json::parse(text).at("result");
  }
  static std::string settings(int connection, int count) {
    std::string lines;
    for (int i = 0; i < count; ++i) {
      lines += json({{"verb", "set"}, {"id", fmt::format("s{}-{}", connection, i)},
                     {"fund", "user:bob"}, {"name", "default_fund"},
                     {"value", i % 2 == 0 ? json("user:bob") : json(nullptr)},
                     {"note", fmt::format("{}-{}", connection, i)}}).dump() + "\n";
    }
    return lines;
  }
  std::int64_t settings_made() {
    std::int64_t count = 0;
    (void)world.database.query("SELECT count(*) FROM transfer WHERE kind = 'set'", {},
                               [&count](const accounting::Row& row) { count = row.integer(0); });
    return count;
  }

  test::Folder folder;
  World world;
  Caller asker = kBob;
  int accepted = 0;
  std::vector<int> sockets;
  std::optional<Service> service;
};

TEST_F(Flood, DelaysAnotherByOneAnswer) {
  std::vector<int> flood;
  for (int i = 0; i < 10; ++i) flood.push_back(connect_as(kBob));
  const int other = connect_as(kAdmin);
  std::int64_t sent = 0;
  for (int i = 0; i < 10; ++i) sent += send_to(flood[i], settings(i, 200));
  ASSERT_GT(sent, 100);

  const json fund = ask(other, {{"verb", "fund"}, {"fund", "user:bob"}});
  ASSERT_EQ(fund.at("settings").size(), 1u);
  EXPECT_EQ(fund.at("settings").at(0).at("note"), "0-0");  // Of all of the flood.
}

TEST_F(Flood, DoesNotKeepTheServiceFromItsLookAtSlurm) {
  std::vector<int> flood;
  for (int i = 0; i < 10; ++i) flood.push_back(connect_as(kBob));
  std::string lines;
  for (int i = 0; i < 2000; ++i) lines += "{\"verb\":\"hello\"}\n";
  std::int64_t sent = 0;
  for (const int fd : flood) sent += send_to(fd, lines);
  ASSERT_GT(sent, 5000);

  serve(1);
  std::int64_t answered = 0;
  for (const int fd : flood) {
    const std::string text = received(fd);
    answered += std::count(text.begin(), text.end(), '\n');
  }
  EXPECT_LT(answered, sent / 4);
  while (answered < sent) {  // None of them is lost.
    serve();
    for (const int fd : flood) {
      const std::string text = received(fd);
      answered += std::count(text.begin(), text.end(), '\n');
    }
  }
  EXPECT_EQ(answered, sent);
}

TEST_F(Flood, FillsTheBooksNoFasterThanItsLimit) {
  const auto begin = std::chrono::steady_clock::now();
  const int flood = connect_as(kBob), question = connect_as(kBob);
  std::string lines = settings(0, 900);
  while (settings_made() < FairTurns::kChangesAtOnce) {
    const ssize_t sent = send(flood, lines.data(), lines.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent > 0) lines.erase(0, static_cast<std::size_t>(sent));
    serve();
    (void)received(flood);
  }
  EXPECT_EQ(ask(question, {{"verb", "hello"}}).at("user"), "bob");
  const auto passed = std::chrono::duration_cast<std::chrono::seconds>(
      std::chrono::steady_clock::now() - begin);
  EXPECT_LE(settings_made(),
            FairTurns::kChangesAtOnce + FairTurns::kChangesASecond * (passed.count() + 1));
}

TEST_F(Flood, OfConnectionsLeavesRoomForOthers) {
  for (int i = 0; i < 128; ++i) connect_as(kBob);
  const int one_more = connect_as(kBob);
  std::string text;
  while (!text.ends_with('\n')) {
    serve();
    text += received(one_more);
  }
  EXPECT_NE(text.find("may have no more at once"), std::string::npos) << text;
  EXPECT_EQ(ask(connect_as(kAda), {{"verb", "hello"}}).at("user"), "ada");
}

}  // namespace
}  // namespace scheduler
