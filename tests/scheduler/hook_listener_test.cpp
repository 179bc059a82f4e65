// SPDX-License-Identifier: GPL-3.0-or-later
//
// Payment messages over HTTP, sent with curl: to the listener alone, and through it to the service.
#include "scheduler/hook_listener.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdio>
#include <filesystem>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>

#include <fmt/format.h>

#include "accounting/till.h"
#include "accounting/webhook.h"
#include "files.h"
#include "scheduler/secret_key.h"
#include "scheduler/service.h"
#include "world.h"

namespace scheduler {
namespace {

// The HTTP status that curl saw; "000" where there was no answer.
std::string curl(const std::string& arguments) {
  const std::string command =
      "curl --silent --output /dev/null --max-time 300 --write-out '%{http_code}' " + arguments +
      " 2>/dev/null";
  std::FILE* pipe = popen(command.c_str(), "r");
  char text[64] = "";
  if (pipe == nullptr || std::fgets(text, sizeof text, pipe) == nullptr) text[0] = '\0';
  if (pipe != nullptr) pclose(pipe);
  return text;
}

class Hooks : public testing::Test {
 protected:
  void listen(HookForward forward, HookSettings settings = {}) {
    settings.listen = "127.0.0.1:0";
    auto started = HookListener::start(settings, std::move(forward));
    ASSERT_TRUE(started) << started.error().message;
    listener.emplace(std::move(*started));
    url = fmt::format("http://127.0.0.1:{}/payments", listener->port());
  }
  std::string file(const std::string& text) {
    const auto path = folder.path() / fmt::format("body{}", ++files_);
    test::write_file(path, text);
    return "--data-binary @" + path.string();
  }

  test::Folder folder;
  std::optional<HookListener> listener;
  std::string url;

 private:
  int files_ = 0;
};

TEST_F(Hooks, PassOnSignatureAndBodyAsTheyCame) {
  std::mutex mutex;
  std::string signature, body;
  listen([&](const std::string& s, const std::string& b) {
    const std::lock_guard lock(mutex);
    signature = s;
    body = b;
    return HookAnswer::kTaken;
  });
  const std::string sent = "{\"a\": \"b\",\n \"c\": 1}\n";

  EXPECT_EQ(curl(file(sent) + " -H 'Trainyard-Signature: t=1,v1=ab' " + url), "200");
  const std::lock_guard lock(mutex);
  EXPECT_EQ(signature, "t=1,v1=ab");
  EXPECT_EQ(body, sent);
}

TEST_F(Hooks, SayWhetherToSendItAgain) {
  std::atomic<HookAnswer> answer{HookAnswer::kRefused};
  listen([&](const std::string&, const std::string&) { return answer.load(); });
  const std::string message = file("{}") + " -H 'Trainyard-Signature: x' " + url;

  EXPECT_EQ(curl(message), "400");
  answer = HookAnswer::kNotNow;
  EXPECT_EQ(curl(message), "503");
}

TEST_F(Hooks, TakeNothingElse) {
  std::atomic<int> calls{0};
  listen([&](const std::string&, const std::string&) {
    ++calls;
    return HookAnswer::kTaken;
  });
  const std::string header = " -H 'Trainyard-Signature: x' ";

  EXPECT_EQ(curl(header + url), "405");
  EXPECT_EQ(curl(file("{}") + header + url + "/more"), "404");
  EXPECT_EQ(curl(file("{}") + " " + url), "400");  // No signature.
  EXPECT_EQ(curl(file(std::string(65'537, 'x')) + header + url), "413");
  // Also where its length is not told beforehand.
  EXPECT_EQ(curl(file(std::string(200'000, 'x')) + header + "-H 'Transfer-Encoding: chunked' " + url),
            "413");
  EXPECT_EQ(calls, 0);
  EXPECT_EQ(curl(file(std::string(65'536, 'x')) + header + url), "200");
  EXPECT_EQ(calls, 1);
}

TEST_F(Hooks, DropASenderThatIsSilent) {
  HookSettings settings;
  settings.timeout_s = 1;
  listen([](const std::string&, const std::string&) { return HookAnswer::kTaken; }, settings);

  // 100 bytes are announced and never come: curl waits for an answer and gets none.
  EXPECT_EQ(curl("-X POST -H 'Content-Length: 100' -H 'Expect:' -H 'Trainyard-Signature: x' " + url),
            "000");
}

TEST_F(Hooks, ReachTheBooksOnce) {
  World world;
  world.site.socket = (folder.path() / "socket").string();
  world.site.database = (folder.path() / "books.db").string();
  auto till = accounting::Till::open(world.database, world.dispatcher().ledger());
  ASSERT_TRUE(till && till->set_price({0, "EUR", 100, "root"}, 0));
  auto service = Service::listen(world.site);
  ASSERT_TRUE(service) << service.error().message;
  const Site site = world.site;
  listen([&site](const std::string& signature, const std::string& body) {
    const auto answer = ask_service(
        site, {{"verb", "webhook"}, {"signature", signature}, {"body", body}});
    if (!answer) return HookAnswer::kNotNow;
    return answer->value("ok", false) ? HookAnswer::kTaken : HookAnswer::kRefused;
  });
  const std::string body = nlohmann::json{{"id", "evt_1"}, {"type", "payment.succeeded"},
                                          {"data", {{"payment", "pay_1"}, {"fund", "user:ada"},
                                                    {"currency", "EUR"}, {"amount_minor", 500}}}}.dump();
  const std::string key = *secret_key(world.site.database + ".webhook_key");
  const std::string signature = accounting::sign_webhook(key, body, std::time(nullptr));
  const std::string message = file(body) + " -H 'Trainyard-Signature: " + signature + "' " + url;

  std::atomic<bool> is_over{false};
  std::string first, second, forged;
  std::thread sender([&] {
    first = curl(message);
    second = curl(message);
    forged = curl(file(body + " ") + " -H 'Trainyard-Signature: " + signature + "' " + url);
    is_over = true;
  });
  while (!is_over) service->serve(world.dispatcher(), world.site, 50);
  sender.join();

  EXPECT_EQ(first, "200");
  EXPECT_EQ(second, "200");
  EXPECT_EQ(forged, "400");
  EXPECT_EQ(world.balance().available.milli_gpu_s, 5 * accounting::kGpuHour.milli_gpu_s);
}

}  // namespace
}  // namespace scheduler
