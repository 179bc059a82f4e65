// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/verifier.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "accounting/ledger.h"

namespace scheduler {
namespace {

constexpr std::chrono::hours kLimit{4};
constexpr std::chrono::minutes kPatience{2};  // A client asks twice a second.
constexpr std::size_t kFaultsMax = 1'000;

}  // namespace

void Verifier::forget_old(SteadyTime now) {
  if (commands_ && now - asked_ > kPatience) commands_.reset();
}

Expected<std::optional<std::vector<std::string>>> Verifier::ask(SteadyTime now) {
  forget_old(now);
  asked_ = now;
  if (!commands_) commands_.emplace();
  const auto fail = [](const std::string& why) {
    return tl::unexpected(Error{"verifying the books aside: " + why});
  };
  for (const SideEnd& ended : commands_->take(now)) {
    if (!ended.is_good) return fail(ended.trouble);
    const auto faults = nlohmann::json::parse(ended.output, nullptr, false);
    if (!faults.is_array()) return fail("it printed no list");
    std::vector<std::string> found;
    for (const nlohmann::json& fault : faults) {
      found.push_back(fault.is_string() ? fault.get<std::string>() : fault.dump());
    }
    return std::optional(std::move(found));
  }
  if (commands_->running() == 0) {
    const auto started = commands_->start(1, command_, "", kLimit, now);
    if (!started) return fail(started.error().message);
  }
  return std::optional<std::vector<std::string>>{};
}

Expected<std::string> verify_aside(const std::string& database) {
  auto db = accounting::Database::open(database);
  if (!db) return tl::unexpected(Error{db.error().message});
  // A newer program shall not bring the books forward under the service that uses them.
  const auto is_current = accounting::Ledger::is_current(*db);
  if (!is_current) return tl::unexpected(Error{is_current.error().message});
  if (!*is_current) {
    return tl::unexpected(Error{fmt::format(
        "{} is of another version than this program. Restart trainyardd, which brings it forward",
        database)});
  }
  const auto ledger = accounting::Ledger::open(*db);
  if (!ledger) return tl::unexpected(Error{ledger.error().message});
  auto faults = ledger->verify();
  if (!faults) return tl::unexpected(Error{faults.error().message});
  if (faults->size() > kFaultsMax) {
    const std::size_t more = faults->size() - kFaultsMax;
    faults->resize(kFaultsMax);
    faults->push_back(fmt::format("{} more faults", more));
  }
  return nlohmann::json(*faults).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace scheduler
