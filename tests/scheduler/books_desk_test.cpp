// SPDX-License-Identifier: GPL-3.0-or-later
//
// What people ask of the books, as the service hears it: rights first, then rules, money, reports.
#include "scheduler/books_desk.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>

#include "accounting/till.h"
#include "accounting/webhook.h"
#include "fake_cluster.h"
#include "scheduler/fund_tables.h"
#include "scheduler/restore.h"
#include "scheduler/secret_key.h"
#include "scheduler/service.h"

namespace scheduler {
namespace {

using nlohmann::json;

constexpr std::int64_t kHour = 3'600'000;

const Caller kAda{1000, "ada", {"vision"}, false};
const Caller kBob{1001, "bob", {}, false};
const Caller kAdmin{900, "root", {}, true};

class BooksDesk : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "books_desk_XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
    site.path = "site.toml";
    site.database = name + "/books.db";
    site.default_type = "h100";
    InstanceType type;
    type.name = "h100";
    type.partition = "gpu";
    type.gres = "gpu:h100";
    type.nodes = 2;
    type.gpus_per_node = 2;
    type.images_per_s = 10;
    type.startup_s = 30;
    type.weights = {{0, 1000}};
    site.types = {type};
    database.emplace(std::move(*accounting::Database::open(site.database)));
    dispatcher.emplace(std::move(*Dispatcher::open(site, *database, cluster)));
    ASSERT_TRUE(dispatcher->tick(cluster.now));
  }
  void TearDown() override {
    dispatcher.reset();
    database.reset();
    std::filesystem::remove_all(folder_);
  }

  json ask(const Caller& caller, const json& request) {
    return answer_request(*dispatcher, site, caller, request, cluster.now);
  }
  json done(const Caller& caller, const json& request) {
    const json answer = ask(caller, request);
    EXPECT_TRUE(answer.at("ok").get<bool>()) << request.dump() << answer.dump();
    return answer.value("result", json());
  }
  std::string refusal(const Caller& caller, const json& request) {
    const json answer = ask(caller, request);
    if (answer.at("ok").get<bool>()) return "it was done";
    return answer.at("messages").at(0);
  }
  void grant(const std::string& fund, std::int64_t hours) {
    done(kAdmin, {{"verb", "grant"}, {"id", "g" + std::to_string(++grants_)}, {"fund", fund},
                  {"amount", hours * kHour}});
  }
  std::int64_t available(const std::string& fund) {
    return done(kAdmin, {{"verb", "fund"}, {"fund", fund}}).at("available").get<std::int64_t>() / kHour;
  }
  json set(const std::string& fund, const std::string& name, const json& value) {
    return {{"verb", "set"}, {"id", "s" + std::to_string(++grants_)}, {"fund", fund},
            {"name", name},  {"value", value}};
  }
  // Two GPUs for 600 s and the margin of 90 s.
  json admit(const std::string& run, const std::string& fund = "", const std::string& quote = "") {
    TrainingRequest asked;
    asked.args.data = "/data/data.yaml";
    asked.args.epochs = 10;
    asked.resources.gpus = 2;
    asked.resources.time_limit_s = 600;
    asked.resources.fund = fund;
    json request = {{"verb", "admit"},      {"run", run},        {"segment", 0},
                    {"run_dir", "/r/" + run}, {"request", asked}, {"train_images", 100},
                    {"val_images", 20}};
    if (!quote.empty()) request["quote"] = quote;
    return request;
  }
  json quote(const std::string& id) {
    json request = admit("unused");
    request["verb"] = "quote";
    request["id"] = id;
    return request;
  }
  json webhook(const std::string& payment, std::int64_t minor, const std::string& quote_id = "") {
    const json body = {{"id", "evt"},
                       {"type", "payment.succeeded"},
                       {"data",
                        {{"payment", payment},
                         {"fund", "user:ada"},
                         {"currency", "EUR"},
                         {"amount_minor", minor},
                         {"quote", quote_id}}}};
    const std::string key = *secret_key(site.database + ".webhook_key");
    return {{"verb", "webhook"}, {"body", body.dump()},
            {"signature", accounting::sign_webhook(key, body.dump(), cluster.now)}};
  }
  void expect_books_are_right() {
    const auto faults = dispatcher->ledger().verify();
    ASSERT_TRUE(faults);
    EXPECT_TRUE(faults->empty()) << faults->front();
  }

  Site site;
  FakeCluster cluster;
  std::optional<accounting::Database> database;
  std::optional<Dispatcher> dispatcher;

 private:
  std::filesystem::path folder_;
  int grants_ = 0;
};

TEST_F(BooksDesk, OnlyAnAdminChangesTheBooks) {
  grant("user:ada", 10);

  for (const json& request :
       {set("user:ada", "credit_limit", "1000"), set("group:vision", "cap/ada", "1000"),
        json{{"verb", "refund"}, {"charge", "a/1/0"}, {"reason", "x"}},
        json{{"verb", "price_set"}, {"currency", "EUR"}, {"minor", 74}},
        json{{"verb", "voucher_make"}, {"id", "v"}, {"amount", kHour}},
        json{{"verb", "export"}, {"what", "journal"}}, json{{"verb", "acts"}},
        json{{"verb", "backup"}, {"path", "/tmp/x"}}, json{{"verb", "receipts"}, {"fund", ""}},
        json{{"verb", "grant"}, {"id", "g"}, {"fund", "user:ada"}, {"amount", kHour}}}) {
    SCOPED_TRACE(request.dump());
    EXPECT_NE(refusal(kAda, request).find("admin"), std::string::npos) << refusal(kAda, request);
  }
  EXPECT_EQ(available("user:ada"), 10);
}

TEST_F(BooksDesk, TheJournalIsWrittenInTheFormatThatIsAskedFor) {
  grant("user:ada", 10);
  const json journal = {{"verb", "export"}, {"what", "journal"}};
  const auto in = [&journal](const std::string& format) {
    json request = journal;
    request["format"] = format;
    return request;
  };

  EXPECT_EQ(done(kAdmin, journal), done(kAdmin, in("hledger")));
  EXPECT_NE(done(kAdmin, in("beancount")).at("body").get<std::string>().find(
                " open Assets:Fund:User-ada  MGPUS\n"),
            std::string::npos);
  EXPECT_NE(refusal(kAdmin, in("ledger")).find("none of hledger, beancount"), std::string::npos);
  EXPECT_NE(refusal(kAdmin, {{"verb", "export"}, {"what", "ondemand"}, {"format", "beancount"}})
                .find("has one form only"),
            std::string::npos);
}

TEST_F(BooksDesk, AUserSeesHisOwnBooksAndHisGroupsOnly) {
  grant("user:ada", 10);
  grant("group:vision", 20);

  EXPECT_EQ(done(kAda, {{"verb", "fund"}, {"fund", "group:vision"}}).at("fund"), "group:vision");
  for (const char* fund : {"user:ada", "group:vision"}) {
    EXPECT_NE(refusal(kBob, {{"verb", "fund"}, {"fund", fund}}).find("not yours"), std::string::npos);
    EXPECT_NE(refusal(kBob, {{"verb", "receipts"}, {"fund", fund}}).find("not yours"),
              std::string::npos);
    EXPECT_NE(refusal(kBob, {{"verb", "statement"}, {"fund", fund}}).find("not yours"),
              std::string::npos);
  }
  EXPECT_TRUE(done(kBob, {{"verb", "burn_down"}}).at("funds").empty());
  EXPECT_EQ(done(kAda, {{"verb", "burn_down"}}).at("funds").size(), 2u);
  done(kAda, admit("adasrun", "user:ada"));
  EXPECT_NE(refusal(kBob, {{"verb", "show"}, {"run", "adasrun"}}).find("belongs to ada"),
            std::string::npos);
  EXPECT_NE(refusal(kBob, admit("bobsrun", "group:vision")).find("not bob's to spend"),
            std::string::npos);
}

TEST_F(BooksDesk, ARefusalByARuleHasItsNumbers) {
  grant("group:vision", 20);
  done(kAdmin, set("group:vision", "cap/ada", std::to_string(kHour / 10)));
  EXPECT_EQ(refusal(kAda, admit("runone", "group:vision")),
            "ada may use 0.100 GPU-h of fund group:vision and has 0.000 GPU-h in use; this needs "
            "0.383 GPU-h more. Ask an admin for a larger cap, or use another --fund.");

  done(kAdmin, set("group:vision", "cap/ada", nullptr));
  done(kAdmin, set("group:vision", "gpus_max", "3"));
  done(kAda, admit("runone", "group:vision"));
  EXPECT_NE(refusal(kAda, admit("runtwo", "group:vision")).find("may have 3 GPUs at once"),
            std::string::npos);
  done(kAdmin, set("group:vision", "gpus_max", nullptr));
  done(kAdmin, set("group:vision", "runs_max", "1"));
  EXPECT_NE(refusal(kAda, admit("runtwo", "group:vision")).find("may have 1 runs at once"),
            std::string::npos);
  done(kAdmin, set("group:vision", "closed", "1"));
  EXPECT_NE(refusal(kAda, admit("runtwo", "group:vision")).find("is closed"), std::string::npos);
  expect_books_are_right();
}

TEST_F(BooksDesk, ADefaultFundPaysWhereNoneIsNamed) {
  grant("group:vision", 20);
  EXPECT_NE(refusal(kAda, admit("runone")).find("user:ada has no GPU-hours"), std::string::npos);

  done(kAda, set("user:ada", "default_fund", "group:vision"));
  EXPECT_EQ(done(kAda, admit("runone")).at("plan").at("fund"), "group:vision");
  EXPECT_NE(refusal(kBob, set("user:ada", "default_fund", "user:bob")).find("admin"),
            std::string::npos);
}

TEST_F(BooksDesk, AVoucherIsGoodOnce) {
  const std::string code =
      done(kAdmin, {{"verb", "voucher_make"}, {"id", "v1"}, {"amount", 5 * kHour}}).at("code");

  EXPECT_FALSE(done(kAda, {{"verb", "voucher_use"}, {"code", code}}).at("was_known"));
  EXPECT_TRUE(done(kAda, {{"verb", "voucher_use"}, {"code", code}}).at("was_known"));
  EXPECT_EQ(refusal(kBob, {{"verb", "voucher_use"}, {"code", code}}), "voucher v1 was used before");
  EXPECT_EQ(available("user:ada"), 5);
  std::string changed = code;
  changed[8] = changed[8] == '9' ? '8' : '9';
  EXPECT_NE(refusal(kBob, {{"verb", "voucher_use"}, {"code", changed}}), "it was done");
  const std::string bound =
      done(kAdmin, {{"verb", "voucher_make"}, {"id", "v2"}, {"amount", kHour}, {"fund", "group:vision"}})
          .at("code");
  EXPECT_NE(refusal(kBob, {{"verb", "voucher_use"}, {"code", bound}}).find("not yours"),
            std::string::npos);
  EXPECT_EQ(done(kAdmin, {{"verb", "acts"}}).at("acts").size(), 2u);
}

TEST_F(BooksDesk, APaymentMessageCountsOnceAndAForgedOneNever) {
  EXPECT_NE(refusal(kBob, webhook("pay_1", 740)).find("no price"), std::string::npos);
  done(kAdmin, {{"verb", "price_set"}, {"currency", "EUR"}, {"minor", 74}});

  EXPECT_FALSE(done(kBob, webhook("pay_1", 740)).at("was_known"));
  EXPECT_TRUE(done(kBob, webhook("pay_1", 740)).at("was_known"));
  EXPECT_NE(refusal(kBob, webhook("pay_1", 741)).find("told before"), std::string::npos);
  json forged = webhook("pay_2", 740);
  forged["body"] = forged["body"].get<std::string>() + " ";
  EXPECT_NE(refusal(kBob, forged).find("does not fit"), std::string::npos);
  const json late = webhook("pay_3", 740);
  cluster.now += site.webhook_window_s + 1;
  EXPECT_NE(refusal(kBob, late).find("too long ago"), std::string::npos);

  EXPECT_EQ(available("user:ada"), 10);
  const json receipts = done(kAda, {{"verb", "receipts"}});
  EXPECT_EQ(receipts.at("receipts").size(), 1u);
  EXPECT_NE(receipts_csv(receipts).find("Z,user:ada,740,0,EUR,74,36000000,"), std::string::npos);
  expect_books_are_right();
}

TEST_F(BooksDesk, ARunIsHeldByItsQuoteWhateverTheSiteSaysMeanwhile) {
  grant("user:ada", 10);
  const json quoted = done(kAda, quote("quoteone"));
  EXPECT_EQ(quoted.at("hold"), 2 * 690 * 1000);
  site.types[0].weights = {{0, 3000}};

  EXPECT_EQ(done(kAda, admit("runone")).at("plan").at("quote").at("weight_milli"), 3000);
  const json plan = done(kAda, admit("runtwo", "", "quoteone")).at("plan");
  EXPECT_EQ(plan.at("quote").at("weight_milli"), 1000);
  EXPECT_EQ(plan.at("quote").at("hold_milli_gpu_s"), 2 * 690 * 1000);
  EXPECT_TRUE(done(kAda, admit("runtwo", "", "quoteone")).at("was_known"));
  EXPECT_EQ(refusal(kAda, admit("runthree", "", "quoteone")), "quote quoteone was used by run runtwo");
  EXPECT_EQ(refusal(kAda, admit("runfour", "", "nosuch")), "quote nosuch is not known");
  done(kAda, quote("quotetwo"));
  json larger = admit("runfive", "", "quotetwo");
  larger["request"]["resources"]["time_limit"] = "1200s";
  EXPECT_NE(refusal(kAda, larger).find("is for at most"), std::string::npos);
  cluster.now += site.quote_valid_s + 1;
  EXPECT_NE(refusal(kAda, admit("runsix", "", "quotetwo")).find("expired"), std::string::npos);
  expect_books_are_right();
}

TEST_F(BooksDesk, AQuoteIsKeptAlsoWhereRunsWereMeasuredToTakeLongerSince) {
  grant("user:ada", 100);
  json asked = quote("quoteone");
  asked["request"]["resources"].erase("time_limit");
  const json quoted = done(kAda, asked);
  site.types[0].images_per_s /= 4;

  json run = admit("runone", "", "quoteone");
  run["request"]["resources"].erase("time_limit");
  const json plan = done(kAda, run).at("plan");
  EXPECT_LE(plan.at("quote").at("hold_milli_gpu_s"), quoted.at("hold"));
  EXPECT_GT(plan.at("time_limit_s"), 0);
  EXPECT_EQ(done(kAda, {{"verb", "fund"}}).at("held"), plan.at("quote").at("hold_milli_gpu_s"));
  expect_books_are_right();
}

TEST_F(BooksDesk, PayNowKeepsExactlyTheQuotedHoursForItsRun) {
  done(kAdmin, {{"verb", "price_set"}, {"currency", "EUR"}, {"minor", 3600}});
  const json quoted = done(kAda, quote("quoteone"));
  EXPECT_EQ(quoted.at("cost_minor"), 2 * 690 * 3600 / 3600);

  done(kAda, webhook("pay_1", quoted.at("cost_minor"), "quoteone"));
  json fund = done(kAda, {{"verb", "fund"}});
  EXPECT_EQ(fund.at("available"), 0);
  EXPECT_EQ(fund.at("held"), quoted.at("hold"));
  EXPECT_NE(refusal(kAda, admit("another")), "it was done");  // Kept from other runs.
  done(kAda, admit("runone", "", "quoteone"));
  fund = done(kAda, {{"verb", "fund"}});
  EXPECT_EQ(fund.at("held"), quoted.at("hold"));
  EXPECT_EQ(fund.at("available"), 0);

  // One that is paid for and never run comes back to the wallet when it expires.
  const json second = done(kAda, quote("quotetwo"));
  done(kAda, webhook("pay_2", second.at("cost_minor"), "quotetwo"));
  cluster.now += site.quote_valid_s + 1;
  ASSERT_TRUE(turn_books(*dispatcher, site, cluster.now));
  EXPECT_EQ(done(kAda, {{"verb", "fund"}}).at("available"), second.at("hold"));
  expect_books_are_right();
}

TEST_F(BooksDesk, AChargebackOfAPayNowGivesItsHoursBackAndLeavesWhatWasUsedDue) {
  done(kAdmin, {{"verb", "price_set"}, {"currency", "EUR"}, {"minor", 3600}});
  const json quoted = done(kAda, quote("quoteone"));
  done(kAda, webhook("pay_1", quoted.at("cost_minor"), "quoteone"));
  const auto told = [&](const std::string& type, const std::string& reversal, std::int64_t minor) {
    const json body = {{"id", "evt"}, {"type", type},
                       {"data", {{"payment", "pay_1"}, {"reversal", reversal}, {"currency", "EUR"},
                                 {"amount_minor", minor}}}};
    const std::string key = *secret_key(site.database + ".webhook_key");
    return json{{"verb", "webhook"}, {"body", body.dump()},
                {"signature", accounting::sign_webhook(key, body.dump(), cluster.now)}};
  };

  const std::int64_t cost = quoted.at("cost_minor");
  const json refund = done(kBob, told("payment.refunded", "re_1", 180));
  EXPECT_EQ(refund.at("amount"), 180 * 1000);
  EXPECT_EQ(refund.at("due"), 0);
  EXPECT_TRUE(done(kBob, told("payment.refunded", "re_1", 180)).at("was_known"));
  const json chargeback = done(kBob, told("payment.charged_back", "dp_1", cost));
  EXPECT_EQ(chargeback.at("beyond_minor"), 180);
  const json fund = done(kAda, {{"verb", "fund"}});
  EXPECT_EQ(fund.at("available"), 0);
  EXPECT_EQ(fund.at("held"), 0);
  EXPECT_EQ(fund.at("owed"), 0);
  EXPECT_EQ(done(kAda, {{"verb", "receipts"}}).at("receipts").at(0).at("reversed_minor"), cost);
  expect_books_are_right();
}

TEST_F(BooksDesk, ARefusedRunLeavesItsQuoteUnused) {
  grant("user:ada", 10);
  done(kAda, quote("quoteone"));
  done(kAdmin, set("user:ada", "closed", "1"));
  EXPECT_NE(refusal(kAda, admit("runone", "", "quoteone")).find("is closed"), std::string::npos);
  done(kAdmin, set("user:ada", "closed", nullptr));

  done(kAda, admit("runtwo", "", "quoteone"));
}

TEST_F(BooksDesk, ATierBindsNewRunsAndGivesItsAllowanceOnceAMonth) {
  Tier free{.name = "free", .is_default = true, .max_gpus = 1, .max_nodes = {}, .max_runs = 1,
            .max_time_s = {}, .types = {}, .monthly_grant = {2 * kHour}, .line = 9};
  Tier pro{.name = "pro", .is_default = false, .max_gpus = 4, .max_nodes = {}, .max_runs = {},
           .max_time_s = {}, .types = {"h100"}, .monthly_grant = {5 * kHour}, .line = 14};
  site.tiers = {free, pro};
  grant("user:ada", 1);

  ASSERT_TRUE(turn_books(*dispatcher, site, cluster.now));
  ASSERT_TRUE(turn_books(*dispatcher, site, cluster.now + 10));
  EXPECT_EQ(available("user:ada"), 3);
  // A user who was never seen has it when he first asks.
  json small = admit("bobsrun");
  small["request"]["resources"]["gpus"] = 1;
  EXPECT_EQ(done(kBob, small).at("was_known"), false);
  EXPECT_NE(refusal(kAda, admit("runone")).find("gpus = 2 exceeds the 1 of tier free (site.toml:9)"),
            std::string::npos);
  done(kAdmin, set("user:ada", "tier", "pro"));
  done(kAda, admit("runone"));
  EXPECT_EQ(done(kAda, {{"verb", "fund"}}).at("tier").at("name"), "pro");
  // The next month: what is left of the first allowance is gone, the new tier's is there.
  const std::int64_t month = 31 * 86'400;
  ASSERT_TRUE(turn_books(*dispatcher, site, cluster.now + month));
  EXPECT_EQ(done(kAda, {{"verb", "fund"}}).at("expired").get<std::int64_t>(), 2 * kHour - 2 * 690'000);
  EXPECT_EQ(done(kAda, {{"verb", "fund"}}).at("granted"), 8 * kHour);
  expect_books_are_right();
}

TEST_F(BooksDesk, ABackupIsABookOfItsOwnThatIsRight) {
  grant("user:ada", 10);
  const std::string copy = site.database + ".copy";

  const json made = done(kAdmin, {{"verb", "backup"}, {"path", copy}});
  grant("user:ada", 5);

  auto db = accounting::Database::open(copy);
  ASSERT_TRUE(db);
  auto ledger = accounting::Ledger::open(*db);
  ASSERT_TRUE(ledger);
  EXPECT_TRUE(ledger->verify()->empty());
  EXPECT_EQ((*ledger->balance("user:ada"))->available.milli_gpu_s, 10 * kHour);
  EXPECT_EQ(ledger->head()->hash, made.at("hash").get<std::string>());
  EXPECT_NE(refusal(kAdmin, {{"verb", "backup"}, {"path", site.database}}), "it was done");
  EXPECT_NE(refusal(kAdmin, {{"verb", "backup"}, {"path", "relative"}}), "it was done");
}

TEST_F(BooksDesk, ACopyIsRestoredOnlyWhereItIsRight) {
  grant("user:ada", 10);
  const std::string copy = site.database + ".copy";
  done(kAdmin, {{"verb", "backup"}, {"path", copy}});
  grant("user:ada", 5);
  dispatcher.reset();
  database.reset();

  ASSERT_TRUE(restore_books(site.database, copy, "carol", 77));
  database.emplace(std::move(*accounting::Database::open(site.database)));
  dispatcher.emplace(std::move(*Dispatcher::open(site, *database, cluster)));
  EXPECT_EQ(available("user:ada"), 10);
  EXPECT_TRUE(std::filesystem::exists(site.database + ".replaced.77"));
  EXPECT_EQ(dispatcher->ledger().findings()->size(), 1u);
  const json act = done(kAdmin, {{"verb", "acts"}}).at("acts").back();
  EXPECT_EQ(act.at("actor"), "carol");
  EXPECT_EQ(act.at("act"), "restore");

  std::fstream damaged(copy, std::ios::in | std::ios::out | std::ios::binary);
  damaged.seekp(static_cast<std::streamoff>(std::filesystem::file_size(copy) / 2));
  damaged << std::string(5'000, 'x');
  damaged.close();
  EXPECT_FALSE(restore_books(site.database, copy, "carol", 78));
  EXPECT_FALSE(restore_books(site.database, site.database, "carol", 78));
  EXPECT_FALSE(restore_books(site.database, site.database + ".nothing", "carol", 78));
  EXPECT_FALSE(std::filesystem::exists(site.database + ".replaced.78"));
  EXPECT_EQ(available("user:ada"), 10);
}

std::string content_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

TEST_F(BooksDesk, ARestoreThatCannotWriteLeavesTheBooksAsTheyStood) {
  grant("user:ada", 10);
  const std::string copy = site.database + ".copy";
  done(kAdmin, {{"verb", "backup"}, {"path", copy}});
  grant("user:ada", 5);
  dispatcher.reset();
  database.reset();

  // As a full disk: no file may grow beyond a part of the copy.
  rlimit limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &limit), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{std::filesystem::file_size(copy) / 2, limit.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const auto restored = restore_books(site.database, copy, "carol", 77);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
  std::signal(SIGXFSZ, handler);

  ASSERT_FALSE(restored);
  EXPECT_NE(restored.error().message.find(".restoring"), std::string::npos)
      << restored.error().message;
  for (const char* ending : {".replaced.77", ".restoring", ".restored"}) {
    EXPECT_FALSE(std::filesystem::exists(site.database + ending)) << ending;
  }
  EXPECT_FALSE(cut_off_restore(site.database));
  ASSERT_TRUE(std::filesystem::exists(site.database));
  database.emplace(std::move(*accounting::Database::open(site.database)));
  dispatcher.emplace(std::move(*Dispatcher::open(site, *database, cluster)));
  EXPECT_EQ(available("user:ada"), 15);
}

TEST_F(BooksDesk, ACopyIsOnlyRead) {
  grant("user:ada", 10);
  const std::string shelf = site.database + ".shelf", copy = shelf + "/copy.db";
  std::filesystem::create_directory(shelf);
  done(kAdmin, {{"verb", "backup"}, {"path", copy}});
  {  // Opening it as books would change it: they are kept with a write-ahead log.
    auto db = accounting::Database::open(copy);
    ASSERT_TRUE(db);
    ASSERT_TRUE(db->query("PRAGMA journal_mode=DELETE", {}, [](const accounting::Row&) {}));
  }
  const std::string before = content_of(copy);
  std::filesystem::permissions(copy, std::filesystem::perms::owner_read);
  std::filesystem::permissions(shelf, std::filesystem::perms::owner_read |
                                          std::filesystem::perms::owner_exec);
  dispatcher.reset();
  database.reset();
  std::filesystem::remove(site.database);

  const auto restored = restore_books(site.database, copy, "carol", 77);
  std::filesystem::permissions(shelf, std::filesystem::perms::owner_all);
  ASSERT_TRUE(restored) << restored.error().message;
  EXPECT_EQ(content_of(copy), before);
  const std::filesystem::directory_iterator files(shelf);
  EXPECT_EQ(std::distance(begin(files), end(files)), 1);
  EXPECT_FALSE(std::filesystem::exists(site.database + "-wal"));
  database.emplace(std::move(*accounting::Database::open(site.database)));
  dispatcher.emplace(std::move(*Dispatcher::open(site, *database, cluster)));
  EXPECT_EQ(available("user:ada"), 10);
}

TEST_F(BooksDesk, ARestoreThatWasKilledIsToldAndRunAgain) {
  grant("user:ada", 10);
  const std::string copy = site.database + ".copy";
  done(kAdmin, {{"verb", "backup"}, {"path", copy}});
  dispatcher.reset();
  database.reset();

  // As it is left between putting the old books aside and the new ones into their place.
  std::filesystem::copy_file(copy, site.database + ".restored");
  std::filesystem::rename(site.database, site.database + ".replaced.77");
  EXPECT_NE(cut_off_restore(site.database).value_or("").find("--restore again"), std::string::npos);
  ASSERT_TRUE(restore_books(site.database, copy, "carol", 78));
  EXPECT_FALSE(cut_off_restore(site.database));
  database.emplace(std::move(*accounting::Database::open(site.database)));
  dispatcher.emplace(std::move(*Dispatcher::open(site, *database, cluster)));
  EXPECT_EQ(available("user:ada"), 10);
}

TEST_F(BooksDesk, ARunKeepsThePriceOfTheDayOnWhichItWasAdmitted) {
  grant("user:ada", 10);
  const json free = done(kAda, admit("freerun")).at("plan").at("quote");
  EXPECT_FALSE(free.contains("price_minor"));
  done(kAdmin, {{"verb", "price_set"}, {"currency", "EUR"}, {"minor", 74}});
  const std::string id = done(kAda, quote("quoteone")).at("quote");
  EXPECT_EQ(done(kAda, admit("pricedrun")).at("plan").at("quote").at("price_minor"), 74);
  cluster.now += 10;
  done(kAdmin, {{"verb", "price_set"}, {"currency", "EUR"}, {"minor", 148}});

  const json shown = done(kAda, {{"verb", "show"}, {"run", "pricedrun"}});
  EXPECT_EQ(shown.at("segments").at(0).at("plan").at("quote").at("price_minor"), 74);
  EXPECT_EQ(shown.at("segments").at(0).at("plan").at("quote").at("currency"), "EUR");
  const json quoted = done(kAda, admit("quotedrun", "", id)).at("plan").at("quote");
  EXPECT_EQ(quoted.at("price_minor"), 74);
  EXPECT_EQ(done(kAda, admit("laterrun")).at("plan").at("quote").at("price_minor"), 148);
}

TEST_F(BooksDesk, ADefaultFundIsOneThatItsUserMaySpendAndIsToldToHim) {
  EXPECT_FALSE(done(kAda, {{"verb", "hello"}}).contains("default_fund"));
  EXPECT_NE(refusal(kAda, set("user:ada", "default_fund", "foo")).find("not the name of a fund"),
            std::string::npos);
  EXPECT_NE(refusal(kAdmin, set("user:ada", "default_fund", "foo")).find("not the name of a fund"),
            std::string::npos);
  EXPECT_NE(refusal(kAda, set("user:ada", "default_fund", "group:other")).find("not ada's to spend"),
            std::string::npos);
  EXPECT_NE(refusal(kAda, set("user:ada", "default_fund", "user:bob")).find("not ada's to spend"),
            std::string::npos);
  done(kAda, set("user:ada", "default_fund", "group:vision"));
  EXPECT_EQ(done(kAda, {{"verb", "hello"}}).at("default_fund"), "group:vision");
  const auto head = dispatcher->ledger().head();
  EXPECT_EQ(done(kAda, set("user:ada", "default_fund", "group:vision")).at("was_known"), true);
  EXPECT_EQ(dispatcher->ledger().head()->seq, head->seq);  // Said again it posts nothing.
  done(kAda, set("user:ada", "default_fund", nullptr));
  EXPECT_FALSE(done(kAda, {{"verb", "hello"}}).contains("default_fund"));
}

TEST_F(BooksDesk, FundsThatAreNearlySpentAreToldOnce) {
  grant("user:ada", 1);
  ASSERT_TRUE(dispatcher->ledger().hold({"h/0", "user:ada", {9 * kHour / 10}, "h", "ada"}, cluster.now));

  EXPECT_EQ(*turn_books(*dispatcher, site, cluster.now),
            std::vector<std::string>{
                "fund user:ada has used or set aside 80 % of its 1.000 GPU-h: 0.100 GPU-h are left"});
  EXPECT_TRUE(turn_books(*dispatcher, site, cluster.now)->empty());
}

TEST_F(BooksDesk, AKeyThatOthersMayReadIsRefused) {
  const std::string path = site.database + ".key";
  const auto made = secret_key(path);
  ASSERT_TRUE(made);
  EXPECT_EQ(made->size(), 64u);
  EXPECT_EQ(*secret_key(path), *made);
  std::filesystem::permissions(path, std::filesystem::perms::others_read,
                               std::filesystem::perm_options::add);
  EXPECT_FALSE(secret_key(path));
  const std::string shortened = site.database + ".short";
  std::ofstream(shortened) << "abc\n";
  std::filesystem::permissions(shortened, std::filesystem::perms::owner_read);
  EXPECT_FALSE(secret_key(shortened));
}

TEST_F(BooksDesk, NoQuestionOfTheTillHidesThatItsRowsWereUnguarded) {
  done(kAdmin, {{"verb", "price_set"}, {"currency", "EUR"}, {"minor", 74}});
  ASSERT_TRUE(database->execute_script("DROP TRIGGER price_no_update;"));

  done(kAda, {{"verb", "prices"}});

  const auto faults = dispatcher->ledger().verify();
  ASSERT_TRUE(faults);
  ASSERT_EQ(faults->size(), 1u);
  EXPECT_EQ(faults->front(), "schema: the trigger price_no_update is missing.");
}

TEST_F(BooksDesk, WhatIsMalformedIsABadRequest) {
  for (const json& request :
       {json{{"verb", "set"}}, json{{"verb", "webhook"}, {"body", 5}, {"signature", "x"}},
        json{{"verb", "usage"}, {"by", "colour"}}, json{{"verb", "burn_down"}, {"days", 0}},
        json{{"verb", "usage"}, {"from", "x"}}, json{{"verb", "nothing"}}}) {
    SCOPED_TRACE(request.dump());
    EXPECT_EQ(ask(kAdmin, request).value("kind", ""), "bad_request");
  }
}

}  // namespace
}  // namespace scheduler
