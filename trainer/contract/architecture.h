// SPDX-License-Identifier: Apache-2.0
// trainer/contract/architecture.h
//
// What a network is made of: a description in Ultralytics' YAML (docs/formats/model.md), scaled in
// depth and width, with every shape worked out. The known models are such descriptions too. No
// tensor is made here, so a login node can say what is wrong with a description.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace contract {

enum class LayerKind {
  kConv,
  kDwConv,
  kC2f,
  kC3,
  kC3k2,
  kSppf,
  kC2psa,
  kUpsample,
  kConcat,
  kDetect
};

// A row of the description after scaling.
struct Layer {
  static constexpr int kImage = -1;

  LayerKind module = LayerKind::kConv;
  int line = 0;                       // Of the description, from 1.
  std::vector<int> from = {};         // Indices of earlier layers, or kImage.
  std::vector<int> channels_in = {};  // Of each of `from`.
  int channels = 0;                   // Of the output; of Detect 0.
  int stride = 1;                     // Pixels of the image that a cell of the output spans.
  int repeats = 1;
  int kernel = 1, step = 1;
  bool has_shortcut = false;  // In the repeated part.
  bool is_nested = false;     // C3k2: repeats C3k instead of single bottlenecks.
  double expansion = 0.5;     // Width of the repeated part, as a part of `channels`.
};

struct Architecture {
  std::string name;            // "yolov8n"; of a file its name without folder and suffix.
  std::string yaml;            // The description. With `name` it makes the same architecture again.
  bool is_known = false;       // One of known_models(): `name` alone says it all.
  std::vector<Layer> layers;   // The last one, and no other, is Detect.
  std::vector<int> strides;    // Of what Detect takes, in its order.
  bool is_head_light = false;  // Class towers of depthwise convolutions, as YOLO11 has them.
};

inline constexpr int kStrideMax = 32;  // Image sides are multiples of it.

// The names that `model` may have beside a file, smallest first.
[[nodiscard]] const std::vector<std::string>& known_models();

// True for "my.yaml", "./yolov8n.yaml"; false for "yolov8n" and "yolov8n.yaml".
[[nodiscard]] bool is_model_file(std::string_view model);

// A name for people: "yolov8n", and "my" for "models/my.yaml"; printable (line_fault.h).
[[nodiscard]] std::string model_name(std::string_view model);

// The work of one image of 640 px and 80 classes in 10^9 floating-point operations, a product and its
// sum counted as two: the families' published tables (docs.ultralytics.com/models). Nothing for a
// model of the user's own.
[[nodiscard]] std::optional<double> published_gflops(std::string_view model);

// `name` chooses the scale: "yolov8s-custom" means s; where it names none of `scales`, the first
// one counts. `where` begins each fault ("my.yaml" makes "my.yaml:12: ..."). Throws
// std::invalid_argument with all faults, one a line.
[[nodiscard]] Architecture parse_architecture(std::string_view yaml, const std::string& name,
                                              const std::string& where);

// Of a known name or a file. Where "yolov8s-custom.yaml" is missing but "yolov8-custom.yaml" is
// there, that one is read. Throws std::invalid_argument.
[[nodiscard]] Architecture load_architecture(const std::string& model);

}  // namespace contract
