// SPDX-License-Identifier: Apache-2.0
// trainer/scenes.h
//
// A small data set of drawn scenes: balls, crates, cones and rings on a table, with true boxes. For
// trying a cluster out, and for tests: it trains from scratch in minutes on a laptop.
#pragma once

#include <cstdint>
#include <string>

namespace trainer {

struct SceneOptions {
  std::string out;  // Folder; made where missing.
  std::uint64_t seed = 0;
  int train = 256, val = 64;  // Images.
  int size = 320;             // Pixels a side, at least 64.
};

// Writes images/{train,val}/*.jpg, labels/{train,val}/*.txt and, last, data.yaml. The same options
// give the same files. Throws std::runtime_error naming the file that cannot be written.
void make_scenes(const SceneOptions& options);

}  // namespace trainer
