// SPDX-License-Identifier: Apache-2.0
// trainer/step_trace.h
//
// What a run trained on, batch by batch, in a form that does not depend on the number of ranks:
// RUN/trace.jsonl (docs/formats/run_folder.md). For comparing runs; it costs two messages a batch.
#pragma once

#include <array>
#include <string>

#include "trainer/checkpoint.h"
#include "trainer/communicator.h"
#include "trainer/loader.h"
#include "trainer/schedule.h"

namespace trainer {

class StepTrace {
 public:
  // `communicator` outlives the trace. Rank 0 writes, after what the file holds already.
  StepTrace(Communicator& communicator, std::string run_dir);

  // A collective. `progress` stands before the batch; `losses` are of the global batch. Throws
  // std::system_error where the line cannot be written.
  void note(const Progress& progress, const Batch& batch, const BatchPlan& plan,
            const std::array<double, 3>& losses);

 private:
  Communicator& communicator_;
  std::string path_;
};

}  // namespace trainer
