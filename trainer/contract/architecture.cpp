// SPDX-License-Identifier: Apache-2.0
#include "trainer/contract/architecture.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <optional>
#include <regex>
#include <sstream>
#include <stdexcept>

#include "trainer/contract/known_models.h"
#include "trainer/contract/line_fault.h"
#include "trainer/contract/model_yaml.h"

namespace contract {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kModelYamlBytesMax = 1 << 20;
constexpr std::size_t kPathBytesMax = 4096;

// What a row gives: how wide, and how many pixels of the image a cell spans.
struct Shape {
  int channels = 3;
  int stride = 1;
};

// Works out the shapes, row by row. A row builds on those before it, so the first fault ends it.
class Builder {
 public:
  explicit Builder(const ModelYaml& yaml) : yaml_(yaml) {}

  Architecture build() {
    for (const ModelRow& row : yaml_.rows) add(row);
    return std::move(made_);
  }

 private:
  [[noreturn]] static void fail(const ModelRow& row, const std::string& what) {
    throw LineFault{row.line, what};
  }

  void add(const ModelRow& row) {
    Layer layer{.module = row.module,
                .line = row.line,
                .repeats = row.repeats,
                .kernel = row.kernel,
                .step = row.step,
                .has_shortcut = row.has_shortcut,
                .is_nested = row.is_nested,
                .expansion = row.expansion};
    std::vector<Shape> inputs;
    for (const int from : row.from) {
      layer.from.push_back(from);
      inputs.push_back(from == Layer::kImage ? Shape{}
                                             : shapes_.at(static_cast<std::size_t>(from)));
      layer.channels_in.push_back(inputs.back().channels);
    }
    const Shape output = shape_of(row, inputs);
    layer.channels = output.channels;
    layer.stride = output.stride;
    if (row.module == LayerKind::kC3k2) made_.is_head_light = true;
    shapes_.push_back(output);
    made_.layers.push_back(std::move(layer));
  }

  Shape shape_of(const ModelRow& row, const std::vector<Shape>& inputs) {
    const Shape in = inputs.front();
    switch (row.module) {
      case LayerKind::kConcat:
        return joined(row, inputs);
      case LayerKind::kDetect:
        for (const Shape& each : inputs) made_.strides.push_back(each.stride);
        return {0, in.stride};
      case LayerKind::kUpsample:
        if (in.stride % 2 != 0) {
          fail(row, fmt::format("nn.Upsample doubles a map of stride {}; it cannot be finer than "
                                "the image.",
                                in.stride));
        }
        return {in.channels, in.stride / 2};
      case LayerKind::kConv:
      case LayerKind::kDwConv:
        return stepped(row, in);
      default:
        check_width(row, in);
        return {row.channels, in.stride};
    }
  }

  static Shape joined(const ModelRow& row, const std::vector<Shape>& inputs) {
    Shape output = inputs.front();
    for (std::size_t i = 1; i < inputs.size(); ++i) {
      if (inputs[i].stride != output.stride) {
        fail(row, fmt::format("Concat of layer {} (stride {}) and layer {} (stride {}): maps of "
                              "different sizes.",
                              row.from[0], output.stride, row.from[i], inputs[i].stride));
      }
      output.channels += inputs[i].channels;
    }
    return output;
  }

  static Shape stepped(const ModelRow& row, const Shape& in) {
    const Shape output{row.channels, in.stride * row.step};
    if (output.stride > kStrideMax) {
      fail(row, fmt::format("a map of stride {}; the largest is {}, because image sides are "
                            "multiples of it.",
                            output.stride, kStrideMax));
    }
    return output;
  }

  static void check_width(const ModelRow& row, const Shape& in) {
    if (row.module == LayerKind::kC2psa) {
      constexpr int kHeadWidth = 64;  // Channels of an attention head.
      if (row.channels != in.channels) {
        fail(row, fmt::format("C2PSA keeps the width: {} channels come in, {} are asked for "
                              "(after scaling).",
                              in.channels, row.channels));
      }
      const int hidden = row.channels / 2;
      const int heads = hidden / kHeadWidth;
      if (heads == 0 || hidden % heads != 0) {
        fail(row, fmt::format("C2PSA of {} channels (after scaling): half of them do not divide "
                              "into heads of {}.",
                              row.channels, kHeadWidth));
      }
    }
    const int smallest = row.module == LayerKind::kSppf
                             ? in.channels / 2
                             : static_cast<int>(row.channels * row.expansion);
    if (smallest < 2) {
      fail(row, fmt::format("{} channels are too few to be divided.", row.channels));
    }
  }

  const ModelYaml& yaml_;
  Architecture made_;
  std::vector<Shape> shapes_;
};

struct Published {
  std::string_view model;
  double gflops;
};
constexpr Published kPublished[] = {{"yolov8n", 8.7},   {"yolov8s", 28.6},  {"yolov8m", 78.9},
                                    {"yolov8l", 165.2}, {"yolov8x", 257.8}, {"yolo11n", 6.5},
                                    {"yolo11s", 21.5},  {"yolo11m", 68.0},  {"yolo11l", 86.9},
                                    {"yolo11x", 194.9}};

// The letter of the size in a name: s of "yolov8s-custom". 0 where there is none.
char size_letter(const std::string& name) {
  static const std::regex kPattern("yolo(?:e-)?v?[0-9]+([nslmx])");
  std::smatch match;
  return std::regex_search(name, match, kPattern) ? match.str(1).front() : '\0';
}

std::string lower(std::string_view text) {
  std::string result(text);
  for (char& c : result) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return result;
}

bool has_yaml_suffix(std::string_view text) {
  const std::string name = lower(text);
  return name.ends_with(".yaml") || name.ends_with(".yml");
}

// The name of the known model that `text` means, with or without ".yaml"; or nothing.
std::optional<std::string> known_name(std::string_view text) {
  std::string name = lower(text);
  if (name.ends_with(".yaml")) name.resize(name.size() - 5);
  const auto& known = known_models();
  if (std::find(known.begin(), known.end(), name) == known.end()) return std::nullopt;
  return name;
}

std::string read_description(const std::string& path) {
  std::error_code error;
  std::ifstream file(path, std::ios::binary);
  if (!file || fs::is_directory(path, error)) {
    throw std::invalid_argument(fmt::format("model: {} cannot be read. Known without a file: {}.",
                                            path, fmt::join(known_models(), ", ")));
  }
  const auto size = fs::file_size(path, error);
  if (!error && size > kModelYamlBytesMax) {
    throw std::invalid_argument(fmt::format("{}: {} bytes; a model description has at most {}.",
                                            path, size, kModelYamlBytesMax));
  }
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// "yolov8s-custom.yaml" stands for all sizes of "yolov8-custom.yaml".
std::string file_of(const std::string& model) {
  std::error_code error;
  if (fs::exists(model, error)) return model;
  static const std::regex kPattern("^(.*?[0-9]+)[nslmx](.*)$");
  const fs::path path(model);
  std::smatch match;
  const std::string name = path.filename();
  if (!std::regex_match(name, match, kPattern)) return model;
  const fs::path shared = path.parent_path() / (match.str(1) + match.str(2));
  return fs::exists(shared, error) ? shared.string() : model;
}

}  // namespace

const std::vector<std::string>& known_models() {
  static const std::vector<std::string> kNames = [] {
    std::vector<std::string> names;
    for (const Published& each : kPublished) names.emplace_back(each.model);
    return names;
  }();
  return kNames;
}

std::optional<double> published_gflops(std::string_view model) {
  const std::optional<std::string> name = known_name(model);
  if (!name) return std::nullopt;
  return std::find_if(std::begin(kPublished), std::end(kPublished),
                      [&name](const Published& each) { return each.model == *name; })
      ->gflops;
}

bool is_model_file(std::string_view model) {
  return has_yaml_suffix(model) && !known_name(model);
}

std::string model_name(std::string_view model) {
  return is_model_file(model) ? printable(fs::path(model).stem().string(), kPathBytesMax)
                              : std::string(model);
}

Architecture parse_architecture(std::string_view yaml, const std::string& name,
                                const std::string& where) {
  std::vector<LineFault> faults;
  const ModelYaml rows = parse_model_yaml(yaml, size_letter(name), faults);
  Architecture made;
  if (faults.empty()) {
    try {
      made = Builder(rows).build();
    } catch (const LineFault& fault) {
      faults.push_back(fault);
    }
  }
  if (!faults.empty()) {
    std::string text;
    for (const LineFault& fault : faults) {
      text += fault.line > 0 ? fmt::format("{}:{}: {}\n", where, fault.line, fault.message)
                             : fmt::format("{}: {}\n", where, fault.message);
    }
    text.pop_back();
    throw std::invalid_argument(text);
  }
  made.name = name;
  made.yaml = yaml;
  return made;
}

Architecture load_architecture(const std::string& model) {
  if (const std::optional<std::string> name = known_name(model)) {
    Architecture made =
        parse_architecture(name->starts_with("yolov8") ? kYolov8 : kYolo11, *name, *name);
    made.is_known = true;
    return made;
  }
  if (!is_model_file(model)) {
    throw std::invalid_argument(
        fmt::format("model = \"{}\" is not known. Known: {}; or a description, FILE.yaml.", model,
                    fmt::join(known_models(), ", ")));
  }
  const std::string path = file_of(model);
  return parse_architecture(read_description(path), model_name(model), path);
}

}  // namespace contract
