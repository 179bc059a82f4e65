// SPDX-License-Identifier: GPL-3.0-or-later
//
// Thousands of short lives of a few funds: dated grants, credit, caps, holds that grow and shrink,
// charges beyond their holds, debts, refunds, a clock that leaps. After each step the ledger must
// agree with an oracle that keeps the money itself, coin by coin, and knows nothing of the ledger's
// code. A life that fails prints its history in the table language of ledger_table.h, so that it can
// be put into tests/accounting/tables. To repeat one: TRAINYARD_SEED=N. More of them:
// TRAINYARD_SEEDS=N.
#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "accounting/tariff.h"
#include "books.h"
#include "ledger_table.h"

namespace accounting {
namespace {

constexpr UtcSeconds kStart = 1'795'507'200;
constexpr int kSteps = 30;
constexpr int kLivesPerBooks = 50;
constexpr UtcSeconds kLifetime = 100'000;

using Money = std::int64_t;
// When money expires and of which grant it is. What never expires has no grant.
using Coin = std::pair<UtcSeconds, std::string>;
using Purse = std::map<Coin, Money>;
constexpr UtcSeconds kNever = 1'000'000'000'000;
const Coin kPlain{kNever, ""};

Money sum(const Purse& purse) {
  Money total = 0;
  for (const auto& [coin, money] : purse) total += money;
  return total;
}

struct Fund {
  Purse purse;  // Of kPlain there may be less than nothing: credit.
  std::map<std::string, std::tuple<UtcSeconds, Coin, Money>> later;  // By grant: when it begins.
  Money owed = 0, granted = 0, expired = 0, charged = 0;
  std::map<std::string, std::pair<Money, UtcSeconds>> settings;
};

struct Pledge {
  std::string fund, member;
  std::int64_t gpus = 0;
  UtcSeconds made = 0;
  Purse purse;
  Money use = 0;  // Held, charged and owed, less what came back.
  bool is_open = true;
};

struct Bill {
  std::string hold;
  Money refundable = 0;
};

class Oracle {
 public:
  std::map<std::string, Fund> funds;
  std::map<std::string, Pledge> pledges;
  std::map<std::string, Bill> bills;
  std::map<std::string, std::string> done;  // Content by id.

  // Money that comes in without an origin fills a used credit first.
  static void receive(Fund& fund, const Coin& coin, Money money) {
    Money& plain = fund.purse[kPlain];
    const Money filled = coin == kPlain ? money : std::min(money, std::max<Money>(0, -plain));
    plain += filled;
    if (money > filled) fund.purse[coin] += money - filled;
  }
  // Soonest first; what is missing becomes credit.
  static Purse take(Purse& purse, Money money) {
    Purse taken;
    for (auto& [coin, has] : purse) {
      if (coin == kPlain) continue;
      const Money part = std::min(has, money);
      has -= part;
      if (part > 0) taken[coin] += part;
      money -= part;
    }
    if (money > 0) {
      purse[kPlain] -= money;
      taken[kPlain] += money;
    }
    return taken;
  }
  static void pay_debt(Fund& fund) {
    const Money paid = std::min(fund.owed, std::max<Money>(0, sum(fund.purse)));
    if (paid <= 0) return;
    take(fund.purse, paid);
    fund.owed -= paid;
  }
  static void turn(Fund& fund, UtcSeconds now) {
    std::map<std::pair<UtcSeconds, std::string>, std::pair<Coin, Money>> due;
    for (const auto& [grant, at] : fund.later) {
      const auto& [from, coin, money] = at;
      if (from <= now) due[{from, grant}] = {coin, money};
    }
    for (const auto& [key, what] : due) {
      fund.later.erase(key.second);
      receive(fund, what.first, what.second);
      pay_debt(fund);
    }
    for (auto& [coin, money] : fund.purse) {
      if (coin.first > now || money <= 0) continue;
      fund.expired += money;
      money = 0;
    }
  }

  std::string grant(const std::string& name, const std::string& id, Money money, UtcSeconds from,
                    UtcSeconds expires, UtcSeconds now) {
    if (money <= 0 || (expires != 0 && expires <= std::max(from, now))) return "invalid";
    Fund& fund = funds[name];
    fund.granted += money;
    const Coin coin = expires == 0 ? kPlain : Coin{expires, id};
    if (from > now) {
      fund.later[id] = {from, coin, money};
    } else {
      receive(fund, coin, money);
      pay_debt(fund);
    }
    return "granted";
  }
  std::string set(const std::string& name, const std::string& what, std::optional<Money> value,
                  UtcSeconds since) {
    if (what == "credit_limit") {
      const Money plain = funds.contains(name) ? funds[name].purse[kPlain] : 0;
      if (plain < -value.value_or(0)) return "below_use";
    }
    Fund& fund = funds[name];
    fund.settings.erase(what);
    if (value) fund.settings[what] = {*value, since};
    return "set";
  }
  [[nodiscard]] Money use(const std::string& name, const std::string& member) const {
    const auto fund = funds.find(name);
    if (fund == funds.end()) return 0;
    const auto cap = fund->second.settings.find("cap/" + member);
    const UtcSeconds since = cap == fund->second.settings.end() ? 0 : cap->second.second;
    Money total = 0;
    for (const auto& [id, pledge] : pledges) {
      const bool counts = pledge.fund == name && pledge.member == member && pledge.made >= since;
      if (counts) total += pledge.use;
    }
    return total;
  }
  std::string why_not(const std::string& name, const std::string& member, Money money) {
    Fund& fund = funds[name];
    if (fund.settings.contains("closed")) return "fund_closed";
    if (fund.owed > 0) return "in_debt";
    const auto cap = fund.settings.find("cap/" + member);
    if (cap != fund.settings.end() && use(name, member) + money > cap->second.first) {
      return "exceeds_member_cap";
    }
    const auto credit = fund.settings.find("credit_limit");
    const Money limit = credit == fund.settings.end() ? 0 : credit->second.first;
    return sum(fund.purse) - money < -limit ? "exceeds_available" : "";
  }
  std::string hold(const std::string& id, const Pledge& asked, Money money, UtcSeconds now) {
    if (money <= 0) return "invalid";
    if (!funds.contains(asked.fund)) return "unknown_fund";
    Fund& fund = funds[asked.fund];
    turn(fund, now);
    if (const std::string no = why_not(asked.fund, asked.member, money); !no.empty()) return no;
    std::int64_t gpus = 0, open = 0;
    for (const auto& [other, pledge] : pledges) {
      if (pledge.fund != asked.fund || !pledge.is_open) continue;
      gpus += pledge.gpus;
      ++open;
    }
    const auto gpus_max = fund.settings.find("gpus_max");
    if (gpus_max != fund.settings.end() && gpus + asked.gpus > gpus_max->second.first) {
      return "exceeds_gpus";
    }
    const auto runs_max = fund.settings.find("runs_max");
    if (runs_max != fund.settings.end() && open >= runs_max->second.first) return "exceeds_runs";
    Pledge pledge = asked;
    pledge.made = now;
    pledge.purse = take(fund.purse, money);
    pledge.use = money;
    pledges[id] = pledge;
    return "held";
  }
  std::string extend(const std::string& id, Money money, UtcSeconds now) {
    if (money <= 0) return "invalid";
    if (!pledges.contains(id)) return "unknown_hold";
    Pledge& pledge = pledges[id];
    if (!pledge.is_open) return "hold_closed";
    Fund& fund = funds[pledge.fund];
    turn(fund, now);
    if (const std::string no = why_not(pledge.fund, pledge.member, money); !no.empty()) return no;
    for (const auto& [coin, part] : take(fund.purse, money)) pledge.purse[coin] += part;
    pledge.use += money;
    return "extended";
  }
  // Latest first: the pledge keeps what is lost soonest.
  void give_back(Pledge& pledge, Money money, UtcSeconds now) {
    Fund& fund = funds[pledge.fund];
    pledge.use -= money;
    for (auto coin = pledge.purse.rbegin(); coin != pledge.purse.rend() && money > 0; ++coin) {
      const Money part = std::min(money, coin->second);
      coin->second -= part;
      fund.purse[coin->first] += part;
      money -= part;
    }
    turn(fund, now);
    pay_debt(fund);
  }
  std::string reduce(const std::string& id, Money money, UtcSeconds now) {
    if (money <= 0) return "invalid";
    if (!pledges.contains(id)) return "unknown_hold";
    Pledge& pledge = pledges[id];
    if (!pledge.is_open) return "hold_closed";
    if (money > sum(pledge.purse)) return "exceeds_remaining";
    give_back(pledge, money, now);
    return "reduced";
  }
  std::string release(const std::string& id, UtcSeconds now) {
    if (!pledges.contains(id)) return "unknown_hold";
    Pledge& pledge = pledges[id];
    if (!pledge.is_open) return "already_released";
    pledge.is_open = false;
    give_back(pledge, sum(pledge.purse), now);
    return "released";
  }
  std::string charge(const std::string& id, const std::string& hold, Money used, bool fund_owes,
                     Money& posted) {
    if (!pledges.contains(hold)) return "unknown_hold";
    Pledge& pledge = pledges[hold];
    if (!pledge.is_open) return "hold_closed";
    Fund& fund = funds[pledge.fund];
    posted = std::min(used, sum(pledge.purse));
    take(pledge.purse, std::min(posted, sum(pledge.purse)));
    fund.charged += posted;
    bills[id] = {hold, posted};
    if (fund_owes && used > posted) {
      fund.charged += used - posted;
      fund.owed += used - posted;
      pledge.use += used - posted;
      bills[id].refundable = used;
      pay_debt(fund);
    }
    return "charged";
  }
  std::string refund(const std::string& charge, Money money) {
    if (money <= 0) return "invalid";
    if (!bills.contains(charge)) return "unknown_charge";
    Bill& bill = bills[charge];
    if (money > bill.refundable) return "exceeds_charge";
    bill.refundable -= money;
    Pledge& pledge = pledges[bill.hold];
    Fund& fund = funds[pledge.fund];
    pledge.use -= money;
    fund.charged -= money;
    receive(fund, kPlain, money);
    pay_debt(fund);
    return "refunded";
  }
};

class Life {
 public:
  Life(Books& books, std::uint64_t seed, UtcSeconds birth)
      : books_(books), dice_(seed), name_("s" + std::to_string(seed)), now_(birth) {
    history_ = "at " + format_clock() + "\n";
  }

  // Whether the ledger and the oracle agreed to the end.
  bool live(std::set<std::string>& seen) {
    for (int i = 0; i < kSteps; ++i) {
      now_ += below(8) == 0 ? below(3'000) : below(20);
      if (now_ != clock_) {
        history_ += "at " + format_clock() + "\n";
        clock_ = now_;
      }
      const std::string line = !lines_.empty() && below(6) == 0
                                   ? lines_[static_cast<std::size_t>(below(std::ssize(lines_)))]
                                   : draw();
      lines_.push_back(line);
      const std::string expected = predict(line);
      TableLine asked = parse_table(line, 1).front();
      UtcSeconds clock = now_;
      const std::string answer = answer_to(asked, clock);
      history_ += line + " -> " + expected + "\n";
      seen.insert(asked.words[0] + " " + expected.substr(0, expected.find(' ')));
      if (answer != expected || !agrees()) {
        history_ += "# the ledger answers: " + answer + "\n" + fault_;
        return false;
      }
    }
    return true;
  }
  [[nodiscard]] const std::string& history() const { return history_; }

 private:
  std::string answer_to(const TableLine& line, UtcSeconds clock) {
    try {
      return ask(books_.ledger, line, clock);
    } catch (const std::exception& error) {
      return error.what();
    }
  }
  std::int64_t below(std::int64_t n) {
    return static_cast<std::int64_t>(dice_() % static_cast<std::uint64_t>(n));
  }
  std::string one(const std::string& prefix, std::int64_t n) {
    return name_ + prefix + std::to_string(below(n));
  }
  [[nodiscard]] std::string format_clock() const { return format_utc(now_); }
  std::string money() {
    const Money amounts[] = {below(4), below(500) + 1, below(5'000) + 1, 1'000};
    return std::to_string(amounts[below(4)]) + "mGPUs";
  }
  std::string fund() { return (below(2) == 0 ? "user:" : "group:") + name_ + (below(3) == 0 ? "b" : "a"); }

  std::string draw() {
    switch (below(12)) {
      case 0:
      case 1: {
        std::string line = "grant " + one("/g", 9) + " " + fund() + " " + money();
        const UtcSeconds from = below(3) == 0 ? now_ + below(2'000) - 300 : 0;
        if (from != 0) line += " from=" + format_utc(from);
        if (below(2) == 0) line += " expires=" + format_utc(now_ + below(4'000));
        return line;
      }
      case 2: {
        const char* names[] = {"credit_limit", "cap/ada", "gpus_max", "runs_max", "closed"};
        const std::string name = names[below(below(3) == 0 ? 5 : 4)];
        std::string line = "set " + one("/s", 9) + " " + fund() + " " + name;
        const bool is_count = name == "gpus_max" || name == "runs_max";
        if (below(3) != 0) {
          line += name == "closed" ? " 1" : " " + std::to_string(below(is_count ? 4 : 3'000));
        }
        if (name == "cap/ada" && below(2) == 0) line += " since=" + format_utc(now_ - below(500));
        return line;
      }
      case 3:
      case 4:
      case 5:
        return "hold " + one("/h", 12) + " " + fund() + " " + money() + " run=r actor=" +
               (below(3) == 0 ? "bob" : "ada") + " gpus=" + std::to_string(below(4));
      case 6:
        return "extend " + one("/e", 9) + " " + one("/h", 12) + " " + money();
      case 7:
        return "reduce " + one("/d", 9) + " " + one("/h", 12) + " " + money();
      case 8:
      case 9:
        return "charge " + one("/c", 12) + " " + one("/h", 12) + " gpus=" +
               std::to_string(below(3)) + " seconds=" + std::to_string(below(40)) + " weight=" +
               std::to_string(below(50)) + (below(2) == 0 ? " excess=fund" : "");
      case 10:
        return "refund " + one("/f", 12) + " " + one("/c", 12) + " " + money();
      default:
        return below(4) == 0 ? "turn" : "release " + one("/h", 12);
    }
  }

  // What the oracle answers. A line is read anew, so that it means the same to both.
  std::string predict(const std::string& line);
  std::string predict_new(const TableLine& line, std::map<std::string, std::string>& options);
  bool agrees();

  Books& books_;
  std::mt19937_64 dice_;
  std::string name_;
  UtcSeconds now_, clock_ = 0;
  Oracle oracle_;
  std::vector<std::string> lines_;
  std::string history_, fault_;
  std::map<std::string, std::string> charged_;  // The answer that a charge got, without its word.
};

Money amount_in(const std::string& text) {
  return std::strtoll(text.c_str(), nullptr, 10);
}

std::string Life::predict(const std::string& line) {
  const TableLine parsed = parse_table(line, 1).front();
  std::map<std::string, std::string> options;
  std::string content;
  for (const std::string& word : parsed.words) {
    const std::size_t equals = word.find('=');
    if (equals != std::string::npos) options[word.substr(0, equals)] = word.substr(equals + 1);
    if (word.rfind("excess=", 0) != 0) content += word + " ";
  }
  const std::string& verb = parsed.words[0];
  if (verb == "turn") {
    for (auto& [fund, state] : oracle_.funds) Oracle::turn(state, now_);
    return "";
  }
  if (verb == "release") return oracle_.release(parsed.words[1], now_);
  const std::string& id = parsed.words[1];
  if (const auto known = oracle_.done.find(id); known != oracle_.done.end()) {
    if (known->second != content) return "exists_with_different_content";
    const std::map<std::string, std::string> past{
        {"grant", "granted"},   {"set", "set"},         {"hold", "held"},
        {"extend", "extended"}, {"reduce", "reduced"},  {"charge", "charged"},
        {"refund", "refunded"}};
    return "already_" + past.at(verb) + charged_[id];
  }
  const std::string answer = predict_new(parsed, options);
  const std::set<std::string> accepted{"granted", "set", "held", "extended", "reduced", "refunded"};
  if (accepted.contains(answer) || answer.rfind("charged", 0) == 0) oracle_.done[id] = content;
  return answer;
}

std::string Life::predict_new(const TableLine& line, std::map<std::string, std::string>& options) {
  const std::string& verb = line.words[0];
  const std::string& id = line.words[1];
  const std::string& of = line.words[2];
  const auto instant = [&options](const char* name) {
    return options.contains(name) ? parse_utc(options[name]).value_or(0) : 0;
  };
  if (verb == "grant") {
    return oracle_.grant(of, id, amount_in(line.words[3]), instant("from"), instant("expires"),
                         now_);
  }
  if (verb == "set") {
    const bool has_value = line.words.size() > 4 && line.words[4].find('=') == std::string::npos;
    return oracle_.set(of, line.words[3],
                       has_value ? std::optional(amount_in(line.words[4])) : std::nullopt,
                       instant("since"));
  }
  if (verb == "hold") {
    const Pledge asked{.fund = of,
                       .member = options["actor"],
                       .gpus = amount_in(options["gpus"]),
                       .made = 0,
                       .purse = {}};
    return oracle_.hold(id, asked, amount_in(line.words[3]), now_);
  }
  if (verb == "extend") return oracle_.extend(of, amount_in(line.words[3]), now_);
  if (verb == "reduce") return oracle_.reduce(of, amount_in(line.words[3]), now_);
  if (verb == "refund") return oracle_.refund(of, amount_in(line.words[3]));
  const Money used =
      amount_in(options["gpus"]) * amount_in(options["seconds"]) * amount_in(options["weight"]);
  Money posted = 0;
  const std::string answer = oracle_.charge(id, of, used, options.contains("excess"), posted);
  if (answer != "charged") return answer;
  charged_[id] = " " + exact({posted}) +
                 (used == posted ? "" : " excess " + exact({used - posted}));
  return answer + charged_[id];
}

bool Life::agrees() {
  const auto differ = [this](const std::string& what, Money ledger, Money oracle) {
    if (ledger == oracle) return false;
    fault_ += "# " + what + ": the ledger " + std::to_string(ledger) + ", the oracle " +
              std::to_string(oracle) + "\n";
    return true;
  };
  for (const auto& [name, fund] : oracle_.funds) {
    const auto balance = must(books_.ledger.balance(name));
    if (!balance) {
      fault_ += "# " + name + " is unknown to the ledger\n";
      return false;
    }
    Money held = 0, later = 0;
    for (const auto& [id, pledge] : oracle_.pledges) {
      if (pledge.fund == name) held += sum(pledge.purse);
    }
    for (const auto& [grant, at] : fund.later) later += std::get<2>(at);
    const auto credit = fund.settings.find("credit_limit");
    const Money limit = credit == fund.settings.end() ? 0 : credit->second.first;
    bool is_off = differ(name + " available", balance->available.milli_gpu_s, sum(fund.purse));
    is_off |= differ(name + " held", balance->held.milli_gpu_s, held);
    is_off |= differ(name + " granted", balance->granted.milli_gpu_s, fund.granted);
    is_off |= differ(name + " charged", balance->charged.milli_gpu_s, fund.charged);
    is_off |= differ(name + " owed", balance->owed.milli_gpu_s, fund.owed);
    is_off |= differ(name + " later", balance->later.milli_gpu_s, later);
    is_off |= differ(name + " expired", balance->expired.milli_gpu_s, fund.expired);
    is_off |= differ(name + " credit", balance->credit_limit.milli_gpu_s, limit);
    is_off |= differ(name + " use of ada", must(books_.ledger.member_use(name, "ada")).milli_gpu_s,
                     oracle_.use(name, "ada"));
    Purse dated;
    for (const DatedGrant& grant : must(books_.ledger.dated_grants(name))) {
      if (grant.has_begun) dated[{grant.expires, grant.id}] = grant.remaining.milli_gpu_s;
    }
    for (const auto& [coin, money] : fund.purse) {
      if (coin == kPlain) continue;
      is_off |= differ(name + " grant " + coin.second, dated[coin], money);
    }
    if (is_off) return false;
    // No fund below its credit, and money is neither made nor lost.
    if (sum(fund.purse) < -limit) fault_ += "# " + name + " is below its credit limit\n";
    if (sum(fund.purse) + held + later + fund.expired + fund.charged != fund.granted + fund.owed) {
      fault_ += "# the oracle's own sum of " + name + " is wrong\n";
    }
    if (!fault_.empty()) return false;
  }
  return true;
}

std::uint64_t number_from(const char* name, std::uint64_t otherwise) {
  const char* given = std::getenv(name);
  return given == nullptr ? otherwise : std::strtoull(given, nullptr, 10);
}

TEST(FundsSimulation, TheLedgerAgreesWithTheOracleInEachLife) {
  const bool is_one = std::getenv("TRAINYARD_SEED") != nullptr;
  const std::uint64_t first = number_from("TRAINYARD_SEED", 1);
  const std::uint64_t count = is_one ? 1 : number_from("TRAINYARD_SEEDS", 10'000);
  std::optional<Books> books;
  std::set<std::string> seen;

  for (std::uint64_t i = 0; i < count; ++i) {
    const auto place = static_cast<UtcSeconds>(i % kLivesPerBooks);
    if (place == 0) {
      if (books) {
        ASSERT_EQ(must(books->ledger.verify()), std::vector<std::string>{});
      }
      books.emplace();
    }
    Life life(*books, first + i, kStart + place * kLifetime);
    ASSERT_TRUE(life.live(seen)) << "TRAINYARD_SEED=" << first + i << "\n" << life.history();
    if (is_one) std::printf("%s", life.history().c_str());
  }

  ASSERT_EQ(must(books->ledger.verify()), std::vector<std::string>{});
  if (count < 2'000) return;
  for (const char* answer :
       {"grant granted", "grant already_granted", "grant invalid", "hold held", "hold already_held",
        "hold fund_closed", "hold in_debt", "hold exceeds_member_cap", "hold exceeds_available",
        "hold exceeds_gpus", "hold exceeds_runs", "hold unknown_fund", "extend extended",
        "extend in_debt", "extend exceeds_available", "extend exceeds_member_cap",
        "extend fund_closed", "extend hold_closed", "reduce reduced", "reduce exceeds_remaining",
        "charge charged", "charge already_charged", "charge hold_closed", "refund refunded",
        "refund exceeds_charge", "refund unknown_charge", "release released",
        "release already_released", "set set", "set below_use", "set already_set"}) {
    EXPECT_TRUE(seen.contains(answer)) << answer << " was never the answer";
  }
}

}  // namespace
}  // namespace accounting
