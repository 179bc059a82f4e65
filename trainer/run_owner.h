// SPDX-License-Identifier: Apache-2.0
// trainer/run_owner.h
//
// Whose a run's folder is: RUN/owner.json names the process that began last (docs/formats/
// run_folder.md). One that finds another's name there has lost the folder and writes nothing into
// it any more. There is no lock: of a host that is cut off nobody could take it back.
#pragma once

#include <mutex>
#include <string>
#include <string_view>

#include "trainer/communicator.h"

namespace trainer {

inline constexpr std::string_view kOwnerFile = "owner.json";

// One a process; any thread may ask.
class RunOwner {
 public:
  // Notes whose the folder is at the start of this process; it need not be there yet. `job`:
  // Slurm's; empty: none.
  explicit RunOwner(std::string run_dir, std::string job = {}, int attempt = 0);

  // A collective: from now on the folder, which exists, is that of these ranks. Rank 0 writes the
  // file, and removes the parts of files (durable_file.h) that lie in RUN and RUN/weights: what a
  // process that had the folder before is still writing then fails to take its place. Throws
  // std::system_error on rank 0; the folder is then its owner's as before.
  void take(Communicator& communicator);

  // "another process (n2, pid 77, job 12, attempt 1) has taken this run over; it goes on there",
  // where that came after this one. Empty: no; a file that is missing or cannot be read names
  // nobody.
  [[nodiscard]] std::string why_lost() const;

 private:
  const std::string run_dir_;
  const std::string job_;
  const int attempt_;
  const std::string before_;  // The token at the start of this process.
  mutable std::mutex mutex_;
  std::string own_;  // Empty: not taken yet.
};

}  // namespace trainer
