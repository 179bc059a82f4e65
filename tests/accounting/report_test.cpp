// SPDX-License-Identifier: GPL-3.0-or-later
#include "accounting/report.h"

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>

#include "accounting/statement.h"
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
            "key,allocations,gpu_seconds,used_mgpus,refunded_mgpus,net_mgpus,gpus,seconds,weight_milli\n"
            "ada,2,21600,21600000,3600000,18000000,,,\n"
            "bob,1,3600,3600000,0,3600000,,,\n");
  EXPECT_EQ(nlohmann::json::parse(usage_json(rows)).at(0).at("net_mgpus"), 18'000'000);
}

TEST(Usage, AnAllocationHasTheFactorsOfItsCharge) {
  Used used;
  UsageFilter filter;
  filter.run = "r2";
  const auto rows = must(usage(used.db, filter, GroupBy::kAllocation));

  EXPECT_EQ(usage_csv(rows),
            "key,allocations,gpu_seconds,used_mgpus,refunded_mgpus,net_mgpus,gpus,seconds,weight_milli\n"
            "a/r2/0,1,7200,7200000,0,7200000,2,3600,1000\n");
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
