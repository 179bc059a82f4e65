// SPDX-License-Identifier: Apache-2.0
// trainer/ema.h
//
// The moving average of a model's weights and batch statistics: what is validated and saved for
// use.
#pragma once

#include <torch/nn/module.h>

#include <cstdint>

namespace trainer {

// Short at first, so that the average forgets the random start: decay * (1 - exp(-updates / 2000)).
[[nodiscard]] double ema_decay(std::int64_t updates);

// One update, the `updates`-th (from 1). `average` and `model` are of the same architecture;
// integer buffers are copied.
void update_ema(torch::nn::Module& average, const torch::nn::Module& model, std::int64_t updates);

}  // namespace trainer
