// SPDX-License-Identifier: Apache-2.0
#include "trainer/class_weights.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace trainer {

std::vector<std::int64_t> count_labels(const std::vector<contract::ImageEntry>& images,
                                       int class_count) {
  std::vector<std::int64_t> counts(static_cast<std::size_t>(class_count), 0);
  for (const contract::ImageEntry& image : images) {
    for (const contract::Label& label : image.labels) {
      ++counts.at(static_cast<std::size_t>(label.cls));
    }
  }
  return counts;
}

std::vector<double> class_weights(std::span<const std::int64_t> counts, double power) {
  std::vector<double> weights;
  for (const std::int64_t count : counts) {
    weights.push_back(std::pow(static_cast<double>(std::max<std::int64_t>(1, count)), -power));
  }
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  for (double& weight : weights) weight *= static_cast<double>(weights.size()) / sum;
  return weights;
}

}  // namespace trainer
