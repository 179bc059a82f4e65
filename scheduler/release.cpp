// SPDX-License-Identifier: GPL-3.0-or-later
//
// An admin gives back hours that are set aside and that nothing else would ever give back.
#include <fmt/format.h>

#include "scheduler/dispatcher.h"

namespace scheduler {
namespace {

Error of(const accounting::Error& error) { return {"the books: " + error.message}; }

std::optional<Refusal> refuse(std::string reason) { return Refusal{{std::move(reason)}}; }

}  // namespace

Expected<std::optional<Refusal>> Dispatcher::release_by_admin(const Caller& admin,
                                                              const std::string& id,
                                                              const std::string& note,
                                                              UtcSeconds now) {
  const std::string reason = fmt::format("released by {}{}{}", admin.user, note.empty() ? "" : ": ", note);
  const accounting::AdminAct act{now, admin.user, "release", id + (note.empty() ? "" : ": ") + note};
  if (Run* run = open_run(id); run != nullptr) {
    if (!has_looked_) {
      return refuse("Slurm does not answer, so it is not known whether the run's job still lives");
    }
    const auto job = snapshots_.find(id);
    if (job != snapshots_.end() && !is_ended(job->second.state)) {
      return refuse(fmt::format("job {} of run {} is {}: end it first (scancel {})", job->second.id, id,
                                to_name(job->second.state), job->second.id));
    }
    const auto& ended = run->last().ended;
    const UtcSeconds waits_until =
        ended ? run->last().ended_noticed + site_->record_wait_s : UtcSeconds{0};
    if (now <= waits_until && troubled_.count(id) == 0) {
      return refuse(fmt::format("job {} of run {} has just ended, and slurmdbd may tell what it had until "
                                "{}: it settles by itself", ended->job, id,
                                accounting::format_utc(waits_until)));
    }
    const CloseSegment close{Outcome::kFailed, reason,
                             fmt::format("the hold of run {} was {}. Nobody pays for what its job had "
                                         "beyond its charges", id, reason)};
    const auto done = transact_with(id, [&]() -> accounting::Expected<void> {
      if (const auto kept = till().record(act); !kept) return kept;
      const auto closed = close_segment(*run, close, now);
      if (!closed) return tl::unexpected(accounting::Error{closed.error().message});
      return {};
    });
    if (!done) return tl::unexpected(of(done.error()));
    forget(open_.find(id));
    return std::optional<Refusal>{};
  }
  const auto hold = ledger_.hold_state(id);
  if (!hold) return tl::unexpected(of(hold.error()));
  if (!*hold) {
    return refuse(fmt::format("\"{}\" is neither an open run nor a hold (RUN/SEGMENT)", id));
  }
  if (!(*hold)->is_open) return refuse(fmt::format("hold {} is closed already", id));
  if (open_run((*hold)->hold.run) != nullptr) {
    return refuse(fmt::format("hold {} is of run {}, which is open: release the run", id,
                              (*hold)->hold.run));
  }
  if (!(*hold)->hold.quote.empty()) {
    return refuse(fmt::format("hold {} keeps the hours of quote {} until it expires", id,
                              (*hold)->hold.quote));
  }
  const auto done = db_->transact([&]() -> accounting::Expected<void> {
    if (const auto kept = till().record(act); !kept) return kept;
    const auto released = ledger_.release(id, reason, now);
    if (!released) return tl::unexpected(released.error());
    return {};
  });
  if (!done) return tl::unexpected(of(done.error()));
  return std::optional<Refusal>{};
}

}  // namespace scheduler
