// SPDX-License-Identifier: Apache-2.0
// trainer/loader.h
//
// Batches of training and validation images, decoded and augmented by threads (no forks). What a
// batch holds is a pure function of (seed, epoch, position, rank, world): neither the number of
// threads nor an interruption changes it.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "trainer/contract/dataset.h"
#include "trainer/contract/train_args.h"

namespace trainer {

struct Batch {
  torch::Tensor images;   // uint8 [B, 3, H, W], RGB; divide by 255.
  torch::Tensor targets;  // float32 [N, 6]: index in batch, class, xc, yc, w, h normalised to H, W.
  // Of validation: how each image was letterboxed, to map boxes back.
  struct Source {
    std::int64_t index = 0;             // In the split; -1: unreadable, not to be evaluated.
    int width = 0, height = 0;          // Of the original image.
    float gain_x = 1, gain_y = 1;       // letterboxed = original * gain + pad; nearly equal.
    float pad_x = 0, pad_y = 0;
  };
  std::vector<Source> sources;
};

class ImageCache;

struct Shard {
  int rank = 0;
  int world = 1;
};

// Batches of one epoch for one rank. Every rank sees the same number of batches, by construction:
// ceil(images / global batch), the last one filled by wrapping around.
class TrainLoader {
 public:
  struct Options {
    int batch_per_rank = 16;
    int imgsz = 640;
    int threads = 2;
    std::uint64_t seed = 0;
    // Of decoded images, shared by the ranks of a host (image_cache.h); none: the newest few only.
    std::shared_ptr<ImageCache> cache = nullptr;
  };
  // `images` outlives the loader.
  TrainLoader(const std::vector<contract::ImageEntry>& images, const contract::TrainArgs& args,
              Options options, Shard shard);
  ~TrainLoader();
  TrainLoader(const TrainLoader&) = delete;
  TrainLoader& operator=(const TrainLoader&) = delete;

  [[nodiscard]] std::int64_t batches_per_epoch() const;
  // Starts prefetching `epoch` (from 0) at batch `first_batch`; with_mosaic as the schedule
  // says: without, there is no mixup either.
  void start_epoch(std::int64_t epoch, std::int64_t first_batch, bool with_mosaic);
  // The next batch; blocks until it is ready. Precondition: fewer than batches_per_epoch() taken.
  [[nodiscard]] Batch next();
  // Empty where an image can be used; else what is wrong with the first ones. Reads images until
  // it finds one. Not while an epoch is under way.
  [[nodiscard]] std::string why_unusable();
  // "images/a.jpg: is no JPEG ...": what could not be decoded and was replaced by another image,
  // each once.
  [[nodiscard]] std::vector<std::string> take_unreadable();
  // "images/a.jpg: is cut short: ...": what is odd and used all the same, each once.
  [[nodiscard]] std::vector<std::string> take_odd();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// The frame of validation images. Rect: images of like shape share a batch and little of it is
// padding, as the reference validates (rect.h). Square: imgsz x imgsz.
enum class ValFrame { kSquare, kRect };

// The validation images of one rank, letterboxed, no augmentation. `batch` images at once, the last
// batch may be smaller. Ranks may have different numbers of batches: no collective in between.
// What an image is letterboxed to depends on batch x world alone, so ranks that share a global
// batch see what one process sees. `images` outlives the loader; kRect reads all their headers.
class ValLoader {
 public:
  ValLoader(const std::vector<contract::ImageEntry>& images, int imgsz, int batch, int threads,
            bool single_cls, Shard shard, ValFrame frame = ValFrame::kSquare);
  ~ValLoader();
  ValLoader(const ValLoader&) = delete;
  ValLoader& operator=(const ValLoader&) = delete;
  void start();                           // From the first batch again.
  [[nodiscard]] bool next(Batch& batch);  // False at the end.
  // As of TrainLoader; such an image is grey, without labels, and marked in its Source.
  [[nodiscard]] std::vector<std::string> take_unreadable();
  [[nodiscard]] std::vector<std::string> take_odd();  // As of TrainLoader.

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace trainer
