// SPDX-License-Identifier: GPL-3.0-or-later
//
// For tests that run under mpirun: a model, a batch of four images with what is on them, and its
// gradients, on one process or shared by ranks.
#pragma once

#include <torch/utils.h>

#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "trainer/gradient_reducer.h"
#include "trainer/loss.h"
#include "trainer/model.h"

namespace trainer {

class SharedBatch {
 public:
  static constexpr std::int64_t kImages = 4;

  SharedBatch() {
    for (const torch::Tensor& parameter : model.parameters()) {
      if (parameter.requires_grad()) parameters_.push_back(parameter);
    }
  }

  // Of the whole batch, without anybody's help.
  std::vector<torch::Tensor> whole() { return gradients_of(0, kImages, nullptr); }
  // Of this rank's share, summed over the ranks.
  std::vector<torch::Tensor> shared_by(Communicator& ranks) {
    const std::int64_t share = kImages / ranks.size();
    return gradients_of(ranks.rank() * share, share, &ranks);
  }

 private:
  static DetectionModel make_model() {
    torch::manual_seed(3);
    return {"yolov8n", 3};
  }

  std::vector<torch::Tensor> gradients_of(std::int64_t first, std::int64_t count,
                                          Communicator* ranks) {
    torch::Tensor own =
        targets_.index({(targets_.select(1, 0) >= first) & (targets_.select(1, 0) < first + count)})
            .clone();
    own.select(1, 0).sub_(first);
    std::optional<GradientReducer> reducer;
    for (torch::Tensor& parameter : parameters_) parameter.mutable_grad().reset();
    if (ranks != nullptr) reducer.emplace(*ranks, parameters_);
    const LossValue loss =
        detection_loss(model.forward(images_.narrow(0, first, count)), model.strides(), own, {},
                       kImages, [&](const torch::Tensor& value) {
                         return ranks != nullptr ? sum_of_ranks(*ranks, value) : value;
                       });
    if (reducer) reducer->arm();
    loss.total.backward();
    if (reducer) reducer->reduce();
    std::vector<torch::Tensor> gradients;
    for (const torch::Tensor& parameter : parameters_) gradients.push_back(parameter.grad().clone());
    return gradients;
  }

 public:
  DetectionModel model = make_model();

 private:
  torch::Tensor images_ = torch::rand({kImages, 3, 64, 64});
  // Image 2 has nothing on it, the others one to three objects.
  torch::Tensor targets_ = torch::tensor({{0.F, 0.F, .5F, .5F, .4F, .6F},
                                          {1.F, 1.F, .3F, .4F, .5F, .5F},
                                          {1.F, 2.F, .7F, .6F, .3F, .4F},
                                          {3.F, 2.F, .5F, .5F, .8F, .8F},
                                          {3.F, 1.F, .2F, .2F, .3F, .3F},
                                          {3.F, 0.F, .8F, .8F, .3F, .2F}});
  std::vector<torch::Tensor> parameters_;
};

}  // namespace trainer
