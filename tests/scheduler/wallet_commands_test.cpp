// SPDX-License-Identifier: GPL-3.0-or-later
//
// `trainyard wallet`, `voucher`, `webhook` and their like: the program itself, asking a service over
// its socket. Who asks is what the test says. Quotes need a Slurm: tests/slurm/wallet.bats.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <atomic>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>

#include <fmt/format.h>

#include "accounting/till.h"
#include "accounting/voucher.h"
#include "accounting/webhook.h"
#include "files.h"
#include "scheduler/secret_key.h"
#include "scheduler/service.h"
#include "world.h"

namespace scheduler {
namespace {

using nlohmann::json;

constexpr std::int64_t kHour = accounting::kGpuHour.milli_gpu_s;

struct Said {
  int code = -1;
  std::string text;  // Standard output and standard error.
  [[nodiscard]] json parsed() const { return json::parse(text, nullptr, false); }
  [[nodiscard]] bool has(const std::string& words) const {
    return text.find(words) != std::string::npos;
  }
  [[nodiscard]] std::string first_line() const { return text.substr(0, text.find('\n')); }
};

class WalletCommands : public testing::Test {
 protected:
  void SetUp() override {
    world.site.socket = (folder.path() / "socket").string();
    world.site.database = (folder.path() / "books.db").string();
    std::ofstream(folder.path() / "site.toml")
        << fmt::format("[service]\nsocket = \"{}\"\ndatabase = \"{}\"\n", world.site.socket,
                       world.site.database)
        << "[[instance_type]]\nname = \"h100\"\npartition = \"gpu\"\ngres = \"gpu:h100\"\nnodes = 2\n"
           "gpus_per_node = 2\nimages_per_s = 10\n"
           "weights = [{from = \"2026-01-01\", weight = \"1.000\"}]\n";
    auto opened = Service::listen(world.site, [this](std::uint32_t, const Site&) {
      return Expected<Caller>{caller_};
    });
    ASSERT_TRUE(opened) << opened.error().message;
    service.emplace(std::move(*opened));
  }
  void TearDown() override { world.expect_books_are_right(); }

  // trainyard ARGUMENTS as `caller`, with `input` on its standard input.
  Said run(const Caller& caller, const std::string& arguments, const std::string& input = "") {
    caller_ = caller;
    test::write_file(folder.path() / "input", input);
    const std::string command = fmt::format("{} --site {} {} 2>&1 <{}", TRAINYARD_PROGRAM,
                                            (folder.path() / "site.toml").string(), arguments,
                                            (folder.path() / "input").string());
    Said said;
    std::atomic<bool> is_over{false};
    std::thread program([&] {
      if (std::FILE* pipe = popen(command.c_str(), "r"); pipe != nullptr) {
        char buffer[4096];
        while (const std::size_t got = std::fread(buffer, 1, sizeof buffer, pipe)) {
          said.text.append(buffer, got);
        }
        const int status = pclose(pipe);
        if (WIFEXITED(status)) said.code = WEXITSTATUS(status);
      }
      is_over = true;
    });
    while (!is_over) {
      if (service) service->serve(world.dispatcher(), world.site, 50);
    }
    program.join();
    return said;
  }
  // A program that shall leave with `code`.
  Said left(int code, const Caller& caller, const std::string& arguments,
            const std::string& input = "") {
    Said said = run(caller, arguments, input);
    EXPECT_EQ(said.code, code) << arguments << "\n" << said.text;
    return said;
  }
  std::string voucher_by_admin(const std::string& options = "") {
    return left(0, kAdmin, "admin voucher 2h " + options).first_line();
  }
  Said pay(int code, const std::string& payment, std::int64_t minor) {
    const std::string body = json{{"id", "evt_" + payment}, {"type", "payment.succeeded"},
                                  {"data", {{"payment", payment}, {"fund", "user:ada"},
                                            {"currency", "EUR"}, {"amount_minor", minor}}}}.dump();
    const std::string key = *secret_key(world.site.database + ".webhook_key");
    return left(code, kBob, "webhook --signature " +
                                accounting::sign_webhook(key, body, std::time(nullptr)), body);
  }

  std::int64_t available(const std::string& fund) {
    const auto balance = world.dispatcher().ledger().balance(fund);
    return balance && *balance ? (*balance)->available.milli_gpu_s : 0;
  }

  test::Folder folder;
  World world;
  std::optional<Service> service;

 private:
  Caller caller_;
};

TEST_F(WalletCommands, AVoucherOfAnAdminIsGoodOnce) {
  const std::string code = voucher_by_admin();

  EXPECT_TRUE(left(0, kAda, "wallet topup --voucher " + code)
                  .has("user:ada got 2.000 GPU-h; it has 2.000 GPU-h available"));
  EXPECT_TRUE(left(0, kAda, "wallet topup --voucher " + code).has("got this voucher before"));
  const Said second = left(1, kBob, "--json wallet topup --voucher " + code);
  EXPECT_EQ(second.parsed().at("kind"), "refused");
  EXPECT_TRUE(second.has("was used before")) << second.text;
  EXPECT_EQ(available("user:ada"), 2 * kHour);
  EXPECT_EQ(available("user:bob"), 0);
}

TEST_F(WalletCommands, AVoucherThatIsForgedChangedExpiredOrAnothersIsRefused) {
  std::string changed = voucher_by_admin();
  changed.back() = changed.back() == '0' ? '1' : '0';
  std::string dearer = voucher_by_admin();
  dearer.replace(dearer.find(".7200000."), 9, ".9200000.");
  const std::string key = *secret_key(world.site.database + ".voucher_key");
  const std::string expired = *accounting::write_voucher({"old", {1'000}, 1, ""}, key);
  const std::string of_vision = voucher_by_admin("--fund group:vision --id for-vision");

  EXPECT_TRUE(left(1, kAda, "wallet topup --voucher " + changed).has("not made here"));
  EXPECT_TRUE(left(1, kAda, "wallet topup --voucher " + dearer).has("not made here"));
  EXPECT_TRUE(left(1, kAda, "wallet topup --voucher nonsense").has("begins with TYV1"));
  EXPECT_TRUE(left(1, kAda, "wallet topup --voucher " + expired).has("has expired"));
  EXPECT_TRUE(left(1, kBob, "wallet topup --voucher " + of_vision).has("is not yours"));
  EXPECT_TRUE(left(1, kAda, "wallet topup --fund user:ada --voucher " + of_vision)
                  .has("is for fund group:vision, not for user:ada"));
  EXPECT_EQ(available("user:ada"), 0);
  EXPECT_TRUE(left(0, kAda, "wallet topup --voucher " + of_vision).has("group:vision got 2.000"));
}

TEST_F(WalletCommands, VouchersAreMadeByAdminsAndNotOfNonsense) {
  EXPECT_TRUE(left(1, kAda, "admin voucher 1h").has("only an admin"));
  left(2, kAdmin, "admin voucher many");
  left(2, kAdmin, "admin voucher 1h --expires someday");
  EXPECT_TRUE(left(2, kAdmin, "admin voucher 1h --expires 2020-01-01").has("void already"));
  left(2, kAdmin, "admin voucher");
  const json made = left(0, kAdmin, "--json admin voucher 1h --id spring-1").parsed();
  EXPECT_EQ(made.at("id"), "spring-1");
  left(0, kAda, "wallet topup --voucher " + made.at("code").get<std::string>());
  EXPECT_TRUE(left(1, kAdmin, "admin voucher 1h --id spring-1").has("is used"));
}

TEST_F(WalletCommands, ATopUpIsByVoucherOrAsksWhatMoneyBuys) {
  EXPECT_TRUE(left(2, kAda, "wallet topup").has("Give --voucher CODE"));
  EXPECT_TRUE(left(2, kAda, "wallet topup 20 --voucher x").has("two ways to top up"));
  left(2, kAda, "wallet topup 20.555");
  EXPECT_TRUE(left(0, kAda, "wallet topup 20").has("hours are not sold here"));
  EXPECT_TRUE(left(0, kAda, "prices").has("hours are not sold here"));

  left(0, kAdmin, "admin price 0.50 EUR");

  EXPECT_TRUE(left(0, kAda, "wallet topup 20 --fund user:ada")
                  .has("20.00 EUR buy 40.000 GPU-h for user:ada"));
  EXPECT_EQ(left(0, kAda, "--json prices").parsed().at("now"), 50);
}

TEST_F(WalletCommands, APaymentMessageCountsOnceAndIsInTheReceipts) {
  EXPECT_TRUE(pay(3, "pay_0", 500).has("no price yet"));
  left(0, kAdmin, "admin price 0.50 EUR");

  EXPECT_EQ(pay(0, "pay_1", 500).parsed().at("was_known"), false);
  EXPECT_EQ(pay(0, "pay_1", 500).parsed().at("was_known"), true);
  EXPECT_TRUE(left(1, kBob, "webhook --signature t=1,v1=00", "{}").has("does not fit"));
  EXPECT_TRUE(left(1, kBob, "webhook --signature nonsense", "{}").has("is not \"t=SECONDS,v1=HEX\""));

  const json receipts = left(0, kAda, "--json wallet receipts").parsed();
  ASSERT_EQ(receipts.at("receipts").size(), 1u);
  EXPECT_EQ(receipts.at("receipts").at(0).at("reference"), "pay_1");
  EXPECT_TRUE(left(0, kAda, "wallet receipts").has("5.00 EUR"));
  EXPECT_TRUE(left(0, kAda, "wallet receipts --csv").has("receipt,time,fund"));
  EXPECT_TRUE(left(0, kAdmin, "admin receipts").has("pay_1"));
  EXPECT_FALSE(left(0, kBob, "wallet receipts").has("pay_1"));
  left(1, kBob, "wallet receipts --fund user:ada");
  left(1, kBob, "admin receipts");
}

TEST_F(WalletCommands, AWalletIsShownWithWhatItHas) {
  EXPECT_TRUE(left(1, kAda, "wallet show").has("nothing was ever granted to it"));
  left(0, kAda, "wallet topup --voucher " + voucher_by_admin());

  EXPECT_TRUE(left(0, kAda, "wallet show").has("available         2.000 GPU-h"));
  const json shown = left(0, kAda, "--json wallet show").parsed();
  EXPECT_EQ(shown.at("fund"), "user:ada");
  EXPECT_EQ(shown.at("available"), 2 * kHour);
  EXPECT_EQ(left(0, kAda, "--json statement").parsed().size(), 1u);
  left(1, kBob, "fund user:ada");
  left(2, kAda, "wallet");
}

TEST_F(WalletCommands, WithoutAServiceTheEnvironmentIsAtFault) {
  service.reset();

  const Said said = left(3, kAda, "--json wallet topup --voucher x");
  EXPECT_EQ(said.parsed().at("kind"), "environment");
  EXPECT_TRUE(said.has("Is trainyardd running?"));
}

}  // namespace
}  // namespace scheduler
