// SPDX-License-Identifier: Apache-2.0
#include "trainer/ema.h"

#include <torch/utils.h>

#include <cmath>

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
  for (std::size_t i = 0; i < target.size(); ++i) {
    if (target[i].second.is_floating_point()) {
      target[i].second.mul_(decay).add_(source[i].second, 1 - decay);
    } else {
      target[i].second.copy_(source[i].second);
    }
  }
}

}  // namespace trainer
