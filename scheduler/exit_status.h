// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/exit_status.h
//
// How `trainyard` leaves (docs/exit_codes.md).
#pragma once

namespace scheduler {

enum class ExitStatus {
  kDone = 0,
  kRefused = 1,      // The answer is no: the fund, a limit, a right.
  kBadRequest = 2,   // Usage, request file, data set.
  kEnvironment = 3,  // Slurm, the service or the disk could not be reached.
  kInternal = 4,     // A fault of Trainyard.
  kRunNotFinished = 5,  // --follow and watch: the run ended, but not by finishing.
};

}  // namespace scheduler
