// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/verifier.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "scheduler/dispatcher.h"

namespace scheduler {
namespace {

using nlohmann::json;

constexpr std::chrono::hours kLimit{4};
constexpr std::chrono::minutes kPatience{2};  // A client asks twice a second.
constexpr std::size_t kSentencesMax = 1'000;

void shorten(std::vector<std::string>& sentences, const char* noun) {
  if (sentences.size() <= kSentencesMax) return;
  const std::size_t more = sentences.size() - kSentencesMax;
  sentences.resize(kSentencesMax);
  sentences.push_back(fmt::format("{} more {}", more, noun));
}

Expected<AuditReport> audit_of(const Site& site, Cluster& cluster) {
  auto db = accounting::Database::open(site.database);
  if (!db) return tl::unexpected(Error{db.error().message});
  // A newer program shall not bring the books forward under the service that uses them.
  const auto is_current = accounting::Ledger::is_current(*db);
  if (!is_current) return tl::unexpected(Error{is_current.error().message});
  if (!*is_current) {
    return tl::unexpected(Error{fmt::format(
        "{} is of another version than this program. Restart trainyardd, which brings it forward",
        site.database)});
  }
  if (const auto set = db->execute_script("PRAGMA query_only=ON"); !set) {
    return tl::unexpected(Error{set.error().message});
  }
  auto dispatcher = Dispatcher::beside(site, *db, cluster);
  if (!dispatcher) return tl::unexpected(dispatcher.error());
  return dispatcher->audit_here();
}

Expected<AuditReport> report_of(const std::string& text) {
  const json printed = json::parse(text, nullptr, false);
  if (!printed.is_object()) return tl::unexpected(Error{"it printed no report"});
  try {
    if (printed.contains("error")) {
      return tl::unexpected(Error{printed.at("error").get<std::string>()});
    }
    AuditReport report;
    printed.at("faults").get_to(report.faults);
    printed.at("notes").get_to(report.notes);
    printed.at("charges_compared").get_to(report.charges_compared);
    printed.at("unallocated_gpu_s").get_to(report.unallocated_gpu_s);
    return report;
  } catch (const json::exception& error) {
    return tl::unexpected(Error{std::string("its report: ") + error.what()});
  }
}

}  // namespace

void Verifier::forget_old(SteadyTime now) {
  if (commands_ && now - asked_ > kPatience) commands_.reset();
}

Expected<AuditReport> Verifier::ask(SteadyTime now) {
  forget_old(now);
  asked_ = now;
  if (!commands_) commands_.emplace();
  const auto fail = [](const std::string& why) {
    return tl::unexpected(Error{"auditing the books aside: " + why});
  };
  for (const SideEnd& ended : commands_->take(now)) {
    if (!ended.is_good) return fail(ended.trouble);
    auto report = report_of(ended.output);
    if (!report) return fail(report.error().message);
    return report;
  }
  if (commands_->running() == 0) {
    const auto started = commands_->start(1, command_, "", kLimit, now);
    if (!started) return fail(started.error().message);
  }
  AuditReport pending;
  pending.is_pending = true;
  return pending;
}

std::string audit_aside(const Site& site, Cluster& cluster) {
  auto report = audit_of(site, cluster);
  json out;
  if (report) {
    shorten(report->faults, "faults");
    shorten(report->notes, "notes");
    out = {{"faults", report->faults},
           {"notes", report->notes},
           {"charges_compared", report->charges_compared},
           {"unallocated_gpu_s", report->unallocated_gpu_s}};
  } else {
    out = {{"error", report.error().message}};
  }
  return out.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace scheduler
