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
  if (status == HoldStatus::kExceedsGpus) {
    const auto most = number_of(ledger, asked.fund, "gpus_max");
    if (!most) return tl::unexpected(most.error());
    return refuse(fmt::format("fund {} may have {} GPUs at once; this needs {} beside those of its "
                              "open runs. Wait for one to end, or ask for fewer --gpus.",
                              asked.fund, *most, asked.gpus));
  }
  if (status == HoldStatus::kExceedsRuns) {
    const auto most = number_of(ledger, asked.fund, "runs_max");
    if (!most) return tl::unexpected(most.error());
    return refuse(fmt::format("fund {} may have {} runs at once, and has them. Wait for one to end.",
                              asked.fund, *most));
  }
  if (status == HoldStatus::kExceedsMemberGpus || status == HoldStatus::kExceedsMemberRuns) {
    const bool is_gpus = status == HoldStatus::kExceedsMemberGpus;
    const std::string common = is_gpus ? "member_gpus_max" : "member_runs_max";
    const std::string own = (is_gpus ? "gpus/" : "runs/") + asked.member;
    const auto has_own = ledger.setting(asked.fund, own);
    if (!has_own) return tl::unexpected(of(has_own.error()));
    const auto most = number_of(ledger, asked.fund, *has_own ? own : common);
    if (!most) return tl::unexpected(most.error());
    return refuse(fmt::format("{} may have {} {} of fund {} at once; this needs {} beside those of "
                              "{}'s open runs. Wait for one to end, or use another --fund.",
                              asked.member, *most, is_gpus ? "GPUs" : "runs", asked.fund,
                              is_gpus ? asked.gpus : 1, asked.member));
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
