// SPDX-License-Identifier: Apache-2.0
// trainer/auto_batch.h
//
// batch = -1, or a part of the memory: how many images a GPU takes, found by trial.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "trainer/contract/architecture.h"

namespace trainer {

// Where nothing can be measured: on a CPU, and where the measurements make no sense.
inline constexpr int kAutoBatchDefault = 16;
inline constexpr int kAutoBatchMax = 1024;

struct BatchMemory {
  int batch = 0;
  double bytes = 0;  // At the peak of a forward and a backward pass.
};

// The largest batch whose memory stays within `bytes_available`, by a straight line through the
// measurements (least squares). kAutoBatchDefault for fewer than two of them, for a line that does
// not rise, and for a result outside 1..kAutoBatchMax.
[[nodiscard]] int fit_batch(std::span<const BatchMemory> measured, double bytes_available);

// The batch that fills `share` of the GPU `index`, of what is free there, by training steps of
// `architecture` with 1, 2, 4, 8 and 16 images of imgsz x imgsz until one has no memory, in the
// precision that the train argument `amp` asks for, less what the optimiser and the average hold.
// kAutoBatchDefault where the program was built without CUDA.
[[nodiscard]] int find_batch(const contract::Architecture& architecture, int class_count, int imgsz,
                             double share, int index, const std::string& amp);

}  // namespace trainer
