// SPDX-License-Identifier: Apache-2.0
// trainer/nccl_communicator.h
//
// Sums of GPU memory by NCCL, on a stream of its own. What does not lie on the GPU goes through
// `control` (MPI), or, where there is none, through NCCL too by way of GPU memory. In a build
// without NCCL (nccl_absent.cpp) there are no devices and making one throws.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "trainer/communicator.h"

namespace trainer {

// "NCCL 2.27.7, 1 device" or why there is none, for people.
[[nodiscard]] std::string describe_nccl();
// Devices that NCCL of this build could use; 0 where there is no driver.
[[nodiscard]] int nccl_device_count();

// What rank 0 makes and all ranks need to find each other. Throws std::runtime_error.
[[nodiscard]] std::vector<std::byte> make_nccl_id();

struct NcclRank {
  int rank = 0, size = 1, local_rank = 0;
  std::string host;
};

// A collective: every rank calls it with the same id. The device is `local_rank` modulo the
// devices; two ranks on one device need different NCCL_HOSTID. Throws std::runtime_error.
[[nodiscard]] std::unique_ptr<Communicator> make_nccl_communicator(
    const NcclRank& own, const std::vector<std::byte>& id,
    std::unique_ptr<Communicator> control = nullptr);

}  // namespace trainer
