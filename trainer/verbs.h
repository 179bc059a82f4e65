// SPDX-License-Identifier: Apache-2.0
// trainer/verbs.h
//
// The verbs of trainyard-trainer beside train: one file each. A verb adds its options to the
// program's command line; `run` does the work after parsing and gives the exit code. It throws what
// the main turns into a message.
#pragma once

#include <functional>

#include "trainer/launch.h"

namespace CLI {
class App;
}

namespace trainer {

struct Verb {
  CLI::App* command = nullptr;
  std::function<int()> run;
};

[[nodiscard]] Verb add_check_verb(CLI::App& program);
[[nodiscard]] Verb add_scenes_verb(CLI::App& program);
// `launch` outlives the verb, here and below.
[[nodiscard]] Verb add_bench_verb(CLI::App& program, const Launch& launch);
[[nodiscard]] Verb add_export_verb(CLI::App& program, const Launch& launch);
[[nodiscard]] Verb add_predict_verb(CLI::App& program, const Launch& launch);
[[nodiscard]] Verb add_val_verb(CLI::App& program, const Launch& launch);

}  // namespace trainer
