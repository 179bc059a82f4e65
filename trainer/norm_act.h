// SPDX-License-Identifier: Apache-2.0
// trainer/norm_act.h
//
// Batch norm followed by SiLU in one, for float32 on the CPU: two passes over the memory each way
// instead of four and five, and what lies between the two is not kept for the backward pass
// (docs/performance.md). The formulas are those of Ioffe and Szegedy, "Batch Normalization" (2015),
// section 3, and of Elfwing, Uchibe and Doya, "Sigmoid-Weighted Linear Units" (2017).
#pragma once

#include <torch/types.h>

#include "trainer/sync_norm.h"

namespace trainer {

// silu(norm(x)), x [B, C, H, W], and the running statistics as `norm` would update them. Where
// gradients are off, the result may stand in the memory of x. Other devices and types go through
// torch's own operators. A collective where `norm` has ranks.
[[nodiscard]] torch::Tensor norm_act(SyncNormImpl& norm, const torch::Tensor& x);

}  // namespace trainer
