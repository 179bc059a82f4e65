// SPDX-License-Identifier: Apache-2.0
// trainer/preflight.h
//
// A look at all nodes before the training, in a second or two (TRAINYARD_PREFLIGHT=1): the ranks
// report what they stand on and make one small sum together (contract/preflight.h).
#pragma once

#include <functional>
#include <string>

#include "trainer/communicator.h"
#include "trainer/contract/preflight.h"
#include "trainer/watchdog.h"

namespace trainer {

// Where the report goes: the run's folder, which exists, and what it is the report of.
struct PreflightPlace {
  std::string run_dir;
  int segment = 0, attempt = 0;
};

struct PreflightOptions {
  PreflightPlace place;
  std::string device;   // Of this rank.
  std::string versions;
  contract::PreflightLimits limits;
  std::function<double()> now;  // Seconds.
};

// A collective. The same report on every rank; rank 0 removes RUN/preflight.json of earlier attempts at
// the beginning and leaves the report there and in the attempt's own file. Throws std::system_error on
// rank 0 where that cannot be written.
[[nodiscard]] contract::PreflightReport preflight(const PreflightOptions& options,
                                                  Communicator& communicator);

// Leaves a report that names the missing ranks in the place of the one that does not come. From any
// thread and rank; where it cannot be written, says so on stderr.
void leave_unfinished_preflight(const PreflightPlace& place, const LastWords& words);

}  // namespace trainer
