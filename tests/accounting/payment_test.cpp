// SPDX-License-Identifier: GPL-3.0-or-later
//
// Money: vouchers that are used once, payment messages that are forged, old, doubled or out of
// order, receipts, prices by date, quotes.
#include <gtest/gtest.h>

#include <fstream>
#include <random>
#include <vector>

#include "accounting/till.h"
#include "accounting/voucher.h"
#include "accounting/webhook.h"
#include "books.h"

namespace accounting {
namespace {

constexpr UtcSeconds kNow = 1'795'507'200;
constexpr std::string_view kKey = "0123456789abcdef0123456789abcdef";

struct Shop {
  Books books;
  Till till = must(Till::open(books.db, books.ledger));

  Shop() { must(till.set_price({kNow - 1'000, "EUR", 74, "root"}, kNow - 1'000)); }
  PayOutcome pay(const std::string& reference, std::int64_t minor, const std::string& quote = "") {
    return must(till.pay({"webhook", reference, "user:ada", "EUR", minor, quote, "webhook"}, kNow));
  }
  Amount available() {
    const auto balance = must(books.ledger.balance("user:ada"));
    return balance ? balance->available : Amount{0};
  }
};

std::string body_of(const std::string& payment, std::int64_t minor) {
  return R"({"id":"evt_1","type":"payment.succeeded","data":{"payment":")" + payment +
         R"(","fund":"user:ada","currency":"EUR","amount_minor":)" + std::to_string(minor) + "}}";
}

std::variant<PaymentEvent, WebhookFault> read_signed(std::string_view signature,
                                                     std::string_view body, UtcSeconds now) {
  return read_webhook({body, signature}, kKey, 300, now);
}

TEST(Voucher, IsReadAsItWasWritten) {
  const std::vector<std::string> funds{"", "user:ada", "group:vision-2.x_y"};
  for (const std::string& fund : funds) {
    const Voucher voucher{.id = "spring-26", .amount = hours(10), .expires = kNow + 1, .fund = fund};
    const auto code = write_voucher(voucher, kKey);
    ASSERT_TRUE(code);

    const auto read = read_voucher("  " + *code + "\n", kKey, kNow);

    ASSERT_TRUE(std::holds_alternative<Voucher>(read)) << *code;
    EXPECT_EQ(std::get<Voucher>(read).id, voucher.id);
    EXPECT_EQ(std::get<Voucher>(read).amount, voucher.amount);
    EXPECT_EQ(std::get<Voucher>(read).fund, fund);
    EXPECT_EQ(std::get<VoucherFault>(read_voucher(*code, kKey, kNow + 1)), VoucherFault::kExpired);
    EXPECT_EQ(std::get<VoucherFault>(read_voucher(*code, "another key", kNow)),
              VoucherFault::kForged);
  }
}

TEST(Voucher, IsNotMadeOfWhatTheFormatDoesNotAllow) {
  EXPECT_FALSE(write_voucher({"a.b", hours(1), 0, ""}, kKey));
  EXPECT_FALSE(write_voucher({"", hours(1), 0, ""}, kKey));
  EXPECT_FALSE(write_voucher({"a", {0}, 0, ""}, kKey));
  EXPECT_FALSE(write_voucher({"a", hours(1), -1, ""}, kKey));
  EXPECT_FALSE(write_voucher({"a", hours(1), 0, "vision"}, kKey));
  EXPECT_FALSE(write_voucher({"a", hours(1), 0, ""}, ""));
}

TEST(Voucher, AnyChangeOfACharacterIsRefused) {
  const std::string code = *write_voucher({"v1", hours(10), kNow + 1, "user:ada"}, kKey);

  for (std::size_t i = 0; i < code.size(); ++i) {
    for (const char c : {'0', '9', 'a', '.', '~', ' '}) {
      std::string changed = code;
      changed[i] = c;
      if (changed == code || (c == ' ' && (i == 0 || i + 1 == code.size()))) continue;
      SCOPED_TRACE(changed);
      ASSERT_TRUE(std::holds_alternative<VoucherFault>(read_voucher(changed, kKey, kNow)));
    }
    ASSERT_TRUE(std::holds_alternative<VoucherFault>(read_voucher(code.substr(0, i), kKey, kNow)));
  }
}

TEST(Webhook, IsReadAsItWasSigned) {
  const std::string body = body_of("pay_1", 2'000);

  const auto read = read_signed(sign_webhook(kKey, body, kNow - 300), body, kNow);

  ASSERT_TRUE(std::holds_alternative<PaymentEvent>(read));
  EXPECT_EQ(std::get<PaymentEvent>(read).payment, "pay_1");
  EXPECT_EQ(std::get<PaymentEvent>(read).minor, 2'000);
  // A second signature stands beside ours while a key is changed.
  const std::string header = sign_webhook(kKey, body, kNow) + ",v1=0000,v0=zzz";
  EXPECT_TRUE(std::holds_alternative<PaymentEvent>(read_signed(header, body, kNow)));
}

TEST(Webhook, WhatIsForgedOldOrMalformedIsNamed) {
  const std::string body = body_of("pay_1", 2'000);
  const std::string header = sign_webhook(kKey, body, kNow);
  const auto fault = [&](const std::string& head, const std::string& text, UtcSeconds now) {
    const auto read = read_signed(head, text, now);
    return std::holds_alternative<WebhookFault>(read) ? std::optional(std::get<WebhookFault>(read))
                                                      : std::nullopt;
  };

  EXPECT_EQ(fault(header, body_of("pay_1", 2'001), kNow), WebhookFault::kForged);
  EXPECT_EQ(fault(sign_webhook("another", body, kNow), body, kNow), WebhookFault::kForged);
  EXPECT_EQ(fault("t=" + std::to_string(kNow + 1) + header.substr(header.find(',')), body, kNow),
            WebhookFault::kForged);
  EXPECT_EQ(fault(header, body, kNow + 301), WebhookFault::kOutsideWindow);
  EXPECT_EQ(fault(header, body, kNow - 301), WebhookFault::kOutsideWindow);
  const std::vector<std::string> bad_headers{
      "", "t=", "v1=00", "t=1", "t=x,v1=00", "t=1,t=2,v1=00", "t=-1,v1=0",
      "t=99999999999999999999,v1=0", ","};
  for (const std::string& bad : bad_headers) {
    SCOPED_TRACE(bad);
    EXPECT_EQ(fault(bad, body, kNow), WebhookFault::kMalformedHeader);
  }
  const std::vector<std::string> bad_bodies{
      "", "[]", "{", body_of("pay_1", 0), body_of("pay_1", -5), body_of("pay 1", 5), body_of("", 5),
      R"({"id":"e","type":"payment.succeeded","data":{"amount_minor":1e300}})",
      R"({"id":"e","type":"payment.succeeded","data":[1]})",
      R"({"id":5,"type":"payment.succeeded"})"};
  for (const std::string& bad : bad_bodies) {
    SCOPED_TRACE(bad);
    EXPECT_EQ(fault(sign_webhook(kKey, bad, kNow), bad, kNow), WebhookFault::kMalformedBody);
  }
}

TEST(Till, APaymentCountsOnceHoweverOftenItIsTold) {
  Shop shop;

  const PayOutcome first = shop.pay("pay_1", 7'400);
  const PayOutcome again = shop.pay("pay_1", 7'400);
  const PayOutcome other = shop.pay("pay_1", 7'401);

  EXPECT_EQ(first.status, PayStatus::kPaid);
  EXPECT_EQ(first.receipt.amount, hours(100));
  EXPECT_EQ(again.status, PayStatus::kAlreadyPaid);
  EXPECT_EQ(again.receipt.number, 1);
  EXPECT_EQ(other.status, PayStatus::kExistsWithDifferentContent);
  EXPECT_EQ(shop.available(), hours(100));
  EXPECT_EQ(must(shop.till.receipts("user:ada")).size(), 1u);
  EXPECT_EQ(must(shop.books.ledger.verify()), std::vector<std::string>{});
}

TEST(Till, ADebtIsPaidByTheNextPayment) {
  Shop shop;
  must(shop.books.ledger.grant(grant_of("g1", "user:ada", hours(1)), kNow));
  must(shop.books.ledger.hold(hold_of("r1/1", "user:ada", hours(1)), kNow));
  Charge charge = charge_of("a/1/0", "r1/1", 1, 3 * 3'600);
  charge.excess = Excess::kFundOwes;
  must(shop.books.ledger.charge(charge, kNow));
  ASSERT_EQ(must(shop.books.ledger.balance("user:ada"))->owed, hours(2));

  shop.pay("pay_1", 222);

  EXPECT_EQ(must(shop.books.ledger.balance("user:ada"))->owed, Amount{0});
  EXPECT_EQ(shop.available(), hours(1));
}

TEST(Till, WhatIsNoPaymentIsRefusedAndLeavesNoReceipt) {
  Shop shop;
  const auto status = [&shop](Payment payment) { return must(shop.till.pay(payment, kNow)).status; };
  const Payment sound{"webhook", "p", "user:ada", "EUR", 100, "", "webhook"};

  Payment payment = sound;
  payment.currency = "USD";
  EXPECT_EQ(status(payment), PayStatus::kOtherCurrency);
  payment = sound;
  payment.minor = 0;
  EXPECT_EQ(status(payment), PayStatus::kInvalid);
  payment = sound;
  payment.fund = "ada";
  EXPECT_EQ(status(payment), PayStatus::kInvalid);
  payment = sound;
  payment.minor = std::numeric_limits<std::int64_t>::max();
  EXPECT_EQ(status(payment), PayStatus::kInvalid);
  EXPECT_TRUE(must(shop.till.receipts("")).empty());

  Books bare;
  Till empty = must(Till::open(bare.db, bare.ledger));
  EXPECT_EQ(must(empty.pay(sound, kNow)).status, PayStatus::kNoPrice);
}

TEST(Till, PricesHaveTheirDaysAndOneCurrency) {
  Shop shop;
  must(shop.till.set_price({kNow + 100, "EUR", 80, "root"}, kNow));

  EXPECT_FALSE(must(shop.till.price_at(kNow - 1'001)));
  EXPECT_EQ(must(shop.till.price_at(kNow))->minor, 74);
  EXPECT_EQ(must(shop.till.price_at(kNow + 100))->minor, 80);
  EXPECT_FALSE(shop.till.set_price({kNow, "USD", 80, "root"}, kNow));
  EXPECT_EQ(must(shop.till.prices()).size(), 2u);
}

TEST(Till, AQuoteKeepsItsPriceUntilItExpiresAndServesOneRun) {
  Shop shop;
  const Quote quote{.id = "q1", .user = "ada", .fund = "user:ada", .type = "h100", .gpus = 2,
                    .weight_milli = 1'000, .hold = hours(10), .expected = hours(8),
                    .currency = "EUR", .price_minor = 74, .made = kNow, .expires = kNow + 50,
                    .run = ""};
  must(shop.till.keep_quote(quote));
  must(shop.till.keep_quote(quote));
  must(shop.till.set_price({kNow, "EUR", 148, "root"}, kNow));

  EXPECT_EQ(shop.pay("pay_1", 740, "q1").receipt.amount, hours(10));
  EXPECT_EQ(shop.pay("pay_2", 740).receipt.amount, hours(5));
  const auto late = must(shop.till.pay({"webhook", "pay_3", "user:ada", "EUR", 740, "q1", ""},
                                       kNow + 50));
  EXPECT_EQ(late.receipt.amount, hours(5));
  EXPECT_TRUE(must(shop.till.use_quote("q1", "run1")));
  EXPECT_TRUE(must(shop.till.use_quote("q1", "run1")));
  EXPECT_FALSE(must(shop.till.use_quote("q1", "run2")));
  EXPECT_EQ(must(shop.till.quote("q1"))->run, "run1");
  Quote changed = quote;
  changed.hold = hours(11);
  EXPECT_FALSE(shop.till.keep_quote(changed));
}

Quote kept_quote(const std::string& id, std::int64_t price_minor) {
  return {.id = id, .user = "ada", .fund = "user:ada", .type = "h100", .gpus = 2,
          .weight_milli = 1'000, .hold = hours(10), .expected = hours(8), .currency = "EUR",
          .price_minor = price_minor, .made = kNow, .expires = kNow + 50, .run = ""};
}

TEST(Till, AQuotesPriceIsForTheFirstPaymentUpToItsCostAndNoMore) {
  Shop shop;
  must(shop.till.keep_quote(kept_quote("q1", 74)));
  must(shop.till.keep_quote(kept_quote("q2", 74)));
  must(shop.till.keep_quote(kept_quote("q3", 74)));
  must(shop.till.set_price({kNow, "EUR", 148, "root"}, kNow));

  // 7.40 EUR are ten hours of the quote; what is beyond buys by today's price.
  const Receipt beyond = shop.pay("pay_1", 740 + 1'480, "q1").receipt;
  EXPECT_EQ(beyond.amount, hours(20));
  EXPECT_EQ(beyond.price_minor, 74);
  EXPECT_EQ(hours_of_part(beyond, 1'110), hours(10));
  EXPECT_EQ(hours_of_part(beyond, 2'220), hours(20));
  EXPECT_EQ(shop.pay("pay_2", 740, "q1").receipt.amount, hours(5));
  const Payment of_others{"webhook", "pay_3", "group:other", "EUR", 740, "q2", "webhook"};
  EXPECT_EQ(must(shop.till.pay(of_others, kNow)).receipt.amount, hours(5));
  // A payment of another fund did not use it up.
  EXPECT_EQ(shop.pay("pay_4", 740, "q2").receipt.amount, hours(10));
  ASSERT_TRUE(must(shop.till.use_quote("q3", "run1")));
  EXPECT_EQ(shop.pay("pay_5", 740, "q3").receipt.amount, hours(5));
  // One that went back as a whole leaves the quote to be paid.
  const Quote q2 = *must(shop.till.quote("q2"));
  EXPECT_EQ(must(shop.till.paid_for(q2)), hours(10));
  must(shop.till.reverse({"webhook", "re_1", "refund", "pay_4", "EUR", 740, "webhook"}, kNow));
  EXPECT_EQ(must(shop.till.paid_for(q2)), Amount{0});
  EXPECT_EQ(shop.pay("pay_6", 740, "q2").receipt.amount, hours(10));
  EXPECT_EQ(must(shop.books.ledger.verify()), std::vector<std::string>{});
}

TEST(Till, APriceThatWouldNeverCountIsRefusedWithBothDates) {
  Shop shop;

  const auto set = shop.till.set_price({kNow - 86'400, "EUR", 99, "root"}, kNow);

  ASSERT_FALSE(set);
  EXPECT_NE(set.error().message.find("from 2026-11-23T08:00:00Z would never count"),
            std::string::npos) << set.error().message;
  EXPECT_NE(set.error().message.find("0.74 EUR from 2026-11-24T07:43:20Z"), std::string::npos)
      << set.error().message;
  EXPECT_EQ(must(shop.till.prices()).size(), 1u);
}

TEST(Till, ACurrencyWithoutHundredthsHasNoPrice) {
  for (const char* currency : {"JPY", "KWD", "KRW", "CLF"}) {
    Books books;
    Till till = must(Till::open(books.db, books.ledger));
    const auto set = till.set_price({kNow, currency, 500, "root"}, kNow);
    ASSERT_FALSE(set) << currency;
    EXPECT_NE(set.error().message.find("has no hundredths"), std::string::npos);
  }
  EXPECT_TRUE(has_hundredths("EUR") && has_hundredths("USD") && has_hundredths("CHF"));
  EXPECT_EQ(format_money(2'000, "JPY"), "2000 smallest units of JPY");
}

TEST(Till, WhatWasWrittenDownStays) {
  Shop shop;
  shop.pay("pay_1", 7'400);
  must(shop.till.record({kNow, "root", "backup", "/backups/books.db"}));

  for (const char* sql : {"UPDATE receipt SET minor = 1", "DELETE FROM receipt",
                          "DELETE FROM price", "UPDATE admin_act SET actor = 'eve'"}) {
    SCOPED_TRACE(sql);
    EXPECT_FALSE(shop.books.db.run(sql, {}));
  }
  EXPECT_EQ(must(shop.till.acts()).size(), 1u);
}

TEST(Money, IsExact) {
  EXPECT_EQ(cost_minor(hours(100), 74), 7'400);
  EXPECT_EQ(cost_minor({1}, 74), 1);  // Up to a whole cent.
  EXPECT_EQ(hours_for(7'400, 74), hours(100));
  EXPECT_EQ(hours_for(1, 7), Amount{3'600'000 / 7});
  EXPECT_FALSE(hours_for(std::numeric_limits<std::int64_t>::max(), 1));
  EXPECT_FALSE(hours_for(1, 0));
  EXPECT_EQ(format_money(2'005, "EUR"), "20.05 EUR");
  EXPECT_EQ(format_money(-5, "EUR"), "-0.05 EUR");
  EXPECT_EQ(parse_money("20"), 2'000);
  EXPECT_EQ(parse_money("20.5"), 2'050);
  EXPECT_EQ(parse_money("0.01"), 1);
  for (const char* bad : {"", ".", "20.", ".5", "0", "0.00", "1.001", "-1", "1e3", "1,5",
                          "92233720368547758.08"}) {
    EXPECT_FALSE(parse_money(bad)) << bad;
  }
  // What a price buys never costs more than was paid.
  std::mt19937_64 dice(1);
  for (int i = 0; i < 20'000; ++i) {
    const auto minor = static_cast<std::int64_t>(dice() % 10'000'000);
    const auto price = static_cast<std::int64_t>(dice() % 100'000 + 1);
    ASSERT_LE(*cost_minor(*hours_for(minor, price), price), minor);
  }
}

// The lines of docs/formats/payment.md that a program can check.
TEST(PaymentFormat, TheExamplesOfTheDocumentAreTrue) {
  std::ifstream document(TRAINYARD_PAYMENT_FORMAT);
  std::string line, key, code, signature, body;
  while (std::getline(document, line)) {
    const auto take = [&line](std::string_view label, std::string& value) {
      if (line.starts_with(label)) value = line.substr(label.size());
    };
    take("key        ", key);
    take("voucher    ", code);
    take("signature  ", signature);
    take("body       ", body);
  }

  const auto voucher = read_voucher(code, key, kNow);
  ASSERT_TRUE(std::holds_alternative<Voucher>(voucher));
  EXPECT_EQ(std::get<Voucher>(voucher).amount, hours(10));
  EXPECT_EQ(std::get<Voucher>(voucher).fund, "group:vision");
  const auto event = read_webhook({body, signature}, key, 300, kNow);
  ASSERT_TRUE(std::holds_alternative<PaymentEvent>(event))
      << "the header would be " << sign_webhook(key, body, kNow);
  EXPECT_EQ(std::get<PaymentEvent>(event).minor, 2'000);
}

}  // namespace
}  // namespace accounting
