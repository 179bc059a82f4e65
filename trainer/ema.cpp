// SPDX-License-Identifier: Apache-2.0
#include "trainer/ema.h"

#include <torch/utils.h>

#include <cmath>
#include <vector>

#include "trainer/model.h"

namespace trainer {

double ema_decay(std::int64_t updates) {
  constexpr double kDecay = 0.9999;
  constexpr double kTau = 2000;
  return kDecay * (1 - std::exp(-static_cast<double>(updates) / kTau));
}

void update_ema(torch::nn::Module& average, const torch::nn::Module& model, std::int64_t updates) {
  torch::NoGradGuard no_grad;
  const double decay = ema_decay(updates);
  const auto target = state_tensors(average);
  const auto source = state_tensors(model);
  std::vector<torch::Tensor> averages, values;  // One kernel for many of them on a GPU.
  for (std::size_t i = 0; i < target.size(); ++i) {
    if (target[i].second.is_floating_point()) {
      averages.push_back(target[i].second);
      values.push_back(source[i].second);
    } else {
      target[i].second.copy_(source[i].second);
    }
  }
  torch::_foreach_mul_(averages, decay);
  torch::_foreach_add_(averages, values, 1 - decay);
}

}  // namespace trainer
