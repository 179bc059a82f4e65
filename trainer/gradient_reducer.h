// SPDX-License-Identifier: Apache-2.0
// trainer/gradient_reducer.h
//
// Sums tensors over the ranks, packed into buckets so that few large messages travel. On a GPU the
// buckets pass through host memory.
#pragma once

#include <torch/types.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "trainer/communicator.h"

namespace trainer {

class GradientReducer {
 public:
  static constexpr std::size_t kBucketBytesMax = std::size_t{25} << 20;

  // `communicator` outlives the reducer.
  explicit GradientReducer(Communicator& communicator,
                           std::size_t bucket_bytes_max = kBucketBytesMax);

  // Replaces each float32 tensor by the sum over all ranks. All ranks give the same shapes in the
  // same order. Does nothing on one rank.
  void sum(const std::vector<torch::Tensor>& tensors);
  void mean(const std::vector<torch::Tensor>& tensors);
  [[nodiscard]] std::size_t buckets_sent() const { return buckets_sent_; }

 private:
  void send(const std::vector<torch::Tensor>& bucket, double factor);
  void reduce(const std::vector<torch::Tensor>& tensors, double factor);

  Communicator& communicator_;
  std::size_t bucket_bytes_max_;
  std::size_t buckets_sent_ = 0;
  std::vector<float> host_;  // The bucket on its way.
};

// Rank 0's tensors on every rank.
void broadcast_tensors(Communicator& communicator, const std::vector<torch::Tensor>& tensors);

// A checksum of the tensors' bytes, for comparing replicas.
[[nodiscard]] std::uint32_t checksum(const std::vector<torch::Tensor>& tensors);
// Throws std::runtime_error naming the ranks whose checksum differs from rank 0's. A collective.
void check_replicas(Communicator& communicator, const std::vector<torch::Tensor>& tensors);

}  // namespace trainer
