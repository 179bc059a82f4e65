// SPDX-License-Identifier: Apache-2.0
// trainer/export_metadata.h
//
// What an exported model says about itself, under the keys that readers of such files look for.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace trainer {

struct ExportMetadata {
  std::string model;
  std::vector<std::string> class_names;
  int stride = 32;  // The largest.
  int batch = 1;
  int height = 640, width = 640;
};

// For TorchScript: one JSON object, {"names": {"0": "person", ...}, "imgsz": [640, 640], ...}.
[[nodiscard]] std::string to_json_text(const ExportMetadata& metadata);

// For ONNX, whose values are texts: "{0: 'person', 1: 'it\'s'}", "[640, 640]", "32".
[[nodiscard]] std::map<std::string, std::string> to_properties(const ExportMetadata& metadata);

}  // namespace trainer
