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

namespace trainer {

struct PreflightOptions {
  std::string run_dir;  // Exists.
  std::string device;   // Of this rank.
  std::string versions;
  contract::PreflightLimits limits;
  std::function<double()> now;  // Seconds.
};

// A collective. The same report on every rank; rank 0 leaves it as RUN/preflight.json. Throws
// std::system_error on rank 0 where that cannot be written.
[[nodiscard]] contract::PreflightReport preflight(const PreflightOptions& options,
                                                  Communicator& communicator);

}  // namespace trainer
