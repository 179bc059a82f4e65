// SPDX-License-Identifier: GPL-3.0-or-later
//
// The books against slurmdbd: whose an allocation is, every charge, every allocation.
#include <algorithm>
#include <cctype>
#include <limits>
#include <map>
#include <set>

#include <fmt/format.h>

#include "accounting/tariff.h"
#include "scheduler/dispatcher.h"
#include "scheduler/plain_job.h"
#include "scheduler/run_audit.h"
#include "scheduler/settlement.h"

namespace scheduler {
namespace {

Error of(const accounting::Error& error) { return {"the books: " + error.message}; }

// Clocks of the service and of slurmctld may differ by this.
constexpr std::int64_t kClockSlackS = 300;
constexpr std::size_t kJobsPerQuestion = 500;
constexpr int kRunsPerPage = 500;

// Whether the transfer that was the newest once is in the books, and is the one that it was.
accounting::Expected<std::string> fault_of_head(accounting::Database& db,
                                                const accounting::Ledger& ledger,
                                                const accounting::Head& remembered) {
  std::string hash;
  const auto read = db.query("SELECT hash FROM transfer WHERE seq = ?1", {remembered.seq},
                             [&hash](const accounting::Row& row) { hash = row.text(0); });
  if (!read) return tl::unexpected(read.error());
  if (hash == remembered.hash) return std::string();
  const auto head = ledger.head();
  if (!head) return tl::unexpected(head.error());
  if (hash.empty()) {
    return fmt::format("the books end at transfer {}, and once had transfer {} ({}): the newest were "
                       "cut off, or a copy was restored", head->seq, remembered.seq, remembered.hash);
  }
  return fmt::format("transfer {} has the hash {}, and once had {}: the books were made anew",
                     remembered.seq, hash, remembered.hash);
}

// Up to when a record may be of the run's job; later ones are of another that got its number.
UtcSeconds latest_submit(const Run& run) {
  const Segment& last = run.last();
  if (!last.closed || !last.ended) return std::numeric_limits<UtcSeconds>::max();
  return std::max(last.ended_noticed, last.closed_noticed) + kClockSlackS;
}

bool is_own_record(const Run& run, const AllocationRecord& record) {
  if (record.submit > latest_submit(run)) return false;
  return std::any_of(run.segments.begin(), run.segments.end(), [&](const Segment& segment) {
    return segment.closed && is_record_of(run, segment, record, Patience{});
  });
}

bool names_job(const std::string& text, JobId job) {
  const std::string name = fmt::format("job {}", job);
  for (std::size_t at = text.find(name); at != std::string::npos; at = text.find(name, at + 1)) {
    const std::size_t end = at + name.size();
    if (end == text.size() || std::isdigit(static_cast<unsigned char>(text[end])) == 0) return true;
  }
  return false;
}

// The start of the allocation that a finding is about; nothing where it names none. A job's name before
// it may hold an instant too, and so may the reason after it.
std::optional<UtcSeconds> start_in(const std::string& text) {
  const std::string word = " from ";
  std::size_t at = text.rfind(word, text.find(" and no hold: "));
  for (; at != std::string::npos; at = at == 0 ? std::string::npos : text.rfind(word, at - 1)) {
    const auto start =
        accounting::parse_utc(text.substr(at + word.size(), accounting::format_utc(0).size()));
    if (start) return start;
  }
  return std::nullopt;
}

// Whether a finding about the record's job may be about this allocation of it: it names a start inside
// it, or none.
bool may_be_of(const std::string& finding, const AllocationRecord& record) {
  const auto start = start_in(finding);
  if (!start) return true;
  return *start >= record.start && (record.end == 0 || *start <= std::max(record.end, record.start));
}

// Whether a finding says of this allocation that it ran without a hold.
bool is_named_as_unheld(const FindingsBySubject& findings, const AllocationRecord& record) {
  const auto of_job = findings.find(fmt::format("job {} of uid {}", record.id, record.uid));
  return of_job != findings.end() &&
         std::any_of(of_job->second.begin(), of_job->second.end(),
                     [&record](const std::string& text) { return may_be_of(text, record); });
}

struct Compared {
  const Run& run;
  const FindingsBySubject& findings;
  AuditReport& report;

  // A difference that was noticed before stands in the findings, with the job and, where it is of one
  // allocation, with its start. What another allocation differs by is not explained by it.
  void differ(const AllocationRecord& record, const std::string& text) const {
    const auto of_run = findings.find("run " + run.id);
    const bool is_explained =
        is_named_as_unheld(findings, record) ||
        (of_run != findings.end() &&
         std::any_of(of_run->second.begin(), of_run->second.end(), [&record](const std::string& finding) {
           return names_job(finding, record.id) && may_be_of(finding, record);
         }));
    (is_explained ? report.notes : report.faults).push_back(text);
  }
};

// One allocation of slurmdbd's against the charges that are parts of it.
void compare_record(const Compared& compared, const AllocationRecord& record) {
  const Run& run = compared.run;
  const UtcSeconds end = std::max(record.end, record.start);
  const std::string subject = fmt::format("run {} (job {})", run.id, record.id);
  std::int64_t charged_gpu_s = 0, charged_s = 0;
  int gpus = 0;
  const AttemptCharged* charge = nullptr;
  for (const Segment& segment : run.segments) {
    for (const AttemptCharged& each : segment.charges) {
      const bool is_part = each.job == record.id &&
                           (each.start == record.start ||
                            (each.start < end && each.end > record.start));
      if (!is_part) continue;
      charge = &each;
      charged_s += each.end - each.start;
      charged_gpu_s += each.gpus * (each.end - each.start);
      gpus = each.gpus;
    }
  }
  const std::int64_t recorded_s = end - record.start;
  if (charge == nullptr) {
    if (recorded_s > 0 && record.gpus > 0 && run.last().closed) {
      compared.differ(record,
                      fmt::format("{}: slurmdbd has {} GPU x {} s from {} on, which nobody is charged",
                                  subject, record.gpus, recorded_s,
                                  accounting::format_utc(record.start)));
    }
    return;
  }
  ++compared.report.charges_compared;
  // Where its owner requeues a job that has ended, slurmctld 22.05 closes the old record once more,
  // with the time of the requeue: it grows by seconds in which nothing was allocated.
  const bool has_grown = record.state == JobState::kRequeued && is_ended(charge->state) &&
                         record.gpus == gpus && recorded_s > charged_s;
  if (has_grown) {
    compared.report.unallocated_gpu_s += record.gpus * (recorded_s - charged_s);
    compared.report.notes.push_back(fmt::format(
        "{}: attempt {} ended after {} s and is charged with them; slurmdbd's record grew to {} s "
        "when the ended job was requeued", subject, charge->attempt, charged_s, recorded_s));
  } else if (record.gpus * recorded_s != charged_gpu_s) {
    compared.differ(record,
                    fmt::format("{}: attempt {} is charged with {} GPU x {} s, slurmdbd has {} GPU x {} s",
                                subject, charge->attempt, gpus, charged_s, record.gpus, recorded_s));
  }
}

// The run is over, and slurmdbd never heard of the end: it bills the job to this day.
bool is_runaway(const Run& run, const AllocationRecord& record) {
  return record.start > 0 && record.end == 0 && run.last().closed;
}

void note_runaway(const Compared& compared, const AllocationRecord& record) {
  compared.report.notes.push_back(fmt::format(
      "run {} (job {}): it is over, and slurmdbd shows it running since {} with {} GPUs; "
      "sacctmgr show runawayjobs", compared.run.id, record.id,
      accounting::format_utc(record.start), record.gpus));
}

void compare_run(const Compared& compared, const std::vector<AllocationRecord>& records) {
  for (const AllocationRecord& record : records) {
    if (is_runaway(compared.run, record)) note_runaway(compared, record);
    if (record.start > 0 && record.end != 0) compare_record(compared, record);
  }
  for (const Segment& segment : compared.run.segments) {
    for (const AttemptCharged& charge : segment.charges) {
      const bool is_recorded =
          std::any_of(records.begin(), records.end(), [&](const AllocationRecord& record) {
            const UtcSeconds end = std::max(record.end, record.start);
            if (record.id != charge.job || record.start == 0) return false;
            // That record is told of above, and its charges are nobody's to compare.
            if (is_runaway(compared.run, record)) return charge.end > record.start;
            return charge.start == record.start ||
                   (charge.start < end && charge.end > record.start);
          });
      if (is_recorded || charge.end == charge.start) continue;
      compared.report.notes.push_back(fmt::format("run {} (job {}): slurmdbd has no record of attempt {}",
                                                  compared.run.id, charge.job, charge.attempt));
    }
  }
}

}  // namespace

Expected<bool> Dispatcher::is_of_another(const std::string& run_id,
                                         const AllocationRecord& record) const {
  if (record.start > 0) {
    const auto payer = store_.payer(record.id, record.start);
    if (!payer) return tl::unexpected(payer.error());
    if (*payer) return **payer != run_id;
  }
  const auto claims = submits_.find({record.id, record.submit});
  if (claims != submits_.end()) return claims->second.count(run_id) == 0;
  // A requeued job's records are whose the number was last: a controller that crashed gives it anew.
  for (auto later = submits_.upper_bound({record.id, record.submit}); later != submits_.begin();) {
    const auto& [claim, runs] = *--later;
    if (claim.first != record.id || runs.count(run_id) > 0) break;
    for (const std::string& each : runs) {
      const auto other = open_.find(each);
      const bool is_possible = other != open_.end() &&
                               is_record_of(other->second, other->second.last(), record, patience());
      if (is_possible) return true;
    }
  }
  // Whose the number is now a stamp tells, whether that job has a hold or none.
  const auto shown = shown_.find(record.id);
  if (shown != shown_.end() && !shown->second.run_id.empty() && is_plain_run_id(run_id) &&
      shown->second.run_id != run_id) {
    const auto stored = store_.load(shown->second.run_id);
    if (!stored) return tl::unexpected(stored.error());
    UtcSeconds since = shown->second.submit;
    if (*stored && !(*stored)->segments.empty()) {
      since = std::min(since, (*stored)->segments.front().job_submit);
    }
    if (record.submit >= since) return true;
  }
  // A task of an array has the submit time of its array.
  const auto of_array = submits_.find({record.array_job, record.submit});
  if (of_array != submits_.end() && of_array->second.count(run_id) == 0) {
    for (const std::string& each : of_array->second) {
      if (array_task_of(each) == record.array_task) return true;
    }
  }
  // A training's job bears its run's id.
  const std::string bearer = record.name.substr(record.name.rfind('.') + 1);
  if (bearer == run_id || bearer.size() == record.name.size()) return false;
  const auto open = open_.find(bearer);
  std::optional<Run> run = open == open_.end() ? std::nullopt : std::optional(open->second);
  if (!run) {
    auto stored = store_.load(bearer);
    if (!stored) return tl::unexpected(stored.error());
    run = std::move(*stored);
  }
  if (!run || run->about.is_plain || run->about.uid != record.uid) return false;
  return std::any_of(run->segments.begin(), run->segments.end(), [&](const Segment& segment) {
    return !segment.job || *segment.job == record.id;  // Its client may have told nothing yet.
  });
}

namespace {

constexpr const char* kNotItsJob = "it is not the job of an open segment";

std::string unfunded(JobId job, const std::string& run_id, int gpus, UtcSeconds start) {
  return fmt::format("job {} of run {} had {} GPUs from {} on and no hold: {}. Nobody pays for it", job,
                     run_id, gpus, accounting::format_utc(start), kNotItsJob);
}

// Starts of the job that are charged to the run.
int starts_charged(const std::optional<Run>& run, JobId job) {
  std::set<UtcSeconds> starts;
  if (!run) return 0;
  for (const Segment& segment : run->segments) {
    for (const AttemptCharged& charge : segment.charges) {
      if (charge.job == job) starts.insert(charge.start);
    }
  }
  return static_cast<int>(starts.size());
}

}  // namespace

Expected<bool> Dispatcher::was_unfunded(JobId job, const std::string& run_id) const {
  const auto findings = ledger_.findings();
  if (!findings) return tl::unexpected(of(findings.error()));
  return std::any_of(findings->begin(), findings->end(), [&](const accounting::Finding& finding) {
    return finding.subject == "run " + run_id && names_job(finding.text, job) &&
           finding.text.find(kNotItsJob) != std::string::npos;
  });
}

Expected<void> Dispatcher::note_unfunded(const AllocationRecord& record, const std::string& run_id,
                                         UtcSeconds now) {
  if (record.start <= 0 || record.end <= record.start || record.gpus <= 0) return {};
  const auto noted = ledger_.record_finding(
      {now, "run " + run_id, unfunded(record.id, run_id, record.gpus, record.start)});
  return noted ? Expected<void>{} : tl::unexpected(of(noted.error()));
}

// The present allocation by its start, those before it by their number.
Expected<void> Dispatcher::note_unfunded_job(const JobSnapshot& job, const std::string& run_id,
                                             UtcSeconds now) {
  const bool is_live = !is_ended(job.state);
  const bool has_allocation = job.start > 0 && !job.nodes.empty() && job.gpus > 0 &&
                              job.state != JobState::kPending;
  if (!has_allocation && job.attempt == 0) return {};
  const auto stored = store_.load(run_id);
  if (!stored) return tl::unexpected(stored.error());
  const auto note = [&](const std::string& text) -> Expected<void> {
    const auto noted = ledger_.record_finding({now, "run " + run_id, text});
    return noted ? Expected<void>{} : tl::unexpected(of(noted.error()));
  };
  if (const int paid = starts_charged(*stored, job.id); paid < job.attempt) {
    const auto noted = note(fmt::format(
        "job {} of run {} was restarted {} times, and {}: nobody pays for more than {} of its allocations "
        "before", job.id, run_id, job.attempt, kNotItsJob, paid));
    if (!noted) return noted;
  }
  if (!has_allocation) return {};
  const UtcSeconds end = is_live ? now : job.end;
  const auto until = *stored ? charged_until(**stored, job.id, job.start, end) : std::nullopt;
  // What the whole of it comes to is in slurmdbd's record; the audit compares that.
  if (until && !is_live && *until >= end) return {};
  return note(unfunded(job.id, run_id, job.gpus, job.start));
}

Expected<void> Dispatcher::end_unfunded(const JobSnapshot& job, const std::string& run_id,
                                        UtcSeconds now) {
  const bool is_live = !is_ended(job.state);
  const auto settled = settled_.find(job.id);
  if (!is_live && settled != settled_.end() && settled->second == job.start) return {};
  if (const auto noted = note_unfunded_job(job, run_id, now); !noted) return noted;
  if (is_live) return cluster_->cancel(whole_of(job));
  settled_[job.id] = job.start;
  return {};
}

Expected<void> Dispatcher::catch_up(UtcSeconds now) {
  const auto records = cluster_->find_records("", *restored_since_ - kClockSlackS);
  if (!records) return tl::unexpected(records.error());
  const auto done = db_->transact([&]() -> accounting::Expected<void> {
    for (const AllocationRecord& record : *records) {
      if (record.start == 0 || record.gpus <= 0) continue;
      const auto payer = store_.payer(record.id, record.start);
      if (!payer) return tl::unexpected(accounting::Error{payer.error().message});
      const bool is_open = std::any_of(open_.begin(), open_.end(), [&](const auto& each) {
        return is_record_of(each.second, each.second.last(), record, patience());
      });
      if (*payer || is_open) continue;
      const auto noted = ledger_.record_finding(
          {now, fmt::format("job {} of uid {}", record.id, record.uid),
           fmt::format("\"{}\" had {} GPUs from {} on, and the restored books know nothing of it",
                       record.name, record.gpus, accounting::format_utc(record.start))});
      if (!noted) return noted;
    }
    if (const auto cleared = store_.set_restored(std::nullopt); !cleared) {
      return tl::unexpected(accounting::Error{cleared.error().message});
    }
    return {};
  });
  if (!done) return tl::unexpected(of(done.error()));
  restored_since_.reset();
  return {};
}

bool Dispatcher::is_shown(const Run& run) const {
  return std::any_of(run.segments.begin(), run.segments.end(), [this](const Segment& segment) {
    const std::vector<JobId> jobs = jobs_of(segment);
    return std::any_of(jobs.begin(), jobs.end(), [this](JobId job) { return shown_.count(job) > 0; });
  });
}

Expected<void> Dispatcher::look_again(UtcSeconds now) {
  constexpr std::int64_t kRetryS = 60;
  std::vector<Run> due;
  std::set<JobId> asked;
  std::int64_t since = now;
  for (auto& [id, when] : second_looks_) {
    if (when > now || due.size() == kJobsPerQuestion) continue;
    auto run = store_.load(id);
    if (!run) return tl::unexpected(run.error());
    when = now + kRetryS;  // Where slurmdbd does not answer.
    if (!*run) continue;
    // A plain job may still get a hold, and is charged then with what it had without one.
    if ((*run)->about.is_plain && is_shown(**run)) continue;
    for (const Segment& segment : (*run)->segments) {
      for (const JobId job : jobs_of(segment)) asked.insert(job);
      since = std::min(since, segment.is_plain ? (*run)->segments.front().job_submit
                                               : segment.opened - kClockSlackS);
    }
    due.push_back(std::move(**run));
  }
  if (due.empty()) return {};
  const std::vector<JobId> jobs(asked.begin(), asked.end());
  const auto records = jobs.empty() ? Expected<std::vector<AllocationRecord>>{}
                                    : cluster_->load_records(jobs, since);
  if (!records) return {};  // Nothing waits for it.
  for (const Run& run : due) {
    second_looks_.erase(run.id);
    if (open_run(run.id) != nullptr) continue;  // It goes on, and is looked after there.
    for (const AllocationRecord& record : *records) {
      if (record.start == 0 || record.end <= record.start || record.gpus <= 0) continue;
      if (!is_own_record(run, record)) continue;
      if (charged_until(run, record.id, record.start, record.end)) continue;
      const auto is_foreign = is_of_another(run.id, record);
      if (!is_foreign) return tl::unexpected(is_foreign.error());
      if (*is_foreign) continue;
      const auto noted = ledger_.record_finding(
          {now, "run " + run.id,
           fmt::format("job {} of run {} had {} GPUs from {} to {}, which came to light when its hold "
                       "was released. Nobody pays for it", record.id, run.id, record.gpus,
                       accounting::format_utc(record.start), accounting::format_utc(record.end))});
      if (!noted) return tl::unexpected(of(noted.error()));
    }
  }
  return {};
}

void Dispatcher::Claims::add(const Run& run, const Site& site) {
  for (const Segment& segment : run.segments) {
    for (const JobId job : jobs_of(segment)) runs.emplace(job, run.id);
    if (!segment.is_plain || !site.managed.has(segment.plan.partition)) continue;
    const auto [first, is_new] = since.emplace(segment.plan.partition, segment.opened);
    if (!is_new) first->second = std::min(first->second, segment.opened);
  }
}

Expected<bool> Dispatcher::is_claimed(const Claims& claims, const AllocationRecord& record) const {
  const auto payer = store_.payer(record.id, record.start);
  if (!payer) return tl::unexpected(payer.error());
  if (*payer) return true;
  for (const JobId job : {record.id, record.array_job}) {
    const auto [first, end] = claims.runs.equal_range(job);
    for (auto each = first; job != 0 && each != end; ++each) {
      const auto run = store_.load(each->second);
      if (!run) return tl::unexpected(run.error());
      if (!*run || record.submit > latest_submit(**run)) continue;
      const auto is_of = [&](const Segment& segment) {
        return is_record_of(**run, segment, record, patience());
      };
      if (std::any_of((*run)->segments.begin(), (*run)->segments.end(), is_of)) return true;
    }
  }
  return false;
}

Expected<void> Dispatcher::note_unclaimed(const Claims& claims,
                                          const FindingsBySubject& findings,
                                          AuditReport& report) {
  if (claims.since.empty()) return {};
  std::vector<std::string> partitions;
  UtcSeconds earliest = std::numeric_limits<UtcSeconds>::max();
  for (const auto& [partition, first] : claims.since) {
    partitions.push_back(partition);
    earliest = std::min(earliest, first);
  }
  const auto records = cluster_->partition_records(partitions, earliest);
  if (!records) return tl::unexpected(records.error());
  for (const AllocationRecord& record : *records) {
    const auto first = claims.since.find(record.partition);
    if (first == claims.since.end() || record.submit < first->second) continue;
    if (record.start == 0 || record.gpus <= 0 || (record.end != 0 && record.end <= record.start)) continue;
    if (is_named_as_unheld(findings, record)) continue;
    const auto is_known = is_claimed(claims, record);
    if (!is_known) return tl::unexpected(is_known.error());
    if (*is_known) continue;
    report.notes.push_back(fmt::format(
        "job {} of uid {}: slurmdbd has {} GPUs on partition {} from {} {}, and no run of the books claims "
        "them", record.id, record.uid, record.gpus, record.partition, accounting::format_utc(record.start),
        record.end == 0 ? "on" : "to " + accounting::format_utc(record.end)));
  }
  return {};
}

Expected<void> Dispatcher::compare_with_slurmdbd(const std::vector<Run>& runs,
                                                 const FindingsBySubject& findings,
                                                 AuditReport& report) {
  std::vector<const Run*> settled;
  std::set<JobId> asked;
  std::int64_t since = INT64_MAX;
  for (const Run& run : runs) {
    const bool has_settled = std::any_of(run.segments.begin(), run.segments.end(), [](const Segment& s) {
      return s.job && s.closed;
    });
    if (!has_settled) continue;
    settled.push_back(&run);
    for (const Segment& segment : run.segments) {
      for (const JobId job : jobs_of(segment)) asked.insert(job);
    }
    const UtcSeconds submit = run.about.is_plain ? run.segments.front().job_submit
                                                 : run.segments.front().opened - kClockSlackS;
    since = std::min(since, submit);
  }
  if (settled.empty()) return {};
  const std::vector<JobId> jobs(asked.begin(), asked.end());
  const auto records = cluster_->load_records(jobs, since);
  if (!records) return tl::unexpected(records.error());
  for (const Run* run : settled) {
    std::vector<AllocationRecord> own;
    for (const AllocationRecord& record : *records) {
      if (!is_own_record(*run, record)) continue;
      const auto is_foreign = is_of_another(run->id, record);
      if (!is_foreign) return tl::unexpected(is_foreign.error());
      if (!*is_foreign) own.push_back(record);
    }
    compare_run({*run, findings, report}, own);
  }
  return {};
}

Expected<std::vector<Run>> Dispatcher::compare_next(std::int64_t& place, AuditReport& report) {
  std::vector<Run> runs;
  const auto done = db_->snapshot([&]() -> accounting::Expected<void> {
    auto page = store_.load_next(place, kRunsPerPage);
    if (!page) return tl::unexpected(accounting::Error{page.error().message});
    runs = std::move(*page);
    const auto differences = compare_with_ledger(*db_, ledger_, runs);
    if (!differences) return tl::unexpected(accounting::Error{differences.error().message});
    report.faults.insert(report.faults.end(), differences->begin(), differences->end());
    return {};
  });
  if (!done) return tl::unexpected(Error{done.error().message});
  return runs;
}

Expected<AuditReport> Dispatcher::audit_here() {
  AuditReport report;
  const auto verified = ledger_.verify();
  if (!verified) return tl::unexpected(of(verified.error()));
  report.faults = *verified;
  const auto spoilt = RunStore::faults_of_schema(*db_);
  if (!spoilt) return tl::unexpected(spoilt.error());
  report.faults.insert(report.faults.end(), spoilt->begin(), spoilt->end());
  const auto findings = ledger_.findings();
  if (!findings) return tl::unexpected(of(findings.error()));
  FindingsBySubject by_subject;
  for (const accounting::Finding& finding : *findings) by_subject[finding.subject].push_back(finding.text);
  Claims claims;
  for (std::int64_t place = 0, before = -1; place != before;) {
    before = place;
    const auto runs = compare_next(place, report);
    if (!runs) return tl::unexpected(runs.error());
    for (const Run& run : *runs) claims.add(run, *site_);
    if (const auto compared = compare_with_slurmdbd(*runs, by_subject, report); !compared) {
      return tl::unexpected(compared.error());
    }
  }
  const auto strays = faults_of_all_runs(*db_, ledger_);
  if (!strays) return tl::unexpected(strays.error());
  report.faults.insert(report.faults.end(), strays->begin(), strays->end());
  if (const auto noted = note_unclaimed(claims, by_subject, report); !noted) {
    return tl::unexpected(noted.error());
  }
  return report;
}

Expected<AuditReport> Dispatcher::audit(const std::optional<accounting::Head>& remembered) {
  auto report = audit_aside_ ? audit_aside_() : audit_here();
  if (!report || report->is_pending) return report;
  if (remembered) {
    const auto fault = fault_of_head(*db_, ledger_, *remembered);
    if (!fault) return tl::unexpected(of(fault.error()));
    if (!fault->empty()) report->faults.push_back(*fault);
  }
  const auto findings = ledger_.findings();
  if (!findings) return tl::unexpected(of(findings.error()));
  std::vector<std::string> notes;
  for (const accounting::Finding& finding : *findings) {
    notes.push_back(fmt::format("{} {}: {}", accounting::format_utc(finding.when), finding.subject,
                                finding.text));
  }
  report->notes.insert(report->notes.begin(), notes.begin(), notes.end());
  return report;
}

}  // namespace scheduler
