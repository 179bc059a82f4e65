// SPDX-License-Identifier: GPL-3.0-or-later
//
// Questions from other nodes: who asks is in the credential alone, nothing can be changed on its way,
// nothing counts twice. The credentials are pretended here; tests/slurm has real ones.
#include "scheduler/remote.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include <fmt/format.h>

#include "files.h"
#include "scheduler/connections.h"
#include "scheduler/service.h"
#include "world.h"

namespace scheduler {
namespace {

using nlohmann::json;
using Clock = std::chrono::steady_clock;

// One munged for every user of every node: a credential is "PRETENDED:UID:READER:NUMBER:payload".
class PretendedMunge final : public Credentials {
 public:
  explicit PretendedMunge(std::uint32_t uid) : uid_(uid) {}
  bool lets_replays_pass = false;
  bool is_down = false;
  std::chrono::seconds life{3'600};

  Expected<std::string> make(const std::string& payload,
                             std::optional<std::uint32_t> reader) override {
    if (is_down) return tl::unexpected(Error{"MUNGE: munged does not answer"});
    return fmt::format("PRETENDED:{}:{}:{}:{}", uid_, reader ? std::to_string(*reader) : "any",
                       ++number_, payload);
  }
  Expected<Credential> read(const std::string& text) override {
    if (is_down) return tl::unexpected(Error{"MUNGE: munged does not answer"});
    std::array<std::string, 4> parts;
    std::string rest = text;
    for (std::string& part : parts) {
      const std::size_t colon = rest.find(':');
      if (colon == std::string::npos) return tl::unexpected(Error{"MUNGE: invalid credential"});
      part = rest.substr(0, colon);
      rest.erase(0, colon + 1);
    }
    if (parts[0] != "PRETENDED") return tl::unexpected(Error{"MUNGE: invalid credential"});
    if (parts[2] != "any" && parts[2] != std::to_string(uid_) && uid_ != 0) {
      return tl::unexpected(Error{"MUNGE: unauthorized credential"});
    }
    if (!seen_.insert(text).second && !lets_replays_pass) {
      return tl::unexpected(Error{"MUNGE: replayed credential"});
    }
    return Credential{static_cast<std::uint32_t>(std::stoul(parts[1])), rest, life};
  }

 private:
  std::uint32_t uid_;
  static inline std::atomic<int> number_{0};
  std::set<std::string> seen_;
};

constexpr std::uint32_t kService = 700;
const Clock::time_point kNow{};

TEST(RemoteQuestion, SaysWhoAsksWhat) {
  PretendedMunge ada(kAda.uid), service(kService);
  QuestionReader reader(service);

  const auto line = seal_question(ada, R"({"verb":"hello"})", kService);
  ASSERT_TRUE(line);
  const auto question = reader.open(*line, kNow);
  ASSERT_TRUE(question) << question.error().message;
  EXPECT_EQ(question->uid, kAda.uid);
  EXPECT_EQ(question->text, R"({"verb":"hello"})");
}

TEST(RemoteQuestion, CountsOnceAndNotWhereItWasChanged) {
  PretendedMunge ada(kAda.uid), service(kService);
  service.lets_replays_pass = true;
  QuestionReader reader(service);
  const std::string line = *seal_question(ada, R"({"verb":"hello"})", std::nullopt);

  json changed = json::parse(line);
  changed["question"] = R"({"verb":"grant"})";
  EXPECT_NE(reader.open(changed.dump(), kNow).error().message.find("it was changed"),
            std::string::npos);
  EXPECT_TRUE(reader.open(line, kNow));
  EXPECT_NE(reader.open(line, kNow).error().message.find("replay"), std::string::npos);
  EXPECT_FALSE(reader.open(line, kNow + std::chrono::minutes(60)));
  for (const char* text : {"", "x", "[]", "{}", R"({"credential": 5, "question": "x"})",
                           R"({"credential": "x", "question": "x"})"}) {
    SCOPED_TRACE(text);
    EXPECT_FALSE(reader.open(text, kNow));
  }
}

TEST(RemoteQuestion, IsForgottenWhenItsCredentialIsDeadAndOneUserShutsOutNoOther) {
  PretendedMunge ada(kAda.uid), bob(kBob.uid), service(kService);
  service.lets_replays_pass = true;
  service.life = std::chrono::seconds(300);
  QuestionReader reader(service);
  const std::string first = *seal_question(ada, "{}", kService);
  ASSERT_TRUE(reader.open(first, kNow));
  for (std::size_t i = 1; i < QuestionReader::kRememberedOfAUser; ++i) {
    ASSERT_TRUE(reader.open(*seal_question(ada, "{}", kService), kNow));
  }
  EXPECT_EQ(reader.open(*seal_question(ada, "{}", kService), kNow).error().message,
            "uid 1000 has asked 20000 questions from other nodes within 10 minutes; ask again later, "
            "and less often");
  EXPECT_TRUE(reader.open(*seal_question(bob, "{}", kService), kNow));

  EXPECT_FALSE(reader.open(first, kNow + std::chrono::minutes(10)));
  EXPECT_TRUE(reader.open(*seal_question(ada, "{}", kService), kNow + std::chrono::minutes(11)));
}

TEST(RemoteQuestion, IsForTheServiceAlone) {
  PretendedMunge ada(kAda.uid), bob(kBob.uid);
  QuestionReader eavesdropper(bob);
  EXPECT_FALSE(eavesdropper.open(*seal_question(ada, "{}", kService), kNow));
}

TEST(RemoteAnswer, IsBelievedOnlyFromTheServiceAndToTheQuestion) {
  PretendedMunge ada(kAda.uid), service(kService), root(0), bob(kBob.uid);
  const RemoteQuestion question{kAda.uid, "what?"};
  const auto opened = [&](Credentials& by, const std::string& asked) {
    return open_answer(ada, *seal_answer(by, question, "this"), asked, kService);
  };

  EXPECT_EQ(*opened(service, "what?"), "this");
  EXPECT_EQ(*opened(root, "what?"), "this");
  EXPECT_NE(opened(bob, "what?").error().message.find("not the service's account"), std::string::npos);
  EXPECT_NE(opened(service, "who?").error().message.find("another question"), std::string::npos);
  // A question's credential is no answer's.
  EXPECT_FALSE(open_answer(ada, *seal_question(service, "this", std::nullopt), "what?", kService));
}

TEST(HostPort, HasBothParts) {
  EXPECT_EQ(parse_host_port("ctl1:6838")->port, "6838");
  EXPECT_EQ(parse_host_port("[::1]:1")->host, "::1");
  for (const char* text : {"", ":1", "ctl1", "ctl1:", "ctl1:x", "::1:5", "a:70000", "[]:1", "a b:1"}) {
    SCOPED_TRACE(text);
    EXPECT_FALSE(parse_host_port(text));
  }
}

// The service itself, on a port of this machine.
class RemoteService : public testing::Test {
 protected:
  void SetUp() override {
    world.site.socket = (folder.path() / "socket").string();
    world.site.service_user = "root";
    world.grant("user:ada", 10);
    world.tick();
    auto listening = Service::listen(world.site, [](std::uint32_t uid, const Site&) {
      if (uid == kAda.uid) return Expected<Caller>{kAda};
      if (uid == kBob.uid) return Expected<Caller>{kBob};
      return Expected<Caller>{tl::unexpected(Error{"nobody has this uid"})};
    });
    ASSERT_TRUE(listening) << listening.error().message;
    service.emplace(std::move(*listening));
    const auto port = service->listen_remote("127.0.0.1:0", munge);
    ASSERT_TRUE(port) << port.error().message;
    world.site.remote.address = fmt::format("127.0.0.1:{}", *port);
  }
  // Asks from another thread while the service serves.
  Expected<json> ask(Credentials& credentials, const json& request) {
    std::optional<Expected<json>> answer;
    std::atomic<bool> is_over{false};
    const Site site = world.site;
    std::thread client([&] {
      answer.emplace(ask_remote_service(site, credentials, request));
      is_over = true;
    });
    while (!is_over) service->serve(world.dispatcher(), world.site, 50);
    client.join();
    return *answer;
  }
  // A line as it is, and the line that comes back.
  std::string raw(const std::string& line) {
    std::string reply;
    std::atomic<bool> is_over{false};
    const int port = std::stoi(world.site.remote.address.substr(10));
    std::thread client([&] {
      const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
      sockaddr_in address{};
      address.sin_family = AF_INET;
      address.sin_port = htons(static_cast<std::uint16_t>(port));
      address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
      if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0) {
        (void)!write(fd, line.data(), line.size());
        char buffer[4096];
        while (reply.find('\n') == std::string::npos) {
          const ssize_t got = read(fd, buffer, sizeof buffer);
          if (got <= 0) break;
          reply.append(buffer, static_cast<std::size_t>(got));
        }
      }
      close(fd);
      is_over = true;
    });
    while (!is_over) service->serve(world.dispatcher(), world.site, 50);
    client.join();
    return reply;
  }

  // A connection that stays, with what it says.
  int connected(const std::string& text) {
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(
        std::stoi(world.site.remote.address.substr(10))));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) std::abort();
    if (write(fd, text.data(), text.size()) != std::ssize(text)) std::abort();
    kept.push_back(fd);
    return fd;
  }
  void TearDown() override {
    for (const int fd : kept) close(fd);
  }
  static bool is_open(int fd) {
    char byte;
    return recv(fd, &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN;
  }
  std::string line_of(int fd) {
    std::string text;
    char buffer[4096];
    while (!text.ends_with('\n')) {
      service->serve(world.dispatcher(), world.site, 5);
      const ssize_t got = recv(fd, buffer, sizeof buffer, MSG_DONTWAIT);
      if (got == 0 || (got < 0 && errno != EAGAIN)) return "closed";
      if (got > 0) text.append(buffer, static_cast<std::size_t>(got));
    }
    return text;
  }

  std::vector<int> kept;
  test::Folder folder;
  World world;
  PretendedMunge munge{0};
  std::optional<Service> service;
};

TEST_F(RemoteService, AnswersWhoeverTheCredentialNames) {
  PretendedMunge ada(kAda.uid), stranger(4711);

  const auto answer = ask(ada, {{"verb", "fund"}});
  ASSERT_TRUE(answer) << answer.error().message;
  EXPECT_EQ(answer->at("result").at("fund"), "user:ada");
  const auto refused = ask(ada, {{"verb", "grant"}, {"id", "g"}, {"fund", "user:ada"}, {"amount", 5}});
  EXPECT_EQ(refused->at("kind"), "refused");
  EXPECT_EQ(ask(stranger, {{"verb", "hello"}})->at("kind"), "error");
}

TEST_F(RemoteService, AnswersNothingWithoutOne) {
  const std::string reply = raw("{\"verb\": \"fund\", \"user\": \"ada\"}\n");
  EXPECT_NE(reply.find("\"ok\":false"), std::string::npos) << reply;
  EXPECT_EQ(reply.find("user:ada"), std::string::npos);
  PretendedMunge ada(kAda.uid);
  const std::string line = *seal_question(ada, R"({"verb":"fund"})", std::nullopt) + "\n";
  EXPECT_NE(raw(line).find("\"credential\""), std::string::npos);
  EXPECT_NE(raw(line).find("replayed"), std::string::npos);  // Sent again by somebody who listened.
}

TEST_F(RemoteService, SaysWhyItCannotBeAsked) {
  PretendedMunge ada(kAda.uid);
  ada.is_down = true;
  EXPECT_NE(ask(ada, {{"verb", "hello"}}).error().message.find("munged does not answer"),
            std::string::npos);
  ada.is_down = false;
  munge.is_down = true;
  EXPECT_NE(ask(ada, {{"verb", "hello"}}).error().message.find("not answered, it says: MUNGE"),
            std::string::npos);
}

TEST_F(RemoteService, IsThereForWhoAsksWhileOthersSayNothing) {
  std::vector<int> silent;
  for (int i = 0; i < 128; ++i) {
    silent.push_back(connected(""));
    service->serve(world.dispatcher(), world.site, 1);
  }
  PretendedMunge ada(kAda.uid);
  ASSERT_TRUE(ask(ada, {{"verb", "hello"}}));
  // They were not waited for: the newest of them are still there.
  EXPECT_TRUE(is_open(silent.back()));
  EXPECT_FALSE(is_open(silent.front()));
}

TEST_F(RemoteService, GivesNobodyAllPlaces) {
  PretendedMunge bob(kBob.uid);
  const auto question = [&] { return *seal_question(bob, R"({"verb":"hello"})", std::nullopt) + "\n"; };
  for (std::size_t i = 0; i < Connections::kPlacesOfOneRemote; ++i) {
    EXPECT_NE(line_of(connected(question())).find("\\\"ok\\\":true"), std::string::npos);
  }
  const std::string refusal = line_of(connected(question()));
  EXPECT_NE(refusal.find("bob has 64 connections"), std::string::npos) << refusal;
  EXPECT_NE(refusal.find("\"credential\""), std::string::npos);  // So that his client believes it.
}

TEST_F(RemoteService, DropsTheQuestionOfWhoHungUp) {
  PretendedMunge bob(kBob.uid);
  const auto change = [&](int i) {
    return *seal_question(bob, fmt::format(R"({{"verb":"set","id":"s{}","fund":"user:bob",)"
                                           R"("name":"default_fund","value":"user:bob"}})", i),
                          std::nullopt) + "\n";
  };
  for (int i = 0; i < 20; ++i) {
    const int fd = connected(change(i));
    kept.pop_back();
    close(fd);
  }
  PretendedMunge ada(kAda.uid);
  ASSERT_TRUE(ask(ada, {{"verb", "hello"}}));
  std::int64_t made = 0;
  (void)world.database.query("SELECT count(*) FROM transfer WHERE kind = 'set'", {},
                             [&](const accounting::Row& row) { made = row.integer(0); });
  EXPECT_EQ(made, 0);
}

}  // namespace
}  // namespace scheduler
