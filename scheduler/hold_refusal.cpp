// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/hold_refusal.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>

namespace scheduler {
namespace {

using accounting::Amount;
using accounting::HoldStatus;
using accounting::to_gpu_hours;

Error of(const accounting::Error& error) { return {"the books: " + error.message}; }

Expected<std::int64_t> number_of(const accounting::Ledger& ledger, const std::string& fund,
                                 const std::string& name) {
  const auto value = ledger.setting(fund, name);
  if (!value) return tl::unexpected(of(value.error()));
  return *value ? std::strtoll((*value)->c_str(), nullptr, 10) : 0;
}

bool is_of_gpus(HoldStatus status) {
  return status == HoldStatus::kExceedsGpus || status == HoldStatus::kExceedsMemberGpus;
}
bool is_of_runs(HoldStatus status) {
  return status == HoldStatus::kExceedsRuns || status == HoldStatus::kExceedsMemberRuns;
}
bool is_of_member(HoldStatus status) {
  return status == HoldStatus::kExceedsMemberGpus || status == HoldStatus::kExceedsMemberRuns;
}

// The setting that such a status is about.
Expected<std::string> rule_of(const accounting::Ledger& ledger, HoldStatus status,
                              const HoldAsked& asked) {
  const std::string what = is_of_gpus(status) ? "gpus" : "runs";
  if (!is_of_member(status)) return what + "_max";
  const std::string own = what + "/" + asked.member;
  const auto has_own = ledger.setting(asked.fund, own);
  if (!has_own) return tl::unexpected(of(has_own.error()));
  return *has_own ? own : "member_" + what + "_max";
}

// What of the member's cap is left; nothing where he has none.
Expected<std::optional<Amount>> cap_left(const accounting::Ledger& ledger, const std::string& fund,
                                         const std::string& member) {
  const auto has_cap = ledger.setting(fund, "cap/" + member);
  if (!has_cap) return tl::unexpected(of(has_cap.error()));
  if (!*has_cap) return std::optional<Amount>{};
  const auto cap = number_of(ledger, fund, "cap/" + member);
  if (!cap) return tl::unexpected(cap.error());
  const auto use = ledger.member_use(fund, member);
  if (!use) return tl::unexpected(of(use.error()));
  return std::optional{Amount{*cap - use->milli_gpu_s}};
}

}  // namespace

Expected<std::optional<Refusal>> rule_refusal(const accounting::Ledger& ledger, HoldStatus status,
                                              const HoldAsked& asked) {
  const auto refuse = [](std::string reason) {
    return std::optional<Refusal>{Refusal{{std::move(reason)}}};
  };
  if (status == HoldStatus::kFundClosed) {
    return refuse(fmt::format("fund {} is closed to new runs. Ask an admin, or use another --fund.",
                              asked.fund));
  }
  if (status == HoldStatus::kInDebt) {
    const auto balance = ledger.balance(asked.fund);
    if (!balance) return tl::unexpected(of(balance.error()));
    return refuse(fmt::format("fund {} owes {} for usage beyond its holds; nothing is held for it "
                              "until that is paid. A grant or top-up of that much pays it.",
                              asked.fund, to_gpu_hours(*balance ? (*balance)->owed : Amount{})));
  }
  if (status == HoldStatus::kExceedsMemberCap) {
    const auto cap = number_of(ledger, asked.fund, "cap/" + asked.member);
    if (!cap) return tl::unexpected(cap.error());
    const auto use = ledger.member_use(asked.fund, asked.member);
    if (!use) return tl::unexpected(of(use.error()));
    return refuse(fmt::format("{} may use {} of fund {} and has {} in use; this needs {} more. Ask "
                              "an admin for a larger cap, or use another --fund.",
                              asked.member, to_gpu_hours({*cap}), asked.fund, to_gpu_hours(*use),
                              to_gpu_hours(asked.amount)));
  }
  const bool is_gpus = is_of_gpus(status);
  if (!is_gpus && !is_of_runs(status)) return std::optional<Refusal>{};
  const bool is_member = is_of_member(status);
  const auto rule = rule_of(ledger, status, asked);
  if (!rule) return tl::unexpected(rule.error());
  const auto most = number_of(ledger, asked.fund, *rule);
  if (!most) return tl::unexpected(most.error());
  const auto use = ledger.open_use(asked.fund, is_member ? asked.member : "");
  if (!use) return tl::unexpected(of(use.error()));
  const std::string who = is_member ? asked.member : "fund " + asked.fund;
  const std::string where = is_member ? " of fund " + asked.fund : "";
  const std::int64_t needed = is_gpus ? asked.gpus : asked.runs;
  const std::string other = is_member ? ", or use another --fund" : "";
  return refuse(fmt::format(
      "{} may have {} {}{} at once and has {} in use; this needs {}{}. {}{}.", who, *most,
      is_gpus ? "GPUs" : "runs", where, is_gpus ? use->gpus : use->runs, needed,
      (is_gpus ? use->gpus : use->runs) == 0 ? "" : " more",
      needed > *most ? fmt::format("Ask for at most {}", *most)
      : is_gpus      ? "Wait for a run to end, or ask for fewer GPUs"
                     : "Wait for a run to end",
      other));
}

Expected<std::optional<Refusal>> lasting_refusal(const accounting::Ledger& ledger,
                                                 const HoldAsked& asked) {
  const auto payable = payable_by(ledger, asked.fund, asked.member);
  if (!payable) return tl::unexpected(payable.error());
  if (payable->bound == HoldStatus::kFundClosed || payable->bound == HoldStatus::kInDebt) {
    return rule_refusal(ledger, payable->bound, asked);
  }
  const auto left = cap_left(ledger, asked.fund, asked.member);
  if (!left) return tl::unexpected(left.error());
  if (*left && **left < asked.amount) return rule_refusal(ledger, HoldStatus::kExceedsMemberCap, asked);
  for (const HoldStatus status : {HoldStatus::kExceedsGpus, HoldStatus::kExceedsRuns,
                                  HoldStatus::kExceedsMemberGpus, HoldStatus::kExceedsMemberRuns}) {
    const auto rule = rule_of(ledger, status, asked);
    if (!rule) return tl::unexpected(rule.error());
    const auto is_set = ledger.setting(asked.fund, *rule);
    if (!is_set) return tl::unexpected(of(is_set.error()));
    if (!*is_set) continue;
    const auto most = number_of(ledger, asked.fund, *rule);
    if (!most) return tl::unexpected(most.error());
    if ((is_of_gpus(status) ? asked.gpus : asked.runs) > *most) return rule_refusal(ledger, status, asked);
  }
  return std::optional<Refusal>{};
}

Expected<Payable> payable_by(const accounting::Ledger& ledger, const std::string& fund,
                             const std::string& member) {
  const auto balance = ledger.balance(fund);
  if (!balance) return tl::unexpected(of(balance.error()));
  if (!*balance) return Payable{{}, HoldStatus::kUnknownFund};
  const auto closed = ledger.setting(fund, "closed");
  if (!closed) return tl::unexpected(of(closed.error()));
  if (*closed) return Payable{{}, HoldStatus::kFundClosed};
  if ((*balance)->owed > Amount{}) return Payable{{}, HoldStatus::kInDebt};
  Payable payable{{(*balance)->available.milli_gpu_s + (*balance)->credit_limit.milli_gpu_s}};
  const auto left = cap_left(ledger, fund, member);
  if (!left) return tl::unexpected(left.error());
  if (*left && **left < payable.amount) payable = {**left, HoldStatus::kExceedsMemberCap};
  payable.amount = std::max(payable.amount, Amount{});
  return payable;
}

}  // namespace scheduler
