// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/fund_tables.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "accounting/tariff.h"
#include "scheduler/service.h"
#include "scheduler/text_file.h"
#include "world.h"

namespace scheduler {
namespace {

using nlohmann::json;

constexpr std::int64_t kHour = 3'600'000;

// What an admin's question comes to.
json answer(World& world, const json& request) {
  const json got = answer_request(world.dispatcher(), world.site, kAdmin, request, world.cluster.now);
  EXPECT_TRUE(got.at("ok").get<bool>()) << got.dump();
  return got.at("result");
}

std::string page() {
  const auto text = read_text_file(std::string(TRAINYARD_SOURCE_DIR) + "/docs/formats/reports.md");
  EXPECT_TRUE(text) << text.error().message;
  return text.value_or("");
}

TEST(FundTables, HaveTheColumnsOfTheirPage) {
  const json none = {{"funds", json::array()}, {"receipts", json::array()}};
  for (const std::string& columns : {funds_csv(none), burn_down_csv(none), receipts_csv(none)}) {
    EXPECT_EQ(std::count(columns.begin(), columns.end(), '\n'), 1);
    EXPECT_NE(page().find("\n" + columns), std::string::npos) << columns;
  }
}

TEST(FundTables, HaveALineForEachFund) {
  World world;
  answer(world, {{"verb", "grant"}, {"id", "g1"}, {"fund", "group:vision"}, {"amount", 10 * kHour}});
  answer(world, {{"verb", "grant"},
                 {"id", "g2"},
                 {"fund", "user:ada"},
                 {"amount", 2 * kHour},
                 {"expires", world.cluster.now + 86'400}});
  const std::string expiry = accounting::format_utc(world.cluster.now + 86'400);

  EXPECT_EQ(funds_csv(answer(world, {{"verb", "funds"}})),
            "fund,available_mgpus,held_mgpus,charged_mgpus,granted_mgpus,later_mgpus,expired_mgpus,"
            "owed_mgpus,credit_limit_mgpus\n"
            "group:vision,36000000,0,0,36000000,0,0,0,0\n"
            "user:ada,7200000,0,0,7200000,0,0,0,0\n");
  EXPECT_EQ(burn_down_csv(answer(world, {{"verb", "burn_down"}, {"days", 7}})),
            "fund,available_mgpus,used_mgpus,days,days_left,next_expiry,available_minor,"
            "used_cost_minor,currency\n"
            "group:vision,36000000,0,7,,,,,\n"
            "user:ada,7200000,0,7,," + expiry + ",,,\n");
}

TEST(FundTables, SayMoneyWhereHoursHaveAPrice) {
  World world;
  answer(world, {{"verb", "grant"}, {"id", "g1"}, {"fund", "user:ada"}, {"amount", 10 * kHour}});
  const json burn_down = {{"verb", "burn_down"}, {"days", 7}};
  EXPECT_EQ(burn_down_text(answer(world, burn_down)),
            "FUND                              AVAILABLE               USED  DAYS LEFT  NEXT EXPIRY\n"
            "user:ada                       10.000 GPU-h        0.000 GPU-h          -  -\n");

  answer(world, {{"verb", "price_set"}, {"currency", "EUR"}, {"minor", 74}});

  EXPECT_EQ(burn_down_text(answer(world, burn_down)),
            "FUND                              AVAILABLE               USED        WORTH NOW        "
            "USED COST  DAYS LEFT  NEXT EXPIRY\n"
            "user:ada                       10.000 GPU-h        0.000 GPU-h         7.40 EUR        "
            "                   -  -\n");
  EXPECT_EQ(burn_down_csv(answer(world, burn_down)),
            "fund,available_mgpus,used_mgpus,days,days_left,next_expiry,available_minor,"
            "used_cost_minor,currency\n"
            "user:ada,36000000,0,7,,,740,,EUR\n");
}

TEST(FundTables, QuoteWhatAPaymentServiceWrote) {
  const json receipt = {{"receipt", 3},        {"time", 1'795'507'200}, {"fund", "user:ada"},
                        {"provider", "shop"},  {"reference", "a,\"b\""}, {"currency", "EUR"},
                        {"minor", 740},        {"price_minor", 74},     {"amount", 10 * kHour},
                        {"quote", ""},         {"grant", "pay/shop/1"}, {"reversed_minor", 40}};

  EXPECT_EQ(receipts_csv({{"receipts", {receipt}}}),
            "receipt,time,fund,paid_minor,reversed_minor,currency,price_minor,amount_mgpus,provider,"
            "reference,quote,grant\n"
            "3,2026-11-24T08:00:00Z,user:ada,740,40,EUR,74,36000000,shop,\"a,\"\"b\"\"\",,pay/shop/1\n");
}

}  // namespace
}  // namespace scheduler
