// SPDX-License-Identifier: Apache-2.0
// trainer/dataset_check.h
//
// What a data set holds and whether it is fit to train on: counts, boxes, sizes, images that stand
// in it twice, and the conditions of a run. Reads files, changes none; broken files become
// findings.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "trainer/contract/dataset.h"

namespace trainer {

// Bits of 64 that may differ between the difference hashes of two images that "look alike".
inline constexpr int kAlikeBitsMax = 4;
// Areas in pixels of the image that part small from medium and medium from large boxes, as COCO's.
inline constexpr double kSmallAreaMax = 32.0 * 32, kMediumAreaMax = 96.0 * 96;

// Of a set of numbers; zeros of an empty one.
struct Spread {
  double min = 0, median = 0, mean = 0, max = 0;
};

struct SplitFacts {
  std::string name;  // "train", "val", "test"
  // Without images that were to be decoded and cannot be.
  std::int64_t images = 0, background = 0, boxes = 0;
  std::vector<std::int64_t> boxes_per_class, images_per_class;
  std::int64_t small = 0, medium = 0, large = 0;  // Boxes; those of images of unknown size nowhere.
  Spread boxes_per_image;
  Spread aspect;                   // Width by height of the boxes, in pixels.
  Spread width, height;            // Of the images.
  std::int64_t sizes_unknown = 0;  // Images whose header does not say.
};

// Two images of which one says nothing new. Across splits it is a leak: the measurement is
// flattered.
struct Twins {
  std::string first, second;  // Paths.
  std::string first_split, second_split;
  bool is_exact = false;  // The same bytes; otherwise they look alike.
  int bits = 0;           // Of alike ones: how many of 64 differ.
  [[nodiscard]] bool is_leak() const { return first_split != second_split; }
};

struct ImageFinding {
  std::string path, message;
  bool is_usable = false;  // Odd, but decoded.
};

struct DatasetCheck {
  std::vector<SplitFacts> splits;    // train, val, test
  std::vector<std::string> missing;  // Conditions of a run that do not hold; empty: ready.
  std::vector<Twins> twins;          // The first kTwinsMax, leaks before others.
  std::int64_t leaks_exact = 0, leaks_alike = 0, doubles_exact = 0, doubles_alike = 0;
  std::vector<ImageFinding> findings;  // Of decoding, in the order of the paths.
  std::int64_t decoded = 0;
  [[nodiscard]] bool is_ready() const { return missing.empty(); }
};

struct CheckOptions {
  bool decode_images = false;  // Finds broken images and those that look alike.
  int threads = 1;
};

inline constexpr std::size_t kTwinsMax = 1000;

[[nodiscard]] DatasetCheck check_dataset(const contract::DatasetReport& report,
                                         const CheckOptions& options);

}  // namespace trainer
