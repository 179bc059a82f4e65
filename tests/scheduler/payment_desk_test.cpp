// SPDX-License-Identifier: GPL-3.0-or-later
//
// What is handed in at the till: a provider that the till has never heard of is served as vouchers
// and payment messages are.
#include "scheduler/payment_desk.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "accounting/webhook.h"
#include "files.h"
#include "scheduler/secret_key.h"
#include "world.h"

namespace scheduler {
namespace {

using accounting::GivenHours;
using accounting::NotTaken;
using accounting::PaymentEvent;
using nlohmann::json;

constexpr std::int64_t kHour = 3'600'000;

// "CARD hours NAME": so many GPU-hours. "CARD money NAME": 500 cents for ada's wallet.
class Cards final : public accounting::PaymentProvider {
 public:
  [[nodiscard]] std::string name() const override { return "card"; }
  [[nodiscard]] accounting::Told read(const accounting::Claim& claim, UtcSeconds) const override {
    const std::string code(claim.body);
    if (!code.starts_with("CARD ")) return NotTaken{NotTaken::Why::kNotMine, "this is no card"};
    if (code == "CARD stolen") return NotTaken{NotTaken::Why::kRefused, "this card was stolen"};
    if (code == "CARD blank") return NotTaken{NotTaken::Why::kUnreadable, "this card is blank"};
    const std::string name = code.substr(11);
    if (code.starts_with("CARD hours ")) return GivenHours{name, {kHour}, ""};
    return PaymentEvent{.id = name, .type = "payment.succeeded", .payment = name, .reversal = "",
                        .fund = "user:ada", .currency = "EUR", .minor = 500, .quote = ""};
  }
};

class PaymentDesk : public testing::Test {
 protected:
  void SetUp() override {
    world.site.database = (folder.path() / "books.db").string();
    auto opened = accounting::Till::open(world.database, world.dispatcher().ledger());
    ASSERT_TRUE(opened);
    till.emplace(std::move(*opened));
    ASSERT_TRUE(till->set_price({0, "EUR", 100, "root"}, 0));
    auto codes = payment_providers(world.site, Way::kCode);
    ASSERT_TRUE(codes) << codes.error().message;
    providers = std::move(*codes);
    providers.push_back(std::make_unique<Cards>());
  }
  void TearDown() override { world.expect_books_are_right(); }

  json hand_in(const std::string& code, const Caller& caller = kAda) {
    return answer_claim(world.dispatcher(), *till, providers, caller,
                        {.body = code, .signature = {}}, "", world.cluster.now);
  }
  std::string refusal(const std::string& code) {
    const json answer = hand_in(code);
    return answer.at("ok").get<bool>() ? "it was taken"
                                       : answer.at("messages").at(0).get<std::string>();
  }

  test::Folder folder;
  World world;
  std::optional<accounting::Till> till;
  Providers providers;
};

TEST_F(PaymentDesk, HoursOfAnyProviderCountOnce) {
  const json first = hand_in("CARD hours c1"), again = hand_in("CARD hours c1");

  EXPECT_FALSE(first.at("result").at("was_known").get<bool>());
  EXPECT_TRUE(again.at("result").at("was_known").get<bool>());
  EXPECT_EQ(hand_in("CARD hours c1", kBob).at("messages").at(0), "card c1 was used before");
  EXPECT_EQ(world.balance().available.milli_gpu_s, kHour);
  EXPECT_TRUE(*till->was_given("card", "c1"));
  EXPECT_FALSE(*till->was_given("voucher", "c1"));
}

TEST_F(PaymentDesk, MoneyOfAnyProviderHasAReceiptOfItsName) {
  const json first = hand_in("CARD money m1"), again = hand_in("CARD money m1");

  EXPECT_EQ(first.at("result").at("provider"), "card");
  EXPECT_EQ(first.at("result").at("grant"), "pay/card/m1");
  EXPECT_TRUE(again.at("result").at("was_known").get<bool>());
  EXPECT_EQ(world.balance().available.milli_gpu_s, 5 * kHour);
}

TEST_F(PaymentDesk, WhoKnowsTheFormAnswersAndTheFirstWhereNobodyDoes) {
  EXPECT_EQ(refusal("CARD stolen"), "this card was stolen");
  EXPECT_NE(refusal("neither").find("A voucher begins with TYV1"), std::string::npos);
  EXPECT_EQ(refusal("CARD blank"), "this card is blank");
  const auto findings = world.dispatcher().ledger().findings();
  ASSERT_TRUE(findings);
  ASSERT_FALSE(findings->empty());
  EXPECT_EQ(findings->back().subject, "pay/card");
}

TEST_F(PaymentDesk, APaymentMessageIsNoCodeAndACodeNoMessage) {
  const auto messages = payment_providers(world.site, Way::kMessage);
  ASSERT_TRUE(messages);
  const std::string key = *secret_key(provider_key_path(world.site, "webhook"));
  const std::string body =
      R"({"id":"e","type":"payment.succeeded","data":{"payment":"p","fund":"user:ada",)"
      R"("currency":"EUR","amount_minor":500}})";
  const std::string signature = accounting::sign_webhook(key, body, world.cluster.now);

  EXPECT_NE(refusal(body), "it was taken");
  const json card = answer_claim(world.dispatcher(), *till, *messages, kAda,
                                 {.body = "CARD hours c1", .signature = signature}, "",
                                 world.cluster.now);
  EXPECT_FALSE(card.at("ok").get<bool>());
  const json paid = answer_claim(world.dispatcher(), *till, *messages, kAda,
                                 {.body = body, .signature = signature}, "", world.cluster.now);
  EXPECT_TRUE(paid.at("ok").get<bool>()) << paid.dump();
}

TEST_F(PaymentDesk, EachProviderOfTheServiceHasANameOfItsOwn) {
  std::set<std::string> names;
  std::size_t count = 0;
  for (const Way way : {Way::kCode, Way::kMessage}) {
    const auto found = payment_providers(world.site, way);
    ASSERT_TRUE(found);
    for (const auto& provider : *found) names.insert(provider->name());
    count += found->size();
  }

  EXPECT_EQ(names.size(), count);
  EXPECT_TRUE(names.contains("voucher") && names.contains("webhook"));
}

}  // namespace
}  // namespace scheduler
