// SPDX-License-Identifier: Apache-2.0
// trainer/sync_norm.h
//
// Batch norm whose statistics in training are those of the batches of all ranks together
// (sync_bn=true). Every forward pass and every backward pass is then a collective: all ranks make
// them in the same order.
#pragma once

#include <torch/nn/modules/batchnorm.h>
#include <torch/types.h>

#include "trainer/batch_moments.h"
#include "trainer/communicator.h"

namespace trainer {

// Batch norm over [B, C, H, W] with torch's names, options and results, that may know its ranks.
// Options: affine, with running statistics and a momentum. (libtorch does not export what a class
// derived of its own BatchNorm2dImpl has to link.)
class SyncNormImpl : public torch::nn::NormImplBase<2, SyncNormImpl, torch::nn::BatchNormOptions> {
 public:
  using NormImplBase::NormImplBase;

  // `ranks` outlives the module.
  void synchronise(Communicator& ranks) { ranks_ = &ranks; }
  // Null where a forward pass is of this rank's batch alone.
  [[nodiscard]] Communicator* ranks() const {
    return is_training() && ranks_ != nullptr && ranks_->size() > 1 ? ranks_ : nullptr;
  }
  torch::Tensor forward(const torch::Tensor& x);

 protected:
  void _check_input_dim(const torch::Tensor& x) override;

 private:
  Communicator* ranks_ = nullptr;
};
TORCH_MODULE(SyncNorm);

// All SyncNorms of `module`, itself included.
void synchronise_norms(torch::nn::Module& module, Communicator& ranks);

// Moves the running statistics as torch's batch norm does: the variance unbiased.
void remember_moments(SyncNormImpl& norm, const BatchMoments& moments);

}  // namespace trainer
