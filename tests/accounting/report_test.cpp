// SPDX-License-Identifier: GPL-3.0-or-later
#include "accounting/report.h"

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>

#include "accounting/statement.h"
#include "accounting/till.h"
#include "books.h"

namespace accounting {
namespace {

constexpr UtcSeconds kNow = 1'795'507'200;  // 2026-11-24T08:00:00Z
constexpr UtcSeconds kDay = 86'400;

// Ada: 4 GPU-hours of her own and 2 of the group's; Bob: 1 of the group's. One hour is refunded.
struct Used : Books {
  Used() {
    must(ledger.grant(grant_of("g1", "user:ada", hours(10)), kNow));
    must(ledger.grant(grant_of("g2", "group:vision", hours(100)), kNow));
    charge_run("r1", "user:ada", "ada", 4, kNow);
    charge_run("r2", "group:vision", "ada", 2, kNow + kDay);
    charge_run("r3", "group:vision", "bob", 1, kNow + 10 * kDay);
    must(ledger.refund({"a/r1/0/node", "a/r1/0", hours(1), "root", ""}, kNow));
  }
  void charge_run(const std::string& run, const std::string& fund, const std::string& user,
                  std::int64_t gpus, UtcSeconds start) {
    must(ledger.hold({.id = run + "/0", .fund = fund, .amount = hours(gpus), .run = run,
                      .actor = user}, start));
    Charge charge = charge_of("a/" + run + "/0", run + "/0", gpus, 3'600);
    charge.start = start;
    charge.end = start + 3'600;
    must(ledger.charge(charge, start + 3'600));
    must(ledger.release(run + "/0", "done", start + 3'600));
  }
  std::string keys(const UsageFilter& filter, GroupBy by) {
    std::string text;
    for (const UsageRow& row : must(usage(db, filter, by))) {
      text += row.key + "=" + std::to_string(row.used.milli_gpu_s / kGpuHour.milli_gpu_s) + "-" +
              std::to_string(row.refunded.milli_gpu_s / kGpuHour.milli_gpu_s) + " ";
    }
    return text;
  }
};

TEST(Usage, IsSummedByFundUserRunAndTime) {
  Used used;

  EXPECT_EQ(used.keys({}, GroupBy::kFund), "group:vision=3-0 user:ada=4-1 ");
  EXPECT_EQ(used.keys({}, GroupBy::kUser), "ada=6-1 bob=1-0 ");
  EXPECT_EQ(used.keys({}, GroupBy::kRun), "r1=4-1 r2=2-0 r3=1-0 ");
  EXPECT_EQ(used.keys({}, GroupBy::kDay), "2026-11-24=4-1 2026-11-25=2-0 2026-12-04=1-0 ");
  EXPECT_EQ(used.keys({}, GroupBy::kMonth), "2026-11=6-1 2026-12=1-0 ");
  EXPECT_EQ(must(usage(used.db, {}, GroupBy::kAllocation)).front().arithmetic,
            "4 GPU x 3600 s x 1.000");
}

TEST(Usage, TheSumOfAllRowsIsWhatTheUsageAccountsHold) {
  Used used;
  std::int64_t net = 0;
  for (const UsageRow& row : must(usage(used.db, {}, GroupBy::kRun))) {
    net += row.used.milli_gpu_s - row.refunded.milli_gpu_s;
  }
  EXPECT_EQ(net, used.count("SELECT sum(balance) FROM account WHERE kind = 'usage'"));
}

TEST(Usage, APeriodHasItsFirstInstantAndNotItsLast) {
  Used used;
  UsageFilter filter;
  filter.from = kNow + 3'600;
  filter.to = kNow + kDay + 3'600;
  EXPECT_EQ(used.keys(filter, GroupBy::kRun), "r1=4-1 ");
}

TEST(Usage, AUserSeesHisOwnRunsAndHisGroupsOnly) {
  Used used;
  UsageFilter bob;
  bob.is_limited = true;
  bob.viewer = "bob";
  bob.funds = {"user:bob"};
  EXPECT_EQ(used.keys(bob, GroupBy::kRun), "r3=1-0 ");
  bob.funds.push_back("group:vision");
  EXPECT_EQ(used.keys(bob, GroupBy::kRun), "r2=2-0 r3=1-0 ");
}

TEST(Usage, IsTheSameAsTextCsvAndJson) {
  Used used;
  const auto rows = must(usage(used.db, {}, GroupBy::kUser));

  EXPECT_EQ(usage_text(rows, "USER"),
            "USER   ALLOCATIONS         GPU-s    USED GPU-h      REFUNDED           NET\n"
            "ada              2         21600         6.000         1.000         5.000\n"
            "bob              1          3600         1.000         0.000         1.000\n"
            "total            3         25200         7.000         1.000         6.000\n");
  EXPECT_EQ(usage_csv(rows),
            "key,allocations,gpu_seconds,used_mgpus,refunded_mgpus,net_mgpus,gpus,seconds,"
            "weight_milli,cost_minor,currency\n"
            "ada,2,21600,21600000,3600000,18000000,,,,,\n"
            "bob,1,3600,3600000,0,3600000,,,,,\n");
  EXPECT_EQ(nlohmann::json::parse(usage_json(rows)).at(0).at("net_mgpus"), 18'000'000);
  EXPECT_FALSE(nlohmann::json::parse(usage_json(rows)).at(0).contains("cost_minor"));
}

// As in Used, and then hours have a price: 0.75 EUR, of a quote 1 EUR, later 2 EUR.
struct Priced : Used {
  Priced() : till(must(Till::open(db, ledger))) {
    const UtcSeconds start = kNow + 20 * kDay;
    must(till.set_price({start, "EUR", 75, "root"}, start));
    charge_run("r4", "user:ada", "ada", 2, start + 10);
    must(till.keep_quote({.id = "q1", .user = "bob", .fund = "group:vision", .type = "h100",
                          .gpus = 1, .weight_milli = 1'000, .hold = hours(3), .expected = hours(3),
                          .currency = "EUR", .price_minor = 100, .made = start,
                          .expires = start + 900, .run = ""}));
    must(till.set_price({start + 20, "EUR", 200, "root"}, start + 20));
    must(ledger.hold({.id = "r5/0", .fund = "group:vision", .amount = hours(3), .run = "r5",
                      .actor = "bob", .quote = "q1"}, start + 30));
    Charge charge = charge_of("a/r5/0", "r5/0", 3, 3'600);
    charge.start = start + 30;
    charge.end = start + 3'630;
    must(ledger.charge(charge, start + 3'630));
    must(ledger.release("r5/0", "done", start + 3'630));
    // A third of a GPU-second less than an hour is left: 75 cents are 74.999... rounded up.
    must(ledger.refund({"a/r4/0/x", "a/r4/0", {3'600'333}, "root", ""}, start + 4'000));
  }
  Till till;
};

TEST(Usage, CostsWhatAStatementSays) {
  Priced priced;
  const auto rows = must(usage(priced.db, {}, GroupBy::kRun));

  EXPECT_EQ(usage_csv(rows),
            "key,allocations,gpu_seconds,used_mgpus,refunded_mgpus,net_mgpus,gpus,seconds,"
            "weight_milli,cost_minor,currency\n"
            "r1,1,14400,14400000,3600000,10800000,,,,,\n"
            "r2,1,7200,7200000,0,7200000,,,,,\n"
            "r3,1,3600,3600000,0,3600000,,,,,\n"
            "r4,1,7200,7200000,3600333,3599667,,,,75,EUR\n"
            "r5,1,10800,10800000,0,10800000,,,,300,EUR\n");
  const auto array = nlohmann::json::parse(usage_json(rows));
  EXPECT_FALSE(array.at(2).contains("currency"));
  EXPECT_EQ(array.at(4).at("cost_minor"), 300);
  EXPECT_EQ(array.at(4).at("currency"), "EUR");
  auto lines = must(priced.ledger.lines("", ""));
  must(add_costs(priced.db, lines));
  std::int64_t stated = 0;
  for (const StatementLine& line : lines) stated += line.cost_minor.value_or(0);
  EXPECT_EQ(stated, 375);
}

TEST(Usage, ItsTextHasACostWhereThereIsAPrice) {
  Priced priced;
  UsageFilter filter;
  filter.from = kNow + 20 * kDay;

  EXPECT_EQ(usage_text(must(usage(priced.db, filter, GroupBy::kFund)), "FUND"),
            "FUND          ALLOCATIONS         GPU-s    USED GPU-h      REFUNDED   "
            "        NET          COST\n"
            "group:vision            1         10800         3.000         0.000   "
            "      3.000      3.00 EUR\n"
            "user:ada                1          7200         2.000         1.000   "
            "      1.000      0.75 EUR\n"
            "total                   2         18000         5.000         1.000   "
            "      4.000      3.75 EUR\n");
  filter.run = "r4";
  EXPECT_EQ(usage_text(must(usage(priced.db, filter, GroupBy::kAllocation)), "ALLOCATION"),
            "ALLOCATION  ALLOCATIONS         GPU-s    USED GPU-h      REFUNDED     "
            "      NET          COST\n"
            "a/r4/0                1          7200         2.000         1.000         1.000      "
            "0.75 EUR  2 GPU x 3600 s x 1.000\n"
            "total                 1          7200         2.000         1.000     "
            "    1.000      0.75 EUR\n");
}

TEST(BurnDown, SaysWhatIsLeftAndUsedInMoney) {
  Priced priced;
  const UtcSeconds now = kNow + 21 * kDay;

  const auto burns = must(burn_down(priced.db, priced.ledger, 10, now));

  ASSERT_EQ(burns.size(), 2u);
  EXPECT_EQ(burns[0].currency, "EUR");
  EXPECT_EQ(burns[0].available_minor, 94 * 200);  // By the price now ...
  EXPECT_EQ(burns[0].used_cost_minor, 300);       // ... and by the price then.
  EXPECT_EQ(burns[1].used_cost_minor, 75);
  const auto before = must(burn_down(priced.db, priced.ledger, 10, kNow + 19 * kDay));
  EXPECT_FALSE(before[0].available_minor) << "no price was in force";
}

TEST(BurnDown, CreditThatIsUsedIsBelowZeroInMoney) {
  Priced priced;
  must(priced.ledger.set({"s1", "user:ada", "credit_limit", "36000000", 0, "root", ""},
                         kNow + 22 * kDay));
  const Amount available = must(priced.ledger.balance("user:ada"))->available;
  must(priced.ledger.hold(
      hold_of("r6/0", "user:ada", {available.milli_gpu_s + hours(2).milli_gpu_s}),
      kNow + 22 * kDay));

  const auto burns = must(burn_down(priced.db, priced.ledger, 10, kNow + 22 * kDay));

  EXPECT_EQ(burns[1].available, Amount{-hours(2).milli_gpu_s});
  EXPECT_EQ(burns[1].available_minor, -400);
}

TEST(Usage, AnAllocationHasTheFactorsOfItsCharge) {
  Used used;
  UsageFilter filter;
  filter.run = "r2";
  const auto rows = must(usage(used.db, filter, GroupBy::kAllocation));

  EXPECT_EQ(usage_csv(rows),
            "key,allocations,gpu_seconds,used_mgpus,refunded_mgpus,net_mgpus,gpus,seconds,"
            "weight_milli,cost_minor,currency\n"
            "a/r2/0,1,7200,7200000,0,7200000,2,3600,1000,,\n");
  EXPECT_EQ(nlohmann::json::parse(usage_json(rows)).at(0).at("seconds"), 3'600);
}

TEST(BurnDown, SaysHowManyDaysAreLeftAtTheRateOfTheLastDays) {
  Used used;

  const auto burns = must(burn_down(used.db, used.ledger, 10, kNow + 10 * kDay + 3'600));

  ASSERT_EQ(burns.size(), 2u);
  EXPECT_EQ(burns[0].fund, "group:vision");
  EXPECT_EQ(burns[0].used, hours(3));
  EXPECT_EQ(burns[0].days_left, 97 * 10 / 3);
  EXPECT_EQ(burns[1].used, hours(3));  // The refund counts.
}

TEST(OnDemand, HasALineForEachWalletAndEachMemberOfAGroup) {
  Used used;

  const auto file = nlohmann::json::parse(ondemand_balances(
      must(used.ledger.balances()),
      [](const std::string& group) {
        return group == "vision" ? std::vector<std::string>{"ada", "bob"}
                                 : std::vector<std::string>{};
      },
      kNow));

  EXPECT_EQ(file.at("version"), 1);
  EXPECT_EQ(file.at("timestamp"), kNow);
  EXPECT_EQ(file.at("config").at("unit"), "GPU-h");
  EXPECT_EQ(file.at("balances"),
            nlohmann::json::parse(R"([{"user":"ada","project":"vision","value":97},
                                      {"user":"bob","project":"vision","value":97},
                                      {"user":"ada","value":7}])"));
}

TEST(Prometheus, HasEveryFundInEveryMetric) {
  Used used;
  must(used.ledger.grant(grant_of("g3", "user:cy", {1'500}), kNow));

  const std::string text = prometheus_text(must(used.ledger.balances()));

  for (const char* line :
       {"# TYPE trainyard_fund_available_gpu_seconds gauge\n",
        "trainyard_fund_available_gpu_seconds{fund=\"user:ada\"} 25200.000\n",
        "trainyard_fund_charged_gpu_seconds{fund=\"group:vision\"} 10800.000\n",
        "trainyard_fund_granted_gpu_seconds{fund=\"user:cy\"} 1.500\n"}) {
    EXPECT_NE(text.find(line), std::string::npos) << line << text;
  }
}

std::set<std::string> metrics_in(const std::string& text) {
  const std::regex name("trainyard_[a-z_]+");
  return {std::sregex_token_iterator(text.begin(), text.end(), name), {}};
}

TEST(Prometheus, HasTheMetricsOfItsPageAndNoOthers) {
  std::ifstream file(TRAINYARD_REPORTS_FORMAT);
  const std::string page{std::istreambuf_iterator<char>(file), {}};
  ASSERT_FALSE(page.empty());
  Used used;

  const auto printed = metrics_in(prometheus_text(must(used.ledger.balances())));

  EXPECT_FALSE(printed.empty());
  EXPECT_EQ(printed, metrics_in(page));
}

TEST(Usage, HasTheCsvColumnsOfItsPage) {
  std::ifstream file(TRAINYARD_REPORTS_FORMAT);
  const std::string page{std::istreambuf_iterator<char>(file), {}};
  EXPECT_NE(page.find("\n" + usage_csv({})), std::string::npos);
  EXPECT_NE(page.find("\n" + statement_csv({})), std::string::npos);
}

}  // namespace
}  // namespace accounting
