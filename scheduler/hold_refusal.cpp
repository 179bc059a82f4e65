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
  const bool is_gpus =
      status == HoldStatus::kExceedsGpus || status == HoldStatus::kExceedsMemberGpus;
  const bool is_runs =
      status == HoldStatus::kExceedsRuns || status == HoldStatus::kExceedsMemberRuns;
  if (!is_gpus && !is_runs) return std::optional<Refusal>{};
  const bool is_member =
      status == HoldStatus::kExceedsMemberGpus || status == HoldStatus::kExceedsMemberRuns;
  std::string rule = is_gpus ? "gpus_max" : "runs_max";
  if (is_member) {
    const std::string own = (is_gpus ? "gpus/" : "runs/") + asked.member;
    const auto has_own = ledger.setting(asked.fund, own);
    if (!has_own) return tl::unexpected(of(has_own.error()));
    rule = *has_own ? own : "member_" + rule;
  }
  const auto most = number_of(ledger, asked.fund, rule);
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
  const auto has_cap = ledger.setting(fund, "cap/" + member);
  if (!has_cap) return tl::unexpected(of(has_cap.error()));
  if (*has_cap) {
    const auto cap = number_of(ledger, fund, "cap/" + member);
    if (!cap) return tl::unexpected(cap.error());
    const auto use = ledger.member_use(fund, member);
    if (!use) return tl::unexpected(of(use.error()));
    const Amount left{*cap - use->milli_gpu_s};
    if (left < payable.amount) payable = {left, HoldStatus::kExceedsMemberCap};
  }
  payable.amount = std::max(payable.amount, Amount{});
  return payable;
}

}  // namespace scheduler
