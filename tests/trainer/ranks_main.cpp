// SPDX-License-Identifier: GPL-3.0-or-later
//
// A run that was to have several ranks and has one fails.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <torch/utils.h>

#include <cstdlib>

#include "tests/trainer/ranks.h"

namespace trainer {

Communicator* world = nullptr;

}  // namespace trainer

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  torch::set_num_threads(1);
  const char* expected = std::getenv("TRAINYARD_EXPECT_RANKS");
  const auto communicator = trainer::make_mpi_communicator(&argc, &argv);
  if (expected == nullptr || communicator->size() != std::atoi(expected)) {
    fmt::print(stderr, "{} ranks, but TRAINYARD_EXPECT_RANKS = {}: run it with mpirun -n\n",
               communicator->size(), expected == nullptr ? "(not set)" : expected);
    return 1;
  }
  trainer::world = communicator.get();
  if (communicator->rank() != 0) {
    auto& listeners = testing::UnitTest::GetInstance()->listeners();
    delete listeners.Release(listeners.default_result_printer());
  }
  return RUN_ALL_TESTS();
}
