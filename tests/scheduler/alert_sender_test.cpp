// SPDX-License-Identifier: GPL-3.0-or-later
//
// Alerts on their way: a command with its time-out, a web server with its signature, and a restart.
#include "scheduler/alert_sender.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <functional>
#include <thread>

#include <fmt/format.h>

#include "accounting/webhook.h"
#include "files.h"
#include "scheduler/secret_key.h"
#include "world.h"

namespace scheduler {
namespace {

constexpr UtcSeconds kNow = 1'000'000;

// Looks until `is_done`, with patience for a busy machine.
void until(const std::function<bool()>& is_done) {
  for (int i = 0; i < 12'000 && !is_done(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  ASSERT_TRUE(is_done());
}

// One request of a peer, answered with a status.
class Server {
 public:
  explicit Server(std::string status) : status_(std::move(status)) {
    fd_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    EXPECT_EQ(bind(fd_, reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(listen(fd_, 4), 0);
    EXPECT_EQ(getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &size), 0);
    port = ntohs(address.sin_port);
    thread_ = std::thread([this] { answer(); });
  }
  ~Server() {
    shutdown(fd_, SHUT_RDWR);
    thread_.join();
    close(fd_);
  }
  int port = 0;
  std::string request;  // Read when the sender was answered.

 private:
  void answer() {
    const int peer = accept(fd_, nullptr, nullptr);
    if (peer < 0) return;
    char buffer[4096];
    std::size_t end = std::string::npos;
    while ((end = request.find("\r\n\r\n")) == std::string::npos || request.back() != '}') {
      const ssize_t got = read(peer, buffer, sizeof buffer);
      if (got <= 0) break;
      request.append(buffer, static_cast<std::size_t>(got));
    }
    const std::string reply =
        "HTTP/1.1 " + status_ + "\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    (void)!write(peer, reply.data(), reply.size());
    close(peer);
  }
  std::string status_;
  int fd_ = -1;
  std::thread thread_;
};

class Sender : public testing::Test {
 protected:
  void SetUp() override {
    world.site.database = (folder.path() / "books.db").string();
    world.site.alerts.timeout_s = 300;  // The machine of a test may be busy.
    world.grant("user:ada", 10);
  }
  void raise() {
    ASSERT_TRUE(world.dispatcher().ledger().hold(
        {"h/0", "user:ada", {9 * accounting::kGpuHour.milli_gpu_s}, "h", "ada"}, kNow));
    ASSERT_EQ(accounting::raise_alerts(world.database, world.dispatcher().ledger(),
                                       alert_channels(world.site), kNow)->size(), 1u);
  }
  std::string state(const std::string& channel) {
    std::string state;
    EXPECT_TRUE(world.database.query("SELECT state FROM alert_way WHERE channel = ?1", {channel},
                                     [&](const accounting::Row& row) { state = row.text(0); }));
    return state;
  }
  void pump(AlertSender& sender, SteadyTime steady = std::chrono::steady_clock::now()) {
    for (const std::string& line : sender.pump(now, steady)) log += line + "\n";
  }

  test::Folder folder;
  World world;
  UtcSeconds now = kNow;
  std::string log;
};

TEST_F(Sender, ACommandGetsTheMessageAsArgumentsAndOnItsInput) {
  const std::string out = (folder.path() / "told").string();
  world.site.alerts.command = {"sh", "-c", "printf '%s %s\\n' \"$1\" \"$2\" >\"$0\"; cat >>\"$0\"", out,
                               "{fund}", "{level}"};
  raise();
  AlertSender sender(world.site, world.database);

  until([&] {
    pump(sender);
    return state("command") == "sent";
  });
  EXPECT_EQ(test::read_file(out),
            "user:ada 80\nfund user:ada has used or set aside 80 % of its 10.000 GPU-h: 1.000 GPU-h are left\n");
  EXPECT_EQ(log, "");
}

TEST_F(Sender, ACommandThatHangsIsEndedAndTriedAgain) {
  const std::string out = (folder.path() / "told").string();
  world.site.alerts.command = {"sh", "-c", "echo x >>\"$0\"; exec sleep 1000", out};
  raise();
  AlertSender sender(world.site, world.database);
  pump(sender);
  until([&] { return std::filesystem::exists(out); });

  // The clock is the caller's: the limit is over at once.
  pump(sender, std::chrono::steady_clock::now() + std::chrono::seconds(301));
  EXPECT_EQ(state("command"), "waiting");
  EXPECT_EQ(log, "alert 1 by command: took longer than 300 s. It is tried again\n");
}

TEST_F(Sender, ACommandThatDoesNotExistIsSaidSo) {
  world.site.alerts.command = {"/nonexistent/mail"};
  raise();
  AlertSender sender(world.site, world.database);

  pump(sender);
  until([&] {
    pump(sender);
    return state("command") == "waiting";
  });
  EXPECT_NE(log.find("No such file"), std::string::npos) << log;
}

TEST_F(Sender, ARestartRepeatsNothingThatMayHaveArrived) {
  const std::string out = (folder.path() / "told").string();
  world.site.alerts.command = {"sh", "-c", "echo x >>\"$0\"; exec sleep 1000", out};
  raise();
  {
    AlertSender sender(world.site, world.database);
    pump(sender);
    until([&] { return std::filesystem::exists(out); });
  }  // Killed while it was sending.

  AlertSender sender(world.site, world.database);
  now += 100'000;
  pump(sender);
  EXPECT_EQ(state("command"), "sending");
  EXPECT_EQ(test::read_file(out), "x\n");
  EXPECT_TRUE(accounting::raise_alerts(world.database, world.dispatcher().ledger(),
                                       alert_channels(world.site), now)->empty());
}

TEST_F(Sender, AWebhookIsSigned) {
  Server server("200 OK");
  world.site.alerts.webhook = fmt::format("http://127.0.0.1:{}/hook", server.port);
  raise();
  AlertSender sender(world.site, world.database);

  until([&] {
    pump(sender);
    return state("webhook") == "sent";
  });
  const std::size_t begin = server.request.find("Trainyard-Signature: ") + 21;
  ASSERT_NE(begin, std::string::npos + 21) << server.request;
  const std::string signature =
      server.request.substr(begin, server.request.find("\r\n", begin) - begin);
  const std::string body = server.request.substr(server.request.find("\r\n\r\n") + 4);
  const std::string key = *secret_key(world.site.database + ".alert_key");
  EXPECT_EQ(signature, accounting::sign_webhook(key, body, kNow));
  EXPECT_NE(body.find("\"type\":\"fund.alert\""), std::string::npos) << body;
  EXPECT_NE(body.find("\"level\":80"), std::string::npos) << body;
}

TEST_F(Sender, AWebServerThatRefusesIsAskedAgain) {
  Server server("503 Service Unavailable");
  world.site.alerts.webhook = fmt::format("http://127.0.0.1:{}/hook", server.port);
  raise();
  AlertSender sender(world.site, world.database);

  until([&] {
    pump(sender);
    return state("webhook") == "waiting";
  });
  EXPECT_EQ(log, "alert 1 by webhook: it answered 503. It is tried again\n");
}

TEST(AlertBody, IsTheOneOfItsPage) {
  const accounting::Alert alert{.number = 7, .fund = "user:ada", .level = 80,
                                .available = {3'600'000}, .given = {36'000'000},
                                .when = 1'795'507'200};
  EXPECT_EQ(test::blocks_of(test::kSource / "docs/formats/alert.md", "json"),
            std::vector<std::string>{alert_body(alert) + "\n"});
}

}  // namespace
}  // namespace scheduler
