// SPDX-License-Identifier: Apache-2.0
// trainer/gradient_reducer.h
//
// Sums the gradients over the ranks while the backward pass still runs. All gradients lie side by
// side in one block, in the order in which a backward pass finishes them; the block is cut into
// buckets, and a bucket travels as soon as its last gradient is there. Nothing is copied: the
// gradients of the parameters are that memory. The order is learnt in the first step; rank 0's
// counts. Gradients that stay away in a step (unused parameters) travel at its end as they are.
//
// The last bucket is small: nothing is left that could hide it. On a GPU the buckets are summed where
// they are if the communicator can do that (NCCL), else they pass through host memory.
#pragma once

#include <torch/csrc/autograd/function.h>
#include <torch/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "trainer/communicator.h"

namespace trainer {

// Sums of tensors of any layout that lie in one block of memory, in the background.
class FlatSum {
 public:
  // Moves the tensors' values into a block of this device's memory, where they stay.
  FlatSum(Communicator& communicator, const std::vector<torch::Tensor>& tensors);
  // Until finish_mean() the tensors are left alone.
  void start();
  [[nodiscard]] bool is_under_way() const { return is_under_way_; }
  // The tensors hold their means over the ranks.
  void finish_mean();

 private:
  Communicator& communicator_;
  torch::Tensor flat_, host_;
  Communicator::Ticket ticket_ = 0;
  bool is_under_way_ = false;
};

class GradientReducer {
 public:
  struct Options {
    std::size_t bucket_bytes_max = std::size_t{4} << 20;
    Wire wire = Wire::kFloat32;
  };
  // Of all steps so far.
  struct Totals {
    std::int64_t steps = 0, sums = 0;
    double sum_bytes = 0;        // Of the gradients, not of the traffic.
    double under_way_s = 0;      // At least one bucket was travelling.
    double exposed_s = 0;        // reduce() waited.
  };

  // `communicator` and `parameters` (float32, all on one device) outlive the reducer. Their
  // gradients are kept and from here on lie in the reducer's memory; they shall be zeroed, not
  // replaced.
  GradientReducer(Communicator& communicator, std::vector<torch::Tensor> parameters,
                  const Options& options);
  GradientReducer(Communicator& communicator, std::vector<torch::Tensor> parameters)
      : GradientReducer(communicator, std::move(parameters), Options()) {}
  ~GradientReducer();
  GradientReducer(const GradientReducer&) = delete;
  GradientReducer& operator=(const GradientReducer&) = delete;

  // The next backward pass is the last before reduce(): buckets travel during it. Without this call
  // a backward pass only adds to the gradients, and reduce() sends all.
  void arm();
  // Every gradient is the sum over all ranks. A collective; arm() was called on all ranks or none.
  void reduce();
  // Between two steps: what rounding to bfloat16 has left over on every rank, with the order in which
  // the gradients travel: "order", "residual.0", "residual.1" ... On rank 0; nothing on the others,
  // for float32, and before the first step. A collective.
  [[nodiscard]] std::vector<std::pair<std::string, torch::Tensor>> wire_state();
  // Goes on from such a state, rank 0's, bit for bit on as many ranks; on another number rank 0 owes
  // the sum. Without a state, or with one of other parameters, as before the first step. A collective.
  void load_wire_state(const std::vector<std::pair<std::string, torch::Tensor>>& state);

  // What rounding to bfloat16 has left over on this rank, in the order of the block: the memory itself,
  // for who takes a step back. Undefined for float32.
  [[nodiscard]] const torch::Tensor& residual() const { return residual_; }
  [[nodiscard]] const Totals& totals() const { return totals_; }
  [[nodiscard]] std::size_t bucket_count() const { return buckets_.size(); }

 private:
  struct Bucket {
    std::size_t first = 0, last = 0;     // Of order_, half open.
    std::int64_t offset = 0, length = 0;  // In elements of the block.
    std::size_t missing = 0;             // Gradients of this backward pass.
    torch::Tensor travelling;            // Where that is not the block itself.
    Communicator::Ticket ticket = 0;
    double started = 0;
  };
  struct Hook {
    std::shared_ptr<torch::autograd::Node> node;
    std::uintptr_t key = 0;
  };

  [[nodiscard]] std::vector<std::int32_t> last_layers_first() const;
  void lay_out(std::vector<std::int32_t> order);
  void learn();
  void add_hook(std::size_t parameter);
  void on_gradient(std::size_t parameter);
  void start(Bucket& bucket);
  [[nodiscard]] bool is_on_device() const;

  Communicator& communicator_;
  std::vector<torch::Tensor> parameters_;
  Options options_;
  std::vector<Hook> hooks_;

  std::vector<std::int32_t> order_;      // Of the parameters in the block.
  std::vector<std::size_t> bucket_of_;   // By parameter.
  std::vector<std::int64_t> offset_of_;  // In the block, by parameter.
  std::vector<Bucket> buckets_;
  torch::Tensor block_, residual_;       // The latter for bfloat16 only.
  std::vector<std::int32_t> seen_;       // The order of the backward passes before the first step.
  bool is_learnt_ = false, is_armed_ = false;
  std::size_t started_ = 0;              // Buckets of this step that travel or have travelled.
  Totals totals_;
};

// Until the device has done what the current stream holds. Sums of gradients go on, on a stream of
// their own. Nothing to wait for on a CPU.
void finish_stream(const torch::Device& device);

// The sum of a vector over the ranks: float64 on the CPU, and where the vector lies on a device,
// the host waits for it. One rank: the vector itself, without a wait.
[[nodiscard]] torch::Tensor sum_of_ranks(Communicator& communicator, const torch::Tensor& own);

// Rank 0's tensors on every rank. Throws std::runtime_error on all of them, and changes nothing, where
// they have not equally many bytes everywhere.
void broadcast_tensors(Communicator& communicator, const std::vector<torch::Tensor>& tensors);

// A checksum of the tensors' bytes, for comparing replicas.
[[nodiscard]] std::uint32_t checksum(const std::vector<torch::Tensor>& tensors);
// Throws std::runtime_error naming the ranks whose checksum differs from rank 0's. A collective.
void check_replicas(Communicator& communicator, const std::vector<torch::Tensor>& tensors);

}  // namespace trainer
