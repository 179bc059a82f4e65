// SPDX-License-Identifier: Apache-2.0
#include "trainer/blocks.h"

#include <torch/csrc/jit/frontend/tracer.h>
#include <torch/nn/modules/container/modulelist.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/conv.h>
#include <torch/utils.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>

#include "trainer/norm_act.h"
#include "trainer/sync_norm.h"

namespace trainer {

namespace {

namespace nn = torch::nn;
using contract::Layer;
using contract::LayerKind;

enum class Activation { kSilu, kNone };

// How many parts the rows of an image fall into so that there are enough images for oneDNN.
// libtorch leaves 1x1 convolutions of fewer on one thread to a matrix product that takes four times
// as long (aten/src/ATen/native/Convolution.cpp, use_mkldnn, of 1.13).
std::int64_t parts_of_rows(const torch::Tensor& x) {
  constexpr std::int64_t kImagesEnough = 16;
  const std::int64_t images = x.size(0), rows = x.size(2);
  if (images >= kImagesEnough || images * rows < kImagesEnough) return 1;
  std::int64_t parts = (kImagesEnough + images - 1) / images;
  while (rows % parts != 0) ++parts;
  return parts;
}

// nn::Conv2d, where a 1x1 convolution of few images takes parts of them for images: with the
// channels last that is another view of the same memory.
struct ConvolutionImpl : nn::Conv2dImpl {
  using nn::Conv2dImpl::Conv2dImpl;

  torch::Tensor forward(const torch::Tensor& x) {
    const bool is_pointwise = weight.size(2) == 1 && weight.size(3) == 1 &&
                              options.stride()->at(0) == 1 && options.groups() == 1;
    if (!is_pointwise || !x.device().is_cpu() || at::get_num_threads() > 1 ||
        torch::jit::tracer::isTracing()) {
      return nn::Conv2dImpl::forward(x);
    }
    const std::int64_t parts = parts_of_rows(x);
    if (parts == 1) return nn::Conv2dImpl::forward(x);
    const std::int64_t images = x.size(0), rows = x.size(2), columns = x.size(3);
    const torch::Tensor pieces = x.contiguous(torch::MemoryFormat::ChannelsLast)
                                     .permute({0, 2, 3, 1})
                                     .reshape({images * parts, rows / parts, columns, x.size(1)})
                                     .permute({0, 3, 1, 2});
    const torch::Tensor y = nn::Conv2dImpl::forward(pieces);
    return y.permute({0, 2, 3, 1})
        .reshape({images, rows, columns, y.size(1)})
        .permute({0, 3, 1, 2});
  }
};
TORCH_MODULE(Convolution);

// Convolution without bias, batch norm, SiLU.
struct ConvImpl : nn::Module {
  ConvImpl(int in, int out, int kernel, int stride = 1, int groups = 1,
           Activation activation = Activation::kSilu)
      : conv(register_module("conv", Convolution(nn::Conv2dOptions(in, out, kernel)
                                                     .stride(stride)
                                                     .padding(kernel / 2)
                                                     .groups(groups)
                                                     .bias(false)))),
        bn(register_module("bn",
                           SyncNorm(nn::BatchNorm2dOptions(out).eps(1e-3).momentum(0.03)))),
        is_activated(activation == Activation::kSilu) {}

  torch::Tensor forward(const torch::Tensor& x) {
    const torch::Tensor y = conv(x);
    return is_activated ? norm_act(*bn, y) : bn(y);
  }

  Convolution conv;
  SyncNorm bn;
  bool is_activated;
};
TORCH_MODULE(Conv);

// A convolution a channel, or a group of them where the widths differ.
Conv depthwise(int in, int out, int kernel, int stride = 1,
               Activation activation = Activation::kSilu) {
  return Conv(in, out, kernel, stride, std::gcd(in, out), activation);
}

struct BottleneckOptions {
  int hidden = 0;
  int first_kernel = 3;
  bool has_shortcut = false;
};

struct BottleneckImpl : nn::Module {
  BottleneckImpl(int channels, const BottleneckOptions& options)
      : cv1(register_module("cv1", Conv(channels, options.hidden, options.first_kernel))),
        cv2(register_module("cv2", Conv(options.hidden, channels, 3))),
        has_shortcut(options.has_shortcut) {}

  torch::Tensor forward(const torch::Tensor& x) {
    const torch::Tensor y = cv2(cv1(x));
    return has_shortcut ? x + y : y;
  }

  Conv cv1, cv2;
  bool has_shortcut;
};
TORCH_MODULE(Bottleneck);

// Two branches, one of them through a chain of bottlenecks, joined. C3k differs from C3 in the
// kernel alone.
struct C3Impl : nn::Module {
  C3Impl(int in, int out, int repeats, int first_kernel, bool has_shortcut)
      : cv1(register_module("cv1", Conv(in, out / 2, 1))),
        cv2(register_module("cv2", Conv(in, out / 2, 1))),
        cv3(register_module("cv3", Conv(out / 2 * 2, out, 1))),
        chain(register_module("m", nn::Sequential())) {
    for (int i = 0; i < repeats; ++i) {
      chain->push_back(Bottleneck(out / 2, BottleneckOptions{.hidden = out / 2,
                                                             .first_kernel = first_kernel,
                                                             .has_shortcut = has_shortcut}));
    }
  }

  torch::Tensor forward(const torch::Tensor& x) {
    return cv3(torch::cat({chain->forward(cv1(x)), cv2(x)}, 1));
  }

  Conv cv1, cv2, cv3;
  nn::Sequential chain;
};
TORCH_MODULE(C3);

// Attention over the cells of a map, with a depthwise convolution in place of a position code.
struct AttentionImpl : nn::Module {
  AttentionImpl(int channels, int head_count)
      : heads(head_count),
        value_width(channels / head_count),
        key_width(value_width / 2),
        qkv(register_module("qkv", Conv(channels, channels + 2 * key_width * head_count, 1, 1, 1,
                                        Activation::kNone))),
        proj(register_module("proj", Conv(channels, channels, 1, 1, 1, Activation::kNone))),
        pe(register_module("pe", depthwise(channels, channels, 3, 1, Activation::kNone))) {}

  torch::Tensor forward(const torch::Tensor& x) {
    const std::int64_t batch = x.size(0), rows = x.size(2), columns = x.size(3);
    const torch::Tensor all =
        qkv(x).view({batch, heads, 2 * key_width + value_width, rows * columns});
    const torch::Tensor query = all.narrow(2, 0, key_width);
    const torch::Tensor key = all.narrow(2, key_width, key_width);
    const torch::Tensor value = all.narrow(2, 2 * key_width, value_width);
    const torch::Tensor weights =
        (query.transpose(-2, -1).matmul(key) * std::pow(key_width, -0.5)).softmax(-1);
    const std::vector<std::int64_t> shape = {batch, heads * value_width, rows, columns};
    return proj(value.matmul(weights.transpose(-2, -1)).view(shape) + pe(value.reshape(shape)));
  }

  int heads, value_width, key_width;
  Conv qkv, proj, pe;
};
TORCH_MODULE(Attention);

struct PsaBlockImpl : nn::Module {
  explicit PsaBlockImpl(int channels)
      : attn(register_module("attn", Attention(channels, channels / 64))),
        ffn(register_module(
            "ffn", nn::Sequential(Conv(channels, 2 * channels, 1),
                                  Conv(2 * channels, channels, 1, 1, 1, Activation::kNone)))) {}

  torch::Tensor forward(const torch::Tensor& x) {
    const torch::Tensor y = x + attn(x);
    return y + ffn->forward(y);
  }

  Attention attn;
  nn::Sequential ffn;
};
TORCH_MODULE(PsaBlock);

class ConvBlock : public Block {
 public:
  explicit ConvBlock(Conv layer) : layer_(std::move(layer)) {
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

class C3Block : public Block {
 public:
  explicit C3Block(C3 layer) : layer_(std::move(layer)) {
    for (const auto& child : layer_->named_children()) register_module(child.key(), child.value());
  }
  torch::Tensor forward(const std::vector<torch::Tensor>& inputs) override {
    return layer_->forward(inputs.front());
  }

 private:
  C3 layer_;
};

// C2f and C3k2: a part of the channels passes by; another goes through a chain, every link of which
// is kept for the last convolution. A link is a bottleneck or, nested, a C3k.
class C2fBlock : public Block {
 public:
  explicit C2fBlock(const Layer& layer)
      : hidden_(static_cast<int>(layer.channels * layer.expansion)),
        cv1_(register_module("cv1", Conv(layer.channels_in[0], 2 * hidden_, 1))),
        cv2_(register_module("cv2", Conv((2 + layer.repeats) * hidden_, layer.channels, 1))),
        chain_(register_module("m", nn::ModuleList())) {
    constexpr int kBottlenecksOfC3k = 2;
    // The bottlenecks of C3k2 are narrow in the middle, those of C2f are not.
    const int middle = layer.module == LayerKind::kC3k2 ? hidden_ / 2 : hidden_;
    for (int i = 0; i < layer.repeats; ++i) {
      if (layer.is_nested) {
        chain_->push_back(
            C3(hidden_, hidden_, kBottlenecksOfC3k, /*first_kernel=*/3, layer.has_shortcut));
      } else {
        chain_->push_back(Bottleneck(
            hidden_, BottleneckOptions{.hidden = middle, .has_shortcut = layer.has_shortcut}));
      }
    }
  }

  torch::Tensor forward(const std::vector<torch::Tensor>& inputs) override {
    std::vector<torch::Tensor> links = cv1_(inputs.front()).chunk(2, 1);
    for (const auto& link : *chain_) {
      auto* nested = link->as<C3Impl>();
      links.push_back(nested != nullptr ? nested->forward(links.back())
                                        : link->as<BottleneckImpl>()->forward(links.back()));
    }
    return cv2_(torch::cat(links, 1));
  }

 private:
  int hidden_;
  Conv cv1_, cv2_;
  nn::ModuleList chain_;
};

// Half of the channels passes by, half goes through attention.
class C2psaBlock : public Block {
 public:
  explicit C2psaBlock(const Layer& layer)
      : hidden_(layer.channels / 2),
        cv1_(register_module("cv1", Conv(layer.channels, 2 * hidden_, 1))),
        cv2_(register_module("cv2", Conv(2 * hidden_, layer.channels, 1))),
        chain_(register_module("m", nn::Sequential())) {
    for (int i = 0; i < layer.repeats; ++i) chain_->push_back(PsaBlock(hidden_));
  }
  torch::Tensor forward(const std::vector<torch::Tensor>& inputs) override {
    const std::vector<torch::Tensor> halves = cv1_(inputs.front()).chunk(2, 1);
    return cv2_(torch::cat({halves[0], chain_->forward(halves[1])}, 1));
  }

 private:
  int hidden_;
  Conv cv1_, cv2_;
  nn::Sequential chain_;
};

// Max pooling of three growing windows, by pooling three times over.
class SppfBlock : public Block {
 public:
  explicit SppfBlock(const Layer& layer)
      : cv1_(register_module("cv1", Conv(layer.channels_in[0], layer.channels_in[0] / 2, 1))),
        cv2_(register_module("cv2", Conv(layer.channels_in[0] / 2 * 4, layer.channels, 1))),
        kernel_(layer.kernel) {}
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

// Each channel for itself, then across the channels.
struct SeparableConvImpl : nn::Module {
  SeparableConvImpl(int in, int out)
      : space(register_module("0", depthwise(in, in, 3))),
        channels(register_module("1", Conv(in, out, 1))) {}
  torch::Tensor forward(const torch::Tensor& x) { return channels(space(x)); }
  Conv space, channels;
};
TORCH_MODULE(SeparableConv);

// Two towers a feature map: distances of the four sides (cv2) and classes (cv3).
class DetectHead : public Head {
 public:
  DetectHead(const std::vector<int>& in, int class_count, const std::vector<int>& strides,
             bool is_light)
      : box_towers_(register_module("cv2", nn::ModuleList())),
        class_towers_(register_module("cv3", nn::ModuleList())) {
    const int box_channels = std::max({16, in.front() / 4, 4 * kRegMax});
    const int class_channels = std::max(in.front(), std::min(class_count, 100));
    for (const int channels : in) {
      box_towers_->push_back(tower(channels, box_channels, 4 * kRegMax));
      class_towers_->push_back(is_light ? light_tower(channels, class_channels, class_count)
                                        : tower(channels, class_channels, class_count));
    }
    register_module("dfl", Dfl());
    set_biases(class_count, strides);
  }

  std::vector<torch::Tensor> forward(const std::vector<torch::Tensor>& inputs) override {
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
                          Convolution(nn::Conv2dOptions(hidden, out, 1)));
  }

  static nn::Sequential light_tower(int in, int hidden, int out) {
    return nn::Sequential(SeparableConv(in, hidden), SeparableConv(hidden, hidden),
                          Convolution(nn::Conv2dOptions(hidden, out, 1)));
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

}  // namespace

std::shared_ptr<Block> make_block(const Layer& layer) {
  const int in = layer.channels_in.front();
  switch (layer.module) {
    case LayerKind::kConv:
      return std::make_shared<ConvBlock>(Conv(in, layer.channels, layer.kernel, layer.step));
    case LayerKind::kDwConv:
      return std::make_shared<ConvBlock>(depthwise(in, layer.channels, layer.kernel, layer.step));
    case LayerKind::kC2f:
    case LayerKind::kC3k2:
      return std::make_shared<C2fBlock>(layer);
    case LayerKind::kC3:
      return std::make_shared<C3Block>(
          C3(in, layer.channels, layer.repeats, /*first_kernel=*/1, layer.has_shortcut));
    case LayerKind::kSppf:
      return std::make_shared<SppfBlock>(layer);
    case LayerKind::kC2psa:
      return std::make_shared<C2psaBlock>(layer);
    case LayerKind::kUpsample:
      return std::make_shared<UpsampleBlock>();
    case LayerKind::kConcat:
      return std::make_shared<ConcatBlock>();
    case LayerKind::kDetect:
      break;
  }
  throw std::logic_error("Detect is no block but the head.");
}

std::shared_ptr<Head> make_head(const contract::Architecture& architecture, int class_count) {
  return std::make_shared<DetectHead>(architecture.layers.back().channels_in, class_count,
                                      architecture.strides, architecture.is_head_light);
}

}  // namespace trainer
