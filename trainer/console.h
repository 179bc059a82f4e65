// SPDX-License-Identifier: Apache-2.0
// trainer/console.h
//
// What rank 0 prints for people: the configuration before the loop, a progress line on a terminal,
// one line an epoch elsewhere.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "trainer/contract/train_args.h"
#include "trainer/run_folder.h"
#include "trainer/train.h"

namespace trainer {

class Console {
 public:
  explicit Console(Surroundings::Output output) : output_(output) {}

  void print(std::string_view line);
  void print_configuration(const contract::TrainArgs& args);

  struct StepLine {
    int epoch = 0;
    int epochs = 0;
    std::int64_t batch = 0, batches = 0;
    std::array<double, 3> losses{};
    double images_per_s = 0;
  };
  void print_step(const StepLine& line);  // On a terminal only.
  void print_epoch(const ResultsRow& row, int epochs, double images_per_s, int best_epoch);

 private:
  Surroundings::Output output_;
  bool is_line_open_ = false;  // A progress line waits to be overwritten.
};

}  // namespace trainer
