// SPDX-License-Identifier: Apache-2.0
// trainer/contract/dataset.h
//
// A YOLO data set as it lies on disk: data.yaml (path, train, val, test, names, nc), images found in
// folders, lists or list files, and one label file an image (docs/formats/dataset.md). No pixels are
// decoded here, so a login node can check a data set before anything is submitted.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace contract {

struct Label {
  int cls = 0;
  float xc = 0, yc = 0, w = 0, h = 0;  // Normalised to the image, 0..1.
};

struct ImageEntry {
  std::string path;           // Absolute.
  std::vector<Label> labels;  // Empty: background.
};

struct Dataset {
  std::string yaml_path;      // Absolute.
  std::vector<std::string> names;
  std::vector<ImageEntry> train, val, test;  // Sorted by path.
};

// Where: "data.yaml:3" or "labels/train/a.txt:2". `is_fatal` faults stop a run; the others (a bad
// label row, a label of no image) make the trainer skip the image and say so.
struct DataFault {
  std::string where;
  std::string message;
  bool is_fatal = false;
};

struct DatasetReport {
  Dataset dataset;
  std::vector<DataFault> faults;      // In order of discovery, capped at 1000.
  std::int64_t faults_total = 0;
  std::int64_t skipped_images = 0;    // Images with a bad label file: not in the dataset.
  std::int64_t background_images = 0;
  [[nodiscard]] bool has_fatal() const;
};

// `path`: the YAML file, a folder with one in it (the only one at its root, or below it, or that of
// the folder's own name), or an archive of such a folder, which is unpacked (archive.h) and whose
// `path` key is passed over.
//
// Reads everything. Never throws for what is on disk: what is wrong becomes a fault. Fatal: the
// file is missing or no YAML, no train or val, names or nc missing or contradicting, a split
// without any readable image, no labelled image at all. Label rules: 5 columns or a polygon, class
// an integer in 0..nc-1, coordinates within -0.01..1.01 and finite; duplicate rows are dropped.
[[nodiscard]] DatasetReport load_dataset(const std::string& path);

}  // namespace contract
