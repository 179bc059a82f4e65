// SPDX-License-Identifier: Apache-2.0
// trainer/class_weights.h
//
// Weights of the classes in the class loss (cls_pw): rare classes count more. Pure.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "trainer/contract/dataset.h"

namespace trainer {

// How many labels each of `class_count` classes has in `images`.
[[nodiscard]] std::vector<std::int64_t> count_labels(
    const std::vector<contract::ImageEntry>& images, int class_count);

// (1 / count) ^ power of each class, scaled so that their mean is 1. A class without labels weighs
// like one with a single label; power 0 gives ones.
[[nodiscard]] std::vector<double> class_weights(std::span<const std::int64_t> counts, double power);

}  // namespace trainer
