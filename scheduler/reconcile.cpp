// SPDX-License-Identifier: GPL-3.0-or-later
//
// The books against slurmdbd: every charge, every allocation.
#include <algorithm>
#include <limits>
#include <span>

#include <fmt/format.h>

#include "scheduler/dispatcher.h"

namespace scheduler {
namespace {

Error of(const accounting::Error& error) { return {"the books: " + error.message}; }

// Clocks of the service and of slurmctld may differ by this.
constexpr std::int64_t kClockSlackS = 300;
constexpr int kAuditedRunsMax = 1'000'000;
constexpr std::size_t kJobsPerQuestion = 500;

struct SettledSegment {
  const Run* run;
  const Segment* segment;
};

// What was charged for a segment against what slurmdbd has of its job.
void compare_charges(const SettledSegment& settled, const std::vector<AllocationRecord>& records,
                     Dispatcher::AuditReport& report) {
  const Run& run = *settled.run;
  const Segment& segment = *settled.segment;
  const std::string subject =
      fmt::format("run {} segment {} (job {})", run.id, segment.index, *segment.job);
  // A plain job that its user requeued after its end goes on under the next segment.
  const bool has_later = &segment != &run.segments.back();
  const UtcSeconds until =
      segment.ended ? segment.ended_noticed + kClockSlackS : std::numeric_limits<UtcSeconds>::max();
  std::vector<AllocationRecord> own;
  for (const AllocationRecord& record : records) {
    const bool is_own = is_record_of(run, segment, record, Patience{}) &&
                        record.submit <= until;
    if (is_own) own.push_back(record);
  }
  for (const AttemptCharged& charge : segment.charges) {
    const auto place = static_cast<std::size_t>(charge.attempt);
    if (place >= own.size()) {
      report.notes.push_back(
          fmt::format("{}: slurmdbd has no record of attempt {}", subject, charge.attempt));
      continue;
    }
    ++report.charges_compared;
    const AllocationRecord& record = own[place];
    const std::int64_t recorded_s =
        record.start > 0 ? std::max<std::int64_t>(record.end - record.start, 0) : 0;
    const std::int64_t charged_s = charge.end - charge.start;
    // Where its owner requeues a job that has ended, slurmctld 22.05 closes the old record once more,
    // with the time of the requeue: it grows by seconds in which nothing was allocated.
    const bool has_grown = record.state == JobState::kRequeued && is_ended(charge.state) &&
                           record.gpus == charge.gpus && recorded_s > charged_s;
    if (has_grown) {
      report.unallocated_gpu_s += record.gpus * (recorded_s - charged_s);
      report.notes.push_back(fmt::format(
          "{}: attempt {} ended after {} s and is charged with them; slurmdbd's record grew to {} s "
          "when the ended job was requeued", subject, charge.attempt, charged_s, recorded_s));
    } else if (record.gpus * recorded_s != charge.gpus * charged_s) {
      report.faults.push_back(
          fmt::format("{}: attempt {} is charged with {} GPU x {} s, slurmdbd has {} GPU x {} s",
                      subject, charge.attempt, charge.gpus, charged_s, record.gpus, recorded_s));
    }
  }
  const std::size_t charged = static_cast<std::size_t>(segment.first_attempt) + segment.charges.size();
  if (own.size() > charged && !(segment.is_plain && has_later)) {
    report.faults.push_back(fmt::format("{}: slurmdbd has {} attempts, {} are charged", subject,
                                        own.size(), charged));
  }
}

}  // namespace

Expected<Dispatcher::AuditReport> Dispatcher::audit() {
  AuditReport report;
  const auto faults = ledger_.verify();
  if (!faults) return tl::unexpected(of(faults.error()));
  report.faults = *faults;
  const auto findings = ledger_.findings();
  if (!findings) return tl::unexpected(of(findings.error()));
  for (const accounting::Finding& finding : *findings) {
    report.notes.push_back(fmt::format("{} {}: {}", accounting::format_utc(finding.when),
                                       finding.subject, finding.text));
  }
  const auto runs = store_.load_latest("", kAuditedRunsMax);
  if (!runs) return tl::unexpected(runs.error());
  std::vector<SettledSegment> settled;
  for (const Run& run : *runs) {
    for (const Segment& segment : run.segments) {
      if (segment.job && segment.closed) settled.push_back({&run, &segment});
    }
  }
  for (std::size_t first = 0; first < settled.size(); first += kJobsPerQuestion) {
    const auto part = std::span(settled).subspan(
        first, std::min(kJobsPerQuestion, settled.size() - first));
    std::vector<JobId> jobs;
    std::int64_t since = INT64_MAX;
    for (const SettledSegment& each : part) {
      jobs.push_back(*each.segment->job);
      const UtcSeconds submit = each.run->about.is_plain ? each.run->segments.front().job_submit
                                                        : each.segment->opened - kClockSlackS;
      since = std::min(since, submit);
    }
    const auto records = cluster_->load_records(jobs, since);
    if (!records) return tl::unexpected(records.error());
    for (const SettledSegment& each : part) compare_charges(each, *records, report);
  }
  return report;
}

}  // namespace scheduler
