// SPDX-License-Identifier: GPL-3.0-or-later
//
// The audit verifies the books beside the service: nobody waits for it, and its end is the same.
#include "scheduler/verifier.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <thread>

#include "files.h"
#include "scheduler/service.h"
#include "world.h"

namespace scheduler {
namespace {

using nlohmann::json;
using Strings = std::vector<std::string>;

// Asks until it is over.
Expected<Strings> faults_of(Verifier& verifier) {
  while (true) {
    const auto faults = verifier.ask(std::chrono::steady_clock::now());
    if (!faults) return tl::unexpected(faults.error());
    if (*faults) return **faults;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

TEST(Verifier, IsAskedUntilItKnows) {
  const test::Folder folder;
  const std::string gate = (folder.path() / "gate").string();
  Verifier verifier({"sh", "-c", "while [ ! -e \"$1\" ]; do sleep 0.05; done; echo '[\"a\", \"b\"]'",
                     "sh", gate});
  for (int i = 0; i < 3; ++i) {
    const auto asked = verifier.ask(std::chrono::steady_clock::now());
    ASSERT_TRUE(asked);
    EXPECT_FALSE(*asked);
  }
  test::write_file(gate, "");
  EXPECT_EQ(*faults_of(verifier), (Strings{"a", "b"}));
  EXPECT_EQ(*faults_of(verifier), (Strings{"a", "b"}));  // Anew.
}

TEST(Verifier, SaysWhatWentWrong) {
  Verifier broken({"sh", "-c", "echo '[]'; exit 3"});
  EXPECT_NE(faults_of(broken).error().message.find("exit code 3"), std::string::npos);
  Verifier silent({"true"});
  EXPECT_NE(faults_of(silent).error().message.find("no list"), std::string::npos);
}

TEST(Verifier, TheProgramFindsWhatTheServiceWouldFind) {
  const test::Folder folder;
  const std::string path = (folder.path() / "books.db").string();
  auto db = accounting::Database::open(path);
  ASSERT_TRUE(db);
  auto ledger = accounting::Ledger::open(*db);
  ASSERT_TRUE(ledger);
  ASSERT_TRUE(ledger->grant({"g1", "user:ada", accounting::kGpuHour, "root", ""}, 1'795'507'200));
  EXPECT_EQ(*verify_aside(path), "[]");
  ASSERT_TRUE(db->run("UPDATE account SET balance = 1 WHERE name = 'fund:user:ada'", {}));
  EXPECT_EQ(json::parse(*verify_aside(path)).get<Strings>(), *ledger->verify());
  EXPECT_FALSE(ledger->verify()->empty());
}

TEST(Audit, IsPendingWhileTheBooksAreVerified) {
  World world;
  world.tick();
  std::optional<Strings> known;
  world.dispatcher().verify_by([&]() -> Expected<std::optional<Strings>> { return known; });
  const auto ask = [&](const char* verb) {
    return answer_request(world.dispatcher(), world.site, kAdmin, {{"verb", verb}}, world.cluster.now)
        .at("result");
  };
  EXPECT_EQ(ask("audit"), json({{"pending", true}}));
  EXPECT_TRUE(ask("acts").at("acts").empty());  // Not yet.
  known = Strings{"account x: wrong"};
  EXPECT_EQ(ask("audit").at("faults"), json({"account x: wrong"}));
  EXPECT_EQ(ask("acts").at("acts").size(), 1u);
}

}  // namespace
}  // namespace scheduler
