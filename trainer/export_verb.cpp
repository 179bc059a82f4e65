// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <torch/utils.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <filesystem>
#include <memory>
#include <stdexcept>

#include "trainer/export.h"
#include "trainer/verbs.h"
#include "trainer/weights_file.h"

namespace trainer {

namespace {

struct ExportRequest {
  std::string weights, format = "onnx", imgsz, out;
  int batch = 1;
  bool is_batch_free = false;
};

// "640", or height and width: "384x640".
void read_size(const std::string& text, ExportOptions& options) {
  const char *begin = text.data(), *end = begin + text.size();
  const auto height = std::from_chars(begin, end, options.height);
  options.width = options.height;
  bool is_good = height.ec == std::errc();
  const char* rest = height.ptr;
  if (is_good && rest != end && *rest == 'x') {
    const auto width = std::from_chars(rest + 1, end, options.width);
    is_good = width.ec == std::errc();
    rest = width.ptr;
  }
  if (!is_good || rest != end) {
    throw std::invalid_argument(fmt::format(
        "imgsz = \"{}\" is neither a side like 640 nor HEIGHTxWIDTH like 384x640.", text));
  }
}

int export_weights(const ExportRequest& request, const Launch& launch) {
  torch::set_num_threads(launch.cpus);
  const LoadedModel loaded = load_given_model(request.weights);
  ExportOptions options;
  options.format = request.format == "onnx" ? ExportFormat::kOnnx : ExportFormat::kTorchScript;
  options.height = options.width = loaded.info.imgsz;
  if (!request.imgsz.empty()) read_size(request.imgsz, options);
  options.batch = request.batch;
  options.batch_size = request.is_batch_free ? BatchSize::kFree : BatchSize::kFixed;

  const std::string out =
      request.out.empty()
          ? std::filesystem::path(request.weights).replace_extension(request.format).string()
          : request.out;
  export_model(out, *loaded.model, loaded.info.class_names, options);
  fmt::print("{}: {} of {} classes, images [{}, 3, {}, {}], {:.1f} MB\n", out, loaded.model->name(),
             loaded.info.class_names.size(),
             request.is_batch_free ? std::string("batch") : std::to_string(request.batch),
             options.height, options.width,
             static_cast<double>(std::filesystem::file_size(out)) / 1e6);
  return 0;
}

}  // namespace

Verb add_export_verb(CLI::App& program, const Launch& launch) {
  CLI::App* command =
      program.add_subcommand("export", "Write weights as a model that other programs run");
  const auto request = std::make_shared<ExportRequest>();
  command->add_option("--weights", request->weights, "a .safetensors file of a run")->required();
  command->add_option("--format", request->format, "default: onnx")
      ->check(CLI::IsMember({"onnx", "torchscript"}));
  command->add_option("--imgsz", request->imgsz, "640 or HxW; default: that of the training");
  command->add_option("--batch", request->batch, "images at once, default 1")
      ->check(CLI::Range(1, 4096));
  command->add_flag("--dynamic", request->is_batch_free, "any number of images at once");
  command->add_option("--out", request->out, "default: beside the weights");
  return {command, [request, &launch] { return export_weights(*request, launch); }};
}

}  // namespace trainer
