// SPDX-License-Identifier: Apache-2.0
#include "trainer/contract/exit_code.h"

namespace contract {

std::string_view describe(ExitCode code) {
  switch (code) {
    case ExitCode::kFinished:
      return "finished; the best weights are evaluated and saved";
    case ExitCode::kStopped:
      return "stopped by request; the checkpoint is saved";
    case ExitCode::kDeadline:
      return "the end of the allocation came near; the checkpoint is saved";
    case ExitCode::kBadInput:
      return "the request or the data set is wrong";
    case ExitCode::kNotANumber:
      return "the loss stayed NaN after the last checkpoint was loaded again";
    case ExitCode::kOutOfMemory:
      return "out of memory";
    case ExitCode::kEnvironment:
      return "the environment failed: MPI, disk or device";
    case ExitCode::kStalled:
      return "a rank stopped answering; the last checkpoint can be resumed";
    case ExitCode::kBadNode:
      return "a node cannot train; the message and preflight.json name it";
    case ExitCode::kInternal:
      return "a fault of the trainer itself";
  }
  return "an exit code that the trainer does not use";
}

std::optional<ExitCode> exit_code_from_int(int code) {
  switch (static_cast<ExitCode>(code)) {
    case ExitCode::kFinished:
    case ExitCode::kStopped:
    case ExitCode::kDeadline:
    case ExitCode::kBadInput:
    case ExitCode::kNotANumber:
    case ExitCode::kOutOfMemory:
    case ExitCode::kEnvironment:
    case ExitCode::kStalled:
    case ExitCode::kBadNode:
    case ExitCode::kInternal:
      return static_cast<ExitCode>(code);
  }
  return std::nullopt;
}

}  // namespace contract
