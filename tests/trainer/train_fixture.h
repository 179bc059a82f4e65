// SPDX-License-Identifier: GPL-3.0-or-later
//
// Short trainings on drawn scenes, for tests under mpirun.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <torch/utils.h>

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "tests/trainer/ranks.h"
#include "tests/trainer/reference_numbers.h"
#include "tests/trainer/temp_folder.h"
#include "trainer/checkpoint.h"
#include "trainer/communicator.h"
#include "trainer/durable_file.h"
#include "trainer/gradient_reducer.h"
#include "trainer/scenes.h"
#include "trainer/tensor_file.h"
#include "trainer/train.h"

namespace trainer {

// A folder that all ranks see, with a data set of scenes.
class TrainTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string path;
    if (world->rank() == 0) {
      folder_ = std::make_unique<TempFolder>();
      path = folder_->at("");
      make_scenes({.out = path + "scenes", .seed = 5, .train = 18, .val = 4, .size = 64});
    }
    const auto all = world->all_gather(std::as_bytes(std::span(path)));
    root_.assign(reinterpret_cast<const char*>(all.front().data()), all.front().size());
    args_.data = root_ + "scenes/data.yaml";
    args_.epochs = 2;
    args_.batch = 4;
    args_.imgsz = 64;
    args_.nbs = 8;
    args_.workers = 2;
    args_.optimizer = "SGD";
    args_.plots = false;
  }
  void TearDown() override { world->barrier(); }

  // For tests that train often: a description whose steps take a quarter of YOLOv8n's time.
  void use_small_model() {
    args_.model = root_ + "small.yaml";
    if (world->rank() == 0) {
      write_durably(args_.model, R"(nc: 4
backbone:
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, C2f, [16, True]]
  - [-1, 1, Conv, [32, 3, 2]]
  - [-1, 1, SPPF, [32, 5]]
  - [-1, 1, Conv, [32, 3, 2]]
head:
  - [-1, 1, nn.Upsample, [None, 2, nearest]]
  - [[-1, 4], 1, Concat, [1]]
  - [-1, 1, C2f, [32]]
  - [[8, 5], 1, Detect, [nc]]
)");
    }
    world->barrier();
  }

  struct Ways {
    std::int64_t stop_at_call = -1;  // Rank 0's look at the clock that is interrupted.
    double deadline = 0;
    bool is_deadline_in_file = false;  // Then its file says it, and may say another.
    std::optional<bool> is_last = std::nullopt;
    double seconds_per_look = 0.001;
    double started = 1000;  // Before the first look.
    bool is_stopped_at_once = false;
    std::function<void(at::Tensor&)> before_forward = nullptr;  // Of each part of a batch.
    std::function<void(at::Tensor&)> before_validation = nullptr;
    std::function<void()> before_step = nullptr;
    std::int64_t stop_at_step = 0;
    int threads = 1;  // That load images. Torch has one all the same, for the time it takes.
    std::optional<contract::PreflightLimits> preflight = std::nullopt;
    int segment = 0, attempt = 0;
  };
  TrainOutcome run(const std::string& name, Ways ways, Communicator& ranks) {
    std::atomic<bool> stop = ways.is_stopped_at_once;
    looks_ = 0;
    const auto now = [&] {
      if (++looks_ == ways.stop_at_call && ranks.rank() == 0) stop = true;
      clock_ += ways.seconds_per_look;
      torch::set_num_threads(1);
      return clock_;
    };
    clock_ = ways.started;
    std::string deadline_file;
    if (ways.is_deadline_in_file) {
      deadline_file = root_ + "deadline";
      if (ranks.rank() == 0) write_durably(deadline_file, fmt::format("{}\n", ways.deadline));
    }
    const Surroundings around{.communicator = ranks,
                              .now = now,
                              .stop_requested = stop,
                              .allocation_start = 1000,
                              .deadline = ways.is_deadline_in_file ? 0 : ways.deadline,
                              .deadline_file = deadline_file,
                              .is_last = ways.is_last,
                              .threads = ways.threads,
                              .segment = ways.segment,
                              .attempt = ways.attempt,
                              .stop_at_step = ways.stop_at_step,
                              .preflight = ways.preflight,
                              .output = Surroundings::Output::kNone,
                              .before_forward = ways.before_forward,
                              .before_validation = ways.before_validation,
                              .before_step = ways.before_step};
    return train({.run_id = name, .run_dir = root_ + name, .args = args_}, around);
  }
  TrainOutcome run(const std::string& name, Ways ways) { return run(name, ways, *world); }
  TrainOutcome run(const std::string& name) { return run(name, Ways{}, *world); }

  std::string read(const std::string& name) const { return read_file(root_ + name); }
  nlohmann::json exit_record(const std::string& name) const {
    return nlohmann::json::parse(read(name + "/exit.json"));
  }
  // results.csv without its times.
  std::string results(const std::string& name) const {
    std::istringstream lines(read(name + "/results.csv"));
    std::string text;
    for (std::string line; std::getline(lines, line);) {
      const std::size_t comma = line.find(',');
      text += line.substr(0, comma) + line.substr(line.find(',', comma + 1)) + "\n";
    }
    return text;
  }
  // Every tensor of the newest checkpoint.
  std::uint32_t tensors(const std::string& name) const {
    const auto pointer = nlohmann::json::parse(read(name + "/weights/last.json"));
    const TensorFile file = read_tensor_file(
        root_ + name + "/weights/" + pointer.at("generations").at(0).at("file").get<std::string>());
    std::vector<torch::Tensor> all;
    for (const auto& [key, tensor] : file.tensors) all.push_back(tensor);
    return checksum(all);
  }

  // The newest checkpoint's, on rank 0.
  Progress progress(const std::string& name) const {
    return read_progress(root_ + name + "/weights").value();
  }
  // As a run that went otherwise would have left its newest checkpoint.
  void change_progress(const std::string& name, const std::function<void(Progress&)>& change) {
    if (world->rank() == 0) {
      const std::string weights = root_ + name + "/weights/";
      auto pointer = nlohmann::json::parse(read(name + "/weights/last.json"));
      nlohmann::json& newest = pointer.at("generations").at(0);
      const std::string path = weights + newest.at("file").get<std::string>();
      TensorFile file = read_tensor_file(path);
      Progress changed = parse_progress(file.metadata.at("progress"));
      change(changed);
      file.metadata["progress"] = to_json_text(changed);
      const WrittenFile written = write_tensor_file(path, file);
      newest["crc32"] = fmt::format("{:08x}", written.crc32);
      newest["size"] = written.size;
      write_durably(weights + "last.json", pointer.dump());
    }
    world->barrier();
  }

  std::unique_ptr<TempFolder> folder_;
  std::string root_;
  contract::TrainArgs args_;
  double clock_ = 0;
  std::int64_t looks_ = 0;  // At the clock, of the newest run.
};

}  // namespace trainer
