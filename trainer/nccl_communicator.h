// SPDX-License-Identifier: Apache-2.0
// trainer/nccl_communicator.h
//
// Sums of GPU memory by NCCL, on a stream of its own. What does not lie on the GPU goes through
// `control` (MPI), or, where there is none, through NCCL too by way of GPU memory. In a build
// without NCCL (nccl_absent.cpp) there are no devices and making one throws.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
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
// devices; two ranks on one device need different NCCL_HOSTID. Throws std::runtime_error, and then
// `control` is still the caller's.
[[nodiscard]] std::unique_ptr<Communicator> make_nccl_communicator(
    const NcclRank& own, const std::vector<std::byte>& id,
    std::unique_ptr<Communicator>&& control = nullptr);

// The GPU that a rank of this place on its host takes, of those that it sees.
struct NcclDevice {
  std::string bus;  // PCI's name, which is the same for every process of a host. Empty: none.
  std::string name;
  std::int64_t memory_b = 0;
  std::string versions;  // "NCCL 2.28.9, CUDA 12.4, driver for CUDA 12.8"
};
// Throws std::runtime_error where there is one that does not answer.
[[nodiscard]] NcclDevice describe_nccl_device(int local_rank);

// Memory of the GPU in use, for trying sums without torch. All calls throw std::runtime_error.
class DeviceArray {
 public:
  explicit DeviceArray(std::size_t bytes);
  ~DeviceArray();
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  [[nodiscard]] void* get() const { return memory_; }
  void write(std::span<const std::byte> bytes);
  void read(std::span<std::byte> bytes) const;

 private:
  void* memory_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace trainer
