// SPDX-License-Identifier: Apache-2.0
// trainer/detection.h
//
// A box with its corners, of a label or of what a network found. In float32, as the reference
// computes, so that results agree to the bit.
#pragma once

#include <algorithm>

namespace trainer {

struct Box {
  float x1 = 0, y1 = 0, x2 = 0, y2 = 0;
  [[nodiscard]] float area() const { return (x2 - x1) * (y2 - y1); }
};

struct Detection {
  Box box;
  float score = 0;
  int cls = 0;
};

// A labelled box.
struct TrueBox {
  Box box;
  int cls = 0;
};

[[nodiscard]] inline float intersection(const Box& a, const Box& b) {
  const float w = std::max(0.0F, std::min(a.x2, b.x2) - std::max(a.x1, b.x1));
  const float h = std::max(0.0F, std::min(a.y2, b.y2) - std::max(a.y1, b.y1));
  return w * h;
}

[[nodiscard]] inline float intersection_over_union(const Box& a, const Box& b) {
  constexpr float kTiny = 1e-7F;
  const float shared = intersection(a, b);
  return shared / (a.area() + b.area() - shared + kTiny);
}

}  // namespace trainer
