// SPDX-License-Identifier: Apache-2.0
#include "trainer/model.h"

#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/container/modulelist.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/conv.h>
#include <torch/utils.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <stdexcept>

#include "trainer/boxes.h"
#include "trainer/norm_act.h"

namespace trainer {

// A row of the table at work: takes the outputs that the row names, gives one.
class Block : public torch::nn::Module {
 public:
  virtual torch::Tensor forward(const std::vector<torch::Tensor>& inputs) = 0;
};

namespace {

namespace nn = torch::nn;

// Convolution without bias, batch norm, SiLU.
struct ConvImpl : nn::Module {
  ConvImpl(int in, int out, int kernel, int stride = 1)
      : conv(register_module("conv", nn::Conv2d(nn::Conv2dOptions(in, out, kernel)
                                                    .stride(stride)
                                                    .padding(kernel / 2)
                                                    .bias(false)))),
        bn(register_module(
            "bn", nn::BatchNorm2d(nn::BatchNorm2dOptions(out).eps(1e-3).momentum(0.03)))) {}

  torch::Tensor forward(const torch::Tensor& x) {
    return norm_act(*bn, conv(x));
  }

  nn::Conv2d conv;
  nn::BatchNorm2d bn;
};
TORCH_MODULE(Conv);

struct BottleneckImpl : nn::Module {
  BottleneckImpl(int channels, bool with_shortcut)
      : cv1(register_module("cv1", Conv(channels, channels, 3))),
        cv2(register_module("cv2", Conv(channels, channels, 3))),
        has_shortcut(with_shortcut) {}

  torch::Tensor forward(const torch::Tensor& x) {
    const torch::Tensor y = cv2(cv1(x));
    return has_shortcut ? x + y : y;
  }

  Conv cv1, cv2;
  bool has_shortcut;
};
TORCH_MODULE(Bottleneck);

class ConvBlock : public Block {
 public:
  ConvBlock(int in, int out, int kernel, int stride) : layer_(in, out, kernel, stride) {
    // The block is the layer: its tensors stand directly under the block's name.
    register_module("conv", layer_->conv);
    register_module("bn", layer_->bn);
  }
  torch::Tensor forward(const std::vector<torch::Tensor>& inputs) override {
    return layer_->forward(inputs.front());
  }

 private:
  Conv layer_;
};

// Half of the channels passes by; the other half goes through a chain of bottlenecks, every link
// of which is kept for the last convolution.
class C2fBlock : public Block {
 public:
  C2fBlock(int in, int out, int repeats, bool has_shortcut)
      : cv1_(register_module("cv1", Conv(in, out / 2 * 2, 1))),
        cv2_(register_module("cv2", Conv((2 + repeats) * (out / 2), out, 1))),
        chain_(register_module("m", nn::ModuleList())) {
    for (int i = 0; i < repeats; ++i) chain_->push_back(Bottleneck(out / 2, has_shortcut));
  }
  torch::Tensor forward(const std::vector<torch::Tensor>& inputs) override {
    std::vector<torch::Tensor> links = cv1_(inputs.front()).chunk(2, 1);
    for (const auto& link : *chain_) {
      links.push_back(link->as<BottleneckImpl>()->forward(links.back()));
    }
    return cv2_(torch::cat(links, 1));
  }

 private:
  Conv cv1_, cv2_;
  nn::ModuleList chain_;
};

// Max pooling of three growing windows, by pooling three times over.
class SppfBlock : public Block {
 public:
  SppfBlock(int in, int out, int kernel)
      : cv1_(register_module("cv1", Conv(in, in / 2, 1))),
        cv2_(register_module("cv2", Conv(in / 2 * 4, out, 1))),
        kernel_(kernel) {}
  torch::Tensor forward(const std::vector<torch::Tensor>& inputs) override {
    std::vector<torch::Tensor> pooled = {cv1_(inputs.front())};
    for (int i = 0; i < 3; ++i) {
      pooled.push_back(torch::max_pool2d(pooled.back(), kernel_, 1, kernel_ / 2));
    }
    return cv2_(torch::cat(pooled, 1));
  }

 private:
  Conv cv1_, cv2_;
  int kernel_;
};

class UpsampleBlock : public Block {
 public:
  torch::Tensor forward(const std::vector<torch::Tensor>& inputs) override {
    return torch::upsample_nearest2d(inputs.front(), c10::nullopt,
                                     c10::ArrayRef<double>({2.0, 2.0}));
  }
};

class ConcatBlock : public Block {
 public:
  torch::Tensor forward(const std::vector<torch::Tensor>& inputs) override {
    return torch::cat(inputs, 1);
  }
};

// The weights of the expectation over the bins: constant, kept as a tensor because weight files
// carry it.
struct DflImpl : nn::Module {
  DflImpl()
      : conv(register_module("conv", nn::Conv2d(nn::Conv2dOptions(kRegMax, 1, 1).bias(false)))) {
    torch::NoGradGuard no_grad;
    conv->weight.copy_(torch::arange(kRegMax, torch::kFloat).view({1, kRegMax, 1, 1}));
    conv->weight.set_requires_grad(false);
  }
  nn::Conv2d conv;
};
TORCH_MODULE(Dfl);

// Two towers a feature map: distances of the four sides (cv2) and classes (cv3).
class DetectBlock : public Block {
 public:
  DetectBlock(const std::vector<int>& in, int class_count, const std::vector<int>& strides)
      : box_towers_(register_module("cv2", nn::ModuleList())),
        class_towers_(register_module("cv3", nn::ModuleList())) {
    const int box_channels = std::max({16, in.front() / 4, 4 * kRegMax});
    const int class_channels = std::max(in.front(), std::min(class_count, 100));
    for (const int channels : in) {
      box_towers_->push_back(tower(channels, box_channels, 4 * kRegMax));
      class_towers_->push_back(tower(channels, class_channels, class_count));
    }
    register_module("dfl", Dfl());
    set_biases(class_count, strides);
  }

  torch::Tensor forward(const std::vector<torch::Tensor>&) override {
    throw std::logic_error("Detect gives several maps; call forward_maps.");
  }

  std::vector<torch::Tensor> forward_maps(const std::vector<torch::Tensor>& inputs) {
    std::vector<torch::Tensor> maps;
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      maps.push_back(torch::cat({box_towers_[i]->as<nn::Sequential>()->forward(inputs[i]),
                                 class_towers_[i]->as<nn::Sequential>()->forward(inputs[i])},
                                1));
    }
    return maps;
  }

 private:
  static nn::Sequential tower(int in, int hidden, int out) {
    return nn::Sequential(Conv(in, hidden, 3), Conv(hidden, hidden, 3),
                          nn::Conv2d(nn::Conv2dOptions(hidden, out, 1)));
  }

  // So that training starts from few, not from thousands of detections an image: about five
  // objects in 640 x 640 pixels.
  void set_biases(int class_count, const std::vector<int>& strides) {
    torch::NoGradGuard no_grad;
    for (std::size_t i = 0; i < strides.size(); ++i) {
      const double cells = std::pow(640.0 / strides[i], 2);
      last_conv(box_towers_[i])->bias.fill_(1.0);
      last_conv(class_towers_[i])->bias.fill_(std::log(5.0 / class_count / cells));
    }
  }

  static nn::Conv2dImpl* last_conv(const std::shared_ptr<nn::Module>& tower) {
    return (*tower->as<nn::Sequential>())[2]->as<nn::Conv2d>();
  }

  nn::ModuleList box_towers_, class_towers_;
};

enum class Kind { kConv, kC2f, kSppf, kUpsample, kConcat, kDetect };
enum class Shortcut { kNo, kYes };

struct Row {
  Kind kind;
  std::vector<int> from = {-1};  // Indices of rows, -1: the one before.
  int channels = 0;              // Before scaling by the width.
  int repeats = 1;               // Before scaling by the depth.
  int kernel = 3;
  int stride = 1;
  Shortcut shortcut = Shortcut::kNo;
};

struct Scale {
  double depth;
  double width;
  int channels_max;
};

struct Family {
  std::map<char, Scale> scales;
  std::vector<Row> rows;
};

const std::map<std::string, Family>& families() {
  static const std::map<std::string, Family> kFamilies = {
      {"yolov8",
       {.scales = {{'n', {1.0 / 3, 0.25, 1024}},
                   {'s', {1.0 / 3, 0.50, 1024}},
                   {'m', {2.0 / 3, 0.75, 768}},
                   {'l', {1.0, 1.00, 512}},
                   {'x', {1.0, 1.25, 512}}},
        .rows =
            {
                // Backbone.
                {.kind = Kind::kConv, .channels = 64, .stride = 2},
                {.kind = Kind::kConv, .channels = 128, .stride = 2},
                {.kind = Kind::kC2f, .channels = 128, .repeats = 3, .shortcut = Shortcut::kYes},
                {.kind = Kind::kConv, .channels = 256, .stride = 2},
                {.kind = Kind::kC2f, .channels = 256, .repeats = 6, .shortcut = Shortcut::kYes},
                {.kind = Kind::kConv, .channels = 512, .stride = 2},
                {.kind = Kind::kC2f, .channels = 512, .repeats = 6, .shortcut = Shortcut::kYes},
                {.kind = Kind::kConv, .channels = 1024, .stride = 2},
                {.kind = Kind::kC2f, .channels = 1024, .repeats = 3, .shortcut = Shortcut::kYes},
                {.kind = Kind::kSppf, .channels = 1024, .kernel = 5},
                // Down the pyramid.
                {.kind = Kind::kUpsample},
                {.kind = Kind::kConcat, .from = {-1, 6}},
                {.kind = Kind::kC2f, .channels = 512, .repeats = 3},
                {.kind = Kind::kUpsample},
                {.kind = Kind::kConcat, .from = {-1, 4}},
                {.kind = Kind::kC2f, .channels = 256, .repeats = 3},
                // And up again.
                {.kind = Kind::kConv, .channels = 256, .stride = 2},
                {.kind = Kind::kConcat, .from = {-1, 12}},
                {.kind = Kind::kC2f, .channels = 512, .repeats = 3},
                {.kind = Kind::kConv, .channels = 512, .stride = 2},
                {.kind = Kind::kConcat, .from = {-1, 9}},
                {.kind = Kind::kC2f, .channels = 1024, .repeats = 3},
                {.kind = Kind::kDetect, .from = {15, 18, 21}},
            }}},
  };
  return kFamilies;
}

int scaled_channels(int channels, const Scale& scale) {
  constexpr int kDivisor = 8;
  const double wanted = std::min(channels, scale.channels_max) * scale.width;
  return static_cast<int>(std::ceil(wanted / kDivisor)) * kDivisor;
}

int scaled_repeats(int repeats, const Scale& scale) {
  return std::max(1, static_cast<int>(std::lround(repeats * scale.depth)));
}

// What a row gives: how wide, and how many pixels of the image a cell spans.
struct Shape {
  int channels = 3;
  int stride = 1;
};

std::shared_ptr<Block> make_block(const Row& row, const Scale& scale, int class_count,
                                  const std::vector<Shape>& inputs, Shape& output) {
  output = inputs.front();
  const int in = inputs.front().channels;
  switch (row.kind) {
    case Kind::kUpsample:
      output.stride /= 2;
      return std::make_shared<UpsampleBlock>();
    case Kind::kConcat:
      for (std::size_t i = 1; i < inputs.size(); ++i) output.channels += inputs[i].channels;
      return std::make_shared<ConcatBlock>();
    case Kind::kConv:
      output = {scaled_channels(row.channels, scale), inputs.front().stride * row.stride};
      return std::make_shared<ConvBlock>(in, output.channels, row.kernel, row.stride);
    case Kind::kC2f:
      output.channels = scaled_channels(row.channels, scale);
      return std::make_shared<C2fBlock>(in, output.channels, scaled_repeats(row.repeats, scale),
                                        row.shortcut == Shortcut::kYes);
    case Kind::kSppf:
      output.channels = scaled_channels(row.channels, scale);
      return std::make_shared<SppfBlock>(in, output.channels, row.kernel);
    case Kind::kDetect: {
      std::vector<int> channels, strides;
      for (const Shape& input : inputs) {
        channels.push_back(input.channels);
        strides.push_back(input.stride);
      }
      return std::make_shared<DetectBlock>(channels, class_count, strides);
    }
  }
  throw std::logic_error("A row of an unknown kind.");
}

}  // namespace

DetectionModel::DetectionModel(const std::string& name, int class_count)
    : name_(name), class_count_(class_count) {
  if (name.empty()) throw std::invalid_argument("The model has no name.");
  const auto family = families().find(name.substr(0, name.size() - 1));
  if (family == families().end() || !family->second.scales.contains(name.back())) {
    throw std::invalid_argument("model = \"" + name + "\" is not known.");
  }
  const Scale& scale = family->second.scales.at(name.back());

  nn::ModuleList layers;
  std::vector<Shape> shapes;
  for (const Row& row : family->second.rows) {
    std::vector<Shape> inputs;
    for (const int from : row.from) {
      inputs.push_back(shapes.empty() ? Shape{} : from < 0 ? shapes.back() : shapes.at(from));
    }
    Shape output;
    blocks_.push_back(make_block(row, scale, class_count, inputs, output));
    inputs_.push_back(row.from);
    layers->push_back(blocks_.back());
    shapes.push_back(output);
    if (row.kind == Kind::kDetect) {
      for (const Shape& input : inputs) strides_.push_back(input.stride);
    }
  }
  register_module("model", layers);
}

std::vector<torch::Tensor> DetectionModel::forward(const torch::Tensor& images) {
  std::vector<torch::Tensor> outputs;
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    std::vector<torch::Tensor> inputs;
    for (const int from : inputs_[i]) {
      inputs.push_back(i == 0 ? images : from < 0 ? outputs.back() : outputs.at(from));
    }
    if (i + 1 == blocks_.size()) {
      return static_cast<DetectBlock&>(*blocks_[i]).forward_maps(inputs);
    }
    outputs.push_back(blocks_[i]->forward(inputs));
  }
  return {};
}

torch::Tensor DetectionModel::decode(const std::vector<torch::Tensor>& features) const {
  const Anchors anchors = make_anchors(features, strides_);
  std::vector<torch::Tensor> flat;
  for (const torch::Tensor& map : features) flat.push_back(map.flatten(2));
  const torch::Tensor all = torch::cat(flat, 2).transpose(1, 2);  // [B, A, 4 * kRegMax + nc]

  const torch::Tensor distances = expected_distances(all.narrow(2, 0, 4 * kRegMax));
  const torch::Tensor boxes = boxes_from_distances(anchors.points, distances) * anchors.strides;
  const torch::Tensor scores = all.narrow(2, 4 * kRegMax, class_count_).sigmoid();
  return torch::cat({xyxy_to_xywh(boxes), scores}, 2).transpose(1, 2).contiguous();
}

std::vector<std::pair<std::string, torch::Tensor>> state_tensors(const torch::nn::Module& module) {
  std::vector<std::pair<std::string, torch::Tensor>> tensors;
  for (const auto& item : module.named_parameters()) tensors.emplace_back(item.key(), item.value());
  for (const auto& item : module.named_buffers()) tensors.emplace_back(item.key(), item.value());
  return tensors;
}

std::size_t copy_matching(const std::vector<std::pair<std::string, torch::Tensor>>& source,
                          torch::nn::Module& module) {
  torch::NoGradGuard no_grad;
  std::map<std::string, torch::Tensor> target;
  for (const auto& [name, tensor] : state_tensors(module)) target.emplace(name, tensor);
  std::size_t copied = 0;
  for (const auto& [name, tensor] : source) {
    const auto found = target.find(name);
    if (found == target.end() || found->second.sizes() != tensor.sizes()) continue;
    found->second.copy_(tensor);
    ++copied;
  }
  return copied;
}

}  // namespace trainer
