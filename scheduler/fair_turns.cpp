// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/fair_turns.h"

#include <algorithm>
#include <set>
#include <tuple>

namespace scheduler {
namespace {

constexpr std::int64_t kChange_ms = 1000 / FairTurns::kChangesASecond;
constexpr std::int64_t kFull_ms = FairTurns::kChangesAtOnce * kChange_ms;

}  // namespace

FairTurns::Share& FairTurns::share_of(std::uint32_t uid, Time now) {
  const auto [entry, is_new] = shares_.try_emplace(uid);
  Share& share = entry->second;
  if (is_new) share.since = now;
  const auto passed = std::chrono::duration_cast<std::chrono::milliseconds>(now - share.since);
  if (passed.count() > 0) {
    share.changes_ms = std::min(kFull_ms, share.changes_ms + passed.count());
    share.since += passed;  // Not `now`: what is less than a millisecond counts later.
  }
  return share;
}

bool FairTurns::may_be_answered(const Question& question, Time now) {
  const bool is_limited = question.is_change && !question.is_trusted;
  return !is_limited || share_of(question.uid, now).changes_ms >= kChange_ms;
}

std::vector<std::size_t> FairTurns::pass(const std::vector<Question>& waiting, Time now) {
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < waiting.size(); ++i) {
    if (may_be_answered(waiting[i], now)) order.push_back(i);
  }
  const auto rank = [&](std::size_t i) {
    return std::tuple(share_of(waiting[i].uid, now).last_turn, waiting[i].number);
  };
  std::sort(order.begin(), order.end(),
            [&](std::size_t left, std::size_t right) { return rank(left) < rank(right); });
  std::set<std::uint32_t> served;
  std::erase_if(order, [&](std::size_t i) {
    return !waiting[i].is_trusted && !served.insert(waiting[i].uid).second;
  });
  return order;
}

void FairTurns::answered(const Question& question, Time now) {
  Share& share = share_of(question.uid, now);
  share.last_turn = ++turn_;
  if (question.is_change && !question.is_trusted) share.changes_ms -= kChange_ms;
}

}  // namespace scheduler
