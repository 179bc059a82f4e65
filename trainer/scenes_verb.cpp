// SPDX-License-Identifier: Apache-2.0
#include <CLI/CLI.hpp>
#include <memory>

#include "trainer/scenes.h"
#include "trainer/verbs.h"

namespace trainer {

Verb add_scenes_verb(CLI::App& program) {
  CLI::App* command = program.add_subcommand("scenes", "Make a small data set of drawn scenes");
  const auto scene = std::make_shared<SceneOptions>();
  command->add_option("--out", scene->out, "folder to write to")->required();
  command->add_option("--seed", scene->seed);
  command->add_option("--train", scene->train, "training images")->check(CLI::Range(1, 1'000'000));
  command->add_option("--val", scene->val, "validation images")->check(CLI::Range(1, 1'000'000));
  command->add_option("--size", scene->size, "side of an image in pixels")
      ->check(CLI::Range(64, 4096));
  return {command, [scene] {
            make_scenes(*scene);
            return 0;
          }};
}

}  // namespace trainer
