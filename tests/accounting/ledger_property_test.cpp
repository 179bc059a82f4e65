// SPDX-License-Identifier: GPL-3.0-or-later
//
// Random requests with edge-biased integers, against a model that knows nothing of the ledger's
// code. To repeat a failure: TRAINYARD_SEED=N ledger_property_test.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <tuple>
#include <variant>
#include <vector>

#include "books.h"

namespace accounting {
namespace {

__extension__ using Wide = __int128;
constexpr Wide kMax = std::numeric_limits<std::int64_t>::max();

// What the books ought to be: the rules of docs/formats/ledger.md in wide integers.
class Model {
 public:
  struct Pot {
    Wide free = 0, granted = 0, charged = 0;
  };
  struct Pledge {
    std::string fund;
    Wide amount = 0, charged = 0, released = 0;
    bool is_open = true;
    [[nodiscard]] Wide rest() const { return amount - charged - released; }
  };

  GrantStatus grant(const Grant& g) {
    if (const auto same = seen(g.id, "g " + g.fund + " " + text(g.amount.milli_gpu_s))) {
      return *same ? GrantStatus::kAlreadyGranted : GrantStatus::kExistsWithDifferentContent;
    }
    const Wide amount = g.amount.milli_gpu_s;
    if (amount <= 0 || granted_ + amount > kMax) return GrantStatus::kInvalid;
    remember();
    granted_ += amount;
    pots[g.fund].free += amount;
    pots[g.fund].granted += amount;
    return GrantStatus::kGranted;
  }
  HoldStatus hold(const Hold& h) {
    if (const auto same = seen(h.id, "h " + h.fund + " " + text(h.amount.milli_gpu_s))) {
      return *same ? HoldStatus::kAlreadyHeld : HoldStatus::kExistsWithDifferentContent;
    }
    const Wide amount = h.amount.milli_gpu_s;
    if (amount <= 0) return HoldStatus::kInvalid;
    if (!pots.contains(h.fund)) return HoldStatus::kUnknownFund;
    if (amount > pots[h.fund].free) return HoldStatus::kExceedsAvailable;
    remember();
    pots[h.fund].free -= amount;
    pledges[h.id] = {.fund = h.fund, .amount = amount};
    return HoldStatus::kHeld;
  }
  // The status, and what was charged of what was used.
  std::tuple<ChargeStatus, Wide, Wide> charge(const Charge& c) {
    const bool is_negative = c.gpus < 0 || c.seconds < 0 || c.weight_milli < 0;
    // Two of the factors are small, so the product fits.
    const Wide used = Wide{c.gpus} * c.seconds * c.weight_milli;
    if (const auto same = seen(c.id, "c " + c.hold_id + " " + text(c.gpus) + " " + text(c.seconds) +
                                         " " + text(c.weight_milli))) {
      if (!*same) return {ChargeStatus::kExistsWithDifferentContent, 0, 0};
      return {ChargeStatus::kAlreadyCharged, posted_[c.id], used - posted_[c.id]};
    }
    if (is_negative || used > kMax) return {ChargeStatus::kInvalid, 0, 0};
    if (!pledges.contains(c.hold_id)) return {ChargeStatus::kUnknownHold, 0, 0};
    Pledge& pledge = pledges[c.hold_id];
    if (!pledge.is_open) return {ChargeStatus::kHoldClosed, 0, 0};
    remember();
    const Wide due = std::min(used, pledge.rest());
    pledge.charged += due;
    pots[pledge.fund].charged += due;
    posted_[c.id] = due;
    findings += used > due ? 1 : 0;
    return {ChargeStatus::kCharged, due, used - due};
  }
  ReleaseStatus release(const std::string& id) {
    if (!pledges.contains(id)) return ReleaseStatus::kUnknownHold;
    Pledge& pledge = pledges[id];
    if (!pledge.is_open) return ReleaseStatus::kAlreadyReleased;
    pots[pledge.fund].free += pledge.rest();
    pledge.released = pledge.rest();
    pledge.is_open = false;
    return ReleaseStatus::kReleased;
  }

  std::map<std::string, Pot> pots;
  std::map<std::string, Pledge> pledges;
  std::size_t findings = 0;

 private:
  static std::string text(std::int64_t n) { return std::to_string(n); }
  // Nothing: the id is new. Else whether it came with the same content.
  std::optional<bool> seen(const std::string& id, const std::string& content) {
    asked_ = {id, content};
    if (!requests_.contains(id)) return std::nullopt;
    return requests_[id] == content;
  }
  void remember() { requests_[asked_.first] = asked_.second; }

  std::pair<std::string, std::string> asked_;
  std::map<std::string, std::string> requests_;
  std::map<std::string, Wide> posted_;
  Wide granted_ = 0;
};

class Dice {
 public:
  explicit Dice(std::uint64_t seed) : engine_(seed) {}
  std::int64_t below(std::int64_t n) {
    return static_cast<std::int64_t>(engine_() % static_cast<std::uint64_t>(n));
  }
  bool one_in(std::int64_t n) { return below(n) == 0; }
  // Often at an edge, often small, sometimes anything.
  std::int64_t integer() {
    constexpr std::int64_t kLargest = std::numeric_limits<std::int64_t>::max();
    switch (below(12)) {
      case 0:
        return 0;
      case 1:
        return 1;
      case 2:
        return -1;
      case 3:
        return one_in(4) ? std::numeric_limits<std::int64_t>::min() : below(3);
      case 4:
        return one_in(4) ? kLargest - below(3) : below(100);
      case 5:
        return (std::int64_t{1} << below(63)) + below(3) - 1;
      case 6:
        return static_cast<std::int64_t>(engine_());
      default:
        return below(5'000'000);
    }
  }

 private:
  std::mt19937_64 engine_;
};

std::string numbered(const char* prefix, std::int64_t n) {
  return prefix + std::to_string(n);
}

using Request = std::variant<Grant, Hold, Charge, std::string>;  // A string releases that hold.

class LedgerProperty : public testing::TestWithParam<int> {
 protected:
  static std::uint64_t seed() {
    if (const char* given = std::getenv("TRAINYARD_SEED")) return std::strtoull(given, nullptr, 10);
    return std::random_device{}() + static_cast<std::uint64_t>(GetParam());
  }

  void open() { books_.emplace(folder_.file("ledger.db")); }

  // A new request, or one that was made before: clients repeat themselves.
  Request draw(Dice& dice) {
    if (!requests_.empty() && dice.one_in(4)) {
      return requests_[static_cast<std::size_t>(
          dice.below(static_cast<std::int64_t>(requests_.size())))];
    }
    const std::string fund = numbered("user:u", dice.below(5));
    const std::string hold_id = numbered("h", dice.below(400));
    const std::int64_t kind = dice.below(8);
    if (kind == 0) {
      // One large grant ends all granting, so there is none at first.
      const bool is_edge = requests_.size() > 600 && dice.one_in(5);
      const std::int64_t amount = is_edge           ? dice.integer()
                                  : dice.one_in(10) ? -dice.below(3)
                                                    : dice.below(1'000'000'000);
      return grant_of(numbered("g", dice.below(200)), fund, {amount});
    }
    if (kind < 4) {
      if (dice.one_in(50)) return hold_of(hold_id, "user:nobody", {1});
      const Wide free = model_.pots.contains(fund) ? model_.pots[fund].free : 0;
      const std::int64_t around_free =
          static_cast<std::int64_t>(std::min(free, kMax - 1)) + dice.below(2);
      const std::int64_t amounts[] = {around_free, dice.integer(), dice.below(9) + 1};
      return hold_of(hold_id, fund, {amounts[dice.below(3)]});
    }
    if (kind < 7) {
      Charge charge = charge_of(numbered("c/", dice.below(600)), hold_id, dice.below(6) - 1, 0);
      charge.seconds = dice.integer();
      charge.weight_milli = dice.below(3'000) - 1;
      return charge;
    }
    return hold_id;
  }

  // The same request to both; the answers are compared.
  void ask(const Grant& grant, UtcSeconds now) {
    const GrantStatus status = must(books_->ledger.grant(grant, now));
    ASSERT_EQ(status, model_.grant(grant));
    seen_.insert({"grant", static_cast<int>(status)});
  }
  void ask(const Hold& hold, UtcSeconds now) {
    const HoldStatus status = must(books_->ledger.hold(hold, now));
    ASSERT_EQ(status, model_.hold(hold));
    seen_.insert({"hold", static_cast<int>(status)});
  }
  void ask(const Charge& charge, UtcSeconds now) {
    const ChargeOutcome outcome = must(books_->ledger.charge(charge, now));
    const auto [status, charged, excess] = model_.charge(charge);
    ASSERT_EQ(outcome.status, status);
    ASSERT_TRUE(outcome.charged.milli_gpu_s == charged);
    ASSERT_TRUE(outcome.excess.milli_gpu_s == excess);
    seen_.insert({"charge", static_cast<int>(status)});
  }
  void ask(const std::string& released_hold_id, UtcSeconds now) {
    const ReleaseStatus status = must(books_->ledger.release(released_hold_id, "", now));
    ASSERT_EQ(status, model_.release(released_hold_id));
    seen_.insert({"release", static_cast<int>(status)});
  }

  void compare() {
    const auto balances = must(books_->ledger.balances());
    ASSERT_EQ(balances.size(), model_.pots.size());
    for (const FundBalance& balance : balances) {
      SCOPED_TRACE(balance.fund);
      const Model::Pot& pot = model_.pots.at(balance.fund);
      Wide held = 0;
      for (const auto& [id, pledge] : model_.pledges) {
        if (pledge.fund == balance.fund) held += pledge.rest();
      }
      ASSERT_TRUE(balance.available.milli_gpu_s == pot.free);
      ASSERT_TRUE(balance.held.milli_gpu_s == held);
      ASSERT_TRUE(balance.granted.milli_gpu_s == pot.granted);
      ASSERT_TRUE(balance.charged.milli_gpu_s == pot.charged);
      ASSERT_TRUE(pot.granted == pot.free + held + pot.charged);
    }
  }

  void compare_holds() {
    for (const auto& [id, pledge] : model_.pledges) {
      SCOPED_TRACE(id);
      const auto state = must(books_->ledger.hold_state(id));
      ASSERT_TRUE(state);
      ASSERT_EQ(state->is_open, pledge.is_open);
      ASSERT_TRUE(state->charged.milli_gpu_s == pledge.charged);
      ASSERT_TRUE(state->released.milli_gpu_s == pledge.released);
      ASSERT_TRUE(state->remaining().milli_gpu_s == pledge.rest());
    }
    ASSERT_EQ(must(books_->ledger.findings()).size(), model_.findings);
    ASSERT_EQ(must(books_->ledger.verify()), std::vector<std::string>{});
  }

  TemporaryFolder folder_;
  std::optional<Books> books_;
  Model model_;
  std::vector<Request> requests_;
  std::set<std::pair<std::string, int>> seen_;  // Which answers were given.
};

TEST_P(LedgerProperty, TheBooksEqualTheModelAfterEveryStep) {
  const std::uint64_t seed_of_run = seed();
  SCOPED_TRACE("TRAINYARD_SEED=" + std::to_string(seed_of_run));
  std::printf("TRAINYARD_SEED=%llu\n", static_cast<unsigned long long>(seed_of_run));
  Dice dice(seed_of_run);
  UtcSeconds now = 1'795'507'200;
  open();

  for (int number = 0; number < 3'000; ++number) {
    SCOPED_TRACE(number);
    now += dice.below(5) - 1;
    if (dice.one_in(100)) open();
    requests_.push_back(draw(dice));
    ASSERT_NO_FATAL_FAILURE(
        std::visit([&](const auto& request) { ask(request, now); }, Request(requests_.back())));
    ASSERT_NO_FATAL_FAILURE(compare());
    if (number % 50 == 0) {
      ASSERT_NO_FATAL_FAILURE(compare_holds());
    }
  }

  compare_holds();
  for (const auto& [request, answers] :
       {std::pair{"grant", 4}, {"hold", 6}, {"charge", 6}, {"release", 3}}) {
    for (int answer = 0; answer < answers; ++answer) {
      EXPECT_TRUE(seen_.contains({request, answer}))
          << "status " << answer << " of a " << request << " was never given";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, LedgerProperty, testing::Range(0, 3));

}  // namespace
}  // namespace accounting
