// SPDX-License-Identifier: GPL-3.0-or-later
#include "ledger_table.h"

#include <charconv>
#include <map>
#include <sstream>
#include <stdexcept>

#include "accounting/tariff.h"
#include "books.h"

namespace accounting {
namespace {

Amount amount_of(const std::string& text) {
  constexpr std::string_view kExact = "mGPUs";
  if (text.ends_with(kExact)) return {std::stoll(text)};
  if (const auto amount = parse_gpu_hours(text)) return *amount;
  throw std::runtime_error("\"" + text + "\" is no amount");
}

// The words of a line behind its verb: those without "=", and the options.
struct Arguments {
  std::vector<std::string> plain;
  std::map<std::string, std::string> options;

  explicit Arguments(const TableLine& line) {
    for (std::size_t i = 1; i < line.words.size(); ++i) {
      const std::size_t equals = line.words[i].find('=');
      if (equals == std::string::npos) {
        plain.push_back(line.words[i]);
      } else {
        options[line.words[i].substr(0, equals)] = line.words[i].substr(equals + 1);
      }
    }
  }
  [[nodiscard]] const std::string& at(std::size_t i) const {
    if (i >= plain.size()) throw std::runtime_error("too few words");
    return plain[i];
  }
  [[nodiscard]] std::string option(const std::string& name, const std::string& otherwise) const {
    const auto found = options.find(name);
    return found == options.end() ? otherwise : found->second;
  }
  [[nodiscard]] std::int64_t number(const std::string& name, const std::string& otherwise) const {
    return std::stoll(option(name, otherwise));
  }
  [[nodiscard]] UtcSeconds moment(const std::string& name) const {
    return options.contains(name) ? instant(name) : 0;
  }
  [[nodiscard]] UtcSeconds instant(const std::string& name) const {
    const std::string text = option(name, "1970-01-01");
    if (const auto when = parse_utc(text)) return *when;
    throw std::runtime_error("\"" + text + "\" is no instant");
  }
};

std::string name_of(GrantStatus status) {
  switch (status) {
    case GrantStatus::kGranted:
      return "granted";
    case GrantStatus::kAlreadyGranted:
      return "already_granted";
    case GrantStatus::kExistsWithDifferentContent:
      return "exists_with_different_content";
    case GrantStatus::kInvalid:
      return "invalid";
  }
  return "?";
}

std::string name_of(HoldStatus status) {
  switch (status) {
    case HoldStatus::kHeld:
      return "held";
    case HoldStatus::kAlreadyHeld:
      return "already_held";
    case HoldStatus::kExistsWithDifferentContent:
      return "exists_with_different_content";
    case HoldStatus::kInvalid:
      return "invalid";
    case HoldStatus::kUnknownFund:
      return "unknown_fund";
    case HoldStatus::kExceedsAvailable:
      return "exceeds_available";
    case HoldStatus::kFundClosed:
      return "fund_closed";
    case HoldStatus::kInDebt:
      return "in_debt";
    case HoldStatus::kExceedsMemberCap:
      return "exceeds_member_cap";
    case HoldStatus::kExceedsGpus:
      return "exceeds_gpus";
    case HoldStatus::kExceedsRuns:
      return "exceeds_runs";
    case HoldStatus::kExceedsMemberGpus:
      return "exceeds_member_gpus";
    case HoldStatus::kExceedsMemberRuns:
      return "exceeds_member_runs";
  }
  return "?";
}

// By the number of the status.
template <typename Status, std::size_t N>
std::string nth(const char* const (&names)[N], Status status) {
  const auto number = static_cast<std::size_t>(status);
  return number < N ? names[number] : "?";
}

std::string name_of(ExtendStatus status) {
  constexpr const char* kNames[] = {"extended",     "already_extended", "exists_with_different_content",
                                    "invalid",      "unknown_hold",     "hold_closed",
                                    "fund_closed",  "in_debt",          "exceeds_member_cap",
                                    "exceeds_available"};
  return nth(kNames, status);
}

std::string name_of(ReduceStatus status) {
  constexpr const char* kNames[] = {"reduced",      "already_reduced", "exists_with_different_content",
                                    "invalid",      "unknown_hold",    "hold_closed",
                                    "exceeds_remaining"};
  return nth(kNames, status);
}

std::string name_of(RefundStatus status) {
  constexpr const char* kNames[] = {"refunded", "already_refunded", "exists_with_different_content",
                                    "invalid",  "unknown_charge",   "exceeds_charge"};
  return nth(kNames, status);
}

std::string name_of(SetStatus status) {
  constexpr const char* kNames[] = {"set", "already_set", "exists_with_different_content", "invalid",
                                    "below_use"};
  return nth(kNames, status);
}

std::string name_of(const ChargeOutcome& outcome) {
  const auto amounts = [&outcome](const std::string& status) {
    return status + " " + exact(outcome.charged) +
           (outcome.excess == Amount{0} ? "" : " excess " + exact(outcome.excess));
  };
  switch (outcome.status) {
    case ChargeStatus::kCharged:
      return amounts("charged");
    case ChargeStatus::kAlreadyCharged:
      return amounts("already_charged");
    case ChargeStatus::kExistsWithDifferentContent:
      return "exists_with_different_content";
    case ChargeStatus::kInvalid:
      return "invalid";
    case ChargeStatus::kUnknownHold:
      return "unknown_hold";
    case ChargeStatus::kHoldClosed:
      return "hold_closed";
  }
  return "?";
}

std::string name_of(ReleaseStatus status) {
  switch (status) {
    case ReleaseStatus::kReleased:
      return "released";
    case ReleaseStatus::kAlreadyReleased:
      return "already_released";
    case ReleaseStatus::kUnknownHold:
      return "unknown_hold";
  }
  return "?";
}

std::string ask_to_grant(Ledger& ledger, const Arguments& words, UtcSeconds now) {
  return name_of(must(ledger.grant({.id = words.at(0),
                                    .fund = words.at(1),
                                    .amount = amount_of(words.at(2)),
                                    .actor = words.option("actor", "root"),
                                    .note = words.option("note", ""),
                                    .from = words.moment("from"),
                                    .expires = words.moment("expires")},
                                   now)));
}

std::string ask_to_hold(Ledger& ledger, const Arguments& words, UtcSeconds now) {
  const std::string& id = words.at(0);
  return name_of(must(ledger.hold({.id = id,
                                   .fund = words.at(1),
                                   .amount = amount_of(words.at(2)),
                                   .run = words.option("run", id.substr(0, id.find('/'))),
                                   .actor = words.option("actor", "ada"),
                                   .gpus = words.number("gpus", "0"),
                                   .expires_after_s = words.number("expires", "0"),
                                   .quote = words.option("quote", "")},
                                  now)));
}

std::string ask_to_change(Ledger& ledger, const Arguments& words, const std::string& verb,
                          UtcSeconds now) {
  const std::string& id = words.at(0);
  const std::string& of = words.at(1);
  const Amount amount = amount_of(words.at(2));
  const std::string actor = words.option("actor", "root");
  const std::string note = words.option("note", "");
  if (verb == "extend") return name_of(must(ledger.extend({id, of, amount, actor, note}, now)));
  if (verb == "reduce") return name_of(must(ledger.reduce({id, of, amount, actor, note}, now)));
  return name_of(must(ledger.refund({id, of, amount, actor, note}, now)));
}

std::string ask_to_set(Ledger& ledger, const Arguments& words, UtcSeconds now) {
  Setting setting{.id = words.at(0),
                  .fund = words.at(1),
                  .name = words.at(2),
                  .value = {},
                  .since = words.instant("since"),
                  .actor = words.option("actor", "root"),
                  .note = words.option("note", "")};
  if (words.plain.size() > 3) {
    const std::string& value = words.at(3);
    const bool is_hours = value.ends_with('h');
    setting.value = is_hours ? std::to_string(amount_of(value).milli_gpu_s) : value;
  }
  return name_of(must(ledger.set(setting, now)));
}

std::string ask_to_charge(Ledger& ledger, const Arguments& words, UtcSeconds now) {
  return name_of(must(ledger.charge({.id = words.at(0),
                                     .hold_id = words.at(1),
                                     .cluster = words.option("cluster", "alpha"),
                                     .gpus = words.number("gpus", "1"),
                                     .seconds = words.number("seconds", "0"),
                                     .weight_milli = words.number("weight", "1000"),
                                     .start = words.instant("start"),
                                     .end = words.instant("end"),
                                     .note = words.option("note", ""),
                                     .excess = words.option("excess", "site") == "fund"
                                                   ? Excess::kFundOwes
                                                   : Excess::kSiteBears},
                                    now)));
}

std::string balance_answer(Ledger& ledger, const std::string& fund) {
  const auto balance = must(ledger.balance(fund));
  if (!balance) return "unknown";
  return "available " + exact(balance->available) + " held " + exact(balance->held) + " granted " +
         exact(balance->granted) + " charged " + exact(balance->charged) +
         (balance->later == Amount{0} ? "" : " later " + exact(balance->later)) +
         (balance->expired == Amount{0} ? "" : " expired " + exact(balance->expired)) +
         (balance->owed == Amount{0} ? "" : " owed " + exact(balance->owed)) +
         (balance->credit_limit == Amount{0} ? "" : " credit " + exact(balance->credit_limit));
}

std::string state_answer(Ledger& ledger, const std::string& hold_id) {
  const auto state = must(ledger.hold_state(hold_id));
  if (!state) return "unknown";
  return std::string(state->is_open ? "open" : "closed") + " charged " + exact(state->charged) +
         " released " + exact(state->released) + " remaining " + exact(state->remaining());
}

std::string joined(const std::vector<StatementLine>& lines,
                   const std::function<std::string(const StatementLine&)>& word) {
  std::string text;
  for (const StatementLine& line : lines) text += (text.empty() ? "" : " ") + word(line);
  return text;
}

}  // namespace

std::string exact(Amount amount) {
  const std::int64_t n = amount.milli_gpu_s;
  if (n % kGpuHour.milli_gpu_s == 0) return std::to_string(n / kGpuHour.milli_gpu_s) + "h";
  if (n % 1'000 == 0) return std::to_string(n / 1'000) + "s";
  return std::to_string(n) + "mGPUs";
}

std::vector<TableLine> parse_table(std::string_view text, int first_line) {
  std::vector<TableLine> lines;
  std::istringstream input{std::string(text)};
  std::string raw;
  for (int number = first_line; std::getline(input, raw); ++number) {
    TableLine line{.number = number, .words = {}, .answer = {}};
    bool is_answer = false;
    bool is_quoted = false;
    bool is_word = false;  // Also an empty one, in quotes.
    std::string word;
    for (const char c : raw + " ") {
      if (c == '"') {
        is_quoted = !is_quoted;
        is_word = true;
      } else if (c != ' ' || is_quoted) {
        word += c;
        is_word = true;
      } else if (is_word) {
        if (word == "->" && !is_answer) {
          is_answer = true;
        } else if (is_answer) {
          line.answer += (line.answer.empty() ? "" : " ") + word;
        } else {
          line.words.push_back(word);
        }
        word.clear();
        is_word = false;
      }
    }
    if (is_quoted) throw std::runtime_error(std::to_string(number) + ": a quote is left open");
    if (!line.words.empty() && !line.words[0].starts_with('#')) lines.push_back(std::move(line));
  }
  return lines;
}

std::string ask(Ledger& ledger, const TableLine& line, UtcSeconds& clock) {
  const Arguments words(line);
  const std::string& verb = line.words[0];
  if (verb == "at") {
    const auto when = parse_utc(words.at(0));
    if (!when) throw std::runtime_error("\"" + words.at(0) + "\" is no instant");
    clock = *when;
    return "";
  }
  if (verb == "grant") return ask_to_grant(ledger, words, clock);
  if (verb == "hold") return ask_to_hold(ledger, words, clock);
  if (verb == "charge") return ask_to_charge(ledger, words, clock);
  if (verb == "release") {
    return name_of(must(ledger.release(words.at(0), words.option("note", ""), clock)));
  }
  if (verb == "extend" || verb == "reduce" || verb == "refund") {
    return ask_to_change(ledger, words, verb, clock);
  }
  if (verb == "set") return ask_to_set(ledger, words, clock);
  if (verb == "use") return exact(must(ledger.member_use(words.at(0), words.at(1))));
  if (verb == "refundable") {
    const auto left = must(ledger.refundable(words.at(0)));
    return left ? exact(*left) : "unknown";
  }
  if (verb == "turn") {
    (void)must(ledger.turn(clock));
    return "";
  }
  if (verb == "dated") {
    std::string grants;
    for (const DatedGrant& grant : must(ledger.dated_grants(words.at(0)))) {
      grants += (grants.empty() ? "" : " ") + grant.id + ":" + exact(grant.remaining);
    }
    return grants.empty() ? "none" : grants;
  }
  if (verb == "expired") {
    std::string ids;
    for (const HoldState& state : must(ledger.expired_holds(clock))) {
      ids += (ids.empty() ? "" : " ") + state.hold.id;
    }
    return ids.empty() ? "none" : ids;
  }
  if (verb == "balance") return balance_answer(ledger, words.at(0));
  if (verb == "state") return state_answer(ledger, words.at(0));
  if (verb == "lines" || verb == "after") {
    const std::string fund = words.plain.empty() ? "" : words.at(0);
    const auto lines = must(ledger.lines(fund, words.option("run", "")));
    return joined(lines, [&verb](const StatementLine& at) {
      return verb == "lines" ? at.kind : exact(at.available_after) + "/" + exact(at.balance_after);
    });
  }
  if (verb == "findings") return std::to_string(must(ledger.findings()).size());
  if (verb == "verify") {
    const auto faults = must(ledger.verify());
    return faults.empty() ? "right" : faults.front();
  }
  throw std::runtime_error("the word \"" + verb + "\" is not known");
}

}  // namespace accounting
