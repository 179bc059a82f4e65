// SPDX-License-Identifier: Apache-2.0
// trainer/sampler.h
//
// Which image stands where in an epoch: a pure function of (images, seed, epoch, position). Ranks
// divide positions, not images, so N ranks of batch B see together what one rank of batch N*B sees,
// and all have the same number of batches.
#pragma once

#include <cstdint>
#include <vector>

namespace trainer {

// How a global batch lies over the ranks: rank r holds batch_per_rank consecutive positions.
struct BatchLayout {
  int batch_per_rank = 1;
  int rank = 0, world = 1;

  [[nodiscard]] std::int64_t global_batch() const { return std::int64_t{batch_per_rank} * world; }
  // The last batch is filled by starting the epoch's order again.
  [[nodiscard]] std::int64_t batches_per_epoch(std::int64_t images) const {
    return (images + global_batch() - 1) / global_batch();
  }
  [[nodiscard]] std::int64_t position(std::int64_t batch, int sample) const {
    return batch * global_batch() + std::int64_t{rank} * batch_per_rank + sample;
  }
};

// The side of the square images of one batch in pixels, a multiple of 32: drawn between
// imgsz * (1 - multi_scale) and imgsz * (1 + multi_scale), by (seed, epoch, batch) alone, so all
// ranks and every resume agree. multi_scale 0 gives imgsz.
[[nodiscard]] int batch_size_pixels(std::uint64_t seed, std::int64_t epoch, std::int64_t batch,
                                    int imgsz, double multi_scale);

class EpochOrder {
 public:
  EpochOrder(std::int64_t images, std::uint64_t seed, std::int64_t epoch);

  // The image at a position; positions beyond the last image start again. Precondition: images > 0.
  [[nodiscard]] std::int64_t image_at(std::int64_t position) const;
  // One of the `window` images before a position (over the epoch's edge where needed). A mosaic
  // takes its other images from there: they were decoded a moment ago.
  [[nodiscard]] std::int64_t image_before(std::int64_t position, std::int64_t steps_back) const;

 private:
  std::vector<std::int64_t> order_;
};

}  // namespace trainer
