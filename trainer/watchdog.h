// SPDX-License-Identifier: Apache-2.0
// trainer/watchdog.h
//
// A communicator that never waits for ever. Beside the collectives every rank tells rank 0, over a
// TCP connection of its own, that it is alive and in which call it is. Rank 0 ends the training
// where a rank has waited in a call, or has been silent, for longer than the limit, or where a
// process is gone: with one message that names the ranks that are missing and the call, and the
// same exit code on all ranks. Rank 1 does so for rank 0, and where it is lost too, one of the others.
// A rank that works alone and says so (Communicator::tick) is not missing.
//
// Where a rank cannot reach rank 0 over TCP each rank watches itself alone: what keeps one waiting for
// longer than the limit ends the training too, but nobody can say which rank it is.
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
  struct Missing {
    int rank = 0;
    std::string host;
    std::string problem;  // "rank 3 (n2) has been silent for 31.2 s, after call 7, ..."
  };
  std::string message;
  int exit_code = 31;
  std::vector<Missing> missing = {};  // In the order of the ranks; empty: nobody knows.
  bool is_over = false;  // The ranks had nothing to do any more but to leave.
};

struct WatchdogOptions {
  double limit_s = 600;  // 0: no watch.
  int exit_code = 31;
  // Called once, on one rank, from the watch's thread, before the processes end.
  std::function<void(const LastWords&)> last_words;
};

// `inner` with a watch; itself where it has one rank or the limit is 0. A collective. `note` is set on
// all ranks where each watches itself alone, because a rank cannot reach rank 0: a line that says so.
[[nodiscard]] std::unique_ptr<Communicator> watched(std::unique_ptr<Communicator> inner,
                                                    const WatchdogOptions& options,
                                                    std::string* note);

}  // namespace trainer
