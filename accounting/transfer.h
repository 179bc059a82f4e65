// SPDX-License-Identifier: GPL-3.0-or-later
// accounting/transfer.h
//
// Private to the module: a row of the table `transfer` and the hashes over it
// (docs/formats/ledger.md, "Hash chain").
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "accounting/ledger.h"

namespace accounting {

inline constexpr std::string_view kTreasury = "treasury";

struct Transfer {
  std::int64_t seq = 0;
  std::string id;
  std::string kind;
  std::string debit;
  std::string credit;
  Amount amount;
  std::string hold_id;  // Empty: null.
  std::string run;
  std::int64_t gpus = 0, seconds = 0, weight_milli = 0;
  UtcSeconds start = 0, end = 0;
  std::string actor;
  std::string note;
  std::optional<std::string> ref = {};    // Null in the kinds that name nothing.
  std::optional<std::string> value = {};
  std::string content_hash;
  std::int64_t ts_us = 0;
  std::string prev_hash;
  std::string hash;
  // What the two accounts had after it: a cache, which the insert fills in.
  Amount debit_after, credit_after;
};

// The account `prefix:rest`, such as fund_account("user:ada") = "fund:user:ada".
[[nodiscard]] std::string fund_account(std::string_view fund);
[[nodiscard]] std::string held_account(std::string_view fund);
[[nodiscard]] std::string usage_account(std::string_view cluster);
[[nodiscard]] std::string debt_account(std::string_view fund);
[[nodiscard]] std::string later_account(std::string_view fund);
[[nodiscard]] std::string expired_account(std::string_view fund);
// What stands behind the first colon: "fund:user:ada" -> "user:ada".
[[nodiscard]] std::string account_owner(std::string_view account);
// The fund whose lines a transfer is among.
[[nodiscard]] std::string fund_of(const Transfer& transfer);
// The ids of transfers that the ledger makes itself: the release of a hold, the debt of a charge, the
// repayment that follows a transfer, the begin and the ends of a dated grant. Callers may not use
// such ids.
[[nodiscard]] std::string release_id(std::string_view hold_id);
[[nodiscard]] std::string debt_id(std::string_view charge_id);
[[nodiscard]] std::string repay_id(std::string_view cause_id);
[[nodiscard]] std::string begin_id(std::string_view grant_id);
[[nodiscard]] std::string expire_id(std::string_view grant_id, std::int64_t earlier);
[[nodiscard]] std::string due_id(std::string_view take_id);
[[nodiscard]] bool is_reserved_id(std::string_view id);

// What makes two requests the same. The note of a charge is no part of it: it is an observer's
// wording, and the same allocation may be observed twice.
[[nodiscard]] std::string content_hash(const Grant& grant);
[[nodiscard]] std::string content_hash(const Hold& hold);
[[nodiscard]] std::string content_hash(const Charge& charge);
[[nodiscard]] std::string content_hash(const Extension& extension);
[[nodiscard]] std::string content_hash(const Reduction& reduction);
[[nodiscard]] std::string content_hash(const Refund& refund);
[[nodiscard]] std::string content_hash(const Setting& setting);
[[nodiscard]] std::string release_content_hash(std::string_view hold_id);
// Of hours that are taken from a fund (accounting/take.h).
[[nodiscard]] std::string take_content_hash(std::string_view id, std::string_view fund,
                                            std::string_view ref, std::string_view actor);
// Of a transfer that the ledger makes itself.
[[nodiscard]] std::string own_content_hash(std::string_view kind, std::string_view id);
// The same, from what the transfer kept of its request.
[[nodiscard]] std::string content_hash_of_request(const Transfer& transfer);

[[nodiscard]] std::string first_prev_hash();
[[nodiscard]] std::string chain_hash(const Transfer& transfer);

// Reads transfers in order of seq. `where` is SQL behind "FROM transfer ".
[[nodiscard]] Expected<void> each_transfer(Database& db, std::string_view where,
                                           const std::vector<Value>& values,
                                           const std::function<void(const Transfer&)>& visit);
[[nodiscard]] Expected<void> insert_transfer(Database& db, const Transfer& transfer);

}  // namespace accounting
