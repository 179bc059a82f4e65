// SPDX-License-Identifier: Apache-2.0
#include "trainer/batch_step.h"

#include <torch/utils.h>

#include <span>
#include <utility>

#include "trainer/amp.h"
#include "trainer/device.h"

namespace trainer {

namespace {

std::vector<torch::Tensor> changed_by_a_batch(Replica& replica) {
  std::vector<torch::Tensor> tensors = replica.optimizer().gradients();
  for (const torch::Tensor& buffer : replica.model().buffers()) tensors.push_back(buffer);
  // Zeros in any order where the first step, in which that is learnt, is taken back.
  if (const torch::Tensor& residual = replica.wire_residual(); residual.defined()) {
    tensors.push_back(residual);
  }
  return tensors;
}

}  // namespace

Slice slice_of(const torch::Tensor& images, const torch::Tensor& targets, std::int64_t first,
               std::int64_t end) {
  if (first == 0 && end == images.size(0)) return {images, targets};
  const torch::Tensor image = targets.select(1, 0);
  torch::Tensor own = targets.index({(image >= first).logical_and(image < end)}).clone();
  own.select(1, 0).sub_(static_cast<double>(first));
  return {images.narrow(0, first, end - first), own};
}

BatchStep::BatchStep(Replica& replica, Communicator& communicator, Options options)
    : replica_(replica), communicator_(communicator), options_(std::move(options)) {
  const bool may_own_run_out =
      options_.before_forward != nullptr || replica.model().parameters().front().is_cuda();
  std::int64_t may_any = may_own_run_out ? 1 : 0;
  communicator_.all_reduce_max(std::span<std::int64_t>(&may_any, 1));
  may_run_out_ = may_any > 0 && options_.without_memory == Options::WithoutMemory::kSplits;
}

void BatchStep::remember() {
  if (!may_run_out_) return;
  before_.clear();
  for (const torch::Tensor& tensor : changed_by_a_batch(replica_)) {
    before_.push_back(tensor.detach().clone());
  }
}

bool BatchStep::has_memory_for(const std::function<void()>& work) const {
  if (!may_run_out_) {
    work();
    return true;
  }
  try {
    work();
    return true;
  } catch (const std::exception& error) {
    if (!is_out_of_memory(error)) throw;
    return false;
  }
}

LossValue BatchStep::part_loss(torch::Tensor images, const torch::Tensor& targets) {
  DetectionModel& model = replica_.model();
  std::vector<torch::Tensor> features;
  {
    const Autocast scope(images.device(), options_.amp_type);
    if (options_.before_forward) options_.before_forward(images);
    features = model.forward(images);
  }
  for (torch::Tensor& map : features) map = map.to(torch::kFloat);
  return detection_loss(features, model.strides(), targets, options_.loss,
                        options_.global_batch / parts_,
                        [this](const torch::Tensor& own) { return over_ranks(own); });
}

// What the loss sums, and with it what else a rank has to read from its device.
torch::Tensor BatchStep::over_ranks(const torch::Tensor& own) {
  const torch::Tensor all = torch::cat({own, replica_.gradient_norm().view(1)});
  is_summed_ = true;
  const torch::Tensor sums = sum_of_ranks(communicator_, all);
  norm_sum_ = sums[kSummed];
  return sums.narrow(0, 0, kSummed);
}

// Every rank makes one sum a part, whether it has the memory for it or not.
BatchStep::Result BatchStep::forward(const torch::Tensor& images, const torch::Tensor& targets) {
  remember();
  Result result;
  const std::int64_t count = images.size(0);
  for (std::int64_t part = 0; part < parts_; ++part) {
    is_summed_ = false;
    const bool is_done = !result.is_out_of_memory && has_memory_for([&] {
      const Slice own =
          slice_of(images, targets, count * part / parts_, count * (part + 1) / parts_);
      const LossValue loss = part_loss(own.images, own.targets);
      const torch::Tensor items = loss.items / static_cast<double>(parts_);
      result.items = result.items.defined() ? result.items + items : items;
      result.gradient_norm = norm_sum_;
      total_ = loss.total;
      if (part + 1 < parts_) replica_.backward(total_, Replica::Backward::kMoreFollows);
    });
    if (is_done) continue;
    result.is_out_of_memory = true;
    total_.reset();
    if (is_summed_) continue;
    static_cast<void>(sum_of_ranks(communicator_, torch::zeros({kSummed + 1})));
  }
  return result;
}

bool BatchStep::backward(Replica::Backward what) {
  const bool is_done = has_memory_for([this, what] { replica_.backward(total_, what); });
  total_.reset();
  if (!may_run_out_) return true;
  double failed = is_done ? 0 : 1;
  communicator_.all_reduce_sum(std::span<double>(&failed, 1));
  if (failed > 0 && what == Replica::Backward::kStepFollows) replica_.finish_sums();
  return failed == 0;
}

bool BatchStep::split_further(std::int64_t images) {
  total_.reset();
  torch::NoGradGuard no_grad;
  const std::vector<torch::Tensor> now = changed_by_a_batch(replica_);
  for (std::size_t i = 0; i < before_.size(); ++i) now[i].detach().copy_(before_[i]);
  if (2 * parts_ > images) return false;
  parts_ *= 2;
  return true;
}

}  // namespace trainer
