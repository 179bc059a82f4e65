// SPDX-License-Identifier: GPL-3.0-or-later
// accounting/posting.h
//
// Private to the module: what every operation of the ledger is made of. Names are checked, what is
// known is looked up, and a transfer is put at the end of the chain. All of it runs inside the
// caller's transaction.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "accounting/transfer.h"

namespace accounting {

inline constexpr UtcSeconds kYear9999End = 253'402'300'799;

// What a name may have beside letters and digits. Groups of a directory with blanks are renamed where
// the machine learns of them (docs/operate.md).
inline constexpr std::string_view kNameMarks = "._@+-";
inline constexpr std::size_t kNameLengthMax = 64;
inline constexpr std::string_view kIdMarks = "._-/:@+=#";
inline constexpr std::size_t kIdLengthMax = 200;

[[nodiscard]] bool is_name(std::string_view text);  // A user, group, cluster or member.
[[nodiscard]] bool is_fund(std::string_view text);
[[nodiscard]] bool is_run(std::string_view text);
[[nodiscard]] bool is_id(std::string_view text);
[[nodiscard]] bool is_actor(std::string_view text);
// Notes come from people and from Slurm: what cannot be printed on one line becomes '?', and what
// is too long is cut, so that a strange note never keeps a charge out of the books.
[[nodiscard]] std::string printable_note(std::string_view text);

template <typename T>
Expected<T> with_noun(Expected<T> result, std::string_view noun, std::string_view id) {
  if (!result) {
    result.error().message =
        std::string(noun) + " " + std::string(id) + ": " + result.error().message;
  }
  return result;
}

// Runs `body`, which fills an answer, in one transaction.
template <typename T>
Expected<T> answer_of(Database& db, std::string_view noun, std::string_view id,
                      const std::function<Expected<T>()>& body) {
  T answer{};
  auto done = db.transact([&]() -> Expected<void> {
    auto answered = body();
    if (!answered) return tl::unexpected(std::move(answered.error()));
    answer = *answered;
    return {};
  });
  if (!done) return with_noun<T>(tl::unexpected(std::move(done.error())), noun, id);
  return answer;
}

[[nodiscard]] Expected<std::optional<Transfer>> find_transfer(Database& db, const std::string& id);
[[nodiscard]] Expected<std::optional<Amount>> account_balance(Database& db,
                                                              const std::string& account);
[[nodiscard]] Expected<void> open_account(Database& db, const std::string& name,
                                          std::string_view kind, const Value& fund);
// The fund's own account and the one of its holds.
[[nodiscard]] Expected<void> open_fund(Database& db, const std::string& fund);

struct OpenHold {
  std::string fund;
  std::string run;
  std::string member;
  Amount remaining;
  bool is_open = true;
};
[[nodiscard]] Expected<std::optional<OpenHold>> find_hold(Database& db, const std::string& id);
[[nodiscard]] Expected<std::optional<std::string>> find_setting(Database& db,
                                                                const std::string& fund,
                                                                const std::string& name);
// A setting that is a whole number; nothing where it is not set.
[[nodiscard]] Expected<std::optional<std::int64_t>> number_setting(Database& db,
                                                                   const std::string& fund,
                                                                   const std::string& name);

// Why `amount` may not be set aside for `member` by `fund`.
enum class Reserve { kAllowed, kUnknownFund, kClosed, kInDebt, kExceedsMemberCap, kExceedsAvailable };
[[nodiscard]] Expected<Reserve> may_reserve(Database& db, const std::string& fund,
                                            const std::string& member, Amount amount);
// What the member has in holds and charges of the fund, since his cap was set where he has one. Of a
// member with a cap use_of_member() is one row (member_use); summed_use_of_member() reads all his holds.
[[nodiscard]] Expected<Amount> use_of_member(Database& db, const std::string& fund,
                                             const std::string& member);
[[nodiscard]] Expected<Amount> summed_use_of_member(Database& db, const std::string& fund,
                                                    const std::string& member);
// What the fund owes; 0 where it never had a debt.
[[nodiscard]] Expected<Amount> owed_by(Database& db, const std::string& fund);

// The ledger's time for a transfer that is posted now, in whole seconds.
[[nodiscard]] UtcSeconds within_calendar(UtcSeconds now);
// Puts a transfer at the end of the chain.
[[nodiscard]] Expected<void> post(Database& db, Transfer transfer, UtcSeconds now);
// Pays what the fund owes from what it has available, after the transfer `cause_id` changed either.
[[nodiscard]] Expected<void> repay(Database& db, const std::string& fund,
                                   const std::string& cause_id, UtcSeconds now);
// What follows when a hold gave something back: what goes to an expired grant expires, and a debt is
// paid from the rest.
[[nodiscard]] Expected<void> settle_fund(Database& db, const std::string& fund,
                                         const std::string& cause_id, UtcSeconds now);
[[nodiscard]] Expected<std::optional<Amount>> refundable_of(Database& db,
                                                            const std::string& charge_id);
[[nodiscard]] Expected<void> keep_finding(Database& db, const Finding& finding);

}  // namespace accounting
