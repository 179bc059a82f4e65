// SPDX-License-Identifier: Apache-2.0
#include "trainer/contract/train_args.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <stdexcept>
#include <variant>

#include "trainer/contract/architecture.h"
#include "trainer/contract/words.h"

namespace contract {

namespace {

constexpr double kNoLimit = std::numeric_limits<double>::infinity();

using Field =
    std::variant<int TrainArgs::*, double TrainArgs::*, std::optional<double> TrainArgs::*,
                 bool TrainArgs::*, std::string TrainArgs::*, std::vector<int> TrainArgs::*>;

constexpr double kBatchShareDefault = 0.6;  // Of batch = -1.
constexpr int kBatchMax = 8'192;

// A row of the option table. `low` and `high` bound numbers, both ends included; `choices` bounds
// texts (any where empty).
struct Option {
  const char* name;
  const char* group;
  Field field;
  double low = -kNoLimit;
  double high = kNoLimit;
  std::vector<std::string> choices;
  const char* help;
  const char* range = nullptr;  // Where limits and choices do not say it.
};

const std::vector<Option>& options() {
  using A = TrainArgs;
  constexpr double kAny = kNoLimit;
  static const std::vector<Option> kOptions = {
      // clang-format off
      {"data", "run", &A::data, -kAny, kAny, {}, "YAML file of the data set, or a ZIP with one in it"},
      {"model", "run", &A::model, -kAny, kAny, known_models(), "architecture, or a .yaml file that describes one"},
      {"epochs", "run", &A::epochs, 1, 10'000, {}, "passes over the training images"},
      {"time", "run", &A::time_h, 0.02, 720, {}, "hours of the whole run, start-up to final evaluation; overrides epochs"},
      {"patience", "run", &A::patience, 0, 1'000, {}, "epochs without gain before an early stop; 0 turns it off"},
      {"batch", "run", &A::batch, 1, kBatchMax, {}, "images a step over all GPUs together; auto on one GPU only",
       "1 to 8192; -1: found by trial for 60 % of the GPU's memory; below 1: for that part of it"},
      {"imgsz", "run", &A::imgsz, 32, 4'096, {}, "side of the square input in pixels, a multiple of 32"},
      {"workers", "run", &A::workers, 0, 64, {}, "loader threads a GPU, at most"},
      {"seed", "run", &A::seed, 0, 2'147'483'647, {}, "of initial weights, order and augmentation"},
      {"deterministic", "run", &A::deterministic, 0, 1, {}, "same input, same result, a little slower"},
      {"pretrained", "run", &A::pretrained, -kAny, kAny, {}, "weights file (.safetensors) to start from; none: random weights"},
      {"save", "run", &A::save, 0, 1, {}, "keep weights and checkpoints"},
      {"save_period", "run", &A::save_period, -1, 100, {}, "also keep the weights of every N-th epoch; -1: only last and best"},
      {"verbose", "run", &A::verbose, 0, 1, {}, "print metrics of each class"},
      {"plots", "run", &A::plots, 0, 1, {}, "pictures of labels, batches, curves and results in the run's folder"},
      {"amp", "run", &A::amp, -kAny, kAny, {"true", "false", "bf16", "fp16", "fp32"}, "true: bfloat16 convolutions on GPUs, float32 on CPUs; bf16: everywhere; fp16: float16 with a scaled loss on GPUs, float32 on CPUs"},
      {"wire", "run", &A::wire, -kAny, kAny, {"fp32", "bf16"}, "gradients between GPUs; bf16: half the bytes, with error feedback; ours, not Ultralytics'"},
      {"sync_bn", "run", &A::sync_bn, 0, 1, {}, "batch norm over the images of all GPUs together; ours, not Ultralytics'"},
      {"freeze", "run", &A::freeze, 0, 99, {}, "the first N layers, or the layers of a list, keep their weights",
       "none, N of 0 to 99, or a list"},
      {"cache", "data", &A::cache, -kAny, kAny, {"ram", "disk", "false"}, "keep decoded images, once a host, in memory or in the temporary folder"},
      {"fraction", "data", &A::fraction, 0, 1e9, {}, "part of the training images to use, or how many; [0.5, 0.2]: also of the validation images",
       "above 0 to 1, a number of images, or a list of two"},
      {"classes", "data", &A::classes, 0, 65'535, {}, "use only labels of these classes; they keep their numbers",
       "none or a list"},
      {"rect", "data", &A::rect, 0, 1, {}, "batches of images of like shape with little padding",
       "only false: training images are square"},
      {"single_cls", "data", &A::single_cls, 0, 1, {}, "treat all classes as one"},
      {"optimizer", "optimizer", &A::optimizer, -kAny, kAny, {"auto", "SGD", "MuSGD", "Adam", "Adamax", "AdamW", "NAdam", "RAdam", "RMSProp"}, "auto also sets lr0 and momentum"},
      {"lr0", "optimizer", &A::lr0, 1e-5, 0.1, {}, "initial learning rate; not used by optimizer=auto"},
      {"lrf", "optimizer", &A::lrf, 0.01, 1, {}, "final learning rate as a part of lr0"},
      {"cos_lr", "optimizer", &A::cos_lr, 0, 1, {}, "cosine schedule instead of a linear one"},
      {"momentum", "optimizer", &A::momentum, 0.6, 0.98, {}, "momentum of SGD, MuSGD and RMSProp, beta1 of the others"},
      {"weight_decay", "optimizer", &A::weight_decay, 0, 0.001, {}, "of convolution weights, at the nominal batch"},
      {"warmup_epochs", "optimizer", &A::warmup_epochs, 0, 5, {}, "epochs of rising learning rate"},
      {"warmup_momentum", "optimizer", &A::warmup_momentum, 0, 0.95, {}, "momentum at the start of the warm-up"},
      {"warmup_bias_lr", "optimizer", &A::warmup_bias_lr, 0, 0.2, {}, "learning rate of biases at the start of the warm-up"},
      {"nbs", "optimizer", &A::nbs, 1, 65'536, {}, "nominal batch: gradients are accumulated up to it"},
      {"box", "loss", &A::box, 1, 50, {}, "gain of the box loss"},
      {"cls", "loss", &A::cls, 0.1, 4, {}, "gain of the class loss"},
      {"dfl", "loss", &A::dfl, 0.4, 12, {}, "gain of the distribution focal loss"},
      {"cls_pw", "loss", &A::cls_pw, 0, 1, {}, "weigh classes by their inverse frequency to this power; 0: alike"},
      {"val", "validation", &A::val, 0, 1, {}, "validate after each epoch"},
      {"max_det", "validation", &A::max_det, 1, 10'000, {}, "detections an image, at most"},
      {"iou", "validation", &A::iou, 0.1, 0.9, {}, "overlap above which the weaker box is dropped"},
      {"hsv_h", "augmentation", &A::hsv_h, 0, 1, {}, "change of hue"},
      {"hsv_s", "augmentation", &A::hsv_s, 0, 1, {}, "change of saturation"},
      {"hsv_v", "augmentation", &A::hsv_v, 0, 1, {}, "change of brightness"},
      {"degrees", "augmentation", &A::degrees, 0, 180, {}, "rotation, +/- degrees"},
      {"translate", "augmentation", &A::translate, 0, 1, {}, "shift, +/- part of the side"},
      {"scale", "augmentation", &A::scale, 0, 1, {}, "gain of 1 +/- scale"},
      {"shear", "augmentation", &A::shear, -180, 180, {}, "shear, +/- degrees"},
      {"perspective", "augmentation", &A::perspective, 0, 0.001, {}, "perspective, +/-"},
      {"flipud", "augmentation", &A::flipud, 0, 1, {}, "probability of a flip upside down"},
      {"fliplr", "augmentation", &A::fliplr, 0, 1, {}, "probability of a flip left to right"},
      {"mosaic", "augmentation", &A::mosaic, 0, 1, {}, "probability of a mosaic of four images"},
      {"close_mosaic", "augmentation", &A::close_mosaic, 0, 50, {}, "epochs at the end without mosaic"},
      {"mixup", "augmentation", &A::mixup, 0, 1, {}, "probability of blending two images"},
      {"bgr", "augmentation", &A::bgr, 0, 1, {}, "probability of swapped red and blue"},
      {"multi_scale", "augmentation", &A::multi_scale, 0, 0.9, {}, "side of each batch within imgsz * (1 +/- this)"},
      // clang-format on
  };
  return kOptions;
}

// Arguments that users of the reference know and this trainer does not have, with what there is
// instead.
const std::map<std::string, std::string, std::less<>>& foreign_arguments() {
  static const std::string kFolder =
      "is not needed: every run has a folder of its own. Choose where with --runs "
      "FOLDER and name it with --name NAME (trainyard), or give --run FOLDER (trainyard-trainer).";
  static const std::map<std::string, std::string, std::less<>> kArguments = [] {
    std::map<std::string, std::string, std::less<>> arguments = {
        {"device",
         "is chosen by the plan. Say how many GPUs and which with "
         "--gpus N and --type NAME."},
        {"resume",
         "is not needed. Continue a run with \"trainyard resume RUN\", or by "
         "starting trainyard-trainer again on its folder."},
        {"project", kFolder},
        {"name", kFolder},
        {"save_dir", kFolder},
        {"exist_ok", kFolder}};
    for (const char* name : {"angle",      "augmentations", "auto_augment", "channels_last",
                             "cls_remap",  "compile",       "copy_paste",   "copy_paste_mode",
                             "cutmix",     "dgrad",         "dis",          "distill_model",
                             "dlam",       "dlog",          "dnn",          "dropout",
                             "erasing",    "half",          "int8",         "kobj",
                             "mask_ratio", "mode",          "nms",          "overlap_mask",
                             "pose",       "profile",       "quantize",     "rle",
                             "save_json",  "split",         "task",         "tracker"}) {
      arguments.emplace(name, "is not supported by this trainer. Leave it out.");
    }
    return arguments;
  }();
  return kArguments;
}

const Option* find_option(std::string_view name) {
  for (const Option& option : options()) {
    if (name == option.name) return &option;
  }
  return nullptr;
}

// All of `text`, or nothing.
template <typename Number>
std::optional<Number> parse_number(std::string_view text) {
  if (text.starts_with('+')) text.remove_prefix(1);
  Number number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return number;
}

std::string join(const std::vector<std::string>& words) {
  return fmt::format("{}", fmt::join(words, ", "));
}

// 0, 1 ... count-1, the layers of freeze=count.
bool is_prefix(const std::vector<int>& list) {
  for (std::size_t i = 0; i < list.size(); ++i) {
    if (list[i] != static_cast<int>(i)) return false;
  }
  return true;
}

// "1", "0.1": limits without ".0".
std::string limit_text(double limit) {
  return fmt::format("{:.15g}", limit);
}

struct Setter {
  const Option& option;
  std::string_view text;
  TrainArgs& args;
  using Answer = std::optional<std::string>;  // What is wrong.

  Answer out_of_range(double value) const {
    if (value < option.low) {
      return fmt::format("{} = {} is below the smallest allowed value {}.", option.name, text,
                         limit_text(option.low));
    }
    if (value > option.high) {
      return fmt::format("{} = {} is above the largest allowed value {}.", option.name, text,
                         limit_text(option.high));
    }
    return std::nullopt;
  }

  Answer operator()(int TrainArgs::*field) const {
    if (field == &TrainArgs::batch) {
      if (const std::optional<double> share = auto_batch_share()) {
        args.batch = 0;
        args.batch_share = *share;
        return std::nullopt;
      }
    }
    const std::optional<long long> value = parse_number<long long>(text);
    if (!value) {
      return fmt::format("{} = \"{}\" is not a whole number.", option.name, text);
    }
    if (Answer wrong = out_of_range(static_cast<double>(*value))) return wrong;
    constexpr int kStride = 32;
    if (field == &TrainArgs::imgsz && *value % kStride != 0) {
      const long long below = *value / kStride * kStride;
      return fmt::format("imgsz = {} is not a multiple of {}. The nearest are {} and {}.", *value,
                         kStride, below, below + kStride);
    }
    args.*field = static_cast<int>(*value);
    if (field == &TrainArgs::batch) args.batch_share = 0;
    return std::nullopt;
  }

  // Of batch = -1 and of a batch between 0 and 1.
  std::optional<double> auto_batch_share() const {
    const std::optional<double> value = parse_number<double>(text);
    if (value && *value == -1) return kBatchShareDefault;
    return value && *value > 0 && *value < 1 ? value : std::nullopt;
  }

  Answer parse_float(double& value) const {
    const std::optional<double> parsed = parse_number<double>(text);
    if (!parsed || !std::isfinite(*parsed)) {
      return fmt::format("{} = \"{}\" is not a number.", option.name, text);
    }
    value = *parsed;
    return out_of_range(value);
  }

  Answer operator()(double TrainArgs::*field) const {
    if (field == &TrainArgs::fraction) return set_fraction();
    double value = 0;
    if (Answer wrong = parse_float(value)) return wrong;
    args.*field = value;
    return std::nullopt;
  }

  // Of the training images, or a list: of these and of the validation images.
  Answer set_fraction() const {
    std::vector<double> parts;
    for (const std::string_view word : list_words(text)) {
      double value = 0;
      if (Answer wrong = Setter{option, word, args}.parse_float(value)) return wrong;
      if (value == 0 || (value > 1 && value != std::floor(value))) {
        return fmt::format("fraction = {} is neither a part above 0 to 1 nor a number of images.",
                           text);
      }
      parts.push_back(value);
    }
    constexpr std::size_t kSplits = 2;
    if (parts.size() > kSplits) {
      return fmt::format("fraction = {} has {} numbers; it takes {}, of training and validation.",
                         text, parts.size(), kSplits);
    }
    args.fraction = parts.front();
    args.fraction_val = parts.size() > 1 ? parts.back() : 1;
    return std::nullopt;
  }

  Answer operator()(std::optional<double> TrainArgs::*field) const {
    double value = 0;
    if (is_none(text)) {
      args.*field = std::nullopt;
      return std::nullopt;
    }
    if (Answer wrong = parse_float(value)) return wrong;
    args.*field = value;
    return std::nullopt;
  }

  Answer operator()(bool TrainArgs::*field) const {
    const std::optional<bool> value = parse_bool(text);
    if (!value) return fmt::format("{} = \"{}\" is neither true nor false.", option.name, text);
    if (field == &TrainArgs::rect && *value) {
      return "rect = true is not supported by this trainer: training images are square. Leave it "
             "out.";
    }
    args.*field = *value;
    return std::nullopt;
  }

  Answer operator()(std::vector<int> TrainArgs::*field) const {
    const std::vector<std::string_view> words = list_words(text);
    const bool is_bare = text.find_first_of("[,") == std::string_view::npos;
    std::vector<int> list;
    if (words.size() > 1 || !is_none(words.front())) {
      for (const std::string_view word : words) {
        const auto value = parse_number<long long>(word);
        if (!value) {
          return fmt::format("{} = \"{}\" is not a whole number or a list such as [0, 2].",
                             option.name, text);
        }
        if (Answer wrong = out_of_range(static_cast<double>(*value))) return wrong;
        list.push_back(static_cast<int>(*value));
      }
    }
    if (field == &TrainArgs::freeze && is_bare && !list.empty()) {
      list.resize(static_cast<std::size_t>(list[0]));
      std::iota(list.begin(), list.end(), 0);
    }
    std::sort(list.begin(), list.end());
    list.erase(std::unique(list.begin(), list.end()), list.end());
    args.*field = std::move(list);
    return std::nullopt;
  }

  Answer operator()(std::string TrainArgs::*field) const {
    if (field == &TrainArgs::model) return set_model();
    if (field == &TrainArgs::pretrained) return set_pretrained();
    if (field == &TrainArgs::cache) return set_cache();
    if (option.choices.empty()) {
      args.*field = std::string(text);
      return std::nullopt;
    }
    for (const std::string& choice : option.choices) {
      if (lower(choice) == lower(text)) {
        args.*field = choice;
        return std::nullopt;
      }
    }
    // Words of Ultralytics' own files for what is a word here.
    if (field == &TrainArgs::amp) {
      if (const std::optional<bool> flag = parse_bool(text)) {
        args.amp = *flag ? "true" : "false";
        return std::nullopt;
      }
      const std::string word = lower(text);
      if (word == "float16" || word == "half") {
        args.amp = "fp16";
        return std::nullopt;
      }
    }
    return not_a_choice();
  }

  Answer not_a_choice() const {
    const std::optional<std::string> nearest = nearest_name(text, option.choices);
    return fmt::format("{} = \"{}\" is not known. Known: {}.{}", option.name, text,
                       join(option.choices),
                       nearest ? fmt::format(" Did you mean \"{}\"?", *nearest) : "");
  }

  Answer set_model() const {
    std::string name = lower(text);
    if (is_model_file(text)) {
      args.model = std::string(text);
      return std::nullopt;
    }
    if (name.ends_with(".pt")) {
      return fmt::format(
          "model = \"{}\" names a weights file. Give model=NAME and "
          "pretrained=FILE.safetensors.",
          text);
    }
    if (name.ends_with(".yaml")) name.resize(name.size() - 5);
    if (std::find(option.choices.begin(), option.choices.end(), name) == option.choices.end()) {
      return not_a_choice();
    }
    args.model = name;
    return std::nullopt;
  }

  Answer set_pretrained() const {
    const std::optional<bool> flag = parse_bool(text);
    if (flag && *flag) {
      return fmt::format("pretrained = {} names no file. Give pretrained=FILE.safetensors.", text);
    }
    args.pretrained = flag || is_none(text) ? std::string() : std::string(text);
    return std::nullopt;
  }

  Answer set_cache() const {
    const std::optional<bool> flag = parse_bool(text);
    const std::string word = flag            ? (*flag ? "ram" : "false")
                             : is_none(text) ? "false"
                                             : lower(text);
    if (word != "ram" && word != "disk" && word != "false") return not_a_choice();
    args.cache = word;
    return std::nullopt;
  }
};

struct TypeName {
  std::string operator()(int TrainArgs::*field) const {
    return field == &TrainArgs::batch ? "float" : "int";  // A share of the memory is none.
  }
  std::string operator()(double TrainArgs::*) const { return "float"; }
  std::string operator()(std::optional<double> TrainArgs::*) const { return "float"; }
  std::string operator()(bool TrainArgs::*) const { return "bool"; }
  std::string operator()(std::string TrainArgs::*) const { return "string"; }
  std::string operator()(std::vector<int> TrainArgs::*) const { return "list"; }
};

struct Text {
  const TrainArgs& args;
  std::string operator()(int TrainArgs::*field) const {
    if (field == &TrainArgs::batch && args.has_auto_batch()) {
      return args.batch_share == kBatchShareDefault ? "-1" : fmt::format("{}", args.batch_share);
    }
    return std::to_string(args.*field);
  }
  std::string operator()(double TrainArgs::*field) const {
    if (field == &TrainArgs::fraction && args.fraction_val != 1) {
      return fmt::format("[{}, {}]", args.fraction, args.fraction_val);
    }
    return fmt::format("{}", args.*field);
  }
  std::string operator()(std::optional<double> TrainArgs::*field) const {
    return args.*field ? fmt::format("{}", *(args.*field)) : "none";
  }
  std::string operator()(bool TrainArgs::*field) const { return args.*field ? "true" : "false"; }
  std::string operator()(std::string TrainArgs::*field) const { return args.*field; }
  std::string operator()(std::vector<int> TrainArgs::*field) const {
    const std::vector<int>& list = args.*field;
    if (list.empty()) return "none";
    if (field == &TrainArgs::freeze && is_prefix(list)) return std::to_string(list.size());
    return fmt::format("[{}]", fmt::join(list, ", "));
  }
};

struct Json {
  const TrainArgs& args;
  template <typename T>
  nlohmann::json operator()(T TrainArgs::*field) const {
    return args.*field;
  }
  nlohmann::json operator()(std::optional<double> TrainArgs::*field) const {
    return args.*field ? nlohmann::json(*(args.*field)) : nlohmann::json(nullptr);
  }
  // As their texts, which are JSON, say.
  nlohmann::json operator()(int TrainArgs::*field) const {
    return nlohmann::json::parse(Text{args}(field));
  }
  nlohmann::json operator()(double TrainArgs::*field) const {
    if (field == &TrainArgs::fraction && args.fraction_val != 1) {
      return {args.fraction, args.fraction_val};
    }
    return args.*field;
  }
  nlohmann::json operator()(std::vector<int> TrainArgs::*field) const {
    const std::string text = Text{args}(field);
    return text == "none" ? nlohmann::json(nullptr) : nlohmann::json::parse(text);
  }
};

std::string range_text(const Option& option) {
  if (option.range != nullptr) return option.range;
  if (!option.choices.empty()) return "one of " + join(option.choices);
  if (std::holds_alternative<bool TrainArgs::*>(option.field)) return "true or false";
  if (option.low == -kNoLimit) return "";
  return limit_text(option.low) + ".." + limit_text(option.high);
}

}  // namespace

const std::vector<ArgInfo>& train_arg_table() {
  static const std::vector<ArgInfo> kTable = [] {
    const TrainArgs defaults;
    std::vector<ArgInfo> table;
    for (const Option& option : options()) {
      table.push_back({.name = option.name,
                       .type = std::visit(TypeName{}, option.field),
                       .default_text = std::visit(Text{defaults}, option.field),
                       .range = range_text(option),
                       .help = option.help,
                       .group = option.group});
    }
    return table;
  }();
  return kTable;
}

std::optional<std::string> nearest_name(std::string_view word,
                                        const std::vector<std::string>& known) {
  constexpr std::size_t kDistanceMax = 3;
  const std::string wanted = lower(word);
  std::optional<std::string> nearest;
  std::size_t nearest_distance = kDistanceMax + 1;
  for (const std::string& name : known) {
    const std::string candidate = lower(name);
    // Levenshtein, with a swap of neighbours as one edit: three rows of the table.
    std::vector<std::size_t> before_last, last(candidate.size() + 1), row(candidate.size() + 1);
    std::iota(last.begin(), last.end(), std::size_t{0});
    for (std::size_t i = 1; i <= wanted.size(); ++i) {
      row[0] = i;
      for (std::size_t j = 1; j <= candidate.size(); ++j) {
        const std::size_t change = wanted[i - 1] == candidate[j - 1] ? 0 : 1;
        row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + change});
        if (i > 1 && j > 1 && wanted[i - 1] == candidate[j - 2] &&
            wanted[i - 2] == candidate[j - 1]) {
          row[j] = std::min(row[j], before_last[j - 2] + 1);
        }
      }
      before_last = last;
      last = row;
    }
    // A name that shares nothing with the word is no help, however short both are.
    const std::size_t distance = last[candidate.size()];
    if (distance < nearest_distance && distance < std::max(wanted.size(), candidate.size())) {
      nearest = name;
      nearest_distance = distance;
    }
  }
  return nearest;
}

std::optional<ArgFault> set_train_arg(TrainArgs& args, std::string_view key,
                                      std::string_view text) {
  const Option* option = find_option(key);
  if (option == nullptr) {
    const auto foreign = foreign_arguments().find(key);
    if (foreign != foreign_arguments().end()) {
      return ArgFault{std::string(key), fmt::format("{} {}", key, foreign->second)};
    }
    std::vector<std::string> known;
    for (const Option& each : options()) known.emplace_back(each.name);
    const std::optional<std::string> nearest = nearest_name(key, known);
    return ArgFault{
        std::string(key),
        nearest ? fmt::format("{} is not a train argument. Did you mean \"{}\"?", key, *nearest)
                : fmt::format("{} is not a train argument.", key)};
  }
  if (key == "data" && text.starts_with('[') && text.ends_with(']')) {
    return ArgFault{option->name,
                    "data is a list, to Ultralytics one training after the other. Start a run for "
                    "each data set, or give one YAML file: its train, val and test may each list "
                    "several folders."};
  }
  if (auto wrong = std::visit(Setter{*option, text, args}, option->field)) {
    return ArgFault{option->name, *wrong};
  }
  return std::nullopt;
}

std::vector<std::pair<std::string, std::string>> to_texts(const TrainArgs& args) {
  std::vector<std::pair<std::string, std::string>> texts;
  for (const Option& option : options()) {
    texts.emplace_back(option.name, std::visit(Text{args}, option.field));
  }
  return texts;
}

std::vector<ArgFault> check_train_args(const TrainArgs& args) {
  std::vector<ArgFault> faults;
  // Fields may have been set without set_train_arg: every one is held against its row again.
  for (const auto& [key, text] : to_texts(args)) {
    TrainArgs scratch = args;
    if (auto fault = set_train_arg(scratch, key, text)) faults.push_back(*fault);
  }
  if (args.data.empty()) {
    faults.push_back({"data", "data is missing. Give data=FILE.yaml."});
  }
  return faults;
}

std::optional<ArgFault> check_model(const TrainArgs& args) {
  try {
    static_cast<void>(load_architecture(args.model));
    return std::nullopt;
  } catch (const std::invalid_argument& error) {
    return ArgFault{"model", error.what()};
  }
}

std::int64_t images_kept(double fraction, std::int64_t images) {
  if (fraction == 1 || images == 0) return images;
  const auto all = static_cast<double>(images);
  return std::llround(std::clamp(fraction > 1 ? fraction : std::round(fraction * all), 1.0, all));
}

void to_json(nlohmann::json& json, const TrainArgs& args) {
  json = nlohmann::json::object();
  for (const Option& option : options()) json[option.name] = std::visit(Json{args}, option.field);
}

void from_json(const nlohmann::json& json, TrainArgs& args) {
  if (!json.is_object()) throw std::invalid_argument("the train arguments are not a JSON object.");
  TrainArgs result;
  for (const auto& [key, value] : json.items()) {
    const std::string text = value.is_string() ? value.get<std::string>() : value.dump();
    if (auto fault = set_train_arg(result, key, text)) {
      throw std::invalid_argument(fault->message);
    }
  }
  args = result;
}

}  // namespace contract
