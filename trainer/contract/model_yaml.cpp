// SPDX-License-Identifier: Apache-2.0
#include "trainer/contract/model_yaml.h"

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>
#include <string>

namespace contract {
namespace {

constexpr int kRowsMax = 500;
constexpr int kRepeatsMax = 200;
constexpr int kChannelsMax = 16'384;
constexpr int kKernelMax = 31;

// What a module takes.
struct Kind {
  const char* name;
  LayerKind module;
  const char* args;  // For people.
  std::size_t args_min, args_max;
  bool repeats = false;
  bool joins = false;  // Takes several inputs.
};
constexpr Kind kKinds[] = {
    {"Conv", LayerKind::kConv, "[channels, kernel = 1, stride = 1]", 1, 3},
    {"DWConv", LayerKind::kDwConv, "[channels, kernel = 1, stride = 1]", 1, 3},
    {"C2f", LayerKind::kC2f, "[channels, shortcut = False]", 1, 2, true},
    {"C3", LayerKind::kC3, "[channels, shortcut = True]", 1, 2, true},
    {"C3k2", LayerKind::kC3k2, "[channels, c3k = False, expansion = 0.5]", 1, 3, true},
    {"SPPF", LayerKind::kSppf, "[channels, kernel = 5]", 1, 2},
    {"C2PSA", LayerKind::kC2psa, "[channels]", 1, 1, true},
    {"nn.Upsample", LayerKind::kUpsample, "[None, 2, nearest]", 3, 3},
    {"Concat", LayerKind::kConcat, "[1]", 1, 1, false, true},
    {"Detect", LayerKind::kDetect, "[nc]", 1, 1, false, true},
};

struct Scale {
  double depth = 1, width = 1;
  int channels_max = kChannelsMax;
  bool is_nested = false;  // Sizes m, l, x: every C3k2 repeats C3k.
};

int line_of(const YAML::Node& node) {
  return node.Mark().line + 1;
}

std::string text_of(const YAML::Node& node) {
  if (node.IsScalar()) return printable(node.Scalar(), 40);
  return node.IsNull() ? "None" : node.IsSequence() ? "a list" : "a mapping";
}

std::optional<int> whole(const YAML::Node& node) {
  if (!node.IsScalar()) return std::nullopt;
  const std::string& text = node.Scalar();
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<double> number(const YAML::Node& node) {
  if (!node.IsScalar()) return std::nullopt;
  const std::string& text = node.Scalar();
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value)) {
    return std::nullopt;
  }
  return value;
}

class Parser {
 public:
  Parser(char size, std::vector<LineFault>& faults) : size_(size), faults_(faults) {}

  ModelYaml parse(const YAML::Node& document) {
    if (!document.IsMap()) {
      fault(0, "no mapping of keys (nc, scales, backbone, head).");
      return {};
    }
    check_keys(document);
    read_scale(document);
    for (const char* part : {"backbone", "head"}) {
      const YAML::Node rows = document[part];
      if (!rows || !rows.IsSequence() || rows.size() == 0) {
        fault(rows ? line_of(rows) : 0,
              fmt::format("{} is missing: a list of rows [from, repeats, module, args].", part));
        continue;
      }
      for (const YAML::Node& row : rows) {
        if (yaml_.rows.size() == kRowsMax) {
          fault(line_of(row), fmt::format("more than {} rows.", kRowsMax));
          return {};
        }
        read_row(row);
      }
    }
    check_detect();
    std::stable_sort(faults_.begin(), faults_.end(),
                     [](const LineFault& a, const LineFault& b) { return a.line < b.line; });
    return std::move(yaml_);
  }

 private:
  void fault(int line, std::string message) { faults_.push_back({line, std::move(message)}); }

  // Keys that would change the network in a way that this trainer does not know.
  void check_keys(const YAML::Node& document) {
    for (const auto& pair : document) {
      if (!pair.first.IsScalar()) continue;
      const std::string& key = pair.first.Scalar();
      const bool is_foreign = key == "activation" || key == "kpt_shape" || key == "end2end";
      const bool is_ours = (key != "ch" && key != "channels") || whole(pair.second) == 3;
      if (is_foreign || !is_ours) {
        fault(line_of(pair.first), fmt::format("{} = {} is not supported by this trainer.",
                                               printable(key, 40), text_of(pair.second)));
      }
    }
  }

  void read_scale(const YAML::Node& document) {
    if (const YAML::Node depth = document["depth_multiple"])
      set(depth, "depth_multiple", scale_.depth);
    if (const YAML::Node width = document["width_multiple"])
      set(width, "width_multiple", scale_.width);
    const YAML::Node scales = document["scales"];
    if (!scales) return;
    if (!scales.IsMap() || scales.size() == 0) {
      fault(line_of(scales), "scales is no mapping from a letter to [depth, width, max_channels].");
      return;
    }
    std::string chosen;
    YAML::Node values;
    for (const auto& pair : scales) {
      const std::string key = pair.first.IsScalar() ? pair.first.Scalar() : "";
      if (!chosen.empty() && key != std::string(1, size_)) continue;
      chosen = key;
      values.reset(pair.second);
    }
    const bool is_triple = values.IsSequence() && values.size() == 3;
    const std::optional<int> bound = is_triple ? whole(values[2]) : std::nullopt;
    if (!bound || *bound < 1) {
      fault(line_of(values), fmt::format("scale {} is not [depth, width, max_channels], as in "
                                         "[0.33, 0.25, 1024].",
                                         printable(chosen, 20)));
      return;
    }
    set(values[0], "depth", scale_.depth);
    set(values[1], "width", scale_.width);
    scale_.channels_max = *bound;
    scale_.is_nested = chosen == "m" || chosen == "l" || chosen == "x";
  }

  void set(const YAML::Node& node, const char* name, double& factor) {
    constexpr double kFactorMax = 16;
    const std::optional<double> value = number(node);
    if (value && *value > 0 && *value <= kFactorMax) {
      factor = *value;
    } else {
      fault(line_of(node), fmt::format("{} = {} is not a number above 0, up to {}.", name,
                                       text_of(node), kFactorMax));
    }
  }

  // A row counts even where it is faulty, so that later rows point at what they mean.
  void read_row(const YAML::Node& node) {
    ModelRow row{.line = line_of(node)};
    const Kind* kind = nullptr;
    if (!node.IsSequence() || node.size() != 4) {
      fault(row.line, "a row is [from, repeats, module, args].");
    } else if (kind = find_kind(node[2]); kind != nullptr) {
      row.module = kind->module;
      read_from(node[0], *kind, row);
      read_repeats(node[1], *kind, row);
      read_args(node[3], *kind, row);
    }
    yaml_.rows.push_back(std::move(row));
  }

  const Kind* find_kind(const YAML::Node& node) {
    std::string known;
    for (const Kind& kind : kKinds) {
      if (node.IsScalar() && node.Scalar() == kind.name) return &kind;
      known += fmt::format("{}{}", known.empty() ? "" : ", ", kind.name);
    }
    fault(line_of(node),
          fmt::format("the module {} is not known. Known: {}.", text_of(node), known));
    return nullptr;
  }

  void read_from(const YAML::Node& node, const Kind& kind, ModelRow& row) {
    const auto here = static_cast<int>(yaml_.rows.size());
    const auto add = [&](const YAML::Node& each) {
      const std::optional<int> from = whole(each);
      const int index = !from ? here : *from < 0 ? here + *from : *from;
      const bool is_image = here == 0 && from == -1;
      if (!is_image && (index < 0 || index >= here)) {
        fault(row.line,
              fmt::format("from = {} in row {} names no earlier row.{}", text_of(each), here,
                          here == 0 ? " The first row takes the image: -1."
                                    : fmt::format(" Rows 0..{} or -1..-{}.", here - 1, here)));
      }
      row.from.push_back(is_image ? Layer::kImage : index);
    };
    if (!node.IsSequence()) {
      add(node);
    } else {
      for (const YAML::Node& each : node) add(each);
    }
    if (row.from.empty() || (row.from.size() > 1 && !kind.joins)) {
      fault(row.line, fmt::format("{} takes {}, not {}.", kind.name,
                                  kind.joins ? "one input or more" : "one input", row.from.size()));
    }
  }

  void read_repeats(const YAML::Node& node, const Kind& kind, ModelRow& row) {
    const std::optional<int> repeats = whole(node);
    if (!repeats || *repeats < 1 || *repeats > kRepeatsMax) {
      fault(row.line, fmt::format("repeats = {} is not a whole number of 1..{}.", text_of(node),
                                  kRepeatsMax));
    } else if (*repeats > 1 && !kind.repeats) {
      fault(row.line, fmt::format("{} stands for itself only: repeats = {}. Write {} rows.",
                                  kind.name, *repeats, *repeats));
    } else if (*repeats > 1) {
      // Half-way cases to the even side, as Python rounds.
      row.repeats = std::max(1, static_cast<int>(std::nearbyint(*repeats * scale_.depth)));
    }
  }

  void read_args(const YAML::Node& args, const Kind& kind, ModelRow& row) {
    if (!args.IsSequence() || args.size() < kind.args_min || args.size() > kind.args_max) {
      fault(row.line,
            fmt::format("{} takes {}, not {}.", kind.name, kind.args,
                        args.IsSequence() ? counted(static_cast<long long>(args.size()), "argument")
                                          : text_of(args)));
      return;
    }
    switch (kind.module) {
      case LayerKind::kUpsample:
        expect(args[0].IsNull() || text_of(args[0]) == "None", args[0], kind, row);
        expect(whole(args[1]) == 2, args[1], kind, row);
        expect(text_of(args[2]) == "nearest", args[2], kind, row);
        return;
      case LayerKind::kConcat:
        expect(whole(args[0]) == 1, args[0], kind, row);
        return;
      case LayerKind::kDetect:
        expect(text_of(args[0]) == "nc", args[0], kind, row);
        return;
      default:
        read_channels(args[0], kind, row);
    }
    switch (kind.module) {
      case LayerKind::kConv:
      case LayerKind::kDwConv:
        if (args.size() > 1) read_kernel(args[1], kind, row);
        if (args.size() > 2) read_step(args[2], kind, row);
        break;
      case LayerKind::kSppf:
        row.kernel = 5;
        if (args.size() > 1) read_kernel(args[1], kind, row);
        break;
      case LayerKind::kC2f:
        if (args.size() > 1) row.has_shortcut = flag(args[1], kind, row);
        break;
      case LayerKind::kC3:
        row.has_shortcut = args.size() < 2 || flag(args[1], kind, row);
        break;
      case LayerKind::kC3k2:
        row.has_shortcut = true;
        if (args.size() > 1) row.is_nested = flag(args[1], kind, row);
        if (scale_.is_nested) row.is_nested = true;
        if (args.size() > 2) read_expansion(args[2], kind, row);
        break;
      default:
        break;
    }
  }

  void expect(bool is_right, const YAML::Node& arg, const Kind& kind, const ModelRow& row) {
    if (!is_right) {
      fault(row.line,
            fmt::format("{} takes {}; {} does not fit.", kind.name, kind.args, text_of(arg)));
    }
  }

  bool flag(const YAML::Node& arg, const Kind& kind, const ModelRow& row) {
    const std::string text = text_of(arg);
    const bool is_true = text == "True" || text == "true";
    expect(is_true || text == "False" || text == "false", arg, kind, row);
    return is_true;
  }

  void read_channels(const YAML::Node& arg, const Kind& kind, ModelRow& row) {
    constexpr int kDivisor = 8;
    const std::optional<int> channels = whole(arg);
    expect(channels && *channels >= 1 && *channels <= kChannelsMax, arg, kind, row);
    const double wanted = std::min(channels.value_or(1), scale_.channels_max) * scale_.width;
    row.channels = static_cast<int>(std::ceil(wanted / kDivisor)) * kDivisor;
    if (row.channels > kChannelsMax) {
      fault(row.line,
            fmt::format("{} channels after scaling; at most {}.", row.channels, kChannelsMax));
    }
  }

  // Odd, so that the padding keeps the size.
  void read_kernel(const YAML::Node& arg, const Kind& kind, ModelRow& row) {
    const std::optional<int> kernel = whole(arg);
    if (kernel && *kernel >= 1 && *kernel <= kKernelMax && *kernel % 2 == 1) {
      row.kernel = *kernel;
    } else {
      fault(row.line, fmt::format("{} takes an odd kernel of 1..{}, not {}.", kind.name, kKernelMax,
                                  text_of(arg)));
    }
  }

  void read_step(const YAML::Node& arg, const Kind& kind, ModelRow& row) {
    const std::optional<int> step = whole(arg);
    if (step == 1 || step == 2 || step == 4) {
      row.step = *step;
    } else {
      fault(row.line,
            fmt::format("{} takes a stride of 1, 2 or 4, not {}.", kind.name, text_of(arg)));
    }
  }

  void read_expansion(const YAML::Node& arg, const Kind& kind, ModelRow& row) {
    const std::optional<double> expansion = number(arg);
    expect(expansion && *expansion > 0 && *expansion <= 4, arg, kind, row);
    row.expansion = expansion.value_or(row.expansion);
  }

  void check_detect() {
    std::vector<int> lines;
    for (const ModelRow& row : yaml_.rows) {
      if (row.module == LayerKind::kDetect) lines.push_back(row.line);
    }
    const bool is_last = !yaml_.rows.empty() && yaml_.rows.back().module == LayerKind::kDetect;
    if (faults_.empty() && (lines.size() != 1 || !is_last)) {
      fault(lines.empty() ? 0 : lines.front(), "Detect stands once, in the last row.");
    }
  }

  char size_;
  std::vector<LineFault>& faults_;
  Scale scale_;
  ModelYaml yaml_;
};

}  // namespace

ModelYaml parse_model_yaml(std::string_view text, char size, std::vector<LineFault>& faults) {
  // The whole text goes into weights and checkpoints, whose headers are JSON.
  if (const std::optional<LineFault> fault = utf8_fault(text)) {
    faults.push_back(*fault);
    return {};
  }
  try {
    return Parser(size, faults).parse(YAML::Load(std::string(text)));
  } catch (const YAML::Exception& exception) {
    const int line = exception.mark.is_null() ? 0 : exception.mark.line + 1;
    faults.push_back({line, fmt::format("is no YAML: {}.", printable(exception.msg, 120))});
    return {};
  }
}

}  // namespace contract
