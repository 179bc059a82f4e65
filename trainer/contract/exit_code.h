// SPDX-License-Identifier: Apache-2.0
// trainer/contract/exit_code.h
//
// How trainyard-trainer leaves. The same number is written to RUN/exit.json by rank 0 and becomes
// the exit code of the batch job, where the scheduler reads it (docs/formats/run_folder.md).
#pragma once

#include <optional>
#include <string_view>

namespace contract {

// Stored, and seen by users in sacct. Never renumber or reuse.
enum class ExitCode {
  kFinished = 0,        // All epochs or hours done, best weights evaluated.
  kStopped = 10,        // Asked to stop; saved at a step boundary.
  kDeadline = 11,       // The end of the allocation came near; saved.
  kBadInput = 20,       // The spec or the data set is wrong: the user can mend it.
  kNotANumber = 21,     // The loss stayed NaN after reloading.
  kOutOfMemory = 22,
  kEnvironment = 30,    // MPI, disk, a missing device.
  kStalled = 31,        // A rank hung or vanished; the last checkpoint stands.
  kBadNode = 32,        // The preflight found a node that cannot train; nothing was trained.
  kInternal = 40,
};

// "stopped by request; the checkpoint is saved": for people.
[[nodiscard]] std::string_view describe(ExitCode code);
[[nodiscard]] std::optional<ExitCode> exit_code_from_int(int code);

}  // namespace contract
