// SPDX-License-Identifier: GPL-3.0-or-later
//
// Money that goes back: refunds and chargebacks that are told twice, too early, too high, or after
// the hours were used.
#include <gtest/gtest.h>

#include "accounting/journal.h"
#include "accounting/take.h"
#include "accounting/till.h"
#include "accounting/webhook.h"
#include "books.h"

namespace accounting {
namespace {

constexpr UtcSeconds kNow = 1'795'507'200;

class Reversals : public testing::Test {
 protected:
  Reversals() { must(till.set_price({kNow - 1'000, "EUR", 100, "root"}, kNow - 1'000)); }
  void pay(const std::string& reference, std::int64_t minor) {
    ASSERT_EQ(must(till.pay({"webhook", reference, "user:ada", "EUR", minor, "", "webhook"}, kNow)).status,
              PayStatus::kPaid);
  }
  ReverseOutcome reverse(const std::string& id, std::int64_t minor,
                         const std::string& payment = "pay_1",
                         const std::string& kind = "refund") {
    return must(till.reverse({"webhook", id, kind, payment, "EUR", minor, "webhook"}, kNow));
  }
  FundBalance balance() { return *must(books.ledger.balance("user:ada")); }
  void spend(std::int64_t n) {
    const std::string id = "r" + std::to_string(++runs_) + "/0";
    ASSERT_EQ(must(books.ledger.hold({.id = id, .fund = "user:ada", .amount = hours(n), .run = "r",
                                      .actor = "ada"}, kNow)), HoldStatus::kHeld);
    ASSERT_EQ(must(books.ledger.charge({.id = id + "/c", .hold_id = id, .cluster = "alpha", .gpus = 1,
                                        .seconds = n * 3'600, .weight_milli = 1'000,
                                        .start = 0, .end = 0, .note = ""}, kNow)).status,
              ChargeStatus::kCharged);
    ASSERT_EQ(must(books.ledger.release(id, "", kNow)), ReleaseStatus::kReleased);
  }
  void TearDown() override {
    const auto faults = must(books.ledger.verify());
    EXPECT_TRUE(faults.empty()) << faults.front();
    // Granted, less what went back, is where it was before: used, held or available.
    EXPECT_EQ(balance().granted.milli_gpu_s - balance().charged.milli_gpu_s +
                  balance().owed.milli_gpu_s,
              balance().available.milli_gpu_s + balance().held.milli_gpu_s);
  }

  Books books;
  Till till = must(Till::open(books.db, books.ledger));
  int runs_ = 0;
};

TEST_F(Reversals, ARefundTakesBackWhatThePartBoughtAndCountsOnce) {
  pay("pay_1", 1'000);

  const auto outcome = reverse("re_1", 400);
  EXPECT_EQ(outcome.status, ReverseStatus::kReversed);
  EXPECT_EQ(outcome.amount, hours(4));
  EXPECT_EQ(outcome.due, Amount{});
  EXPECT_EQ(reverse("re_1", 400).status, ReverseStatus::kAlreadyReversed);
  EXPECT_EQ(reverse("re_1", 401).status, ReverseStatus::kExistsWithDifferentContent);
  EXPECT_EQ(reverse("re_1", 400, "pay_1", "chargeback").status,
            ReverseStatus::kExistsWithDifferentContent);

  EXPECT_EQ(balance().available, hours(6));
  EXPECT_EQ(balance().granted, hours(6));
  EXPECT_EQ(must(till.reversed_minor(must(till.receipts(""))[0])), 400);
}

TEST_F(Reversals, AllOfOnePaymentTogetherNeverExceedIt) {
  must(till.set_price({kNow - 500, "EUR", 7, "root"}, kNow - 500));  // Nothing divides evenly.
  pay("pay_1", 1'000);
  const Amount bought = balance().available;

  reverse("re_1", 333);
  reverse("re_2", 333);
  const auto last = reverse("dp_1", 1'000, "pay_1", "chargeback");
  EXPECT_EQ(last.minor, 334);
  EXPECT_EQ(last.beyond_minor, 666);
  EXPECT_EQ(reverse("dp_2", 5, "pay_1", "chargeback").amount, Amount{});

  EXPECT_EQ(balance().available, Amount{});
  EXPECT_EQ(balance().granted, Amount{});
  EXPECT_EQ(balance().owed, Amount{});
  EXPECT_GT(bought, Amount{});
  EXPECT_EQ(must(books.ledger.findings()).size(), 2u);
}

TEST_F(Reversals, WhatAChargebackLeavesDueIsPaidByTheNextTopUp) {
  pay("pay_1", 1'000);
  spend(8);

  const auto outcome = reverse("dp_1", 1'000, "pay_1", "chargeback");
  EXPECT_EQ(outcome.amount, hours(10));
  EXPECT_EQ(outcome.due, hours(8));
  EXPECT_EQ(balance().available, Amount{});
  EXPECT_EQ(balance().owed, hours(8));
  EXPECT_EQ(must(books.ledger.hold({.id = "r9/0", .fund = "user:ada", .amount = hours(1), .run = "r9",
                                    .actor = "ada"}, kNow)), HoldStatus::kInDebt);

  pay("pay_2", 1'000);
  EXPECT_EQ(balance().owed, Amount{});
  EXPECT_EQ(balance().available, hours(2));
  EXPECT_EQ(balance().charged, hours(8));
}

TEST_F(Reversals, WhatIsDueIsPaidAtOnceFromDatedHours) {
  Grant dated = grant_of("g1", "user:ada", hours(5));
  dated.expires = kNow + 1'000;
  pay("pay_1", 1'000);
  spend(10);
  ASSERT_EQ(must(books.ledger.grant(dated, kNow)), GrantStatus::kGranted);

  EXPECT_EQ(reverse("dp_1", 300, "pay_1", "chargeback").due, hours(3));
  EXPECT_EQ(balance().owed, Amount{});
  EXPECT_EQ(balance().available, hours(2));
}

TEST_F(Reversals, OneThatIsToldBeforeItsPaymentWaitsForIt) {
  EXPECT_EQ(reverse("re_1", 400).status, ReverseStatus::kWaits);
  EXPECT_EQ(reverse("re_1", 400).status, ReverseStatus::kAlreadyReversed);
  pay("pay_1", 1'000);
  EXPECT_EQ(balance().available, hours(6));
  EXPECT_EQ(reverse("re_1", 400).status, ReverseStatus::kAlreadyReversed);

  EXPECT_EQ(must(till.pay({"webhook", "pay_1", "user:ada", "EUR", 1'000, "", "webhook"}, kNow)).status,
            PayStatus::kAlreadyPaid);
  EXPECT_EQ(balance().available, hours(6));
}

TEST_F(Reversals, OfAnotherCurrencyOrMalformedChangesNothing) {
  pay("pay_1", 1'000);
  EXPECT_EQ(must(till.reverse({"webhook", "re_1", "refund", "pay_1", "USD", 5, "webhook"}, kNow)).status,
            ReverseStatus::kOtherCurrency);
  EXPECT_EQ(reverse("re_2", 0).status, ReverseStatus::kInvalid);
  EXPECT_EQ(reverse("re 3", 5).status, ReverseStatus::kInvalid);
  EXPECT_EQ(reverse("re_4", 5, "pay_1", "gift").status, ReverseStatus::kInvalid);
  EXPECT_EQ(balance().available, hours(10));
}

TEST_F(Reversals, StandInTheJournal) {
  pay("pay_1", 1'000);
  spend(8);
  reverse("dp_1", 1'000, "pay_1", "chargeback");

  const std::string journal = must(export_journal(books.db));
  EXPECT_NE(journal.find("take\n    ; id: reversal/webhook/dp_1\n"), std::string::npos) << journal;
  EXPECT_NE(journal.find("due\n    ; id: reversal/webhook/dp_1/due\n"), std::string::npos);
}

TEST_F(Reversals, TheDatabaseItselfRefusesToTakeMoreThanWasBought) {
  pay("pay_1", 100);
  pay("pay_2", 900);

  const auto taken = take(books.db, {.id = "t1", .fund = "user:ada", .amount = hours(2),
                                     .ref = "pay/webhook/pay_1", .actor = "x", .note = ""}, kNow);
  EXPECT_FALSE(taken);
  EXPECT_EQ(balance().available, hours(10));
}

TEST_F(Reversals, HoursForAThingAreTakenOnlyWhereTheyAreThere) {
  pay("pay_1", 500);
  Grant dated = grant_of("g1", "user:ada", hours(5));
  dated.expires = kNow + 1'000;
  ASSERT_EQ(must(books.ledger.grant(dated, kNow)), GrantStatus::kGranted);
  const Take five{.id = "t1", .fund = "user:ada", .amount = hours(5), .ref = "tier/pro",
                  .actor = "ada", .note = ""};
  Take six = five;
  six.amount = hours(6);

  EXPECT_EQ(must(take(books.db, six, kNow)).status, TakeStatus::kExceedsUndated);
  EXPECT_EQ(must(take(books.db, five, kNow)).status, TakeStatus::kTaken);
  EXPECT_EQ(must(take(books.db, five, kNow)).status, TakeStatus::kAlreadyTaken);
  EXPECT_EQ(must(take(books.db, six, kNow)).status, TakeStatus::kExistsWithDifferentContent);
  EXPECT_EQ(balance().available, hours(5));
}

TEST(ReversalMessages, NameTheirPaymentAndThemselves) {
  const std::string key = "0123456789abcdef0123456789abcdef";
  const auto read = [&](const std::string& body) {
    return read_webhook({body, sign_webhook(key, body, kNow)}, key, 300, kNow);
  };

  const auto good = read(R"({"id":"evt_2","type":"payment.charged_back","data":{"payment":"pay_1",)"
                         R"("reversal":"dp_1","currency":"EUR","amount_minor":500}})");
  ASSERT_TRUE(std::holds_alternative<PaymentEvent>(good));
  EXPECT_EQ(std::get<PaymentEvent>(good).reversal, "dp_1");
  EXPECT_EQ(std::get<PaymentEvent>(good).minor, 500);
  for (const char* body :
       {R"({"id":"e","type":"payment.refunded","data":{"payment":"p","currency":"EUR","amount_minor":5}})",
        R"({"id":"e","type":"payment.refunded","data":{"payment":"p","reversal":"r","currency":"EUR","amount_minor":-5}})",
        R"({"id":"e","type":"payment.refunded","data":{"payment":"p","reversal":"r","currency":"eur","amount_minor":5}})",
        R"({"id":"e","type":"payment.refunded"})"}) {
    SCOPED_TRACE(body);
    EXPECT_TRUE(std::holds_alternative<WebhookFault>(read(body)));
  }
}

}  // namespace
}  // namespace accounting
