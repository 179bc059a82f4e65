// SPDX-License-Identifier: GPL-3.0-or-later
#include "accounting/journal_format.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>

#include "accounting/tariff.h"
#include "accounting/till.h"

namespace accounting {
namespace {

constexpr std::array<std::string_view, 8> kTags{"id",    "run",   "hold", "ref",
                                                "value", "actor", "note", "hash"};

bool is_money(std::string_view unit) { return unit != kGpuUnit; }

// A currency whose minor unit is no hundredth is written in its smallest units.
std::string commodity(const std::string& unit, JournalFormat format) {
  if (is_money(unit)) return has_hundredths(unit) ? unit : unit + "MINOR";
  return format == JournalFormat::kBeancount ? "MGPUS" : unit;
}

std::string number(std::int64_t amount, const std::string& unit) {
  if (!is_money(unit) || !has_hundredths(unit)) return fmt::to_string(amount);
  const auto bits = static_cast<std::uint64_t>(amount);
  const std::uint64_t magnitude = amount < 0 ? 0 - bits : bits;
  return fmt::format("{}{}.{:02}", amount < 0 ? "-" : "", magnitude / 100, magnitude % 100);
}

// A tag's value ends at a comma or at the end of the line.
std::string tag_value(std::string text) {
  std::replace(text.begin(), text.end(), ',', ';');
  return text;
}

std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + '"';
}

// A part of a name has letters, digits and hyphens: a hyphen tells what stood in its place.
std::string escaped(std::string_view name) {
  std::string out;
  for (const char c : name) {
    switch (c) {
      case '-':
        out += "--";
        break;
      case '.':
        out += "-D";
        break;
      case '_':
        out += "-U";
        break;
      case '@':
        out += "-A";
        break;
      case '+':
        out += "-P";
        break;
      default:
        out += c;
    }
  }
  return out;
}

// Of the days of the calendar, "2026-11-30" -> "2026-12-01".
std::string day_after(const std::string& day) {
  constexpr UtcSeconds kDay_s = 86'400;
  return format_utc(parse_utc(day).value_or(0) + kDay_s).substr(0, 10);
}

}  // namespace

std::string beancount_account(std::string_view account) {
  struct Root {
    std::string_view ours, theirs, owner;  // owner: what the rest is, where it does not say so.
  };
  constexpr std::array<Root, 10> kRoots{{{"fund", "Assets:Fund", ""},
                                         {"held", "Assets:Held", ""},
                                         {"later", "Assets:Later", ""},
                                         {"till", "Assets:Till", "Provider"},
                                         {"debt", "Liabilities:Debt", ""},
                                         {"expired", "Expenses:Expired", ""},
                                         {"usage", "Expenses:Usage", "Cluster"},
                                         {"cost", "Expenses:Cost", ""},
                                         {"sales", "Income:Sales", ""},
                                         {"tariff", "Equity:Tariff", ""}}};
  const std::size_t colon = account.find(':');
  for (const Root& root : kRoots) {
    if (account.substr(0, colon) != root.ours) continue;
    if (colon == std::string_view::npos) return std::string(root.theirs);
    std::string_view name = account.substr(colon + 1);
    std::string owner(root.owner);
    if (owner.empty()) {  // user:ada, group:vision
      const std::size_t second = name.find(':');
      owner = name.substr(0, second) == "group" ? "Group" : "User";
      name.remove_prefix(second == std::string_view::npos ? 0 : second + 1);
    }
    return fmt::format("{}:{}-{}", root.theirs, owner, escaped(name));
  }
  return "Equity:Treasury";
}

void JournalWriter::add(const JournalEntry& entry) {
  if (first_day_.empty()) first_day_ = entry.day;
  if (entry.day != day_) assert_balances();
  day_ = entry.day;
  for (const JournalPosting& posting : entry.postings) {
    Account& account = accounts_[posting.account];
    if (account.since.empty()) account = {.unit = posting.unit, .since = entry.day};
    account.balance = posting.balance;
    account.has_moved = true;
  }
  format_ == JournalFormat::kBeancount ? add_beancount(entry) : add_hledger(entry);
}

void JournalWriter::add_hledger(const JournalEntry& entry) {
  body_ += fmt::format("\n{} * {}{}\n", entry.day,
                       entry.seq > 0 ? fmt::format("({}) ", entry.seq) : "", entry.description);
  for (const auto& [name, value] : entry.tags) {
    if (!value.empty()) body_ += fmt::format("    ; {}: {}\n", name, tag_value(value));
  }
  for (const JournalPosting& posting : entry.postings) {
    const std::string unit = commodity(posting.unit, format_);
    body_ += fmt::format("    {}  {} {} = {} {}\n", posting.account,
                         number(posting.amount, posting.unit), unit,
                         number(posting.balance, posting.unit), unit);
  }
}

void JournalWriter::add_beancount(const JournalEntry& entry) {
  body_ += fmt::format("\n{} * {}\n", entry.day, quoted(entry.description));
  if (entry.seq > 0) body_ += fmt::format("  seq: {}\n", entry.seq);
  for (const auto& [name, value] : entry.tags) {
    if (!value.empty()) body_ += fmt::format("  {}: {}\n", name, quoted(value));
  }
  for (const JournalPosting& posting : entry.postings) {
    body_ += fmt::format("  {}  {} {}\n", beancount_account(posting.account),
                         number(posting.amount, posting.unit), commodity(posting.unit, format_));
  }
}

// Beancount asserts what an account has at the beginning of a day: the one after it moved. "~ 0"
// takes away its tolerance of a cent.
void JournalWriter::assert_balances() {
  if (format_ != JournalFormat::kBeancount || day_.empty()) return;
  body_ += "\n";
  const std::string morning = day_after(day_);
  for (auto& [name, account] : accounts_) {
    if (!account.has_moved) continue;
    account.has_moved = false;
    body_ += fmt::format("{} balance {}  {} ~ 0 {}\n", morning, beancount_account(name),
                         number(account.balance, account.unit),
                         commodity(account.unit, format_));
  }
}

std::string JournalWriter::hledger_head() const {
  std::string text =
      "; Made by Trainyard. Check it: hledger check --strict -f FILE\n"
      "; 1 GPU-hour of the reference GPU = 3600000 mGPUs (milli-GPU-seconds)\n"
      "commodity 1. mGPUs\n";
  std::set<std::string> currencies;
  for (const auto& [name, account] : accounts_) {
    if (is_money(account.unit)) currencies.insert(account.unit);
  }
  for (const std::string& currency : currencies) {
    text += fmt::format("commodity {} {}\n", has_hundredths(currency) ? "1.00" : "1.",
                        commodity(currency, format_));
  }
  for (const std::string_view tag : kTags) text += fmt::format("tag {}\n", tag);
  for (const auto& [name, account] : accounts_) text += fmt::format("account {}\n", name);
  return text;
}

std::string JournalWriter::beancount_head() const {
  std::string text =
      "; Made by Trainyard. Check it: bean-check FILE\n"
      "; 1 GPU-hour of the reference GPU = 3600000 MGPUS (milli-GPU-seconds)\n"
      "option \"title\" \"Trainyard\"\n"
      "option \"operating_currency\" \"MGPUS\"\n";
  if (accounts_.empty()) return text;
  std::set<std::string> units;
  for (const auto& [name, account] : accounts_) units.insert(commodity(account.unit, format_));
  text += "\n";
  for (const std::string& unit : units) text += fmt::format("{} commodity {}\n", first_day_, unit);
  for (const auto& [name, account] : accounts_) {
    text += fmt::format("{} open {}  {}\n  account: {}\n", account.since, beancount_account(name),
                        commodity(account.unit, format_), quoted(name));
  }
  return text;
}

std::string JournalWriter::finish(const Head& head) {
  assert_balances();
  return (format_ == JournalFormat::kBeancount ? beancount_head() : hledger_head()) + body_ +
         fmt::format("\n; head: {} {}\n", head.seq, head.hash);
}

}  // namespace accounting
