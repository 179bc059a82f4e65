// SPDX-License-Identifier: Apache-2.0
// trainer/export.h
//
// A model as a file that other programs run: TorchScript or ONNX. Both hold forward and decoding in
// one graph of a fixed image size: float32 images [B, 3, H, W], RGB in 0..1, to predictions
// [B, 4 + nc, A], xc yc w h in pixels and class scores. docs/formats/export.md describes them.
#pragma once

#include <string>
#include <vector>

#include "trainer/model.h"

namespace trainer {

enum class ExportFormat { kTorchScript, kOnnx };

enum class BatchSize { kFixed, kFree };

struct ExportOptions {
  ExportFormat format = ExportFormat::kTorchScript;
  int height = 640, width = 640;  // Pixels, multiples of the largest stride.
  int batch = 1;
  // Of ONNX: whether the file takes other numbers of images than `batch`. TorchScript always does.
  BatchSize batch_size = BatchSize::kFixed;
};

// Writes `path`, durably. The model is put into evaluation mode, on the CPU, and its parameters
// need no gradients from then on. Throws std::invalid_argument where the size does not fit the
// strides, std::runtime_error naming the operator where ONNX lacks one, std::system_error where
// `path` cannot be written.
void export_model(const std::string& path, DetectionModel& model,
                  const std::vector<std::string>& class_names, const ExportOptions& options);

}  // namespace trainer
