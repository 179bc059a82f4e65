// SPDX-License-Identifier: Apache-2.0
#include "trainer/export.h"

#include <fmt/format.h>

#include <algorithm>
#include <sstream>
#include <stdexcept>

#include "trainer/durable_file.h"
#include "trainer/export_metadata.h"
#include "trainer/export_onnx.h"
#include "trainer/export_trace.h"
#include "trainer/onnx_file.h"

namespace trainer {

namespace {

void check_size(const ExportOptions& options, int stride) {
  if (options.height > 0 && options.width > 0 && options.height % stride == 0 &&
      options.width % stride == 0) {
    return;
  }
  const auto near = [stride](int side) {
    return std::max(1, (side + stride / 2) / stride) * stride;
  };
  throw std::invalid_argument(fmt::format(
      "imgsz = {}x{} is not a multiple of {}, the largest stride. Use {}x{}.", options.height,
      options.width, stride, near(options.height), near(options.width)));
}

std::string to_torchscript(TracedModel& traced, const ExportMetadata& metadata) {
  define_forward(traced);
  std::ostringstream bytes;
  traced.module.save(bytes, {{"config.txt", to_json_text(metadata)}});
  return bytes.str();
}

std::string to_onnx(const TracedModel& traced, const ExportMetadata& metadata,
                    BatchSize batch_size) {
  OnnxFile file;
  for (const auto& [key, value] : to_properties(metadata)) file.add_metadata(key, value);
  add_graph(file, traced, batch_size);
  return file.serialize();
}

}  // namespace

void export_model(const std::string& path, DetectionModel& model,
                  const std::vector<std::string>& class_names, const ExportOptions& options) {
  const std::vector<int>& strides = model.strides();
  const int stride = *std::max_element(strides.begin(), strides.end());
  check_size(options, stride);
  model.to(torch::kCPU);
  model.eval();
  for (torch::Tensor& parameter : model.parameters()) parameter.set_requires_grad(false);

  // A number that no other length of the graph is likely to have tells the batch apart.
  constexpr int kTracedBatch = 3;
  const bool is_free =
      options.format == ExportFormat::kTorchScript || options.batch_size == BatchSize::kFree;
  TracedModel traced =
      trace_model(model, is_free ? kTracedBatch : options.batch, options.height, options.width);
  const ExportMetadata metadata{.model = model.name(),
                                .class_names = class_names,
                                .stride = stride,
                                .batch = options.batch,
                                .height = options.height,
                                .width = options.width};
  write_durably(path, options.format == ExportFormat::kOnnx
                          ? to_onnx(traced, metadata, options.batch_size)
                          : to_torchscript(traced, metadata));
}

}  // namespace trainer
