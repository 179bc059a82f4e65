// SPDX-License-Identifier: Apache-2.0
//
// Stands in for nccl_communicator.cpp in a build without NCCL or with a libtorch without CUDA.
#include <stdexcept>

#include "trainer/nccl_communicator.h"

namespace trainer {

std::string describe_nccl() {
  return "built without NCCL";
}

int nccl_device_count() {
  return 0;
}

std::vector<std::byte> make_nccl_id() {
  throw std::runtime_error("NCCL is not part of this build.");
}

std::unique_ptr<Communicator> make_nccl_communicator(const NcclRank&, const std::vector<std::byte>&,
                                                     std::unique_ptr<Communicator>&&) {
  throw std::runtime_error("NCCL is not part of this build.");
}

NcclDevice describe_nccl_device(int) {
  return {};
}

DeviceArray::DeviceArray(std::size_t bytes) : bytes_(bytes) {
  throw std::runtime_error("NCCL is not part of this build.");
}

DeviceArray::~DeviceArray() = default;
void DeviceArray::write(std::span<const std::byte>) {}
void DeviceArray::read(std::span<std::byte>) const {}

}  // namespace trainer
