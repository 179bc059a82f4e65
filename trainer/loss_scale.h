// SPDX-License-Identifier: Apache-2.0
// trainer/loss_scale.h
//
// The factor on the loss that keeps gradients inside the range of float16 (Micikevicius et al.,
// Mixed Precision Training, ICLR 2018, section 3.2). It grows while all goes well and shrinks after
// a step whose gradients overflowed; start and pace are those that the manual of PyTorch gives for
// its GradScaler.
#pragma once

#include <cstdint>

namespace trainer {

struct LossScale {
  double factor = 65536;
  std::int64_t clean_steps = 0;  // Since it changed last.

  // Gradients that overflow without any factor are the network's own fault.
  [[nodiscard]] bool can_shrink() const { return factor > 1; }
  void note_step() {
    constexpr std::int64_t kStepsToGrow = 2000;
    constexpr double kFactorMax = 16777216;  // 2^24: float16 has no smaller number to save.
    if (++clean_steps < kStepsToGrow) return;
    if (factor < kFactorMax) factor *= 2;
    clean_steps = 0;
  }
  void note_overflow() { *this = {factor / 2, 0}; }
};

}  // namespace trainer
