// SPDX-License-Identifier: Apache-2.0
// trainer/watchdog.h
//
// A communicator that never waits for ever. Beside the collectives every rank tells rank 0, over a
// TCP connection of its own, that it is alive and in which call it is. Rank 0 ends the training
// where a rank has waited in a call, or has been silent, for longer than the limit, or where a
// process is gone: with one message that names the ranks that are missing and the call, and the
// same exit code on all ranks. Rank 1 does so for rank 0, and where it is lost too, one of the others.
//
// The watch is a thread of each process; it calls nothing of MPI, which may hang.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "trainer/communicator.h"

namespace trainer {

// Why the watch ends a training.
struct LastWords {
  std::string message;
  int exit_code = 31;
  std::vector<std::string> hosts = {};  // Of the ranks that are missing, each once.
  bool is_over = false;  // The ranks had nothing to do any more but to leave.
};

struct WatchdogOptions {
  double limit_s = 600;  // 0: no watch.
  int exit_code = 31;
  // Called once, on one rank, from the watch's thread, before the processes end.
  std::function<void(const LastWords&)> last_words;
};

// `inner` with a watch; itself where it has one rank or the limit is 0. A collective. Where a rank
// cannot reach rank 0 nobody is watched, and rank 0's `last_words` is not called but `note` set.
[[nodiscard]] std::unique_ptr<Communicator> watched(std::unique_ptr<Communicator> inner,
                                                    const WatchdogOptions& options,
                                                    std::string* note);

}  // namespace trainer
