// SPDX-License-Identifier: Apache-2.0
#include "trainer/gradient_reducer.h"

#include <fmt/format.h>
#include <torch/utils.h>
#include <zlib.h>

#include <cstring>
#include <span>
#include <stdexcept>
#include <string>

namespace trainer {

namespace {

// The tensor's values in host memory, contiguous; a view where it already is that.
torch::Tensor on_host(const torch::Tensor& tensor) {
  return tensor.detach().to(torch::kCPU).contiguous();
}

std::span<std::byte> bytes_of(const torch::Tensor& contiguous) {
  return {static_cast<std::byte*>(contiguous.data_ptr()), contiguous.nbytes()};
}

}  // namespace

GradientReducer::GradientReducer(Communicator& communicator, std::size_t bucket_bytes_max)
    : communicator_(communicator), bucket_bytes_max_(bucket_bytes_max) {}

void GradientReducer::sum(const std::vector<torch::Tensor>& tensors) {
  reduce(tensors, 1.0);
}

void GradientReducer::mean(const std::vector<torch::Tensor>& tensors) {
  reduce(tensors, 1.0 / communicator_.size());
}

void GradientReducer::reduce(const std::vector<torch::Tensor>& tensors, double factor) {
  if (communicator_.size() == 1) return;
  torch::NoGradGuard no_grad;
  std::vector<torch::Tensor> bucket;
  std::size_t bucket_bytes = 0;
  for (const torch::Tensor& tensor : tensors) {
    if (!bucket.empty() && bucket_bytes + tensor.nbytes() > bucket_bytes_max_) {
      send(bucket, factor);
      bucket.clear();
      bucket_bytes = 0;
    }
    bucket.push_back(tensor);
    bucket_bytes += tensor.nbytes();
  }
  if (!bucket.empty()) send(bucket, factor);
}

void GradientReducer::send(const std::vector<torch::Tensor>& bucket, double factor) {
  host_.clear();
  for (const torch::Tensor& tensor : bucket) {
    const torch::Tensor values = on_host(tensor);
    const auto* data = values.data_ptr<float>();
    host_.insert(host_.end(), data, data + values.numel());
  }
  communicator_.all_reduce_sum(std::span<float>(host_));
  ++buckets_sent_;
  std::int64_t at = 0;
  const torch::Tensor all =
      torch::from_blob(host_.data(), {static_cast<std::int64_t>(host_.size())}, torch::kFloat);
  if (factor != 1.0) all.mul_(factor);
  for (const torch::Tensor& tensor : bucket) {
    tensor.copy_(all.narrow(0, at, tensor.numel()).view(tensor.sizes()));
    at += tensor.numel();
  }
}

void broadcast_tensors(Communicator& communicator, const std::vector<torch::Tensor>& tensors) {
  if (communicator.size() == 1) return;
  torch::NoGradGuard no_grad;
  // All in one message: a network has hundreds of small tensors.
  std::vector<std::byte> packed;
  for (const torch::Tensor& tensor : tensors) {
    const torch::Tensor values = on_host(tensor);
    const std::span<std::byte> bytes = bytes_of(values);
    packed.insert(packed.end(), bytes.begin(), bytes.end());
  }
  communicator.broadcast(packed, /*root=*/0);
  if (communicator.rank() == 0) return;
  std::size_t at = 0;
  for (const torch::Tensor& tensor : tensors) {
    const torch::Tensor values = torch::empty(tensor.sizes(), tensor.scalar_type());
    const std::span<std::byte> bytes = bytes_of(values);
    std::memcpy(bytes.data(), packed.data() + at, bytes.size());
    tensor.detach().copy_(values);
    at += bytes.size();
  }
}

std::uint32_t checksum(const std::vector<torch::Tensor>& tensors) {
  uLong crc = crc32_z(0, nullptr, 0);
  for (const torch::Tensor& tensor : tensors) {
    const torch::Tensor values = on_host(tensor);
    const std::span<std::byte> bytes = bytes_of(values);
    crc = crc32_z(crc, reinterpret_cast<const Bytef*>(bytes.data()), bytes.size());
  }
  return static_cast<std::uint32_t>(crc);
}

void check_replicas(Communicator& communicator, const std::vector<torch::Tensor>& tensors) {
  if (communicator.size() == 1) return;
  const std::uint32_t mine = checksum(tensors);
  const std::vector<std::vector<std::byte>> all =
      communicator.all_gather(std::as_bytes(std::span(&mine, 1)));
  std::uint32_t first = 0;
  std::memcpy(&first, all.front().data(), sizeof first);
  std::string different;
  for (std::size_t rank = 1; rank < all.size(); ++rank) {
    std::uint32_t other = 0;
    std::memcpy(&other, all[rank].data(), sizeof other);
    if (other != first) different += fmt::format(" rank {}: {:08x}", rank, other);
  }
  if (!different.empty()) {
    throw std::runtime_error(
        fmt::format("The replicas differ: checksum of rank 0: {:08x},{}.", first, different));
  }
}

}  // namespace trainer
