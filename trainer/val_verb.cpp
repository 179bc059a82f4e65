// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <torch/cuda.h>
#include <torch/utils.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "trainer/contract/dataset.h"
#include "trainer/train.h"
#include "trainer/validate.h"
#include "trainer/verbs.h"
#include "trainer/weights_file.h"

namespace trainer {

namespace {

struct ValRequest {
  std::string weights, data, split = "val";
  int imgsz = 0;  // 0: that of the training.
  int batch = 16;
  double iou = 0.7;
  int max_det = 300;
};

int validate_weights(const ValRequest& request, const Launch& launch) {
  torch::set_num_threads(launch.cpus);
  LoadedModel loaded = load_model(request.weights);
  contract::DatasetReport report = contract::load_dataset(request.data);
  for (const contract::DataFault& fault : report.faults) {
    if (fault.is_fatal) throw BadInput(fmt::format("{}: {}", fault.where, fault.message));
  }
  const auto& images = request.split == "test"    ? report.dataset.test
                       : request.split == "train" ? report.dataset.train
                                                  : report.dataset.val;
  if (images.empty()) {
    throw BadInput(fmt::format("{}: the split {} has no images.", request.data, request.split));
  }
  const bool is_single = loaded.info.class_names.size() == 1 && report.dataset.names.size() > 1;
  if (!is_single && report.dataset.names.size() != loaded.info.class_names.size()) {
    throw BadInput(fmt::format("{} has {} classes, {} has {}.", request.weights,
                               loaded.info.class_names.size(), request.data,
                               report.dataset.names.size()));
  }
  const torch::Device device = torch::cuda::is_available() ? torch::kCUDA : torch::kCPU;
  loaded.model->to(device);
  ValLoader loader(images, request.imgsz > 0 ? request.imgsz : loaded.info.imgsz, request.batch,
                   launch.cpus, is_single, Shard{});
  ValidationOptions options;
  options.nms = {.iou = request.iou, .max_det = request.max_det};
  options.class_names = loaded.info.class_names;
  const auto local = make_local_communicator();
  const Validation result = validate(*loaded.model, loader, options, device, *local);
  fmt::print("{}", to_table(result.metrics, loaded.info.class_names.size()));
  return 0;
}

}  // namespace

Verb add_val_verb(CLI::App& program, const Launch& launch) {
  CLI::App* command = program.add_subcommand("val", "Measure weights on a data set");
  const auto request = std::make_shared<ValRequest>();
  command->add_option("--weights", request->weights, "a .safetensors file of a run")->required();
  command->add_option("--data", request->data, "YAML file of the data set")->required();
  command->add_option("--split", request->split)->check(CLI::IsMember({"train", "val", "test"}));
  command->add_option("--imgsz", request->imgsz, "default: that of the training");
  command->add_option("--batch", request->batch)->check(CLI::Range(1, 4096));
  command->add_option("--iou", request->iou)->check(CLI::Range(0.1, 0.9));
  command->add_option("--max-det", request->max_det)->check(CLI::Range(1, 10'000));
  return {command, [request, &launch] { return validate_weights(*request, launch); }};
}

}  // namespace trainer
