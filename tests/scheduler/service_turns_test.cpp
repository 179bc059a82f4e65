// SPDX-License-Identifier: GPL-3.0-or-later
//
// Users who ask without end: nobody else waits for more than one of their answers, the look at
// Slurm comes at its time, and the books are filled no faster than the limit of changes.
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <nlohmann/json.hpp>
#include <thread>

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

TEST_F(Flood, OfConnectionsOfSeveralKeepsNobodyElseOut) {
  const Caller carl{1002, "carl", {}, false};
  for (int i = 0; i < 128; ++i) connect_as(kBob);
  for (int i = 0; i < 128; ++i) connect_as(carl);

  const int ada = connect_as(kAda);
  EXPECT_EQ(ask(ada, {{"verb", "hello"}}).at("user"), "ada");
  int turned_away = 0;
  for (const int fd : sockets) {
    const std::string text = received(fd);
    if (text.empty()) continue;
    ++turned_away;
    EXPECT_NE(text.find("Nothing of it was executed"), std::string::npos) << text;
  }
  EXPECT_EQ(turned_away, 1);
}

TEST_F(Flood, OfUsersLeavesTheirPlacesToSlurmAndAdmins) {
  Caller user{2000, "user", {}, false};
  for (; user.uid < 2256; ++user.uid) connect_as(user);
  const Caller root{0, "root", {}, false}, slurm{64030, "slurm", {}, false};
  for (const Caller& each : {root, slurm, kAdmin}) {
    EXPECT_EQ(ask(connect_as(each), {{"verb", "hello"}}).at("user"), each.user);
  }
  const int one_more = connect_as(user);
  std::string text;
  while (!text.ends_with('\n')) {
    serve();
    text += received(one_more);
  }
  EXPECT_NE(text.find("all 256 places of the service are taken, 0 of them by user"),
            std::string::npos) << text;
}

TEST_F(Flood, WhoseClientsHungUpIsNotExecuted) {
  std::vector<int> flood;
  for (int i = 0; i < 20; ++i) flood.push_back(connect_as(kBob));
  for (int i = 0; i < 20; ++i) ASSERT_EQ(send_to(flood[i], settings(i, 2)), 2);
  for (const int fd : flood) close(fd);
  sockets.clear();

  EXPECT_EQ(ask(connect_as(kAda), {{"verb", "hello"}}).at("user"), "ada");
  EXPECT_EQ(settings_made(), 0);
}

TEST_F(Flood, WhoHasSaidAllButListensIsAnswered) {
  const int fd = connect_as(kBob);
  send_to(fd, "{\"verb\":\"hello\"}\n{\"verb\":\"hello\"}\n");
  shutdown(fd, SHUT_WR);
  std::string text;
  while (std::count(text.begin(), text.end(), '\n') < 2) {
    serve();
    text += received(fd);
  }
  EXPECT_EQ(text.find("\"ok\":false"), std::string::npos);
}

TEST_F(Flood, OfGatesSharesOneLook) {
  const Caller slurm{64030, "slurm", {}, false};
  std::vector<int> gates;
  for (int i = 0; i < 40; ++i) gates.push_back(connect_as(slurm));
  for (const int fd : gates) ASSERT_EQ(send_to(fd, "{\"verb\":\"gate\",\"job\":99}\n"), 1);
  const int before = world.cluster.looks;
  const auto ask_all = [&] {
    for (const int fd : gates) {
      std::string text;
      while (!text.ends_with('\n')) {
        serve();
        text += received(fd);
      }
      EXPECT_NE(text.find("Slurm has no job 99"), std::string::npos) << text;
    }
  };
  ask_all();
  EXPECT_EQ(world.cluster.looks - before, 2);  // A whole look, and the jobs after what it did.

  // A gate that asks later is answered by a later look.
  for (const int fd : gates) ASSERT_EQ(send_to(fd, "{\"verb\":\"gate\",\"job\":99}\n"), 1);
  ask_all();
  EXPECT_EQ(world.cluster.looks - before, 4);
}

// What the client hears of a service that does `act` with its connection and closes it.
std::string told_by(const std::function<void(int)>& act, const json& request) {
  const test::Folder folder;
  Site site;
  site.socket = (folder.path() / "socket").string();
  const auto address = *socket_address(site.socket);
  const int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (bind(listener, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      listen(listener, 1) != 0) {
    std::abort();
  }
  std::thread service([&] {
    const int fd = accept(listener, nullptr, nullptr);
    act(fd);
    close(fd);
  });
  const auto answer = ask_service(site, request);
  service.join();
  close(listener);
  return answer ? answer->dump() : answer.error().message;
}

TEST(Client, SaysWhatItKnowsOfWhatWasNotAnswered) {
  const auto read_all = [](int fd) {
    char byte = 0;
    while (byte != '\n' && read(fd, &byte, 1) == 1) {
    }
  };
  const json grant{{"verb", "grant"}, {"id", "g7"}};
  EXPECT_NE(told_by(read_all, grant)
                .find("Whether it was executed is not known: asked again with --id g7 it counts once"),
            std::string::npos);
  const auto read_a_part = [](int fd) {
    char byte;
    (void)!read(fd, &byte, 1);
  };
  const json endless{{"verb", "grant"}, {"id", std::string(4'000'000, 'x')}};
  EXPECT_NE(told_by(read_a_part, endless).find("It was not executed"), std::string::npos);
}

TEST(Client, HearsARefusalThatCameBeforeItHadSaidAll) {
  const auto refuse = [](int fd) {
    const std::string text = "{\"ok\":false,\"kind\":\"refused\",\"messages\":[\"no place\"]}\n";
    (void)!write(fd, text.data(), text.size());
  };
  const json endless{{"verb", "grant"}, {"id", std::string(4'000'000, 'x')}};
  EXPECT_NE(told_by(refuse, endless).find("no place"), std::string::npos);
}

}  // namespace
}  // namespace scheduler
