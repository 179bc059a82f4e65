// SPDX-License-Identifier: Apache-2.0
#include "trainer/step_trace.h"

#include <fmt/format.h>
#include <torch/utils.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <span>
#include <system_error>
#include <utility>
#include <vector>

#include "trainer/contract/json_text.h"
#include "trainer/durable_file.h"
#include "trainer/gradient_reducer.h"

namespace trainer {

namespace {

struct ImageMark {
  std::int64_t index = 0;    // In the training split.
  std::uint64_t pixels = 0;  // CRC-32 of the augmented image.
};

std::vector<ImageMark> marks_of(const Batch& batch) {
  std::vector<ImageMark> marks;
  for (std::size_t i = 0; i < batch.sources.size(); ++i) {
    marks.push_back(
        {batch.sources[i].index, checksum({batch.images.select(0, static_cast<std::int64_t>(i))})});
  }
  return marks;
}

std::string joined(const std::vector<std::vector<std::byte>>& parts) {
  std::string all;
  for (const auto& part : parts)
    all.append(reinterpret_cast<const char*>(part.data()), part.size());
  return all;
}

}  // namespace

StepTrace::StepTrace(Communicator& communicator, std::string run_dir)
    : communicator_(communicator), path_(std::move(run_dir) + "/trace.jsonl") {}

void StepTrace::note(const Progress& progress, const Batch& batch, const BatchPlan& plan,
                     const std::array<double, 3>& losses) {
  const std::vector<ImageMark> own = marks_of(batch);
  // Ranks hold consecutive places of the global batch.
  torch::Tensor targets = batch.targets.to(torch::kCPU).clone();
  targets.select(1, 0).add_(static_cast<double>(communicator_.rank()) *
                            static_cast<double>(own.size()));
  targets = targets.contiguous();
  const std::string images = joined(communicator_.all_gather(std::as_bytes(std::span(own))));
  const std::string boxes = joined(communicator_.all_gather(
      {static_cast<const std::byte*>(targets.data_ptr()), targets.nbytes()}));
  if (communicator_.rank() != 0) return;

  std::vector<ImageMark> marks(images.size() / sizeof(ImageMark));
  std::memcpy(marks.data(), images.data(), images.size());
  nlohmann::ordered_json line;
  line["step"] = progress.step;
  line["epoch"] = progress.epoch;
  line["batch"] = progress.epoch_batch;
  std::string pixels;
  for (const ImageMark& mark : marks) {
    line["images"].push_back(mark.index);
    pixels += fmt::format("{:08x}", mark.pixels);
  }
  line["pixels"] = fmt::format("{:08x}", crc32_of(pixels));
  line["targets"] = fmt::format("{:08x}", crc32_of(boxes));
  line["lr"] = plan.rates.lr;
  line["momentum"] = plan.rates.momentum;
  line["accumulate"] = plan.accumulate;
  line["losses"] = losses;
  std::ofstream file(path_, std::ios::app);
  file << contract::json_text(line) << "\n";
  file.flush();
  if (!file) throw std::system_error(errno, std::generic_category(), path_);
}

}  // namespace trainer
