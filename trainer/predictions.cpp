// SPDX-License-Identifier: Apache-2.0
#include "trainer/predictions.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <filesystem>

namespace trainer {
namespace {

// Parts of a unit. Divided by them, not multiplied by 1e-3: 0.1 and not 0.10000000000000001.
constexpr double kPixel = 1e3, kScore = 1e5;

double rounded(double value, double parts) {
  return std::round(value * parts) / parts;
}

nlohmann::json image_id(const std::string& stem) {
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(stem.data(), stem.data() + stem.size(), number);
  if (error == std::errc{} && end == stem.data() + stem.size() && number >= 0) return number;
  return stem;
}

}  // namespace

nlohmann::ordered_json to_coco_results(const std::string& image_path,
                                       const std::vector<Detection>& detections) {
  const std::filesystem::path path(image_path);
  nlohmann::ordered_json entries = nlohmann::ordered_json::array();
  for (const auto& [box, score, cls] : detections) {
    entries.push_back({{"image_id", image_id(path.stem().string())},
                       {"file_name", path.filename().string()},
                       {"category_id", cls + 1},
                       {"bbox",
                        {rounded(box.x1, kPixel), rounded(box.y1, kPixel),
                         rounded(box.x2 - box.x1, kPixel), rounded(box.y2 - box.y1, kPixel)}},
                       {"score", rounded(score, kScore)}});
  }
  return entries;
}

std::string to_label_rows(const std::vector<Detection>& detections, int width, int height,
                          Scores scores) {
  std::string rows;
  for (const auto& [box, score, cls] : detections) {
    rows += fmt::format("{} {:.6g} {:.6g} {:.6g} {:.6g}", cls, (box.x1 + box.x2) / 2 / width,
                        (box.y1 + box.y2) / 2 / height, (box.x2 - box.x1) / width,
                        (box.y2 - box.y1) / height);
    if (scores == Scores::kWith) rows += fmt::format(" {:.6g}", score);
    rows += "\n";
  }
  return rows;
}

nlohmann::ordered_json to_json(const Detection& detection, const std::vector<std::string>& names) {
  const auto& [box, score, cls] = detection;
  return {{"class", cls},
          {"name", names.at(static_cast<std::size_t>(cls))},
          {"score", rounded(score, kScore)},
          {"box",
           {rounded(box.x1, kPixel), rounded(box.y1, kPixel), rounded(box.x2, kPixel),
            rounded(box.y2, kPixel)}}};
}

}  // namespace trainer
