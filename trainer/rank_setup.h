// SPDX-License-Identifier: Apache-2.0
// trainer/rank_setup.h
//
// Which communicator the ranks of this launch get, from TRAINYARD_COMMUNICATOR:
//
//   auto                     MPI; NCCL beside it where every rank has a GPU of its own (the
//   default) mpi                      MPI alone nccl                     NCCL started by MPI, or an
//   error that says why not nccl+tcp://HOST:PORT     NCCL without MPI: rank 0 listens there (a
//   Slurm without PMIx) nccl+file:///PATH        NCCL without MPI, over a file that all nodes see
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "trainer/communicator.h"
#include "trainer/launch.h"
#include "trainer/watchdog.h"

namespace trainer {

struct RankChoice {
  enum class Way { kAuto, kMpi, kNccl, kNcclOverTcp, kNcclOverFile } way = Way::kAuto;
  std::string place;  // HOST:PORT or a path.
};
// Throws std::invalid_argument naming the variable.
[[nodiscard]] RankChoice parse_rank_choice(const std::string& text);

// Why ranks on these devices cannot use NCCL, in words; empty: they can. One text a rank, that of the
// host and the device on it; an empty one: the rank has no device.
[[nodiscard]] std::string obstacle_of(const std::vector<std::string>& devices);

struct Ranks {
  std::unique_ptr<Communicator> communicator;
  std::string report;   // "communicator: MPI; built without NCCL". One line, the same on all ranks.
  std::string warning;  // Empty, or that each rank watches itself alone.
};

// A collective; with a watch from before the ranks know each other. `launch` without ranks: one
// local rank. Throws std::runtime_error where what was asked for cannot be had,
// std::invalid_argument where it makes no sense. A rank that alone cannot start NCCL ends all ranks
// with code 30, after `watchdog.last_words`.
[[nodiscard]] Ranks make_ranks(const Launch& launch, const WatchdogOptions& watchdog, int* argc,
                               char*** argv);

}  // namespace trainer
