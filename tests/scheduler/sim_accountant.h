// SPDX-License-Identifier: GPL-3.0-or-later
// tests/scheduler/sim_accountant.h
//
// Compares the books at the end of a life with every second that Slurm really allocated. An allocation
// is charged to the second, or the books say in words, of this allocation and no other, why not.
#pragma once

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "accounting/tariff.h"
#include "sim_clients.h"
#include "sim_cluster.h"

namespace scheduler {

inline constexpr std::int64_t kMeteredWeight = 1500;

// A word of the audit or of a finding, and where it begins. Not "job 1" in "job 12".
inline std::size_t find_word(const std::string& text, const std::string& word, std::size_t from = 0) {
  for (std::size_t at = text.find(word, from); at != std::string::npos; at = text.find(word, at + 1)) {
    const std::size_t end = at + word.size();
    if (end == text.size() || std::isalnum(static_cast<unsigned char>(text[end])) == 0) return at;
  }
  return std::string::npos;
}
inline bool has_word(const std::string& text, const std::string& word) {
  return find_word(text, word) != std::string::npos;
}

// What the books or the audit say in words.
struct Notice {
  std::string subject, text;
  std::vector<UtcSeconds> starts;  // Of the allocations that it is about.

  Notice(std::string of, std::string words) : subject(std::move(of)), text(std::move(words)) {
    for (const std::string word : {" from ", " since "}) {
      for (std::size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) {
        const std::size_t size = accounting::format_utc(0).size();
        const auto start = accounting::parse_utc(text.substr(at + word.size(), size));
        if (start) starts.push_back(*start);
      }
    }
  }
  bool has(std::string_view words) const { return text.find(words) != std::string::npos; }
  bool is_of(const std::string& run, JobId job) const {
    const std::string name = fmt::format("job {}", job);
    if (has_word(subject, name) || text.starts_with(name + " of uid ")) return true;
    return has_word(text, name) && (has_word(subject, "run " + run) || has_word(text, "run " + run));
  }
  bool names(const TrueAllocation& each) const {
    const auto is_inside = [&](UtcSeconds start) { return start >= each.start && start <= each.end; };
    return is_of(each.owner, each.id) && std::any_of(starts.begin(), starts.end(), is_inside);
  }
};

class SimAccountant {
 public:
  // `granted`: what each fund was given.
  SimAccountant(SimCluster& cluster, Dispatcher& service, accounting::Database& books,
                const SimClients& clients, std::map<std::string, std::int64_t> granted)
      : cluster_(cluster), service_(service), books_(books), clients_(clients),
        granted_(std::move(granted)) {}

  Counts counts;
  std::vector<std::string> faults;

  void check() {
    read();
    check_funds();
    check_runs();
    for (const TrueAllocation& each : cluster_.truth) check_allocation(each);
    check_charges();
    check_hours();
    check_given_back();
    check_launches();
  }
  std::vector<std::string> words() const {
    std::vector<std::string> text;
    for (const Notice& each : notices_) text.push_back(each.subject + ": " + each.text);
    return text;
  }

 private:
  using Line = accounting::StatementLine;

  void fault(const std::string& text) { faults.push_back(text); }

  void read() {
    lines_ = *service_.ledger().lines("", "");
    const auto report = service_.audit();
    const auto findings = service_.ledger().findings();
    for (const auto& finding : *findings) {
      notices_.emplace_back(finding.subject, finding.text);
      excess_.insert(finding.subject);
    }
    for (const std::string& text : report->faults) check_audit_fault(text);
    for (const std::string& text : report->faults) notices_.emplace_back("", text);
    for (const std::string& text : report->notes) {
      const bool is_finding = std::any_of(findings->begin(), findings->end(), [&](const auto& finding) {
        return text.ends_with(finding.subject + ": " + finding.text);
      });
      if (!is_finding) notices_.emplace_back("", text);
    }
    for (const Notice& notice : notices_) read_restarts(notice);
  }
  // Of how many allocations a finding says that nothing has shown them. It counts those of a job, so
  // that the last one knows them all.
  void read_restarts(const Notice& notice) {
    JobId job = 0;
    int restarts = 0, known = 0;
    const std::size_t of = notice.text.find(" of run ");
    if (of == std::string::npos || std::sscanf(notice.text.c_str(), "job %u", &job) != 1) return;
    const std::string run = notice.text.substr(of + 8, notice.text.find(' ', of + 8) - of - 8);
    const std::size_t count = notice.text.find("started "), more = notice.text.find(" more than ");
    if (count == std::string::npos || more == std::string::npos) return;
    if (std::sscanf(notice.text.c_str() + count, "started %d times", &restarts) != 1) return;
    if (std::sscanf(notice.text.c_str() + more, " more than %d", &known) != 1) return;
    int& unseen = unseen_[{run, job}];
    unseen = std::max(unseen, restarts - known);
  }

  // The audit may differ only where Slurm's own records were changed under it.
  void check_audit_fault(const std::string& text) {
    const Notice notice("", text);
    for (const TrueAllocation& each : cluster_.truth) {
      if (each.is_disturbed && notice.is_of(each.owner, each.id)) return;
    }
    fault("audit: " + text);
  }

  // --- Sums ------------------------------------------------------------------------------------

  // A fund has what it was given, less what it is charged, and holds nothing more.
  void check_funds() {
    std::map<std::string, std::int64_t> spent;
    for (const Line& line : lines_) {
      if (line.kind == "charge") spent[line.fund] += line.amount.milli_gpu_s;
      if (line.kind == "refund") spent[line.fund] -= line.amount.milli_gpu_s;
    }
    const auto balances = service_.ledger().balances();
    for (const auto& balance : *balances) {
      const std::int64_t available = balance.available.milli_gpu_s;
      const std::int64_t held = balance.held.milli_gpu_s;
      if (held != 0) fault(fmt::format("{} holds {}", balance.fund, held));
      if (available < 0) fault(balance.fund + " is overspent");
      if (granted_[balance.fund] == available + spent[balance.fund]) continue;
      fault(fmt::format("{} was given {}, is charged {} and has {}", balance.fund, granted_[balance.fund],
                        spent[balance.fund], available));
    }
  }

  // What was set aside for a run was charged or went back, once for each segment.
  void check_runs() {
    std::map<std::string, std::int64_t> left, holds, segments;
    for (const Line& line : lines_) {
      const std::int64_t amount = line.amount.milli_gpu_s;
      if (line.kind == "hold") ++holds[line.run];
      if (line.kind == "hold" || line.kind == "extend") left[line.run] += amount;
      if (line.kind == "charge" || line.kind == "release" || line.kind == "reduce") left[line.run] -= amount;
    }
    (void)books_.query("SELECT run, count(*) FROM run_event WHERE kind = 'SegmentOpened' GROUP BY run", {},
                       [&](const accounting::Row& row) { segments[row.text(0)] = row.integer(1); });
    for (const auto& [run, amount] : left) {
      if (amount == 0) continue;
      fault(fmt::format("run {}: its holds less its charges and releases are {}", run, amount));
    }
    for (const auto& [run, count] : holds) {
      if (count == segments[run]) continue;
      fault(fmt::format("run {} has {} holds, {} segments", run, count, segments[run]));
    }
    (void)books_.query("SELECT id, state FROM run WHERE is_open = 1", {},
                       [this](const accounting::Row& row) {
                         fault("run " + row.text(0) + " is " + row.text(1));
                       });
  }

  // Each charge is its arithmetic, and of one allocation of its run.
  void check_charges() {
    for (const Line& line : lines_) {
      if (line.kind != "charge") continue;
      const std::int64_t usage = line.gpus * line.seconds * line.weight_milli;
      if (line.amount.milli_gpu_s != usage && excess_.count(line.id) == 0) {
        fault(fmt::format("charge {} is not its arithmetic, and no finding says so", line.id));
      }
      check_job_of(line);
      const auto owned = std::count_if(
          cluster_.truth.begin(), cluster_.truth.end(),
          [&](const TrueAllocation& each) { return is_of(line, each, each.end); });
      if (owned == 1 || line.seconds == 0 || was_recorded(line)) continue;
      if (owned > 1 && hides_crashes(line)) {
        ++counts["charges as seen over a crash"];
        continue;
      }
      fault(fmt::format("charge {} from {} to {} is of {} allocations", line.id, line.start, line.end,
                        owned));
    }
  }

  // A controller that crashed started its job once more, as the same attempt, and slurmdbd was silent: to
  // who looks it is one allocation. The books say that it was charged as seen.
  bool hides_crashes(const Line& line) const {
    for (const TrueAllocation& each : cluster_.truth) {
      if (is_of(line, each, each.end) && !each.is_disturbed) return false;
    }
    return std::any_of(notices_.begin(), notices_.end(), [&](const Notice& notice) {
      return notice.has("are charged as seen") && has_word(notice.subject, "run " + line.run) &&
             std::find(notice.starts.begin(), notice.starts.end(), line.start) != notice.starts.end();
    });
  }

  // A hold pays one job, which bears the name of its segment: of a second one, or one of another segment,
  // nobody knows what it would cost.
  void check_job_of(const Line& line) {
    const auto view = service_.find(line.run);
    if (!view || !*view || (*view)->run.about.is_plain) return;
    const std::string place = line.id.substr(line.id.find(line.run) + line.run.size() + 1);
    const int segment = std::stoi(place);
    const JobId paid = (*view)->run.segments.at(static_cast<std::size_t>(segment)).job.value_or(0);
    const auto& jobs = cluster_.submitted[to_comment({line.run, segment})];
    const bool is_of_segment = std::find(jobs.begin(), jobs.end(), paid) != jobs.end();
    if (is_of_job(line, paid) && is_of_segment) return;
    fault(fmt::format("charge {} ({}) is not of the job of its segment, {}{}", line.id, line.note, paid,
                      is_of_segment ? "" : ", which was submitted for another"));
  }

  // A record that was changed once said so.
  bool was_recorded(const Line& line) {
    for (const TrueAllocation& each : cluster_.truth) {
      if (!each.is_disturbed || each.owner != line.run || !is_of_job(line, each.id)) continue;
      for (const AllocationRecord& record : cluster_.recorded[{each.id, each.submit}]) {
        if (record.start <= line.start && record.end >= line.end) return true;
      }
    }
    return false;
  }

  // Whatever ended its jobs, a timed run costs no more than its hours.
  void check_hours() {
    std::map<std::string, std::int64_t> cost, charges;
    for (const Line& line : lines_) {
      const auto hours = clients_.hours_s.find(line.run);
      if (line.kind != "charge" || hours == clients_.hours_s.end()) continue;
      cost[line.run] += line.amount.milli_gpu_s;
      if (++charges[line.run] == 2) ++counts["timed runs of several jobs"];
      const std::int64_t most = hours->second * clients_.gpus.at(line.run) * line.weight_milli;
      if (cost[line.run] > most) {
        fault(fmt::format("timed run {} is charged {}, its hours cost {}", line.run, cost[line.run], most));
      }
    }
  }

  // Given back as kept out by the gate is what it kept out, and of that a minute at most.
  void check_given_back() {
    std::map<std::string, const Line*> charges;
    for (const Line& line : lines_) {
      if (line.kind == "charge") charges[line.id] = &line;
      if (line.kind != "refund" || !line.note.starts_with("START_REFUSED")) continue;
      const auto charge = charges.find(line.ref);
      if (charge == charges.end()) {
        fault("refund " + line.id + " is of no charge");
        continue;
      }
      const Line& of = *charge->second;
      const bool is_right = std::any_of(
          cluster_.truth.begin(), cluster_.truth.end(), [&of](const TrueAllocation& each) {
            return each.owner == of.run && each.start == of.start && each.was_kept_out;
          });
      if (!is_right || line.amount.milli_gpu_s > of.gpus * 60 * of.weight_milli) {
        fault(fmt::format("refund {} of {} is not of what the gate kept out", line.id,
                          line.amount.milli_gpu_s));
      }
    }
  }

  // Given back as failed at its launch is all of it, but no more than a Prolog takes, and nothing else.
  void check_launches() {
    constexpr std::int64_t kProlog_s = 600;
    std::map<std::string, std::int64_t> given;  // By charge.
    for (const Line& line : lines_) {
      if (line.kind != "refund" || !line.note.starts_with("LAUNCH_FAILED")) continue;
      given[line.ref] += line.amount.milli_gpu_s;
    }
    for (const TrueAllocation& each : cluster_.truth) {
      std::int64_t charged = 0, most = 0, back = 0;
      bool is_as_seen = false;
      for (const Line& line : lines_) {
        if (!is_of(line, each, each.end)) continue;
        charged += line.amount.milli_gpu_s;
        most = line.gpus * kProlog_s * line.weight_milli;
        if (const auto found = given.extract(line.id)) back += found.mapped();
        is_as_seen |= line.note.ends_with("as seen from the controller");
      }
      if (each.has_failed_at_launch) ++counts["launches failed"];
      const std::int64_t due = each.has_failed_at_launch ? std::min(charged, most) : 0;
      // Of what slurmdbd had not told yet no nodes are known.
      if (back == due || each.is_disturbed || (is_as_seen && back < due)) continue;
      fault(fmt::format("of {} charged to {} from {} on {} were given back for its launch, due were {}",
                        charged, each.owner, each.start, back, due));
    }
    for (const Line& line : lines_) {
      const auto found = given.find(line.id);
      if (found == given.end() || was_recorded(line)) continue;
      fault(fmt::format("charge {}: {} were given back for a launch of no allocation", line.id,
                        found->second));
    }
  }

  // --- Allocations -----------------------------------------------------------------------------

  // "job 12 h100 COMPLETED": the note of a charge begins with its job.
  static bool is_of_job(const Line& line, JobId job) {
    return line.note.starts_with(fmt::format("job {} ", job));
  }
  // Of the allocation, or a part of it.
  static bool is_of(const Line& line, const TrueAllocation& each, UtcSeconds end) {
    if (line.kind != "charge" || line.run != each.owner || !is_of_job(line, each.id)) return false;
    return line.start == each.start || (line.start < end && line.end > each.start);
  }
  std::int64_t charged_gpu_s(const TrueAllocation& each, UtcSeconds end) const {
    std::int64_t sum = 0;
    for (const Line& line : lines_) {
      if (is_of(line, each, end)) sum += line.gpus * line.seconds;
    }
    return sum;
  }

  void check_allocation(const TrueAllocation& each) {
    if (each.gpus == 0) return;
    const std::int64_t weight = each.partition == "metered" ? kMeteredWeight : 1000;
    for (const Line& line : lines_) {
      const bool is_wrong = is_of(line, each, each.end) && line.weight_milli != weight;
      if (is_wrong) fault(fmt::format("charge {} has another weight", line.id));
    }
    const std::int64_t charged = charged_gpu_s(each, each.end), had = each.gpus * (each.end - each.start);
    if (charged > 0 && !each.is_disturbed && is_unpaid(each)) {
      fault(fmt::format("job {} of {} from {} on is charged, and a finding says that nobody pays for it",
                        each.id, each.owner, each.start));
    }
    if (charged == had || is_as_recorded(each)) return;
    const bool is_disturbed = each.is_disturbed || lies_in_a_changed_record(each);
    if ((is_disturbed || charged == 0) && is_named(each)) return;
    if (is_estimated(each, charged) || (each.is_disturbed && is_in_a_charge_as_seen(each))) return;
    if (charged == 0 && is_free(each)) return;
    const std::string kind = fmt::format("{}{}{}", each.is_disturbed ? ", disturbed" : "",
                                         each.was_visible ? ", seen" : "",
                                         is_job_of_segment(each) ? "" : ", of a job without a hold");
    fault(fmt::format("job {} of {} had {} GPUs from {} to {}{}: {} GPU-s; charged are {} GPU-s", each.id,
                      each.owner, each.gpus, each.start, each.end, kind, had, charged));
  }

  // Where Slurm's records were changed: charged is what its record said at some time.
  bool is_as_recorded(const TrueAllocation& each) {
    if (!each.is_disturbed) return false;
    const auto& said = cluster_.recorded[{each.id, each.submit}];
    return std::any_of(said.begin(), said.end(), [&](const AllocationRecord& record) {
      return record.start == each.start && record.end != 0 &&
             record.gpus * (record.end - each.start) == charged_gpu_s(each, record.end);
    });
  }

  // The changed record of another attempt of its run once said that it had this time.
  bool lies_in_a_changed_record(const TrueAllocation& each) {
    for (const TrueAllocation& other : cluster_.truth) {
      if (!other.is_disturbed || other.owner != each.owner || other.start == each.start) continue;
      for (const AllocationRecord& record : cluster_.recorded[{other.id, other.submit}]) {
        if (record.start < each.end && record.end > each.start) return true;
      }
    }
    return false;
  }

  // A notice with a start is of the allocation that has it; one without speaks for as many of the job
  // as it says.
  bool is_named(const TrueAllocation& each) {
    const auto names_it = [&](const Notice& notice) { return notice.names(each); };
    if (std::any_of(notices_.begin(), notices_.end(), names_it)) return true;
    const auto unseen = unseen_.find({each.owner, each.id});
    if (unseen != unseen_.end() && unseen->second > 0) {
      --unseen->second;
      return true;
    }
    for (std::size_t i = 0; i < notices_.size(); ++i) {
      const Notice& notice = notices_[i];
      const bool is_spoken = notice.subject.empty() || notice.has("started ");
      if (is_spoken || !notice.starts.empty() || !notice.is_of(each.owner, each.id)) continue;
      if (used_.insert(i).second) return true;
    }
    return false;
  }

  // One that was only turned away while it ran may get its hours later, while Slurm still shows it.
  bool is_unpaid(const TrueAllocation& each) const {
    return std::any_of(notices_.begin(), notices_.end(), [&](const Notice& notice) {
      return notice.names(each) && notice.has("Nobody pays for it");
    });
  }

  // Where slurmdbd was silent for too long the charge follows what was seen, and says so. A requeue
  // submits a job anew a little after its allocation is over.
  bool is_estimated(const TrueAllocation& each, std::int64_t charged) const {
    constexpr std::int64_t kRequeue_s = 20;
    if (!each.is_disturbed && charged > each.gpus * (each.end - each.start + kRequeue_s)) return false;
    return std::any_of(notices_.begin(), notices_.end(), [&](const Notice& notice) {
      return notice.has("are charged as seen") && notice.names(each);
    });
  }

  bool is_in_a_charge_as_seen(const TrueAllocation& each) const {
    return std::any_of(lines_.begin(), lines_.end(), [&](const Line& line) {
      return is_of(line, each, each.end) && hides_crashes(line);
    });
  }

  // Nobody can pay for what nobody could see: the second job for one hold, or one without any, that was
  // over and gone between two looks, where no look at slurmdbd asks for all of a partition.
  bool is_free(const TrueAllocation& each) {
    if (each.partition != "metered" && !each.was_job_visible && !is_job_of_segment(each)) {
      ++counts["jobs without a hold that came and went unseen"];
      return true;
    }
    if (each.is_disturbed && !each.was_visible) {
      ++counts["allocations that a crash or a changed record hid"];
      return true;
    }
    return false;
  }

  bool is_job_of_segment(const TrueAllocation& each) const {
    const auto view = service_.find(each.owner);
    if (!view || !*view) return false;
    const auto& segments = (*view)->run.segments;
    return std::any_of(segments.begin(), segments.end(),
                       [&](const Segment& segment) { return segment.job == each.id; });
  }

  SimCluster& cluster_;
  Dispatcher& service_;
  accounting::Database& books_;
  const SimClients& clients_;
  std::map<std::string, std::int64_t> granted_;
  std::vector<Line> lines_;
  std::vector<Notice> notices_;
  std::set<std::string> excess_;
  std::map<std::pair<std::string, JobId>, int> unseen_;  // By run and job.
  std::set<std::size_t> used_;                           // Notices without a start that spoke for one.
};

}  // namespace scheduler
