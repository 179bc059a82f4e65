// SPDX-License-Identifier: Apache-2.0
// trainer/run_pictures.h
//
// The pictures of a run, under the reference's file names in the run's folder: labels, the first
// training and validation batches, curves, confusion matrix, results. A picture that cannot be
// drawn or written is named once and never ends a training.
#pragma once

#include <torch/types.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "trainer/contract/dataset.h"
#include "trainer/detection.h"
#include "trainer/loader.h"
#include "trainer/validate.h"

namespace trainer {

class RunPictures {
 public:
  // `warn` is given one line for each picture that failed. Where `is_on` is false nothing is done.
  RunPictures(std::string folder, std::vector<std::string> names, bool is_on,
              std::function<void(const std::string&)> warn);

  void draw_labels(const std::vector<contract::ImageEntry>& images);
  // train_batchN.png of the first batches of a run; `step` counts from its start.
  void draw_training(const Batch& batch, std::int64_t step);

  // Before, during (ValidationOptions::on_batch) and after a validation. The batches of the best
  // one are kept for finish().
  void start_validation() { latest_.clear(); }
  void add(const Batch& batch, const std::vector<torch::Tensor>& detections);
  void keep_validation() { best_ = std::move(latest_); }

  void finish(const Validation& best);
  void draw_results();  // The curves of results.csv.

 private:
  struct Seen {
    Batch batch;
    std::vector<std::vector<Detection>> detections;
  };
  void attempt(const std::function<void()>& draw);

  std::string folder_;
  std::vector<std::string> names_;
  bool is_on_;
  std::function<void(const std::string&)> warn_;
  std::vector<Seen> latest_, best_;
};

}  // namespace trainer
