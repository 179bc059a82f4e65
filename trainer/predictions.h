// SPDX-License-Identifier: Apache-2.0
// trainer/predictions.h
//
// Detections in the formats that other programs read (docs/formats/results.md). Boxes in pixels of
// the original image.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "trainer/detection.h"

namespace trainer {

// Entries of COCO's results format: image_id (the file's stem, as a number where it is one),
// category_id (counted from 1), bbox (x, y, width, height), score; and file_name.
[[nodiscard]] nlohmann::ordered_json to_coco_results(const std::string& image_path,
                                                     const std::vector<Detection>& detections);

// Rows of an Ultralytics label file: class, centre and size as shares of the image.
enum class Scores { kWithout, kWith };
[[nodiscard]] std::string to_label_rows(const std::vector<Detection>& detections, int width,
                                        int height, Scores scores);

// {"class": 2, "name": "Platelets", "score": 0.91, "box": [x1, y1, x2, y2]}
[[nodiscard]] nlohmann::ordered_json to_json(const Detection& detection,
                                             const std::vector<std::string>& names);

}  // namespace trainer
