// SPDX-License-Identifier: GPL-3.0-or-later
#include "accounting/alerts.h"

#include <gtest/gtest.h>

#include "books.h"

namespace accounting {
namespace {

constexpr UtcSeconds kNow = 1'000'000;

Hold hold_of(const std::string& id, Amount amount) {
  return {.id = id, .fund = "user:ada", .amount = amount, .run = "r", .actor = "ada"};
}

class Alerts : public testing::Test {
 protected:
  std::string raised(const std::vector<std::string>& channels = {}) {
    std::string text;
    for (const Alert& alert : must(raise_alerts(books.db, books.ledger, channels, kNow))) {
      text += alert.fund + ":" + std::to_string(alert.level) + " ";
    }
    return text;
  }
  std::vector<Alert> take(const std::string& channel, UtcSeconds now = kNow) {
    return must(take_alerts(books.db, channel, 10, now));
  }
  void spend(const std::string& id, std::int64_t n) {
    ASSERT_EQ(must(books.ledger.hold(hold_of(id, hours(n)), kNow)), HoldStatus::kHeld);
  }
  void grant(const std::string& id, std::int64_t n, UtcSeconds from = 0, UtcSeconds expires = 0) {
    Grant request = grant_of(id, "user:ada", hours(n));
    request.from = from;
    request.expires = expires;
    ASSERT_EQ(must(books.ledger.grant(request, kNow)), GrantStatus::kGranted);
  }

  Books books;
};

TEST_F(Alerts, AreGivenOncePerLevelAndArmedAnewByATopUp) {
  grant("g1", 100);
  EXPECT_EQ(raised(), "");
  spend("r1/0", 79);
  EXPECT_EQ(raised(), "");
  spend("r2/0", 1);
  EXPECT_EQ(raised(), "user:ada:80 ");
  EXPECT_EQ(raised(), "");
  spend("r3/0", 20);
  EXPECT_EQ(raised(), "user:ada:100 ");

  // A little that comes back and goes again tells nobody anything new.
  ASSERT_EQ(must(books.ledger.release("r2/0", "", kNow)), ReleaseStatus::kReleased);
  EXPECT_EQ(raised(), "");
  spend("r4/0", 1);
  EXPECT_EQ(raised(), "");

  ASSERT_EQ(must(books.ledger.release("r1/0", "", kNow)), ReleaseStatus::kReleased);
  grant("g2", 21);  // 79 are free and 21 are held: it has 121 with the new ones.
  EXPECT_EQ(raised(), "");
  spend("r5/0", 75);
  EXPECT_EQ(raised(), "");
  spend("r6/0", 1);
  EXPECT_EQ(raised(), "user:ada:80 ");
}

TEST_F(Alerts, OfAHoldThatIsReleasedDoNotUseUpTheirLevel) {
  grant("g1", 100);
  spend("r1/0", 70);
  spend("r2/0", 30);  // A long run is set aside, and ends at once.
  EXPECT_EQ(raised(), "user:ada:100 ");
  ASSERT_EQ(must(books.ledger.release("r2/0", "", kNow)), ReleaseStatus::kReleased);
  EXPECT_EQ(raised(), "");

  spend("r3/0", 9);
  EXPECT_EQ(raised(), "");
  spend("r4/0", 1);
  EXPECT_EQ(raised(), "user:ada:80 ");
  spend("r5/0", 20);
  EXPECT_EQ(raised(), "user:ada:100 ");
  ASSERT_EQ(must(books.ledger.release("r5/0", "", kNow)), ReleaseStatus::kReleased);
  EXPECT_EQ(raised(), "");  // 80 of 100 again: that level was not left by so much.
  spend("r6/0", 15);
  EXPECT_EQ(raised(), "user:ada:95 ");
}

TEST_F(Alerts, LeaveOutWhatExpiresUnused) {
  grant("g1", 10);
  grant("g2", 10, 0, kNow + 100);
  EXPECT_EQ(raised(), "");
  must(books.ledger.turn(kNow + 100));  // Of 20 it has 10: nobody used them.
  EXPECT_EQ(raised(), "");
  spend("r1/0", 7);
  EXPECT_EQ(raised(), "");
  spend("r2/0", 1);
  EXPECT_EQ(raised(), "user:ada:80 ");
}

TEST_F(Alerts, AGrantThatBeginsIsANewPeriod) {
  grant("g1", 10, 0, kNow + 100);
  grant("g2", 10, kNow + 100, kNow + 200);
  EXPECT_EQ(raised(), "");
  spend("r1/0", 10);
  EXPECT_EQ(raised(), "user:ada:100 ");
  ASSERT_EQ(must(books.ledger.release("r1/0", "", kNow)), ReleaseStatus::kReleased);

  // The first expires unused, the second begins: the same sums, and yet another period.
  must(books.ledger.turn(kNow + 100));
  EXPECT_EQ(raised(), "");
  ASSERT_EQ(must(books.ledger.hold(hold_of("r2/0", hours(10)), kNow + 100)), HoldStatus::kHeld);
  EXPECT_EQ(raised(), "user:ada:100 ");
}

TEST_F(Alerts, EachIsTakenOnceByEachChannel) {
  grant("g1", 10);
  spend("r1/0", 9);
  EXPECT_EQ(raised({"command", "webhook"}), "user:ada:80 ");

  const auto taken = take("command");
  ASSERT_EQ(taken.size(), 1u);
  EXPECT_EQ(text_of(taken[0]), "fund user:ada has used or set aside 80 % of its 10.000 GPU-h: 1.000 GPU-h are left");
  // The service may have died here: what was being sent may have arrived, and is not repeated.
  EXPECT_TRUE(take("command").empty());
  must(alert_sent(books.db, taken[0].number, "command"));
  EXPECT_TRUE(take("command", kNow + 100'000).empty());
  EXPECT_EQ(take("webhook").size(), 1u);
}

TEST_F(Alerts, AFailureIsTriedAgainFiveTimesInAll) {
  grant("g1", 10);
  spend("r1/0", 9);
  raised({"command"});

  UtcSeconds now = kNow;
  for (const std::int64_t wait : {60, 120, 240, 480}) {
    SCOPED_TRACE(wait);
    const auto taken = take("command", now);
    ASSERT_EQ(taken.size(), 1u);
    EXPECT_TRUE(must(alert_failed(books.db, taken[0].number, "command", now)));
    EXPECT_TRUE(take("command", now + wait - 1).empty());
    now += wait;
  }
  const auto last = take("command", now);
  ASSERT_EQ(last.size(), 1u);
  EXPECT_FALSE(must(alert_failed(books.db, last[0].number, "command", now)));
  EXPECT_TRUE(take("command", now + 1'000'000).empty());
}

}  // namespace
}  // namespace accounting
