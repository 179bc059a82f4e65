// SPDX-License-Identifier: Apache-2.0
// trainer/batch_step.h
//
// Forward pass, loss and backward pass of a rank's share of a batch, in as many parts as the memory
// of the device asks for. Parts change nothing about the global batch: their gradients add up.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "trainer/communicator.h"
#include "trainer/loss.h"
#include "trainer/replica.h"

namespace trainer {

// Images and their targets, which count the images from the first one here.
struct Slice {
  torch::Tensor images, targets;
};
// Images [first, end) of a batch, and the targets of these.
[[nodiscard]] Slice slice_of(const torch::Tensor& images, const torch::Tensor& targets,
                             std::int64_t first, std::int64_t end);

class BatchStep {
 public:
  struct Options {
    LossOptions loss;
    std::int64_t global_batch = 0;                  // Images of all ranks together.
    std::optional<torch::ScalarType> amp_type;      // amp.h
    // kFails: no batch is done in parts, what an allocator throws rises. For norms of all ranks
    // together, whose statistics would be those of the parts, and whose other ranks would wait.
    enum class WithoutMemory { kSplits, kFails } without_memory = WithoutMemory::kSplits;
    // Given the images of the next forward pass. A test spoils them or throws what an allocator
    // throws; where a rank has one, running out of memory is reckoned with on CPUs too.
    std::function<void(torch::Tensor&)> before_forward;
  };
  struct Result {
    // Undefined without memory. On the device, or on the CPU where several ranks have summed them.
    torch::Tensor items;          // [3]: box, cls, dfl of the global batch.
    torch::Tensor gradient_norm;  // A number, finite where that of the replica's last step was.
    bool is_out_of_memory = false;
  };

  // Both outlive the step. A collective: where one rank reckons with running out of memory, all do.
  BatchStep(Replica& replica, Communicator& communicator, Options options);

  // Collectives. One rank never waits for its device here; several wait once a part, in the sum
  // over the ranks. `images` float32 [b, 3, H, W] on the device, `targets` as of Batch. What forward()
  // leaves of the backward pass is done by backward(), which says whether every rank had the
  // memory for it. kStepFollows: gradients travel meanwhile; where a rank had no memory they arrive all
  // the same, and split_further() forgets them.
  [[nodiscard]] Result forward(const torch::Tensor& images, const torch::Tensor& targets);
  [[nodiscard]] bool backward(Replica::Backward what);

  // After a rank ran out of memory: gradients and batch statistics as they were before the batch,
  // and twice as many parts. False: a part is one image already. Not a collective.
  [[nodiscard]] bool split_further(std::int64_t images);
  [[nodiscard]] std::int64_t parts() const { return parts_; }

 private:
  void remember();
  LossValue part_loss(torch::Tensor images, const torch::Tensor& targets);
  bool has_memory_for(const std::function<void()>& work) const;
  torch::Tensor over_ranks(const torch::Tensor& own);

  Replica& replica_;
  Communicator& communicator_;
  Options options_;
  std::int64_t parts_ = 1;
  bool may_run_out_ = false;           // The same on all ranks: they tell each other more then.
  bool is_summed_ = false;             // Whether the part has made its sum over the ranks.
  torch::Tensor total_;                // Of the last part, until backward().
  torch::Tensor norm_sum_;             // Of the last step's gradients, over the ranks.
  std::vector<torch::Tensor> before_;  // Gradients and statistics; only where memory may run out.
};

}  // namespace trainer
